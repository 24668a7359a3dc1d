//! What the gauge of a train costs when its cores are quantized: the same tensor, the same bytes.

use ndarray::ArrayView2;
use quant_core::{Bits, QuantScheme};
use serde::{Deserialize, Serialize};
use tn_formats::{Gauge, MatrixModes, Rotation, TtMatrix};

use super::report::{Axis, digits};
use super::{Series, Stroke, Study, StudyReport, cases, quantize_cores, relative};
use crate::error::Result;

/// What to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GaugeConfig {
    /// Largest ranks of the trains.
    pub ranks: Vec<usize>,
    /// Widths of the codes.
    pub bits: Vec<Bits>,
    /// Seed of the rotations.
    pub seed: u64,
}

impl Default for GaugeConfig {
    /// Ranks 8 and 32; 8, 4 and 3 bits.
    fn default() -> Self {
        Self {
            ranks: vec![8, 32],
            bits: vec![Bits::B8, Bits::B4, Bits::B3],
            seed: 1,
        }
    }
}

/// One rank and width in all gauges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GaugeRow {
    /// Largest rank.
    pub rank: usize,
    /// Width of the codes.
    pub bits: Bits,
    /// Bytes of the cores; the same in every gauge.
    pub bytes: usize,
    /// Distance of the quantized from the float train with cores as TT-SVD leaves them.
    pub left: f64,
    /// In the symmetric gauge.
    pub symmetric: f64,
    /// In the symmetric gauge with a Hadamard or random rotation in every bond.
    pub rotated: f64,
}

/// What `gauge` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GaugeStudy {
    /// One row for each rank and width.
    pub rows: Vec<GaugeRow>,
}

/// Quantizes the trains of a weight in every gauge, one symmetric step per core.
///
/// # Shapes
/// `weight` is `[M, N]` as `modes` say.
///
/// # Errors
/// [`crate::QatError::Format`] when modes and weight do not fit.
pub fn gauge(
    weight: ArrayView2<'_, f32>,
    modes: &MatrixModes,
    config: &GaugeConfig,
) -> Result<GaugeStudy> {
    let tried = (config.ranks.as_slice(), config.bits.as_slice());
    let rotation = Rotation::Hadamard { seed: config.seed };
    let gauges = [Gauge::Left, Gauge::Symmetric, Gauge::Rotated(rotation)];
    let prepare = |train: TtMatrix<f32>| -> Result<Vec<TtMatrix<f32>>> {
        let trains = gauges.iter().map(|&gauge| Ok(train.gauge(gauge)?));
        trains.collect()
    };
    let rows = cases(weight, modes, tried, prepare, |case| {
        let mut bytes = 0;
        let mut noise = [0.0; 3];
        for (noise, train) in noise.iter_mut().zip(case.prepared) {
            let (quantized, b) = quantize_cores(train, QuantScheme::symmetric(case.bits))?;
            bytes = b;
            *noise = relative(quantized.to_dense().view(), case.dense);
        }
        let [left, symmetric, rotated] = noise;
        Ok(GaugeRow {
            rank: case.rank,
            bits: case.bits,
            bytes,
            left,
            symmetric,
            rotated,
        })
    })?;
    Ok(GaugeStudy { rows })
}

impl Study for GaugeStudy {
    fn report(&self) -> StudyReport {
        let rows = self.rows.iter().map(|r| {
            vec![
                r.rank.to_string(),
                r.bits.to_string(),
                r.bytes.to_string(),
                digits(r.left),
                digits(r.symmetric),
                digits(r.rotated),
                digits(r.left / r.rotated.max(f64::MIN_POSITIVE)),
            ]
        });
        let mut ranks: Vec<usize> = self.rows.iter().map(|r| r.rank).collect();
        ranks.dedup();
        type Value = fn(&GaugeRow) -> f64;
        let gauges: [(&str, Value); 3] = [
            ("as TT-SVD", |r| r.left),
            ("symmetric", |r| r.symmetric),
            ("rotated", |r| r.rotated),
        ];
        let mut series = Vec::new();
        for (k, &rank) in ranks.iter().enumerate() {
            for (colour, (name, value)) in gauges.iter().enumerate() {
                let of = self.rows.iter().filter(|r| r.rank == rank);
                series.push(Series {
                    name: format!("{name}, rank {rank}"),
                    points: of.map(|r| (f64::from(r.bits.get()), value(r))).collect(),
                    colour,
                    stroke: [Stroke::Solid, Stroke::Dashed][k % 2],
                });
            }
        }
        let median = |value: fn(&GaugeRow) -> f64| {
            let mut ratios: Vec<f64> = self
                .rows
                .iter()
                .map(|r| r.left / value(r).max(f64::MIN_POSITIVE))
                .collect();
            ratios.sort_by(f64::total_cmp);
            ratios.get(ratios.len() / 2).copied().unwrap_or(1.0)
        };
        let wins = self.rows.iter().filter(|r| r.rotated < r.symmetric).count();
        let conclusion = vec![
            format!(
                "At the same bytes the symmetric gauge lowers the noise of quantization by a median factor of {}, with a rotation \
                 in every bond by {}.",
                digits(median(|r| r.symmetric)),
                digits(median(|r| r.rotated)),
            ),
            format!(
                "The rotation helps beyond the symmetric gauge in {wins} of {} rows.",
                self.rows.len()
            ),
        ];
        StudyReport {
            title: "Noise of quantization by gauge".to_owned(),
            columns: [
                "rank",
                "bits",
                "bytes",
                "as TT-SVD",
                "symmetric",
                "rotated",
                "factor",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows: rows.collect(),
            x: Axis::linear("bits of a stored number"),
            y: Axis::log("relative noise of quantization"),
            series,
            conclusion,
        }
    }
}
