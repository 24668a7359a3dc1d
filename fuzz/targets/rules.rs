//! The text of `--layer`, and names that its pattern is looked for in. The command is a program and no library: its modules
//! are taken in as they are.
#![no_main]
#![allow(dead_code, reason = "the command uses more of its modules than the fuzzer")]

#[path = "../../tn-cli/src/nearest.rs"]
mod nearest;
#[path = "../../tn-cli/src/rules.rs"]
mod rules;
#[path = "../../tn-cli/src/settings.rs"]
mod settings;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (rule, name) = text.split_once('\n').unwrap_or((text, "fc1.weight"));
    if let Ok(rule) = rule.parse::<rules::LayerRule>() {
        let _ = rules::idle_rules(&[rule], &[vec![name, "/layer.0/query/MatMul"]]);
    }
});
