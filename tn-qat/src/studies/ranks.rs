//! Exercise 2: what quantization does to the ranks of a train, and whether they can fall after it.

use ndarray::ArrayView2;
use quant_core::{Bits, QuantScheme};
use serde::{Deserialize, Serialize};
use tn_formats::{MatrixModes, Truncation, TtMatrix};

use super::report::{Axis, digits, list};
use super::{Series, Stroke, Study, StudyReport, explained, quantize_cores, relative};
use crate::error::Result;

/// What to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RanksConfig {
    /// Largest rank of the train that is quantized.
    pub rank: usize,
    /// Widths of the codes.
    pub bits: Vec<Bits>,
    /// Relative errors at which numerical ranks are counted.
    pub tolerances: Vec<f64>,
    /// Ranks to reduce to after quantization.
    pub reduced: Vec<usize>,
}

impl Default for RanksConfig {
    /// Rank 32; 8, 4, 3 and 2 bits; tolerances from 0.5 to 1e-4; reduced to 24, 16, 8 and 4.
    fn default() -> Self {
        Self {
            rank: 32,
            bits: vec![Bits::B8, Bits::B4, Bits::B3, Bits::B2],
            tolerances: vec![0.5, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4],
            reduced: vec![24, 16, 8, 4],
        }
    }
}

/// Numerical ranks at one tolerance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RanksRow {
    /// Width of the codes; `None` for the train before quantization.
    pub bits: Option<Bits>,
    /// Relative distance of the quantized train from the float train.
    pub noise: f64,
    /// The tolerance.
    pub tolerance: f64,
    /// Ranks between the cores that reach it.
    pub ranks: Vec<usize>,
}

/// Ranks reduced after quantization, and quantized again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReducedRow {
    /// Width of the codes.
    pub bits: Bits,
    /// The rank reduced to.
    pub rank: usize,
    /// Bytes of the cores at that rank.
    pub bytes: usize,
    /// Error against the dense weight of the full-rank quantized train.
    pub quantized: f64,
    /// Of that train rounded to the rank (float cores).
    pub reduced: f64,
    /// Of that quantized again.
    pub requantized: f64,
    /// Of the weight decomposed at this rank at once, then quantized.
    pub direct: f64,
}

/// What `ranks` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RanksStudy {
    /// Modes of the rows (outputs).
    pub row_modes: Vec<usize>,
    /// Modes of the columns (inputs).
    pub col_modes: Vec<usize>,
    /// Ranks of the float train.
    pub ranks: Vec<usize>,
    /// Its error against the dense weight.
    pub truncation: f64,
    /// Numerical ranks.
    pub rows: Vec<RanksRow>,
    /// Reduction after quantization.
    pub reduced: Vec<ReducedRow>,
    /// For each width, the ranks at which truncating the float train costs as much as quantizing it: what lies above is
    /// below the noise.
    pub floors: Vec<(Bits, Vec<usize>)>,
}

fn inner(train: &TtMatrix<f32>) -> Vec<usize> {
    let ranks = train.ranks();
    ranks[1..ranks.len() - 1].to_vec()
}

