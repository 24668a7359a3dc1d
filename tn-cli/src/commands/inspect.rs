//! `tnq inspect`: every weight, what it costs, what it can become.

use onnx_bridge::{Inspection, Verdict, WeightInfo};
use serde::Serialize;

use super::{print, print_json};
use crate::args::InspectArgs;
use crate::error::CliError;
use crate::model::read_model;
use crate::table::{bytes, percent, shape, table};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    command: &'static str,
    version: &'static str,
    input: String,
    bytes: u64,
    rest_bytes: u64,
    opset: i64,
    ir_version: i64,
    producer: &'a str,
    nodes: usize,
    weights: Vec<Weight<'a>>,
}

#[derive(Debug, Serialize)]
struct Weight<'a> {
    name: &'a str,
    op: String,
    nodes: &'a [String],
    shape: &'a [usize],
    data_type: &'a str,
    bytes: u64,
    share: f64,
    can_become: Vec<&'static str>,
    refused: Vec<Refused>,
    reason: Option<String>,
}

/// A form that a weight cannot take, though it can take others.
#[derive(Debug, Serialize)]
struct Refused {
    format: &'static str,
    reason: String,
}

impl<'a> From<&'a WeightInfo> for Weight<'a> {
    fn from(weight: &'a WeightInfo) -> Self {
        let (can_become, refused, reason) = match &weight.verdict {
            Verdict::CanBecome {
                formats, refused, ..
            } => {
                let refused = refused.iter().map(|(format, reason)| Refused {
                    format: format.name(),
                    reason: reason.to_string(),
                });
                let formats = formats.iter().map(|format| format.name()).collect();
                (formats, refused.collect(), None)
            }
            Verdict::Stays(reason) => (Vec::new(), Vec::new(), Some(reason.to_string())),
        };
        Self {
            name: &weight.name,
            op: weight.ops.join(", "),
            nodes: &weight.nodes,
            shape: &weight.shape,
            data_type: weight.data_type,
            bytes: weight.bytes,
            share: weight.share,
            can_become,
            refused,
            reason,
        }
    }
}

/// Run the command.
pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let model = read_model(&args.model)?;
    let inspection = onnx_bridge::inspect(&model);
    let report = Report {
        schema: super::SCHEMA,
        command: "inspect",
        version: env!("CARGO_PKG_VERSION"),
        input: args.model.display().to_string(),
        bytes: inspection.file_bytes,
        rest_bytes: inspection.rest_bytes,
        opset: inspection.opset,
        ir_version: inspection.ir_version,
        producer: &inspection.producer,
        nodes: inspection.nodes,
        weights: inspection.weights.iter().map(Weight::from).collect(),
    };
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report, &inspection).as_bytes())
    }
}

/// The forms that a weight can take, and why not the others.
fn fate(weight: &Weight<'_>) -> String {
    let mut text = weight.can_become.join(", ");
    let mut rest = weight.refused.as_slice();
    // Forms that share a reason are named together.
    while let [first, ..] = rest {
        let same = rest.iter().take_while(|r| r.reason == first.reason).count();
        let formats: Vec<&str> = rest[..same].iter().map(|r| r.format).collect();
        text.push_str(&format!("; not {}: {}", formats.join(", "), first.reason));
        rest = &rest[same..];
    }
    text
}

fn text(report: &Report<'_>, inspection: &Inspection) -> String {
    let mut rows: Vec<Vec<String>> = report
        .weights
        .iter()
        .map(|weight| {
            let fate = match &weight.reason {
                Some(reason) => format!("stays: {reason}"),
                None => fate(weight),
            };
            // A weight with a meaningless name is told apart by the node that uses it.
            let node = weight.nodes.first().map_or("", String::as_str);
            vec![
                weight.name.to_owned(),
                node.to_owned(),
                weight.op.clone(),
                shape(weight.shape),
                bytes(weight.bytes),
                percent(weight.bytes as f64, report.bytes as f64),
                fate,
            ]
        })
        .collect();
    let rest = percent(report.rest_bytes as f64, report.bytes as f64);
    let blank = String::new;
    rows.push(vec![
        "(the rest)".into(),
        blank(),
        blank(),
        blank(),
        bytes(report.rest_bytes),
        rest,
        blank(),
    ]);
    let compressible = report
        .weights
        .iter()
        .filter(|weight| weight.reason.is_none());
    let (count, sum) = compressible.fold((0, 0), |(count, sum), weight| {
        (count + 1, sum + weight.bytes)
    });
    format!(
        "{}\n{}: {}, opset {}, {} nodes, written by {}\n{count} of {} weights can be compressed, {} of the bytes\n",
        table(
            &[
                "weight",
                "node",
                "operator",
                "shape",
                "bytes",
                "share",
                "can become"
            ],
            &["bytes", "share"],
            rows
        ),
        report.input,
        bytes(report.bytes),
        report.opset,
        report.nodes,
        if inspection.producer.is_empty() {
            "an unnamed program"
        } else {
            &inspection.producer
        },
        report.weights.len(),
        percent(sum as f64, report.bytes as f64),
    )
}
