//! Size against loss: what the planner saw, what was tried, what was written.

use maud::{Markup, html};
use onnx_bridge::plan::TradeoffPoint;

use super::data::Outcome;
use super::layers::{short, times};
use super::plot::{Axis, Direction, Line, Mark, Plot, Rule, Scale, Shape};
use super::scroll;
use crate::table::{bytes, figure};

/// Loss over size: the planner's curve, plain quantization, what was tried, what was chosen.
pub(super) fn section(outcome: &Outcome) -> Option<Markup> {
    let seen = outcome.tradeoff.as_ref()?;
    let goal = outcome.goal.as_ref();
    let mut marks: Vec<Mark> = Vec::new();
    let mark = |class, shape, size: u64, loss: f64, what: &str, label: Option<&str>| Mark {
        class,
        shape,
        x: size as f64,
        y: loss,
        tooltip: format!("{what}: {}, loss {}", bytes(size), figure(loss)),
        label: label.map(str::to_owned),
    };
    let at = |p: &TradeoffPoint| (p.bytes, p.predicted_loss);
    for point in &seen.curve {
        let (size, loss) = at(point);
        marks.push(mark(
            "curve",
            Shape::Dot,
            size,
            loss,
            "best mixture, predicted",
            None,
        ));
    }
    for baseline in &seen.baselines {
        let (size, loss) = at(&baseline.point);
        let what = format!("{}, predicted", baseline.name);
        marks.push(mark(
            "baseline",
            Shape::Square,
            size,
            loss,
            &what,
            Some(&baseline.name),
        ));
    }
    let verified = goal
        .and_then(|g| g.verified_loss)
        .or(outcome.verification.as_ref().and_then(|v| v.relative_l2));
    if let Some(loss) = verified {
        let what = "written, verified";
        marks.push(mark(
            "chosen",
            Shape::Diamond,
            outcome.bytes.after,
            loss,
            what,
            Some("this file"),
        ));
    }
    // On top: the plan that was written is one of them.
    for plan in &seen.tried {
        let (size, loss) = (plan.bytes, plan.verified_loss);
        marks.push(mark(
            "tried",
            Shape::Cross,
            size,
            loss,
            "tried and verified",
            None,
        ));
    }
    let most = goal.and_then(|g| g.bytes).map(|b| b as f64);
    let x = Axis::over(Scale::Log, marks.iter().map(|m| m.x).chain(most), 5)?;
    let limit = goal.and_then(|g| g.loss);
    let losses = marks.iter().map(|m| m.y).chain(limit);
    // A weight left whole loses nothing but the last bits of a float: that is no trade-off to look at.
    let y = Axis::over(Scale::Log, losses.filter(|l| *l > LEAST_LOSS), 6)?;
    let mut rules: Vec<Rule> = Vec::new();
    rules.extend(limit.map(|loss| Rule {
        axis: Direction::Y,
        at: loss,
        label: format!("goal: loss {}", figure(loss)),
    }));
    rules.extend(most.map(|size| Rule {
        axis: Direction::X,
        at: size,
        label: format!("goal: {}", bytes(size as u64)),
    }));
    let points = |p: &[TradeoffPoint]| p.iter().map(at).map(|(b, l)| (b as f64, l)).collect();
    let plot = Plot {
        summary: format!(
            "Loss of the outputs over the size of the file, {} plans; the file written has {} and a verified loss of {}. The numbers stand in the table below.",
            seen.curve.len(),
            bytes(outcome.bytes.after),
            verified.map_or_else(|| "unknown".to_owned(), figure)
        ),
        height: 340,
        x,
        y,
        x_title: "size of the file (logarithmic)",
        y_title: "loss: relative L2 of the outputs (logarithmic)",
        x_label: &|b| bytes(b as u64),
        y_label: &short,
        bars: Vec::new(),
        lines: vec![Line {
            class: "curve",
            points: points(&seen.curve),
        }],
        rules,
        marks,
    };
    Some(html! {
        figure {
            figcaption {
                "Further left is smaller, further down is better. The line is what the planner predicts for the best mixture of all its choices at a size."
            }
            ul.legend {
                li { (key("chosen", Shape::Diamond)) "this file, verified" }
                li { (key("curve", Shape::Dot)) "best mixture, predicted" }
                @if !seen.baselines.is_empty() { li { (key("baseline", Shape::Square)) "all layers dense, predicted" } }
                @if !seen.tried.is_empty() { li { (key("tried", Shape::Cross)) "plans tried, verified" } }
            }
            (plot.markup())
            (numbers(outcome))
        }
    })
}

/// Losses below this are rounding.
const LEAST_LOSS: f64 = 1e-6;

fn key(class: &str, shape: Shape) -> Markup {
    html! {
        svg.key width="18" height="18" viewBox="-9 -9 18 18" aria-hidden="true" focusable="false" {
            g class=(format!("mark {class}")) {
                @match shape {
                    Shape::Dot => { circle r="3.5" {} }
                    Shape::Square => { rect x="-5" y="-5" width="10" height="10" {} }
                    Shape::Diamond => { path d="M0-8 8 0 0 8-8 0Z" {} }
                    Shape::Cross => { path.stroke d="M-5-5 5 5M-5 5 5-5" {} }
                }
            }
        }
    }
}

/// The points of the trade-off as a table.
fn numbers(outcome: &Outcome) -> Markup {
    let Some(seen) = &outcome.tradeoff else {
        return html! {};
    };
    let row = |what: &str, size: u64, predicted: Option<f64>, verified: Option<f64>| {
        html! {
            tr {
                th scope="row" { (what) }
                td.number { (bytes(size)) }
                td.number { (times(outcome.bytes.before, size)) }
                td.number { (predicted.map(figure).unwrap_or_default()) }
                td.number { (verified.map(figure).unwrap_or_default()) }
            }
        }
    };
    let goal = outcome.goal.as_ref();
    let head = html! {
        th scope="col" { "Plan" }
        th.number scope="col" { "Size" }
        th.number scope="col" { "Smaller" }
        th.number scope="col" { "Predicted loss" }
        th.number scope="col" { "Verified loss" }
    };
    let rows = html! {
        (row("this file", outcome.bytes.after, goal.and_then(|g| g.predicted_loss), goal.and_then(|g| g.verified_loss)))
        @for b in &seen.baselines { (row(&b.name, b.point.bytes, Some(b.point.predicted_loss), None)) }
        @for t in &seen.tried { (row("tried", t.bytes, Some(t.predicted_loss), Some(t.verified_loss))) }
        @for p in &seen.curve { (row("best mixture", p.bytes, Some(p.predicted_loss), None)) }
    };
    html! {
        details {
            summary { "The numbers of this plot" }
            (scroll::table("Table of the plot's numbers", "Sizes and losses", &head, &rows))
        }
    }
}
