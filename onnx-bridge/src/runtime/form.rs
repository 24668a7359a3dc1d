//! What multiplies rows: matrices one after the other, or a train.

use quant_core::{LowBitMatrix, PanelMatrix, ProductScratch};

use super::train::Train;
use super::{Activations, cost};
use crate::axes::turned;

/// One factor of a product, `[n, k]`.
#[derive(Debug)]
pub(super) enum Factor {
    /// Codes that stay packed.
    LowBit(LowBitMatrix),
    /// Codes, and a correction `x R L` beside them.
    Corrected {
        base: LowBitMatrix,
        pair: Box<[LowBitMatrix; 2]>,
    },
    /// `f32`, where scales do not run along k.
    Dense(PanelMatrix),
}

impl Factor {
    pub(super) fn n(&self) -> usize {
        match self {
            Self::LowBit(w) | Self::Corrected { base: w, .. } => w.n(),
            Self::Dense(w) => w.n(),
        }
    }

    pub(super) fn k(&self) -> usize {
        match self {
            Self::LowBit(w) | Self::Corrected { base: w, .. } => w.k(),
            Self::Dense(w) => w.k(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::LowBit(w) => w.bytes(),
            Self::Corrected { base, pair } => {
                base.bytes() + pair.iter().map(LowBitMatrix::bytes).sum::<usize>()
            }
            Self::Dense(w) => w.bytes(),
        }
    }

    fn cost(&self, rows: usize) -> f64 {
        let packed = |w: &LowBitMatrix| cost::packed(rows, w.k(), w.n(), w.bits());
        match self {
            Self::LowBit(w) => packed(w),
            Self::Corrected { base, pair } => packed(base) + pair.iter().map(packed).sum::<f64>(),
            Self::Dense(w) => cost::right(rows, w.k(), w.n()),
        }
    }

    /// Rows of `x` to rows of `out`.
    pub(super) fn multiply(
        &self,
        x: &[f32],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut Scratch,
    ) -> quant_core::Result<()> {
        let Scratch { product, aside, .. } = scratch;
        let low_bit =
            |w: &LowBitMatrix, x: &[f32], out: &mut [f32], product: &mut _| match activations {
                Activations::F32 => w.matmul(x, out, product),
                Activations::Int8 => w.matmul_int8(x, out, product),
            };
        match self {
            Self::LowBit(w) => low_bit(w, x, out, product),
            Self::Dense(w) => w.matmul(x, out, product),
            Self::Corrected { base, pair } => {
                let [inner, outer] = &**pair;
                low_bit(base, x, out, product)?;
                let rows = out.len().checked_div(base.n()).unwrap_or(0);
                let [narrow, wide] = aside;
                narrow.resize(rows * inner.n(), 0.0);
                wide.resize(out.len(), 0.0);
                low_bit(inner, x, narrow, product)?;
                low_bit(outer, narrow, wide, product)?;
                out.iter_mut().zip(&*wide).for_each(|(o, w)| *o += w);
                Ok(())
            }
        }
    }
}

/// Buffers of a run, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) product: ProductScratch,
    pub(super) between: [Vec<f32>; 2],
    aside: [Vec<f32>; 2],
}

/// A weight as something that multiplies rows.
#[derive(Debug)]
pub(super) enum Form {
    /// `x B_1 B_2 ..`.
    Factors(Vec<Factor>),
    Train(Box<Train>),
}

impl Form {
    /// Factors one after the other; none where they do not fit each other or there are none.
    pub(super) fn factors(factors: Vec<Factor>) -> Option<Self> {
        let fits = factors.windows(2).all(|w| w[0].n() == w[1].k());
        (fits && !factors.is_empty()).then_some(Self::Factors(factors))
    }

    pub(super) fn k(&self) -> usize {
        match self {
            Self::Factors(factors) => factors.first().map_or(0, Factor::k),
            Self::Train(train) => train.k(),
        }
    }

