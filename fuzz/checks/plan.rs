//! The text of a plan: what is read is written and read again as the same.

use onnx_bridge::plan::Plan;

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(plan) = serde_json::from_slice::<Plan>(bytes) {
        let text = serde_json::to_vec(&plan).expect("a plan is plain data");
        let again: Plan = serde_json::from_slice(&text).expect("what is written reads back");
        assert_eq!(plan, again);
    }
}
