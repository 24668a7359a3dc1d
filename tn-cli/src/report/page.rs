//! The page: its frame, its sections in their order, and the sections that are only text.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::data::{Outcome, Skipped};
use super::{headline, layers, repeat, scroll, tradeoff, training};
use crate::table::{bytes, shape};

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
                title { (name) ", " (headline::title(outcome)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the result" }
                header {
                    p.kicker { "tnq " (outcome.command) }
                    h1 { (name) }
                    p.lead { (headline::lead(outcome)) }
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
        body: headline::section(outcome),
    }];
    let mut add = |id, title, body: Option<Markup>| {
        sections.extend(body.map(|body| Section { id, title, body }));
    };
    add("tradeoff", "Size against loss", tradeoff::section(outcome));
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
        outcome.finetune.as_ref().and_then(training::section),
    );
    add(
        "stays",
        "What stays, and why",
        (!outcome.skipped.is_empty()).then(|| stays(&outcome.skipped)),
    );
    add("repeat", "Repeat it", Some(repeat::section(outcome)));
    sections
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

/// The weights that stay, under their reasons.
fn stays(skipped: &[Skipped]) -> Markup {
    let mut reasons: BTreeMap<&str, Vec<&Skipped>> = BTreeMap::new();
    for weight in skipped {
        reasons.entry(&weight.reason).or_default().push(weight);
    }
    let shapes = skipped.iter().any(|w| !w.shape.is_empty());
    let sizes = skipped.iter().any(|w| w.bytes.is_some());
    let head = html! {
        th scope="col" { "Why" }
        th scope="col" { "Weight" }
        @if shapes { th.number scope="col" { "Shape" } }
        @if sizes { th.number scope="col" { "Bytes" } }
    };
    let rows = html! {
        @for (reason, weights) in reasons {
            @for (k, weight) in weights.iter().enumerate() {
                tr {
                    @if k == 0 { td.why rowspan=(weights.len()) { (reason) } }
                    th.name scope="row" { (layers::named(&weight.title(), &weight.name)) }
                    @if shapes { td.number { (shape(&weight.shape)) } }
                    @if sizes { td.number { (weight.bytes.map(bytes).unwrap_or_default()) } }
                }
            }
        }
    };
    let caption = "Weights that are as they were";
    scroll::table("Table of the weights that stay", caption, &head, &rows)
}