    pub(super) fn n(&self) -> usize {
        match self {
            Self::Factors(factors) => factors.last().map_or(0, Factor::n),
            Self::Train(train) => train.n(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Factors(factors) => factors.iter().map(Factor::bytes).sum(),
            Self::Train(train) => train.bytes(),
        }
    }

    /// Whether it is one matrix, its correction not counted.
    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::Factors(factors) if factors.len() < 2)
    }

    /// Cycles for so many rows.
    pub(super) fn cost(&self, rows: usize) -> f64 {
        match self {
            Self::Factors(factors) => factors.iter().map(|f| f.cost(rows)).sum(),
            Self::Train(train) => train.cost(rows),
        }
    }

    /// Rows of `x` to rows of `out`.
    pub(super) fn run(
        &self,
        x: &[f32],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut Scratch,
    ) -> quant_core::Result<()> {
        let (last, inner) = match self {
            Self::Train(train) => {
                return train.run(x, out, &mut scratch.between, &mut scratch.product);
            }
            Self::Factors(factors) => match factors.split_last() {
                Some(split) => split,
                None => return Ok(()),
            },
        };
        let rows = x.len().checked_div(self.k()).unwrap_or(0);
        let [mut state, mut next] = std::mem::take(&mut scratch.between);
        let mut from_input = true;
        for factor in inner {
            next.resize(rows * factor.n(), 0.0);
            let input = if from_input { x } else { &state };
            factor.multiply(input, &mut next, activations, scratch)?;
            std::mem::swap(&mut state, &mut next);
            from_input = false;
        }
        let input = if from_input { x } else { &state };
        last.multiply(input, out, activations, scratch)?;
        scratch.between = [state, next];
        Ok(())
    }

    /// Cycles of [`Form::unpacked`] for so many rows; none where nothing is packed.
    pub(super) fn unpacked_cost(&self, rows: usize) -> Option<f64> {
        let Self::Factors(factors) = self else {
            return None;
        };
        let is_packed = |f: &Factor| !matches!(f, Factor::Dense(_));
        let cost = |f: &Factor| cost::right(rows, f.k(), f.n());
        (factors.iter().any(is_packed)).then(|| factors.iter().map(cost).sum())
    }

    /// The same factors in `f32`; of a train, whose cores are, the whole matrix.
    pub(super) fn unpacked(&self, scratch: &mut Scratch) -> quant_core::Result<Self> {
        let Self::Factors(factors) = self else {
            return self.dense(scratch);
        };
        let panels = factors.iter().map(|factor| {
            let run =
                |x: &[f32], out: &mut [f32]| factor.multiply(x, out, Activations::F32, scratch);
            made_dense([factor.k(), factor.n()], run).map(Factor::Dense)
        });
        panels.collect::<quant_core::Result<_>>().map(Self::Factors)
    }

    /// The matrix itself.
    pub(super) fn dense(&self, scratch: &mut Scratch) -> quant_core::Result<Self> {
        let run = |x: &[f32], out: &mut [f32]| self.run(x, out, Activations::F32, scratch);
        let matrix = made_dense([self.k(), self.n()], run)?;
        Ok(Self::Factors(vec![Factor::Dense(matrix)]))
    }
}

/// The matrix of a product: what the rows of the identity become.
fn made_dense(
    [k, n]: [usize; 2],
    mut product: impl FnMut(&[f32], &mut [f32]) -> quant_core::Result<()>,
) -> quant_core::Result<PanelMatrix> {
    /// Rows at a time.
    const STEP: usize = 64;
    let mut matrix = vec![0.0; k * n];
    let mut rows = vec![0.0; STEP.min(k) * k];
    for (part, out) in matrix.chunks_mut((STEP * n).max(1)).enumerate() {
        let count = out.len() / n.max(1);
        let rows = &mut rows[..count * k];
        rows.fill(0.0);
        for (i, row) in rows.chunks_mut(k).enumerate() {
            row[part * STEP + i] = 1.0;
        }
        product(rows, out)?;
    }
    PanelMatrix::new(&turned(&matrix, n), [n, k])
}