/// Decomposes a weight, quantizes its cores, and counts ranks before and after.
///
/// # Shapes
/// `weight` is `[M, N]` as `modes` say.
///
/// # Numerics
/// The numerical ranks at a tolerance are those TT-SVD gives for that relative error of the train as a dense matrix.
/// Cores are quantized symmetrically, one step each, of least squared error.
///
/// # Errors
/// [`crate::QatError::Format`] when modes and weight do not fit.
pub fn ranks(
    weight: ArrayView2<'_, f32>,
    modes: &MatrixModes,
    config: &RanksConfig,
) -> Result<RanksStudy> {
    let (train, _) = TtMatrix::decompose(weight, modes, &Truncation::MaxRank(config.rank))?;
    let dense = train.to_dense();
    let mut rows = Vec::new();
    let mut count = |bits, noise, dense: ArrayView2<'_, f32>| -> Result<()> {
        for &tolerance in &config.tolerances {
            let (at, _) = TtMatrix::decompose(dense, modes, &Truncation::RelativeError(tolerance))?;
            rows.push(RanksRow {
                bits,
                noise,
                tolerance,
                ranks: inner(&at),
            });
        }
        Ok(())
    };
    count(None, 0.0, dense.view())?;
    let (mut reduced, mut floors) = (Vec::new(), Vec::new());
    for &bits in &config.bits {
        let scheme = QuantScheme::symmetric(bits);
        let (quantized, _) = quantize_cores(&train, scheme)?;
        let q = quantized.to_dense();
        let noise = relative(q.view(), dense.view());
        let truncation = Truncation::RelativeError(noise);
        let (floor, _) = TtMatrix::decompose(dense.view(), modes, &truncation)?;
        floors.push((bits, inner(&floor)));
        count(Some(bits), relative(q.view(), dense.view()), q.view())?;
        for &rank in config.reduced.iter().filter(|&&r| r < config.rank) {
            let truncation = Truncation::MaxRank(rank);
            let (rounded, _) = TtMatrix::decompose(q.view(), modes, &truncation)?;
            let (again, bytes) = quantize_cores(&rounded, scheme)?;
            let (fresh, _) = TtMatrix::decompose(weight, modes, &truncation)?;
            let (direct, _) = quantize_cores(&fresh, scheme)?;
            let error = |t: &TtMatrix<f32>| relative(t.to_dense().view(), weight);
            reduced.push(ReducedRow {
                bits,
                rank,
                bytes,
                quantized: relative(q.view(), weight),
                reduced: error(&rounded),
                requantized: error(&again),
                direct: error(&direct),
            });
        }
    }
    Ok(RanksStudy {
        row_modes: modes.row_modes().to_vec(),
        col_modes: modes.col_modes().to_vec(),
        ranks: inner(&train),
        truncation: relative(dense.view(), weight),
        rows,
        reduced,
        floors,
    })
}

fn name(bits: Option<Bits>) -> String {
    bits.map_or_else(|| "float".to_owned(), |b| format!("int{b}"))
}

impl RanksStudy {
    fn of(&self, bits: Option<Bits>) -> impl Iterator<Item = &RanksRow> {
        self.rows.iter().filter(move |r| r.bits == bits)
    }

    fn widths(&self) -> Vec<Option<Bits>> {
        let mut widths: Vec<Option<Bits>> = Vec::new();
        for row in &self.rows {
            if !widths.contains(&row.bits) {
                widths.push(row.bits);
            }
        }
        widths
    }

    /// The two questions in one sentence.
    fn answer(&self) -> String {
        let (mut up, mut down, mut all) = (0, 0, 0);
        for bits in self.widths().into_iter().flatten() {
            for (float, quantized) in self.of(None).zip(self.of(Some(bits))) {
                let mut bonds = float.ranks.iter().zip(&quantized.ranks);
                up += usize::from(bonds.clone().any(|(a, b)| b > a));
                down += usize::from(bonds.any(|(a, b)| b < a));
                all += 1;
            }
        }
        let cases = self.reduced.len();
        let won = |r: &&ReducedRow| r.requantized < r.direct;
        let won = self.reduced.iter().filter(won).count();
        let lower = match (won, cases) {
            (_, 0) => String::new(),
            (0, _) => format!(
                " Giving up rank after quantization and quantizing again was in none of {cases} cases better than giving it up \
                 before."
            ),
            _ => format!(
                " Giving up rank after quantization and quantizing again was better than giving it up before in {won} of {cases} \
                 cases."
            ),
        };
        format!(
            "In short: of {all} pairs of width and tolerance, quantization raised the rank of a bond in {up} and lowered one in \
             {down}.{lower}"
        )
    }

