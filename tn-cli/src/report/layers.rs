//! The weights one by one: bars, a table, and for each the errors of its elements and its singular values.

use maud::{Markup, html};

use super::data::{Outcome, Weight};
use super::plot::{Axis, Bar, Direction, Line, Plot, Rule, Scale};
use super::scroll;
use crate::table::{bytes, figure, shape};

/// Weights whose plots are shown at once; those of the others unfold.
const SHOWN: usize = 8;

/// The same of their bars.
const BARS: usize = 16;

/// Bars of the bytes before and after, the largest weight first.
pub(super) fn bars(outcome: &Outcome) -> Markup {
    let mut weights: Vec<&Weight> = outcome.weights.iter().collect();
    weights.sort_by_key(|w| std::cmp::Reverse(w.bytes_before));
    let most = weights.first().map_or(1, |w| w.bytes_before.max(1)) as f64;
    let (first, others) = weights.split_at(weights.len().min(BARS));
    html! {
        figure {
            figcaption { "Bytes of each weight, the largest first: as it was (pale) and as it is (solid)." }
            ul.bars { @for weight in first { (bar(weight, most)) } }
            @if !others.is_empty() {
                details {
                    summary { "The other " (others.len()) " weights" }
                    ul.bars { @for weight in others { (bar(weight, most)) } }
                }
            }
        }
    }
}

/// The bar of one weight beside the one of `most` bytes.
fn bar(weight: &Weight, most: f64) -> Markup {
    let part = |bytes: u64| format!("{:.3}%", 100.0 * (bytes as f64 / most).min(1.0));
    html! {
        li {
            span.name title=(weight.name) { (broken(&weight.title())) }
            svg.bytes width="100%" height="16" role="img" focusable="false"
                aria-label=(format!("{} to {}", bytes(weight.bytes_before), bytes(weight.bytes_after)))
                data-name=(weight.name) data-before=(weight.bytes_before) data-after=(weight.bytes_after) {
                title {
                    (weight.title()) ", " (weight.name) ": " (bytes(weight.bytes_before)) " to " (bytes(weight.bytes_after)) ", "
                    (weight.format) " " (weight.details())
                }
                rect.before y="0" width=(part(weight.bytes_before)) height="16" {}
                rect.after y="3" width=(part(weight.bytes_after)) height="10" {}
            }
            span.value {
                (bytes(weight.bytes_after))
                " " small { (times(weight.bytes_before, weight.bytes_after)) }
            }
        }
    }
}

/// A layer's title, and under it the name of the weight where that is another.
pub(super) fn named(title: &str, name: &str) -> Markup {
    html! {
        (broken(title))
        @if title != name { span.own { (broken(name)) } }
    }
}

/// A path that may be broken after its slashes.
fn broken(path: &str) -> Markup {
    html! {
        @for (k, part) in path.split_inclusive('/').enumerate() { @if k > 0 { wbr; } (part) }
    }
}

/// `12.4×`: how many times smaller.
pub(super) fn times(before: u64, after: u64) -> String {
    format!("{:.1}×", before as f64 / after.max(1) as f64)
}

/// One row for every weight that became something else; what a phone shows without scrolling stands first.
pub(super) fn table(outcome: &Outcome) -> Markup {
    let predicted = outcome.weights.iter().any(|w| w.predicted_loss.is_some());
    let head = html! {
        th scope="col" { "Weight" }
        th scope="col" { "Became" }
        th.number scope="col" { "Bits" }
        th.number scope="col" { "Before" }
        th.number scope="col" { "After" }
        th.number scope="col" { "Smaller" }
        th.number scope="col" { "Error" }
        @if predicted { th.number.wrap scope="col" { "Predicted loss" } }
        th.number scope="col" { "Shape" }
        th scope="col" { "Operator" }
    };
    let rows = html! {
        @for weight in &outcome.weights {
            tr {
                th.name scope="row" { (named(&weight.title(), &weight.name)) }
                td.became { b { (weight.format) } @let details = weight.details(); @if !details.is_empty() { " " (details) } }
                td.number { @if let Some(bits) = weight.bits { (bits) } }
                td.number data-value=(weight.bytes_before) { (bytes(weight.bytes_before)) }
                td.number data-value=(weight.bytes_after) { (bytes(weight.bytes_after)) }
                td.number { (times(weight.bytes_before, weight.bytes_after)) }
                td.number { @if let Some(error) = weight.error { span data-error=(error) { (figure(error)) } } }
                @if predicted {
                    td.number { @if let Some(loss) = weight.predicted_loss { (figure(loss.max(0.0).sqrt())) } }
                }
                td.number { (shape(&weight.shape)) }
                td { (weight.op.as_deref().unwrap_or_default()) }
            }
        }
    };
    let caption = "Weights that became something else, in the order of the file: the node that uses each, and its own name";
    html! {
        (scroll::table("Table of the weights", caption, &head, &rows))
        p.note {
            "Error: relative distance of the matrix, ‖W − W̃‖ / ‖W‖, decomposition and quantization together."
            @if predicted { " Predicted loss: what this weight alone is expected to move the model's output by, relative L2." }
        }
    }
}

