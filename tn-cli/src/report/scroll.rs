//! Tables that are wider than a phone.

use maud::{Markup, html};

/// A table that scrolls sideways by itself, so that the page does not. `label` is its name for a screen reader, `head` the
/// cells of its first row, `rows` all others.
pub(super) fn table(label: &str, caption: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(label) tabindex="0" {
            table {
                caption { span { (caption) } }
                thead { tr { (head) } }
                tbody { (rows) }
            }
        }
    }
}
