//! The text of `--layer`, and names that its pattern is looked for in: what follows the first line, where there is more than one.

use crate::rules::{LayerRule, idle_rules};

/// Panics where reading a rule does.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (rule, name) = text.split_once('\n').unwrap_or((text, "fc1.weight"));
    if let Ok(rule) = rule.parse::<LayerRule>() {
        let _ = idle_rules(&[rule], &[vec![name, "/layer.0/query/MatMul"]]);
    }
}
