//! The command is a program and no library: its modules are taken in as they are.
#![no_main]
#![allow(
    dead_code,
    reason = "the command uses more of its modules than the fuzzer"
)]

#[path = "../checks/rules.rs"]
mod check;
#[path = "../../tn-cli/src/nearest.rs"]
mod nearest;
#[path = "../../tn-cli/src/rules.rs"]
mod rules;
#[path = "../../tn-cli/src/settings.rs"]
mod settings;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
