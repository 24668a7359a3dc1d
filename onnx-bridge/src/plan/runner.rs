//! Original and compressed network, run stage by stage, and what a weight is given in both.

use ndarray::Array2;
use rayon::prelude::*;

use super::apply::Solved;
use super::check::Outputs;
use super::context::{Context, failed};
use super::low_rank::product;
use crate::calibrate::segment::{Operands, Overrides, floats};
use crate::calibrate::{
    Moments, Nth, Operand, Target, TargetKind, Values, Windows, importance, looked_up, tally,
};
use crate::conv_layer::ConvLayer;
use crate::dense_layer::DenseLayer;
use crate::error::Result;

/// The part of the drift of what is added to a layer's result that the layer is asked to take back.
const TAKEN_BACK: f32 = 0.5;

/// Original and compressed network side by side, batch by batch.
pub(super) struct Runner<'c> {
    pub(super) context: &'c Context<'c>,
    original: Vec<Values>,
    pub(super) compressed: Option<Vec<Values>>,
    /// The biases that changed.
    pub(super) overrides: Overrides,
}

impl<'c> Runner<'c> {
    pub(super) fn new(context: &'c Context<'c>, both: Networks) -> Self {
        let start: Vec<Values> = context.batches.iter().map(|b| b.inputs.clone()).collect();
        let compressed = (both == Networks::Both).then(|| start.clone());
        Self {
            context,
            original: start,
            compressed,
            overrides: Overrides::new(),
        }
    }

    /// Runs segment `s`, the compressed network with what its weights became.
    pub(super) fn advance(&mut self, s: usize, solved: &[Option<Solved>]) -> Result<()> {
        let ran = self.run(s, solved);
        self.context.model.release();
        ran
    }

    fn run(&mut self, s: usize, solved: &[Option<Solved>]) -> Result<()> {
        let cut = self.context.cut();
        let mut operands = cut.originals(s)?;
        let none = Overrides::new();
        let Some(compressed) = &mut self.compressed else {
            return self
                .original
                .par_iter_mut()
                .try_for_each(|v| cut.run(s, &operands, &none, v));
        };
        let narrowing = cut.narrowing(s + 1)?;
        self.original.par_iter_mut().try_for_each(|v| {
            cut.run(s, &operands, &none, v)?;
            cut.run_ahead(s + 1, &narrowing, &none, v)
        })?;
        let became = |t: usize| solved.get(t).and_then(Option::as_ref);
        put_in(&mut operands, &self.context.targets, &became);
        let overrides = &self.overrides;
        compressed
            .par_iter_mut()
            .try_for_each(|v| cut.run(s, &operands, overrides, v))
    }

    /// What the original made of every batch.
    pub(super) fn outputs(self) -> Vec<Outputs> {
        let graph = self.context.view.graph();
        let of = |mut values: Values| {
            let names = graph.output.iter().map(|o| o.name().to_string());
            names
                .filter_map(|name| Some((name.clone(), values.remove(&name)?)))
                .collect()
        };
        self.original.into_iter().map(of).collect()
    }

    /// What one weight is given, over all batches.
    pub(super) fn seen(&self, t: usize, weight: &Array2<f32>) -> Result<Moments> {
        let c = self.context;
        let target = &c.targets[t];
        let layers = match target.kind() {
            TargetKind::Dense(layers) => layers,
            TargetKind::Conv(layers) => return self.seen_windows(target, layers, weight),
            TargetKind::Table(_) => return Ok(self.seen_rows(t)),
        };
        let mut moments = Moments::new(target.shape()[1]);
        let operand = Operand::Matrix(weight.into());
        for b in 0..c.batches.len() {
            for (n, layer) in layers.iter().enumerate() {
                self.add(&mut moments, b, (t, n), layer, &operand)?;
            }
        }
        Ok(moments)
    }

