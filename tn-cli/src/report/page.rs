//! The page: a headline, the trade-off, the layers, the training, what stays, how to repeat it.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use onnx_bridge::plan::TradeoffPoint;

use super::data::{Goal, Outcome, Skipped, Training, Verified};
use super::layers::{self, count, short, times};
use super::plot::{Axis, Direction, Line, Mark, Plot, Rule, Scale, Shape};
use crate::table::{bytes, figure, percent, shape};

const STYLE: &str = include_str!("style.css");

/// Nothing is loaded and nothing runs, whatever stands in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

pub(super) fn page(outcome: &Outcome) -> Markup {
    let input = outcome.input.as_deref().unwrap_or("a model");
    let name = input.rsplit(['/', '\\']).next().unwrap_or(input);
    let sections = sections(outcome);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (name) ", " (title(outcome)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the result" }
                header {
                    p.kicker { "tnq " (outcome.command) }
                    h1 { (name) }
                    p.lead { (lead(outcome)) }
                    nav aria-label="Sections" {
                        ul { @for section in &sections { li { a href=(format!("#{}", section.id)) { (section.title) } } } }
                    }
                }
                main id="main" {
                    @for section in sections {
                        section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                            h2 id=(format!("{}-title", section.id)) { (section.title) }
                            (section.body)
                        }
                    }
                }
                footer {
                    p {
                        "Made by tnq " (outcome.version.as_deref().unwrap_or_default())
                        ". This page is one file: it loads nothing and runs no script."
                    }
                }
            }
        }
    }
}

struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

fn sections(outcome: &Outcome) -> Vec<Section> {
    let mut sections = vec![Section {
        id: "result",
        title: "Result",
        body: headline(outcome),
    }];
    let mut add = |id, title, body: Option<Markup>| {
        sections.extend(body.map(|body| Section { id, title, body }));
    };
    add("tradeoff", "Size against loss", tradeoff(outcome));
    let any = !outcome.weights.is_empty();
    add(
        "layers",
        "Layers",
        any.then(|| html! { (layers::bars(outcome)) (layers::table(outcome)) }),
    );
    add(
        "weights",
        "Inside the weights",
        layers::has_details(outcome).then(|| inside(outcome)),
    );
    add(
        "training",
        "Training",
        outcome.finetune.as_ref().and_then(training),
    );
    add(
        "stays",
        "What stays, and why",
        (!outcome.skipped.is_empty()).then(|| stays(&outcome.skipped)),
    );
    add("repeat", "Repeat it", Some(repeat(outcome)));
    sections
}

fn title(outcome: &Outcome) -> String {
    format!(
        "{} smaller",
        times(outcome.bytes.before, outcome.bytes.after)
    )
}

/// The result in one sentence.
fn lead(outcome: &Outcome) -> String {
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

fn headline(outcome: &Outcome) -> Markup {
    let sizes = &outcome.bytes;
    html! {
        @if let Some(goal) = &outcome.goal { (verdict(goal)) }
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

fn verdict(goal: &Goal) -> Markup {
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
                    @for (k, name) in names.iter().enumerate() { @if k > 0 { ", " } code { (name) } }
                    "."
                }
            }
        }
    }
}

/// Loss over size: the planner's curve, plain quantization, what was tried, what was chosen.
fn tradeoff(outcome: &Outcome) -> Option<Markup> {
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
    html! {
        details {
            summary { "The numbers of this plot" }
            div.scroll role="region" aria-label="Table of the plot's numbers" tabindex="0" {
                table {
                    caption { "Sizes and losses" }
                    thead {
                        tr {
                            th scope="col" { "Plan" }
                            th.number scope="col" { "Size" }
                            th.number scope="col" { "Smaller" }
                            th.number scope="col" { "Predicted loss" }
                            th.number scope="col" { "Verified loss" }
                        }
                    }
                    tbody {
                        (row("this file", outcome.bytes.after, goal.and_then(|g| g.predicted_loss),
                            goal.and_then(|g| g.verified_loss)))
                        @for b in &seen.baselines { (row(&b.name, b.point.bytes, Some(b.point.predicted_loss), None)) }
                        @for t in &seen.tried { (row("tried", t.bytes, Some(t.predicted_loss), Some(t.verified_loss))) }
                        @for p in &seen.curve { (row("best mixture", p.bytes, Some(p.predicted_loss), None)) }
                    }
                }
            }
        }
    }
}

