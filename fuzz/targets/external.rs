#![no_main]

#[path = "../checks/external.rs"]
mod external;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| external::check(bytes));
