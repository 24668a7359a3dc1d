//! What each bit and each rank buys: error against bytes.

use ndarray::ArrayView2;
use quant_core::{Bits, Granularity, QuantScheme};
use serde::{Deserialize, Serialize};
use tn_formats::MatrixModes;

use super::report::{Axis, digits};
use super::{Series, Stroke, Study, StudyReport, cases, explained, quantize_cores, relative};
use crate::error::Result;

/// What to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitsConfig {
    /// Largest ranks of the trains.
    pub ranks: Vec<usize>,
    /// Widths of the codes.
    pub bits: Vec<Bits>,
}

impl Default for BitsConfig {
    /// Ranks 8, 16 and 32 at all widths.
    fn default() -> Self {
        Self {
            ranks: vec![8, 16, 32],
            bits: Bits::ALL.to_vec(),
        }
    }
}

/// One width at one rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitsRow {
    /// Largest rank.
    pub rank: usize,
    /// Width of the codes.
    pub bits: Bits,
    /// Bytes with one step per core.
    pub bytes: usize,
    /// Error of the float train against the weight.
    pub truncation: f64,
    /// Distance of the quantized train from the float train: one step per core, symmetric.
    pub symmetric: f64,
    /// The same, affine.
    pub affine: f64,
    /// The same, symmetric, one step per index of each core's last axis.
    pub per_axis: f64,
    /// Error of the symmetric quantized train against the weight.
    pub total: f64,
}

/// What `bits` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitsStudy {
    /// One row for each rank and width.
    pub rows: Vec<BitsRow>,
}

/// Quantizes the trains of a weight at every width.
///
/// # Shapes
/// `weight` is `[M, N]` as `modes` say.
///
/// # Errors
/// [`crate::QatError::Format`] when modes and weight do not fit.
pub fn bits(
    weight: ArrayView2<'_, f32>,
    modes: &MatrixModes,
    config: &BitsConfig,
) -> Result<BitsStudy> {
    let tried = (config.ranks.as_slice(), config.bits.as_slice());
    let rows = cases(weight, modes, tried, Ok, |case| {
        let (train, dense) = (case.prepared, case.dense);
        let noise = |scheme: QuantScheme| -> Result<f64> {
            Ok(relative(
                quantize_cores(train, scheme)?.0.to_dense().view(),
                dense,
            ))
        };
        let symmetric = QuantScheme::symmetric(case.bits);
        let (quantized, bytes) = quantize_cores(train, symmetric)?;
        let q = quantized.to_dense();
        Ok(BitsRow {
            rank: case.rank,
            bits: case.bits,
            bytes,
            truncation: relative(dense, weight),
            symmetric: relative(q.view(), dense),
            affine: noise(QuantScheme::affine(case.bits))?,
            per_axis: noise(symmetric.with_granularity(Granularity::per_axis(3)))?,
            total: relative(q.view(), weight),
        })
    })?;
    Ok(BitsStudy { rows })
}

impl Study for BitsStudy {
    fn report(&self) -> StudyReport {
        let rows = self.rows.iter().map(|r| {
            vec![
                r.rank.to_string(),
                r.bits.to_string(),
                r.bytes.to_string(),
                digits(r.truncation),
                digits(r.symmetric),
                digits(r.affine),
                digits(r.per_axis),
                digits(r.total),
            ]
        });
        let mut ranks: Vec<usize> = self.rows.iter().map(|r| r.rank).collect();
        ranks.dedup();
        let series = ranks.iter().enumerate().map(|(colour, &rank)| Series {
            name: format!("rank {rank}"),
            colour,
            stroke: Stroke::Solid,
            points: self
                .rows
                .iter()
                .filter(|r| r.rank == rank)
                .map(|r| (r.bytes as f64, r.total))
                .collect(),
        });
        let mut conclusion = Vec::new();
        for &rank in &ranks {
            let of: Vec<_> = self.rows.iter().filter(|r| r.rank == rank).collect();
            let enough = of
                .iter()
                .filter(|r| explained(r.total) >= 0.98 * explained(r.truncation))
                .min_by_key(|r| r.bits);
            conclusion.push(match enough {
                Some(r) => format!(
                    "Rank {rank}: from {} bits on, the quantized train keeps 98 % of what the float train explains of the weight.",
                    r.bits
                ),
                None => format!(
                    "Rank {rank}: at no width tried does the quantized train keep 98 % of what the float train explains."
                ),
            });
        }
        let wins = |f: fn(&BitsRow) -> f64| self.rows.iter().filter(|r| f(r) < r.symmetric).count();
        conclusion.push(format!(
            "Against one symmetric step per core, a zero point lowers the noise in {} and a step per index of the last axis in {} \
             of {} rows.",
            wins(|r| r.affine),
            wins(|r| r.per_axis),
            self.rows.len(),
        ));
        StudyReport {
            title: "Error against bytes by bits and ranks".to_owned(),
            columns: [
                "rank",
                "bits",
                "bytes",
                "truncation",
                "noise",
                "affine",
                "per axis",
                "total error",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows: rows.collect(),
            x: Axis::log("bytes of the cores"),
            y: Axis::linear("relative error of the weight"),
            series: series.collect(),
            conclusion,
        }
    }
}
