//! The result at a glance: what became of the size, what that cost, whether the goal was met.

use maud::{Markup, html};

use super::data::{Goal, Outcome, Verified};
use super::layers::times;
use crate::table::{bytes, figure, percent};

/// The title of the page, after the model's name.
pub(super) fn title(outcome: &Outcome) -> String {
    format!(
        "{} smaller",
        times(outcome.bytes.before, outcome.bytes.after)
    )
}

/// The result in one sentence.
pub(super) fn lead(outcome: &Outcome) -> String {
    let sizes = format!(
        "{} became {}, {} times smaller",
        bytes(outcome.bytes.before),
        bytes(outcome.bytes.after),
        times(outcome.bytes.before, outcome.bytes.after).trim_end_matches('×')
    );
    let moved = outcome.verification.as_ref().and_then(|v| v.relative_l2);
    match moved {
        Some(loss) => format!("{sizes}; its outputs moved by {}.", percent(loss, 1.0)),
        None => format!("{sizes}."),
    }
}

fn tile(label: &str, value: &str, more: Markup) -> Markup {
    html! {
        div.tile { dt { (label) } dd { b { (value) } span.more { (more) } } }
    }
}

/// The verdict, the figures, and what they rest on.
pub(super) fn section(outcome: &Outcome) -> Markup {
    let sizes = &outcome.bytes;
    html! {
        @if let Some(goal) = &outcome.goal { (verdict(goal, outcome)) }
        @if let Some(problem) = &outcome.unverified {
            p.banner.missed { b { "Not verified." } " tract does not run the original: " (problem) }
        }
        dl.tiles {
            (tile("Size", &bytes(sizes.after), html! {
                "from " (bytes(sizes.before)) ", " (times(sizes.before, sizes.after)) " smaller"
            }))
            @if let Some(verified) = &outcome.verification { (measured(verified)) }
            @if let Some(latency) = &outcome.latency {
                (tile("Latency in tract", &format!("{} ms", figure(latency.after_ms)), html! {
                    "from " (figure(latency.before_ms)) " ms for a batch of " (latency.batch)
                }))
            }
        }
        @if let Some(verified) = &outcome.verification { p.note { (basis(verified)) } }
    }
}

fn measured(verified: &Verified) -> Markup {
    html! {
        @if let Some(loss) = verified.relative_l2 {
            (tile("Verified loss", &figure(loss), html! { "relative L2 of the outputs" }))
        }
        @if let (Some(before), Some(after)) = (verified.accuracy_before, verified.accuracy_after) {
            (tile("Accuracy", &percent(after, 1.0), html! { "from " (percent(before, 1.0)) }))
        }
        @if let Some(agreement) = verified.top1_agreement {
            (tile("Same top class", &percent(agreement, 1.0), html! { "of the samples" }))
        }
        @if let Some(cosine) = verified.cosine {
            (tile("Cosine", &format!("{cosine:.5}"), html! { "of the outputs, mean" }))
        }
    }
}

/// What the verification rests on.
fn basis(verified: &Verified) -> String {
    let samples = verified.samples;
    let on = match &verified.data {
        Some(file) => format!("Both models were run in tract on {samples} samples of {file}"),
        None => format!(
            "Both models were run in tract on {samples} random samples, which real ones need not resemble"
        ),
    };
    match (verified.worst_sample, verified.worst_relative_l2) {
        (Some(worst), Some(loss)) => {
            format!(
                "{on}; the worst is sample {worst}, with a loss of {}.",
                figure(loss)
            )
        }
        _ => format!("{on}."),
    }
}

fn verdict(goal: &Goal, outcome: &Outcome) -> Markup {
    let mut asked: Vec<String> = Vec::new();
    asked.extend(goal.bytes.map(|b| format!("at most {}", bytes(b))));
    asked.extend(
        goal.loss
            .map(|l| format!("a loss of at most {}", figure(l))),
    );
    asked.extend(
        goal.drop
            .map(|d| format!("at most {} points of accuracy lost", figure(100.0 * d))),
    );
    asked.extend(
        goal.speed
            .map(|s| format!("{} times fewer multiply-adds", figure(s))),
    );
    let asked = if asked.is_empty() {
        "a loss of at most 0.005, as none was named".to_owned()
    } else {
        asked.join(", ")
    };
    html! {
        @if goal.met {
            p.banner.met { b { "Goal met: " } (asked) "." }
        } @else {
            p.banner.missed {
                b { "Goal missed: " } (asked) ". This is the best that was found."
                @if let Some(names) = &goal.blocking {
                    " Most of what is left stands in "
                    @for (k, name) in names.iter().enumerate() { @if k > 0 { ", " } code { (outcome.title(name)) } }
                    "."
                }
            }
        }
    }
}
