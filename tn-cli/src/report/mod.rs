//! The page that shows a result: one file of HTML, made from what `--json` prints and from nothing else.
//!
//! The page loads nothing and runs no script, and its policy forbids both. Names come from models of strangers: all text goes
//! through `maud`, which escapes it; only the style sheet does not.

mod data;
mod headline;
mod layers;
mod page;
mod plot;
mod repeat;
mod scroll;
mod tradeoff;
mod training;

use serde_json::Value;

pub(crate) use data::describe;
pub(crate) use repeat::command_line;

use crate::commands::SCHEMA;

/// The commands whose results have a page.
const COMMANDS: [&str; 4] = ["compress", "plan", "finetune", "verify"];

/// The page of a result.
///
/// # Errors
///
/// What is expected of a result, and what was found.
pub(crate) fn render(result: &Value) -> Result<String, String> {
    let command = result.get("command").and_then(Value::as_str);
    let commands = COMMANDS.join(", ");
    match command {
        Some(command) if COMMANDS.contains(&command) => {}
        found => {
            return Err(format!(
                "expected what `tnq COMMAND --json` prints, with `command` one of {commands}, found {}",
                found.map_or_else(|| "none".to_owned(), |name| format!("{name:?}"))
            ));
        }
    }
    match result.get("schema").and_then(Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => {}
        found => {
            return Err(format!(
                "field `schema`: expected {SCHEMA}, found {}",
                found.map_or_else(|| "none".to_owned(), |n| n.to_string())
            ));
        }
    }
    let outcome: data::Outcome =
        serde::Deserialize::deserialize(result).map_err(|e: serde_json::Error| e.to_string())?;
    Ok(page::page(&outcome).into_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_strangers_stay_text() {
        let evil = "</title></text></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'&";
        let result = json!({
            "schema": 1, "command": "compress", "version": evil, "input": evil, "output": evil, "command_line": evil,
            "bytes": {"before": 100, "after": 50}, "seconds": {evil: 1.0},
            "weights": [{
                "name": evil, "nodes": [evil, evil], "op": evil, "shape": [4, 4], "format": evil, "layout": evil, "ranks": [2], "bits": 8,
                "bytes_before": 64, "bytes_after": 16, "error": 0.1,
                "error_histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [3, 4]},
                "spectrum": {"index": [1, 2], "value": [1.0, 0.5]},
            }],
            "skipped": [{"name": evil, "nodes": [evil], "shape": [1], "bytes": 4, "reason": evil}],
            "goal": {"met": false, "blocking": [evil], "bytes": 40},
            "tradeoff": {
                "curve": [{"bytes": 50, "predicted_loss": 0.1}, {"bytes": 80, "predicted_loss": 0.01}],
                "baselines": [{"name": evil, "bytes": 60, "predicted_loss": 0.2}], "tried": [],
            },
            "finetune": {"data": evil, "loss_before": 1.0, "loss_after": 0.5, "steps": 4, "best_step": 2,
                "curve": [{"step": 0, "loss": 1.0}, {"step": 2, "loss": 0.5}]},
            "verification": {"data": evil, "samples": 3, "relative_l2": 0.1, "cosine": 0.9},
        });
        let page = render(&result).unwrap();
        let body = page.split_once("</style>").unwrap().1;
        for tag in ["<script", "<img", "<iframe", "onerror=\"", "javascript:"] {
            assert!(!body.contains(tag), "{tag}");
        }
        assert!(body.matches("&lt;script&gt;").count() > 10);
        // As many tags opened as closed: nothing ended early.
        for tag in ["svg", "section", "table", "details", "text"] {
            let opened = body.matches(&format!("<{tag} ")).count()
                + body.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, body.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = render(&json!({
            "schema": 1, "command": "verify", "bytes": {"before": 100, "after": 0},
        }))
        .unwrap();
        assert!(page.contains("default-src 'none'"));
        for part in ["http:", "https:", "url(", "@import", "src=", "<script"] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn what_is_no_result_is_refused_with_what_was_expected() {
        let check = |result: Value, want: &str| {
            let error = render(&result).unwrap_err();
            assert!(error.contains(want), "{error}");
        };
        check(
            json!([]),
            "`command` one of compress, plan, finetune, verify, found none",
        );
        check(json!({"command": "inspect"}), "found \"inspect\"");
        check(
            json!({"command": "plan"}),
            "field `schema`: expected 1, found none",
        );
        check(
            json!({"command": "plan", "schema": 2}),
            "expected 1, found 2",
        );
        check(
            json!({"command": "plan", "schema": 1}),
            "missing field `bytes`",
        );
    }

    #[test]
    fn numbers_at_their_ends_make_a_page() {
        for (before, after) in [(0, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let result = json!({
                "schema": 1, "command": "plan", "bytes": {"before": before, "after": after},
                "weights": [{"name": "", "format": "dense", "bytes_before": before, "bytes_after": after, "error": null,
                    "error_histogram": {"edges": [], "counts": [1]}, "spectrum": {"index": [], "value": [0.0]}}],
                "tradeoff": {"curve": [{"bytes": before, "predicted_loss": 0.0}], "baselines": [],
                    "tried": [{"bytes": after, "predicted_loss": 1e308, "verified_loss": 1e-308}]},
            });
            let page = render(&result).unwrap();
            assert!(
                !page.contains("NaN") && !page.contains("inf%"),
                "{before} {after}"
            );
        }
    }
}
