//! The binary as its users meet it.

mod common;
mod errors;
mod finetune;
mod help;
mod jobs;
mod report;
mod study;
