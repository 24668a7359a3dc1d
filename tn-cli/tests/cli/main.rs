//! The binary as its users meet it.

mod arrays;
mod bench;
mod common;
mod errors;
mod finetune;
mod help;
mod interrupted;
mod jobs;
mod report;
mod study;
