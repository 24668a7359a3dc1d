//! What the outputs lose by values that are off, the network behind them as it is.

use tn_formats::npy::NpyArray;

use super::batches::{Batch, Values};
use super::segment::{Cut, Loaded, Overrides};
use crate::error::Result;

/// The original network on one batch, loaded to be run on from anywhere, and what it makes of the batch.
pub(super) struct Tail<'c> {
    cut: &'c Cut<'c>,
    batch: &'c Batch,
    loaded: Vec<Option<Loaded>>,
    outputs: Vec<NpyArray>,
}

impl<'c> Tail<'c> {
    pub(super) fn new(cut: &'c Cut<'c>, batch: &'c Batch) -> Result<Self> {
        let none = Overrides::new();
        let count = cut.stages.segments().len();
        let mut loaded: Vec<Option<Loaded>> = Vec::with_capacity(count);
        let mut values = batch.inputs.clone();
        for s in 0..count {
            cut.run_uses(s, &cut.originals(s)?, &none, &mut values)?;
            loaded.push(cut.load(s, &none, &values)?);
            cut.run_rest(s, loaded[s].as_ref(), &mut values)?;
            cut.model.release();
        }
        Ok(Self {
            cut,
            batch,
            loaded,
            outputs: outputs(cut, &values),
        })
    }

    /// Segment `s` of the original without the operators of weights, as it was loaded.
    pub(super) fn loaded(&self, s: usize) -> Option<&Loaded> {
        self.loaded[s].as_ref()
    }

    /// `||Δ output||² / ||output||²` by each of some values that stand behind segment `s`; 0 for those that there are not. The
    /// weights behind are read once for all.
    pub(super) fn losses(&self, s: usize, mut all: Vec<Option<Values>>) -> Result<Vec<f64>> {
        let none = Overrides::new();
        for (s, loaded) in self.loaded.iter().enumerate().skip(s + 1) {
            let originals = self.cut.originals(s)?;
            for values in all.iter_mut().flatten() {
                self.cut.run_uses(s, &originals, &none, values)?;
                self.cut.run_rest(s, loaded.as_ref(), values)?;
            }
            self.cut.model.release();
        }
        let loss =
            |values: &Values| relative_loss(self.batch, &self.outputs, &outputs(self.cut, values));
        Ok(all
            .iter()
            .map(|values| values.as_ref().map_or(0.0, loss))
            .collect())
    }
}

/// The graph's outputs, in their order.
fn outputs(cut: &Cut<'_>, values: &Values) -> Vec<NpyArray> {
    let names = cut.view.graph().output.iter().map(|o| o.name());
    names.filter_map(|name| values.get(name)).cloned().collect()
}

/// `||a - b||² / ||a||²` over the rows of all floating-point outputs that count.
fn relative_loss(batch: &Batch, a: &[NpyArray], b: &[NpyArray]) -> f64 {
    let [mut error, mut norm] = [0.0; 2];
    for (a, b) in a.iter().zip(b) {
        if !matches!(a, NpyArray::F16(_) | NpyArray::F32(_) | NpyArray::F64(_)) {
            continue;
        }
        let [a, b] = [a, b].map(|output| batch.rows(output.to_f32().view()));
        for (x, y) in a.iter().zip(&b) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            error += (x - y) * (x - y);
            norm += x * x;
        }
    }
    if error == 0.0 {
        0.0
    } else {
        error / norm.max(f64::MIN_POSITIVE)
    }
}
