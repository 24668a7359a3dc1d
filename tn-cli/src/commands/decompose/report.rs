//! What `tnq decompose` says of an array's cores.

use ndarray::{Array2, ArrayView2, ArrayViewD};
use serde::Serialize;
use tn_formats::{Certificate, Cost, QuantizationError, Real, Strategy};

use crate::table::{bytes, figure, shape, table};

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) command: &'static str,
    pub(super) version: &'static str,
    pub(super) input: String,
    pub(super) name: Option<String>,
    pub(super) output: String,
    pub(super) kind: &'static str,
    pub(super) data_type: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) ranks: Vec<usize>,
    pub(super) parts: Vec<Part>,
    pub(super) total: Total,
    /// Relative to the array; in the norm of the inputs where `calib` is given.
    pub(super) errors: Errors,
    pub(super) calib: Option<String>,
    pub(super) strategy: Option<&'static str>,
}

/// A core or a factor.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) parameters: usize,
    pub(super) bits: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct Total {
    pub(super) dense_parameters: usize,
    pub(super) dense_bytes: usize,
    pub(super) parameters: usize,
    pub(super) bits: usize,
    pub(super) bytes: usize,
    pub(super) file_bytes: usize,
    pub(super) ratio: f64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Errors {
    /// What the decomposition's certificate says.
    pub(super) truncation: f64,
    /// Of the codes, against the decomposed array.
    pub(super) quantization: Option<f64>,
    pub(super) predicted_quantization: Option<f64>,
    /// Of all together against the array, measured on the rebuilt one.
    pub(super) measured: f64,
    /// The same as the inputs see it.
    pub(super) measured_on_inputs: Option<f64>,
}

pub(super) fn truncated(certificate: &Certificate) -> Errors {
    Errors {
        truncation: certificate.relative_error(),
        ..Errors::default()
    }
}

impl Errors {
    pub(super) fn quantized(&mut self, error: &QuantizationError) {
        self.quantization = Some(error.relative);
        self.predicted_quantization = Some(error.predicted);
    }

    pub(super) fn of_matrix<T: Real, U: Real>(
        &mut self,
        w: ArrayView2<'_, T>,
        rebuilt: ArrayView2<'_, U>,
        calib: Option<&Array2<f64>>,
    ) {
        self.measured = distance(w.into_dyn(), rebuilt.into_dyn());
        self.measured_on_inputs = calib.map(|c| {
            let w = w.mapv(Real::widen);
            let size = |m: &Array2<f64>| (&m.dot(c) * m).sum().max(0.0).sqrt();
            let (error, norm) = (size(&(rebuilt.mapv(Real::widen) - &w)), size(&w));
            if norm > 0.0 { error / norm } else { 0.0 }
        });
    }
}

/// `||a - b|| / ||a||`, 0 for a zero array.
pub(super) fn distance<T: Real, U: Real>(a: ArrayViewD<'_, T>, b: ArrayViewD<'_, U>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        error += (x.widen() - y.widen()).powi(2);
        norm += x.widen().powi(2);
    }
    if norm > 0.0 {
        (error / norm).sqrt()
    } else {
        0.0
    }
}

pub(super) fn float_parts<T: Real>(
    shapes: impl Iterator<Item = Vec<usize>>,
    name: fn(usize) -> String,
) -> Vec<Part> {
    let part = |(k, shape): (usize, Vec<usize>)| {
        let parameters: usize = shape.iter().product();
        Part {
            name: name(k),
            shape,
            parameters,
            bits: 8 * T::BYTES * parameters,
            bytes: T::BYTES * parameters,
        }
    };
    shapes.enumerate().map(part).collect()
}

pub(super) fn coded_parts(
    shapes: impl Iterator<Item = Vec<usize>>,
    costs: &[Cost],
    name: fn(usize) -> String,
) -> Vec<Part> {
    let part = |(k, (shape, cost)): (usize, (Vec<usize>, &Cost))| Part {
        name: name(k),
        shape,
        parameters: cost.parameters,
        bits: cost.bits(),
        bytes: cost.bytes,
    };
    shapes.zip(costs).enumerate().map(part).collect()
}

pub(super) fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Independent => "independent",
        Strategy::Gauge(_) => "gauge",
        _ => "compensated",
    }
}

pub(super) fn text(report: &Report) -> String {
    let mut rows: Vec<Vec<String>> = report
        .parts
        .iter()
        .map(|part| {
            vec![
                part.name.clone(),
                shape(&part.shape),
                part.parameters.to_string(),
                part.bits.to_string(),
                bytes(part.bytes as u64),
            ]
        })
        .collect();
    let total = &report.total;
    rows.push(vec![
        "total".to_owned(),
        String::new(),
        total.parameters.to_string(),
        total.bits.to_string(),
        bytes(total.bytes as u64),
    ]);
    let table = table(
        &["part", "shape", "parameters", "bits", "bytes"],
        &["parameters", "bits", "bytes"],
        rows,
    );
    let errors = &report.errors;
    let mut lines = vec![format!(
        "{} of {}: ranks {:?}, {} -> {}, {:.1} times smaller",
        report.kind,
        shape(&report.shape),
        report.ranks,
        bytes(total.dense_bytes as u64),
        bytes(total.bytes as u64),
        total.ratio,
    )];
    let seen = match report.calib {
        Some(_) => " (as the inputs see it)",
        None => "",
    };
    lines.push(format!(
        "truncation error {}, by its certificate{seen}",
        figure(errors.truncation)
    ));
    if let (Some(error), Some(strategy)) = (errors.quantization, report.strategy) {
        let predicted = errors.predicted_quantization;
        let predicted = predicted.map_or(String::new(), |p| format!(", {} predicted", figure(p)));
        lines.push(format!(
            "quantization error {}, {strategy}{predicted}{seen}",
            figure(error)
        ));
    }
    let on_inputs = errors.measured_on_inputs;
    let on_inputs = on_inputs.map_or(String::new(), |e| {
        format!(", {} as the inputs see it", figure(e))
    });
    lines.push(format!(
        "relative error in all {}, measured{on_inputs}",
        figure(errors.measured)
    ));
    lines.push(format!(
        "{} -> {} ({})",
        report.input,
        report.output,
        bytes(total.file_bytes as u64)
    ));
    format!("{table}\n{}\n", lines.join("\n"))
}
