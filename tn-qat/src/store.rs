//! The parameters of a layer and the quantizers in front of its weights.

use quant_core::{QuantScheme, QuantizedTensor};
use tn_formats::Real;

use crate::error::{QatError, Result, check_len};
use crate::fake_quant::{FakeQuant, QatPhase, StepInit};
use crate::parameter::{Gradients, Parameter, ParameterKind};

/// A weight, and its quantizer with the parameters that hold steps and zero points.
#[derive(Debug, Clone)]
struct Slot {
    weight: usize,
    quantizer: Option<Quantizer>,
}

#[derive(Debug, Clone)]
struct Quantizer {
    fake: FakeQuant,
    step: usize,
    zero_point: Option<usize>,
}

/// Weights (each with or without a quantizer) and a bias.
#[derive(Debug, Clone)]
pub(crate) struct Store<T> {
    parameters: Vec<Parameter<T>>,
    slots: Vec<Slot>,
    bias: Option<usize>,
    phase: QatPhase,
}

impl<T: Real> Store<T> {
    pub(crate) fn new() -> Self {
        Self {
            parameters: Vec::new(),
            slots: Vec::new(),
            bias: None,
            phase: QatPhase::default(),
        }
    }

    pub(crate) fn push_weight(
        &mut self,
        name: String,
        shape: &[usize],
        values: Vec<T>,
    ) -> Result<()> {
        let weight = self.parameters.len();
        self.parameters
            .push(Parameter::new(name, ParameterKind::Weight, shape, values)?);
        self.slots.push(Slot {
            weight,
            quantizer: None,
        });
        Ok(())
    }

    pub(crate) fn set_bias(&mut self, outputs: usize, bias: Vec<T>) -> Result<()> {
        check_len("bias", outputs, bias.len())?;
        match self.bias {
            Some(index) => self.parameters[index].values_mut().copy_from_slice(&bias),
            None => {
                self.bias = Some(self.parameters.len());
                self.parameters.push(Parameter::new(
                    "bias",
                    ParameterKind::Bias,
                    &[outputs],
                    bias,
                )?);
            }
        }
        Ok(())
    }

    /// Puts a quantizer in front of weight `slot`, or replaces it, with fresh steps.
    pub(crate) fn quantize_slot(
        &mut self,
        slot: usize,
        scheme: QuantScheme,
        init: StepInit,
    ) -> Result<()> {
        let found = self.slots.len();
        let weight = self
            .slots
            .get(slot)
            .map(|s| s.weight)
            .ok_or(QatError::Length {
                what: "weights of a layer",
                expected: slot + 1,
                found,
            })?;
        let w = &self.parameters[weight];
        let fake = FakeQuant::new(scheme, w.shape())?;
        let (steps, zero_points) = fake.initial_steps(w.values(), init)?;
        let name = w.name().to_owned();
        let groups = [fake.groups()];
        // The parameters after the replaced ones would move, so old ones are dropped and indices mended.
        if let Some(old) = self.slots[slot].quantizer.take() {
            let mut gone = vec![old.step];
            gone.extend(old.zero_point);
            self.remove(&gone);
        }
        let step = self.parameters.len();
        self.parameters.push(Parameter::new(
            format!("{name}.step"),
            ParameterKind::Step,
            &groups,
            steps,
        )?);
        let zero_point = match zero_points {
            Some(z) => {
                let parameter = Parameter::new(
                    format!("{name}.zero_point"),
                    ParameterKind::ZeroPoint,
                    &groups,
                    z,
                )?;
                self.parameters.push(parameter);
                Some(step + 1)
            }
            None => None,
        };
        self.slots[slot].quantizer = Some(Quantizer {
            fake,
            step,
            zero_point,
        });
        Ok(())
    }

    fn remove(&mut self, gone: &[usize]) {
        let moved = |i: usize| i - gone.iter().filter(|&&g| g < i).count();
        let mut index = 0;
        self.parameters.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        for slot in &mut self.slots {
            slot.weight = moved(slot.weight);
            if let Some(q) = &mut slot.quantizer {
                q.step = moved(q.step);
                q.zero_point = q.zero_point.map(moved);
            }
        }
        self.bias = self.bias.map(moved);
    }

