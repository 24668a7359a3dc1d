#![no_main]

#[path = "../checks/container.rs"]
mod container;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| container::check(bytes));