    fn conclude(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let sum = |r: &RanksRow| r.ranks.iter().sum::<usize>();
        for bits in self.widths().into_iter().flatten() {
            let noise = self.of(Some(bits)).next().map_or(0.0, |r| r.noise);
            let pairs: Vec<_> = self.of(None).zip(self.of(Some(bits))).collect();
            let count = |f: fn(usize, usize) -> bool, above: bool| {
                let side = pairs
                    .iter()
                    .filter(|(a, _)| (a.tolerance >= noise) == above);
                side.filter(|(a, b)| f(sum(a), sum(b))).count()
            };
            let changed = |above| (count(|a, b| b > a, above), count(|a, b| b < a, above));
            let ((up_below, down_below), (up_above, down_above)) = (changed(false), changed(true));
            let below = pairs.iter().filter(|(a, _)| a.tolerance < noise).count();
            sentences.push(format!(
                "int{bits}: the noise is {} of the train's norm. At the {below} tolerances below it the ranks rose {up_below} \
                 times and fell {down_below} times; at the {} above it they rose {up_above} times and fell {down_above} times.",
                digits(noise),
                pairs.len() - below,
            ));
            let cases = self.reduced.iter().filter(|r| r.bits == bits);
            let harmless = cases
                .clone()
                .filter(|r| explained(r.requantized) >= 0.98 * explained(r.quantized))
                .map(|r| r.rank)
                .min();
            let again = cases.clone().filter(|r| r.requantized < r.direct).count();
            sentences.push(match harmless {
                Some(rank) => format!(
                    "int{bits}: reduced to {rank} after quantization and quantized again, the train keeps 98 % of what it \
                     explained of the weight: ranks above {rank} are pointless at this width."
                ),
                None => format!(
                    "int{bits}: every reduction tried, quantized again, lost more than 2 % of what the quantized train \
                     explained of the weight."
                ),
            });
            if let Some((_, ranks)) = self.floors.iter().find(|(b, _)| *b == bits) {
                sentences.push(format!(
                    "int{bits}: truncating the float train to ranks {} costs as much as quantizing it; what lies above is below the \
                     noise.",
                    list(ranks),
                ));
            }
            sentences.push(format!(
                "int{bits}: reducing the quantized train beat decomposing the weight at that rank at once in {again} of {} cases.",
                cases.count(),
            ));
        }
        sentences.push(self.answer());
        sentences
    }
}

impl Study for RanksStudy {
    fn report(&self) -> StudyReport {
        let mut rows = Vec::new();
        for r in &self.rows {
            rows.push(vec![
                name(r.bits),
                digits(r.noise),
                format!("numerical ranks at {}", digits(r.tolerance)),
                list(&r.ranks),
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
        for r in &self.reduced {
            rows.push(vec![
                name(Some(r.bits)),
                digits(r.quantized),
                format!("reduced to {} ({} bytes)", r.rank, r.bytes),
                String::new(),
                digits(r.reduced),
                digits(r.requantized),
                digits(r.direct),
            ]);
        }
        let series = self
            .widths()
            .into_iter()
            .enumerate()
            .map(|(colour, bits)| Series {
                name: name(bits),
                colour,
                stroke: Stroke::Solid,
                points: self
                    .of(bits)
                    .map(|r| (r.tolerance, r.ranks.iter().sum::<usize>() as f64))
                    .collect(),
            });
        let mut conclusion = vec![format!(
            "The weight {:?} x {:?} as a train of ranks {} has a relative error of {} before quantization.",
            self.row_modes,
            self.col_modes,
            list(&self.ranks),
            digits(self.truncation),
        )];
        conclusion.extend(self.conclude());
        StudyReport {
            title: "Numerical ranks before and after quantization".to_owned(),
            columns: [
                "cores",
                "noise | error",
                "what",
                "ranks",
                "reduced",
                "requantized",
                "direct",
            ]
            .map(str::to_owned)
            .map(|c| c.replace(" | ", " or "))
            .to_vec(),
            rows,
            x: Axis::log("tolerance (relative error)"),
            y: Axis::linear("sum of numerical ranks"),
            series: series.collect(),
            conclusion,
        }
    }
}