fn inside(outcome: &Outcome) -> Markup {
    html! {
        p {
            "How the errors of a weight's elements are spread, and how its singular values fall: a spectrum that falls fast is one that a low rank can stand for."
        }
        @if outcome.finetune.is_some() { p.note { "Errors are those before training." } }
        (layers::details(outcome))
    }
}

fn training(training: &Training) -> Option<Markup> {
    let curve: Vec<(f64, f64)> = training
        .curve
        .iter()
        .map(|e| (e.step as f64, e.loss))
        .collect();
    let text = format!(
        "{} steps on {}: the loss on held-back samples went from {} to {}; the state after step {} is what was written.",
        training.steps,
        training.data,
        figure(training.loss_before),
        figure(training.loss_after),
        training.best_step
    );
    let positive = curve.iter().all(|(_, loss)| *loss > 0.0);
    let scale = if positive { Scale::Log } else { Scale::Linear };
    let axes = Axis::over(scale, curve.iter().map(|(_, loss)| *loss), 5);
    let plot = axes.filter(|_| curve.len() > 1).map(|y| Plot {
        summary: format!(
            "Loss on held-back samples over the steps, {} evaluations",
            curve.len()
        ),
        height: 220,
        x: Axis::exact(
            0.0,
            curve.iter().map(|(step, _)| *step).fold(1.0, f64::max),
            5,
        ),
        y,
        x_title: "step",
        y_title: "loss on held-back samples",
        x_label: &count,
        y_label: &short,
        bars: Vec::new(),
        lines: vec![Line {
            class: "training",
            points: curve.clone(),
        }],
        rules: vec![Rule {
            axis: Direction::X,
            at: training.best_step as f64,
            label: format!("written: step {}", training.best_step),
        }],
        marks: curve
            .iter()
            .map(|&(step, loss)| Mark {
                class: "training",
                shape: Shape::Dot,
                x: step,
                y: loss,
                tooltip: format!("step {step}: loss {}", figure(loss)),
                label: None,
            })
            .collect(),
    });
    Some(html! {
        p { (text) }
        @if let Some(plot) = plot { figure { (plot.markup()) } }
    })
}

/// The weights that stay, under their reasons.
fn stays(skipped: &[Skipped]) -> Markup {
    let mut reasons: BTreeMap<&str, Vec<&Skipped>> = BTreeMap::new();
    for weight in skipped {
        reasons.entry(&weight.reason).or_default().push(weight);
    }
    let shapes = skipped.iter().any(|w| !w.shape.is_empty());
    let sizes = skipped.iter().any(|w| w.bytes.is_some());
    html! {
        div.scroll role="region" aria-label="Table of the weights that stay" tabindex="0" {
            table {
                caption { "Weights that are as they were" }
                thead {
                    tr {
                        th scope="col" { "Why" }
                        th scope="col" { "Weight" }
                        @if shapes { th.number scope="col" { "Shape" } }
                        @if sizes { th.number scope="col" { "Bytes" } }
                    }
                }
                tbody {
                    @for (reason, weights) in reasons {
                        @for (k, weight) in weights.iter().enumerate() {
                            tr {
                                @if k == 0 { td.why rowspan=(weights.len()) { (reason) } }
                                th.name scope="row" { (weight.name) }
                                @if shapes { td.number { (shape(&weight.shape)) } }
                                @if sizes { td.number { (weight.bytes.map(bytes).unwrap_or_default()) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `12.3 s`, `32 min 23 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..120 => format!("{seconds:.1} s"),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

fn repeat(outcome: &Outcome) -> Markup {
    let mut facts: Vec<(&str, String)> = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|v| (name, v)));
    fact("Input", outcome.input.clone());
    fact("Compressed model", outcome.student.clone());
    fact("Output", outcome.output.clone());
    fact("Seed", outcome.seed.map(|s| s.to_string()));
    fact("Version", outcome.version.clone());
    let total = outcome.seconds.get("total");
    let stages = outcome.seconds.iter().filter(|(name, _)| *name != "total");
    let stages: Vec<String> = stages
        .map(|(name, s)| format!("{name} {}", duration(*s)))
        .collect();
    let total = total.map(|t| match stages.len() {
        0 | 1 => duration(*t),
        _ => format!("{}: {}", duration(*t), stages.join(", ")),
    });
    fact("Time", total);
    html! {
        @match &outcome.command_line {
            Some(line) => {
                p { "The same files, the same version and as many threads give the same bytes." }
                pre tabindex="0" aria-label="The command" { code { (line) } }
            }
            None => p { "This result does not say by which command it was made." },
        }
        dl.facts {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}
