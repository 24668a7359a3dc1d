//! What multiplies rows: matrices one after the other, or a train.

use std::sync::OnceLock;

use quant_core::{LowBitMatrix, PanelMatrix, ProductScratch};

use super::factors::turned;
use super::train::Train;
use super::{Activations, Route, cost};

/// How much cheaper the dense matrix has to be before it is made.
const WORTH_MAKING: f64 = 0.97;
/// The largest batch that is tried, as a power of two.
const MOST_ROWS: u32 = 12;

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

#[derive(Debug)]
enum Form {
    /// `x B_1 B_2 ..`.
    Factors(Vec<Factor>),
    Train(Box<Train>),
}

impl Form {
    /// Cycles for so many rows.
    fn cost(&self, rows: usize) -> f64 {
        match self {
            // One matrix is as dense as it gets.
            Self::Factors(factors) if factors.len() < 2 => 0.0,
            Self::Factors(factors) => factors.iter().map(|f| f.cost(rows)).sum(),
            Self::Train(train) => train.cost(rows),
        }
    }
}

/// A weight in the form that the file has, and dense where that is cheaper for a batch.
#[derive(Debug)]
pub(super) struct Network {
    form: Form,
    k: usize,
    n: usize,
    /// The fewest rows that are cheaper with the dense matrix, as all larger batches are.
    dense_from: usize,
    /// Made when a batch first needs it.
    dense: OnceLock<Option<PanelMatrix>>,
}

impl Network {
    /// Factors one after the other; none where they do not fit each other or there are none.
    pub(super) fn factors(factors: Vec<Factor>, route: Route) -> Option<Self> {
        let (k, n) = (factors.first()?.k(), factors.last()?.n());
        let fits = factors.windows(2).all(|w| w[0].n() == w[1].k());
        fits.then(|| Self::new(Form::Factors(factors), [k, n], route))
    }

    pub(super) fn train(train: Train, route: Route) -> Self {
        let (k, n) = (train.k(), train.n());
        Self::new(Form::Train(Box::new(train)), [k, n], route)
    }

    fn new(form: Form, [k, n]: [usize; 2], route: Route) -> Self {
        let is_cheaper = |rows: usize| cost::right(rows, k, n) < WORTH_MAKING * form.cost(rows);
        let batches = (0..=MOST_ROWS).rev().map(|power| 1 << power);
        Self {
            dense_from: match route {
                Route::Dense => 0,
                Route::Cores | Route::Merged => usize::MAX,
                Route::Auto => batches
                    .take_while(|&rows| is_cheaper(rows))
                    .last()
                    .unwrap_or(usize::MAX),
            },
            form,
            k,
            n,
            dense: OnceLock::new(),
        }
    }

    /// Elements of a row of the result.
    pub(super) fn n(&self) -> usize {
        self.n
    }

    /// Bytes of the form that the file has.
    pub(super) fn bytes(&self) -> usize {
        match &self.form {
            Form::Factors(factors) => factors.iter().map(Factor::bytes).sum(),
            Form::Train(train) => train.bytes(),
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
        let rows = x.len().checked_div(self.k).unwrap_or(0);
        // The integer units are faster than anything in f32.
        let packed = matches!(self.form, Form::Factors(_)) && activations == Activations::Int8;
        if rows >= self.dense_from && !(packed && self.dense_from > 0) {
            let dense = self.dense.get_or_init(|| self.made_dense(scratch).ok());
            if let Some(dense) = dense {
                return dense.matmul(x, out, &mut scratch.product);
            }
        }
        self.run_form(x, out, activations, scratch)
    }

    fn run_form(
        &self,
        x: &[f32],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut Scratch,
    ) -> quant_core::Result<()> {
        let (last, inner) = match &self.form {
            Form::Train(train) => {
                return train.run(x, out, &mut scratch.between, &mut scratch.product);
            }
            Form::Factors(factors) => match factors.split_last() {
                Some(split) => split,
                None => return Ok(()),
            },
        };
        let rows = x.len().checked_div(self.k).unwrap_or(0);
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

    /// The matrix itself: what the rows of the identity become.
    fn made_dense(&self, scratch: &mut Scratch) -> quant_core::Result<PanelMatrix> {
        /// Rows at a time.
        const STEP: usize = 64;
        let (k, n) = (self.k, self.n);
        let mut matrix = vec![0.0; k * n];
        let mut rows = vec![0.0; STEP.min(k) * k];
        for (part, out) in matrix.chunks_mut((STEP * n).max(1)).enumerate() {
            let count = out.len() / n.max(1);
            let rows = &mut rows[..count * k];
            rows.fill(0.0);
            for (i, row) in rows.chunks_mut(k).enumerate() {
                row[part * STEP + i] = 1.0;
            }
            self.run_form(rows, out, Activations::F32, scratch)?;
        }
        PanelMatrix::new(&turned(&matrix, n), [n, k])
    }
}