    pub(crate) fn parameters(&self) -> &[Parameter<T>] {
        &self.parameters
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [Parameter<T>] {
        &mut self.parameters
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn weight(&self, slot: usize) -> &Parameter<T> {
        &self.parameters[self.slots[slot].weight]
    }

    pub(crate) fn scheme(&self, slot: usize) -> Option<&QuantScheme> {
        self.slots[slot].quantizer.as_ref().map(|q| q.fake.scheme())
    }

    pub(crate) fn bias(&self) -> Option<&[T]> {
        self.bias.map(|b| self.parameters[b].values())
    }

    pub(crate) fn phase(&self) -> QatPhase {
        self.phase
    }

    pub(crate) fn set_phase(&mut self, phase: QatPhase) {
        self.phase = phase;
    }

    /// Sets steps and zero points anew from the weights.
    pub(crate) fn observe(&mut self, init: StepInit) -> Result<()> {
        for slot in &self.slots {
            let Some(q) = &slot.quantizer else { continue };
            let (steps, zero_points) = q
                .fake
                .initial_steps(self.parameters[slot.weight].values(), init)?;
            self.parameters[q.step].values_mut().copy_from_slice(&steps);
            if let (Some(index), Some(z)) = (q.zero_point, zero_points) {
                self.parameters[index].values_mut().copy_from_slice(&z);
            }
        }
        Ok(())
    }

    /// The weight as the forward pass uses it, into `out` (resized).
    pub(crate) fn effective(&self, slot: usize, out: &mut Vec<T>) -> Result<()> {
        let Slot { weight, quantizer } = &self.slots[slot];
        let w = self.parameters[*weight].values();
        out.resize(w.len(), T::zero());
        match quantizer {
            Some(q) if self.phase != QatPhase::Float => {
                let zero_points = q.zero_point.map(|z| self.parameters[z].values());
                q.fake
                    .forward(w, self.parameters[q.step].values(), zero_points, out)
            }
            _ => {
                out.copy_from_slice(w);
                Ok(())
            }
        }
    }

    /// Adds the gradients of weight, steps and zero points, given that of the effective weight (which is overwritten).
    pub(crate) fn backward(
        &self,
        slot: usize,
        gradient: &mut [T],
        grads: &mut Gradients<T>,
    ) -> Result<()> {
        let Slot { weight, quantizer } = &self.slots[slot];
        if let (Some(q), true) = (quantizer, self.phase != QatPhase::Float) {
            let w = self.parameters[*weight].values();
            let steps = self.parameters[q.step].values();
            if let Some(z) = q.zero_point {
                let (ds, dz) = grads.pair(q.step, z);
                q.fake.backward(
                    w,
                    steps,
                    Some(self.parameters[z].values()),
                    gradient,
                    ds,
                    Some(dz),
                )?;
            } else {
                q.fake
                    .backward(w, steps, None, gradient, grads.slot(q.step), None)?;
            }
            if self.phase != QatPhase::Learn {
                grads.slot(q.step).fill(T::zero());
                if let Some(z) = q.zero_point {
                    grads.slot(z).fill(T::zero());
                }
            }
        }
        for (sum, &g) in grads.slot(*weight).iter_mut().zip(gradient.iter()) {
            *sum += g;
        }
        Ok(())
    }

    /// Row `row` of weight 0, `[rows, width]`, as the forward pass uses it. Its groups must not cross rows.
    pub(crate) fn effective_row(&self, row: usize, width: usize, out: &mut [T]) -> Result<()> {
        let Slot { weight, quantizer } = &self.slots[0];
        let w = &self.parameters[*weight].values()[row * width..(row + 1) * width];
        match quantizer {
            Some(q) if self.phase != QatPhase::Float => {
                let (fake, groups) = q.fake.row(row)?;
                let zero_points = q
                    .zero_point
                    .map(|z| &self.parameters[z].values()[groups.clone()]);
                fake.forward(
                    w,
                    &self.parameters[q.step].values()[groups.clone()],
                    zero_points,
                    out,
                )
            }
            _ => {
                out.copy_from_slice(w);
                Ok(())
            }
        }
    }

    /// [`Store::backward`] for one row of weight 0.
    pub(crate) fn backward_row(
        &self,
        row: usize,
        width: usize,
        g: &mut [T],
        grads: &mut Gradients<T>,
    ) -> Result<()> {
        let Slot { weight, quantizer } = &self.slots[0];
        let range = row * width..(row + 1) * width;
        if let (Some(q), true) = (quantizer, self.phase != QatPhase::Float) {
            let (fake, groups) = q.fake.row(row)?;
            let w = &self.parameters[*weight].values()[range.clone()];
            let steps = &self.parameters[q.step].values()[groups.clone()];
            let mut ds = vec![T::zero(); steps.len()];
            let mut dz = vec![T::zero(); steps.len()];
            let zero_points = q
                .zero_point
                .map(|z| &self.parameters[z].values()[groups.clone()]);
            fake.backward(
                w,
                steps,
                zero_points,
                g,
                &mut ds,
                zero_points.is_some().then_some(&mut dz),
            )?;
            if self.phase == QatPhase::Learn {
                grads.slot(q.step)[groups.clone()]
                    .iter_mut()
                    .zip(ds)
                    .for_each(|(s, d)| *s += d);
                if let Some(z) = q.zero_point {
                    grads.slot(z)[groups]
                        .iter_mut()
                        .zip(dz)
                        .for_each(|(s, d)| *s += d);
                }
            }
        }
        grads.slot(*weight)[range]
            .iter_mut()
            .zip(g.iter())
            .for_each(|(s, &d)| *s += d);
        Ok(())
    }

    /// Adds the gradient of the bias.
    pub(crate) fn backward_bias(&self, dy: ndarray::ArrayView2<'_, T>, grads: &mut Gradients<T>) {
        if let Some(b) = self.bias {
            let sum = grads.slot(b);
            for row in dy.rows() {
                sum.iter_mut().zip(row).for_each(|(s, &d)| *s += d);
            }
        }
    }
}

impl Store<f32> {
    /// The integers of the forward pass.
    pub(crate) fn quantized(&self, slot: usize, what: &'static str) -> Result<QuantizedTensor> {
        let Slot { weight, quantizer } = &self.slots[slot];
        let w = &self.parameters[*weight];
        let q = quantizer.as_ref().ok_or_else(|| QatError::NotQuantized {
            what,
            name: w.name().to_owned(),
        })?;
        let zero_points = q.zero_point.map(|z| self.parameters[z].values());
        q.fake
            .quantize(w.values(), self.parameters[q.step].values(), zero_points)
    }
}