/// Histogram and spectrum of every weight that has them.
pub(super) fn details(outcome: &Outcome) -> Markup {
    let mut shown: Vec<&Weight> = outcome
        .weights
        .iter()
        .filter(|w| w.error_histogram.is_some() || w.spectrum.is_some())
        .collect();
    shown.sort_by_key(|w| std::cmp::Reverse(w.bytes_before));
    let (first, others) = shown.split_at(shown.len().min(SHOWN));
    html! {
        div.cards { @for weight in first { (card(weight)) } }
        @if !others.is_empty() {
            details {
                summary { "The other " (others.len()) " weights" }
                div.cards { @for weight in others { (card(weight)) } }
            }
        }
    }
}

/// Whether [`details`] has anything to show.
pub(super) fn has_details(outcome: &Outcome) -> bool {
    let has = |w: &Weight| w.error_histogram.is_some() || w.spectrum.is_some();
    outcome.weights.iter().any(has)
}

fn card(weight: &Weight) -> Markup {
    html! {
        article.card data-weight=(weight.name) {
            h3 { (named(&weight.title(), &weight.name)) }
            p.note { (weight.format) " " (weight.details()) @if let Some(error) = weight.error { ", error " (figure(error)) } }
            @if let Some(plot) = histogram(weight) {
                figure { (plot.markup()) }
            }
            @if let Some(plot) = spectrum(weight) {
                figure { (plot.markup()) }
            }
        }
    }
}

fn histogram(weight: &Weight) -> Option<Plot<'_>> {
    let histogram = weight.error_histogram.as_ref()?;
    let (low, high) = (*histogram.edges.first()?, *histogram.edges.last()?);
    let most = histogram.counts.iter().copied().max()?;
    let total: u64 = histogram.counts.iter().sum();
    if histogram.edges.len() != histogram.counts.len() + 1
        || low.partial_cmp(&high) != Some(std::cmp::Ordering::Less)
    {
        return None;
    }
    let bars = histogram.edges.windows(2).zip(&histogram.counts);
    let bars = bars.map(|(edges, &count)| Bar {
        from: edges[0],
        to: edges[1],
        y: count as f64,
        tooltip: format!(
            "{count} elements ({}) are off by {} to {}",
            crate::table::percent(count as f64, total as f64),
            figure(edges[0]),
            figure(edges[1])
        ),
    });
    Some(Plot {
        summary: format!(
            "Histogram of the errors of {total} elements, none larger than {}",
            figure(high)
        ),
        height: 90,
        x: Axis::exact(low, high, 6),
        y: Axis::over(Scale::Linear, [0.0, most as f64].into_iter(), 4)?,
        x_title: "error of an element, W̃ − W",
        y_title: "elements",
        x_label: &short,
        y_label: &count,
        bars: bars.collect(),
        lines: Vec::new(),
        rules: Vec::new(),
        marks: Vec::new(),
    })
}

fn spectrum(weight: &Weight) -> Option<Plot<'_>> {
    let spectrum = weight.spectrum.as_ref()?;
    let last = *spectrum.index.last()?;
    let points: Vec<(f64, f64)> = spectrum
        .index
        .iter()
        .zip(&spectrum.value)
        .map(|(&i, &v)| (i as f64, v.max(FLOOR)))
        .collect();
    let rank = weight.rank().filter(|rank| *rank <= last);
    let (_, least) = *points.last()?;
    Some(Plot {
        summary: format!(
            "Singular values of the original over the largest: number {last} is {}",
            figure(*spectrum.value.last()?)
        ),
        height: 90,
        x: Axis::exact(1.0, (last as f64).max(2.0), 5),
        y: Axis::over(Scale::Log, [1.0, least.max(FLOOR)].into_iter(), 4)?,
        x_title: "number of the singular value",
        y_title: "over the largest",
        x_label: &count,
        y_label: &short,
        bars: Vec::new(),
        lines: vec![Line {
            class: "spectrum",
            points,
        }],
        rules: rank
            .map(|rank| Rule {
                axis: Direction::X,
                at: rank as f64,
                label: format!("rank {rank}"),
            })
            .into_iter()
            .collect(),
        marks: Vec::new(),
    })
}

/// Singular values below this part of the largest are noise of the way they are computed.
const FLOOR: f64 = 1e-8;

/// Few characters for a label: `0.02`, `5e-5`, `1`.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e4).contains(&size) => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => {
            let text = format!("{value:.1e}");
            text.replace(".0e", "e")
        }
    }
}

/// `30k` elements.
pub(super) fn count(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", short(value / 1e6)),
        size if size >= 1e4 => format!("{}k", short(value / 1e3)),
        _ => short(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let check = |got: String, want: &str| assert_eq!(got, want);
        check(short(0.02), "0.02");
        check(short(-0.00005), "-5e-5");
        check(short(1.0), "1");
        check(short(2.5e-7), "2.5e-7");
        check(count(30_000.0), "30k");
        check(count(1_500_000.0), "1.5M");
        check(count(0.0), "0");
        check(times(100, 0), "100.0×");
    }
}