    /// How much the rows of a table count, by all lookups of this stage.
    pub(super) fn seen_rows(&self, t: usize) -> Moments {
        let c = self.context;
        let target = &c.targets[t];
        let mut counts = vec![0.0; target.shape()[0]];
        if let TargetKind::Table(nodes) = target.kind() {
            for (batch, values) in c.batches.iter().zip(&self.original) {
                for &node in nodes {
                    if let Some((rows, shape)) = looked_up(c.view, target, node, values) {
                        tally(&mut counts, &rows, &shape, batch.mask());
                    }
                }
            }
        }
        Moments::of_rows(importance(counts))
    }

    /// Adds what one use of a weight is given in one batch. A later use may stand in a later stage: its inputs are not there yet.
    fn add(
        &self,
        moments: &mut Moments,
        b: usize,
        (t, nth): Nth,
        layer: &DenseLayer,
        weight: &Operand<'_>,
    ) -> Result<()> {
        let c = self.context;
        let (target, batch, original) = (&c.targets[t], &c.batches[b], &self.original[b]);
        let given = |values: &Values| -> Result<Array2<f32>> {
            let value = floats(values, layer.input())?;
            let turned = layer.is_input_transposed();
            Ok(batch.rows(if turned { value.t() } else { value.view() }))
        };
        let Some(compressed) = self.compressed.as_ref().map(|values| &values[b]) else {
            if nth == 0 || original.contains_key(layer.input()) {
                moments.add(given(original)?.view());
            }
            return Ok(());
        };
        if nth > 0 && !compressed.contains_key(layer.input()) {
            return Ok(());
        }
        let y = given(compressed)?;
        let mut lacks = match original.get(layer.output()) {
            // The original has run ahead.
            Some(_) => {
                let none = Overrides::new();
                let made = c
                    .cut()
                    .made_by((t, nth), weight, &none, compressed)?
                    .to_f32();
                batch.rows((&floats(original, layer.output())? - &made).view())
            }
            None => weight
                .multiply((given(original)? - &y).view())
                .ok_or_else(|| failed(target, "expected a matrix that fits its inputs".into()))?,
        };
        let residual = c.stages.residual(t);
        if let Some(name) = residual {
            let rows = |values: &Values| floats(values, name).map(|v| batch.rows(v.view()));
            let drift = rows(original)? - rows(compressed)?;
            if drift.dim() == lacks.dim() {
                lacks.scaled_add(TAKEN_BACK, &drift);
            }
        }
        moments.add_pair(y.view(), lacks.view());
        Ok(())
    }

    /// The windows that one kernel is given, over all batches: some of them where there are many.
    fn seen_windows(
        &self,
        target: &Target,
        layers: &[ConvLayer],
        weight: &Array2<f32>,
    ) -> Result<Moments> {
        let view = self.context.view;
        let mut moments = Moments::new(target.shape()[1]);
        for (b, original) in self.original.iter().enumerate() {
            for (n, layer) in layers.iter().enumerate() {
                if n > 0 && !original.contains_key(layer.input()) {
                    continue;
                }
                let rows = |values: &Values| -> Result<Array2<f32>> {
                    let value = floats(values, layer.input())?;
                    let windows = Windows::over(view, layer, value.shape()).ok_or_else(|| {
                        let problem = format!("expected windows over {:?}", value.shape());
                        failed(target, problem)
                    })?;
                    Ok(windows.sampled(value.view()))
                };
                let x = rows(original)?;
                let Some(compressed) = self.compressed.as_ref().map(|v| &v[b]) else {
                    moments.add(x.view());
                    continue;
                };
                let y = rows(compressed)?;
                let lacks = product((&x - &y).view(), weight.t())
                    .map_err(|problem| failed(target, problem))?;
                moments.add_pair(y.view(), lacks.view());
            }
        }
        Ok(moments)
    }
}

/// Puts in what weights became.
pub(super) fn put_in<'v>(
    operands: &mut Operands<'v>,
    targets: &[Target],
    became: &dyn Fn(usize) -> Option<&'v Solved>,
) {
    for (&t, operand) in operands {
        if let Some(became) = became(t).and_then(|s| s.form.operand(targets[t].kind())) {
            *operand = became;
        }
    }
}

/// Which networks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Networks {
    Original,
    Both,
}
