//! Layers one after the other.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::Activation;
use crate::chain::Cache;
use crate::error::{Result, check_len, check_shape};
use crate::fake_quant::{QatPhase, StepInit};
use crate::layers::Layer;
use crate::parameter::Gradients;

/// A stack of layers, owned or borrowed, each followed by an activation.
///
/// ```
/// use ndarray::Array2;
/// use tn_qat::{Activation, DenseLinear, Network};
/// let network = Network::new(vec![
///     (Box::new(DenseLinear::random(8, 4, 1)?), Activation::Relu),
///     (Box::new(DenseLinear::random(3, 8, 2)?), Activation::Identity),
/// ])?;
/// assert_eq!(network.predict(Array2::ones((5, 4)).view())?.dim(), (5, 3));
/// # Ok::<(), tn_qat::QatError>(())
/// ```
pub struct Network<'a> {
    layers: Vec<(Box<dyn Layer<f32> + 'a>, Activation)>,
}

/// What a forward pass of a [`Network`] leaves for its backward pass, and scratch for both. Reused with the same network and
/// batch size it allocates nothing.
#[derive(Debug, Default)]
pub struct NetworkState {
    caches: Vec<Cache<f32>>,
    /// Outputs of the layers before their activation, `[batch, outputs]`.
    before: Vec<Array2<f32>>,
    /// Behind it, the last layer's excepted: the inputs of the next layers.
    after: Vec<Array2<f32>>,
    /// Gradients of `before`.
    d_before: Vec<Array2<f32>>,
}

impl NetworkState {
    fn fit(&mut self, layers: &[(Box<dyn Layer<f32> + '_>, Activation)], batch: usize) {
        self.caches.resize_with(layers.len(), Cache::new);
        let fit = |buffers: &mut Vec<Array2<f32>>, count: usize| {
            buffers.resize_with(count, || Array2::zeros((0, 0)));
            for (buffer, (layer, _)) in buffers.iter_mut().zip(layers) {
                if buffer.dim() != (batch, layer.outputs()) {
                    *buffer = Array2::zeros((batch, layer.outputs()));
                }
            }
        };
        fit(&mut self.before, layers.len());
        fit(&mut self.after, layers.len() - 1);
        fit(&mut self.d_before, layers.len());
    }
}

impl<'a> Network<'a> {
    /// A stack of layers.
    ///
    /// # Errors
    /// [`crate::QatError::Length`] for no layers, or when a layer's input is not as long as the output before it.
    pub fn new(layers: Vec<(Box<dyn Layer<f32> + 'a>, Activation)>) -> Result<Self> {
        check_len("layers of a network, at least", 1, layers.len().min(1))?;
        for pair in layers.windows(2) {
            check_len("inputs of a layer", pair[0].0.outputs(), pair[1].0.inputs())?;
        }
        Ok(Self { layers })
    }

    /// The layers and what follows each.
    pub fn layers(&self) -> &[(Box<dyn Layer<f32> + 'a>, Activation)] {
        &self.layers
    }

    /// The layers, to be changed.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Layer<f32> + 'a>> {
        self.layers.iter_mut().map(|(layer, _)| layer)
    }

    /// The layers again.
    pub fn into_layers(self) -> Vec<(Box<dyn Layer<f32> + 'a>, Activation)> {
        self.layers
    }

    /// Zeros for the gradients of each layer.
    pub fn gradients(&self) -> Vec<Gradients<f32>> {
        self.layers
            .iter()
            .map(|(layer, _)| Gradients::zeros(layer.parameters()))
            .collect()
    }

    /// What all quantizers do from now on.
    pub fn set_phase(&mut self, phase: QatPhase) {
        self.layers_mut().for_each(|layer| layer.set_phase(phase));
    }

    /// Sets all steps anew from the weights.
    ///
    /// # Errors
    /// As [`Layer::observe`].
    pub fn observe(&mut self, init: StepInit) -> Result<()> {
        self.layers_mut().try_for_each(|layer| layer.observe(init))
    }

    /// The outputs for a batch, in slices of 1024 samples.
    ///
    /// # Errors
    /// As [`Layer::forward_into`].
    pub fn predict(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let outputs = self.layers.last().map_or(0, |(layer, _)| layer.outputs());
        let mut y = Array2::zeros((x.nrows(), outputs));
        let mut state = NetworkState::default();
        let slices = x.axis_chunks_iter(ndarray::Axis(0), 1024);
        for (x, y) in slices.zip(y.axis_chunks_iter_mut(ndarray::Axis(0), 1024)) {
            self.forward_into(x, &mut state, y)?;
        }
        Ok(y)
    }

    /// The outputs for a batch as a new array, keeping in `state` what the backward pass needs.
    ///
    /// # Errors
    /// As [`Layer::forward_into`].
    pub fn forward(&self, x: ArrayView2<'_, f32>, state: &mut NetworkState) -> Result<Array2<f32>> {
        let outputs = self.layers.last().map_or(0, |(layer, _)| layer.outputs());
        let mut y = Array2::zeros((x.nrows(), outputs));
        self.forward_into(x, state, y.view_mut())?;
        Ok(y)
    }

    /// The outputs for a batch, keeping in `state` what the backward pass needs.
    ///
    /// # Shapes
    /// `x` is `[batch, inputs]`, `y` `[batch, outputs]`.
    ///
    /// # Errors
    /// As [`Layer::forward_into`].
    pub fn forward_into(
        &self,
        x: ArrayView2<'_, f32>,
        state: &mut NetworkState,
        mut y: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        state.fit(&self.layers, x.nrows());
        let last = self.layers.len() - 1;
        for (k, (layer, activation)) in self.layers.iter().enumerate() {
            let (done, rest) = state.after.split_at_mut(k);
            let input = done.last().map_or(x, |a| a.view());
            let before = &mut state.before[k];
            layer.forward_into(input, &mut state.caches[k], before.view_mut())?;
            let mut after = if k == last {
                check_shape("output of a network", before.shape(), y.shape())?;
                y.view_mut()
            } else {
                rest[0].view_mut()
            };
            after.zip_mut_with(before, |a, &b| *a = activation.value(b));
        }
        Ok(())
    }

    /// Adds the gradients of all parameters, given that of the outputs.
    ///
    /// # Errors
    /// [`crate::QatError::NoForward`] without the forward pass of this batch, and as [`Layer::backward_into`].
    pub fn backward(
        &self,
        x: ArrayView2<'_, f32>,
        state: &mut NetworkState,
        dy: ArrayView2<'_, f32>,
        grads: &mut [Gradients<f32>],
    ) -> Result<()> {
        check_len("gradients of a network", self.layers.len(), grads.len())?;
        check_len(
            "layers of a forward pass",
            self.layers.len(),
            state.before.len(),
        )?;
        let last = self.layers.len() - 1;
        check_shape(
            "gradient of a network's output",
            state.before[last].shape(),
            dy.shape(),
        )?;
        state.d_before[last].assign(&dy);
        for (k, (layer, activation)) in self.layers.iter().enumerate().rev() {
            let (left, right) = state.d_before.split_at_mut(k);
            let d = &mut right[0];
            if *activation != Activation::Identity {
                d.zip_mut_with(&state.before[k], |d, &b| *d *= activation.derivative(b));
            }
            let input = if k == 0 { x } else { state.after[k - 1].view() };
            let dx = left.last_mut().map(|dx| dx.view_mut());
            layer.backward_into(input, &mut state.caches[k], d.view(), &mut grads[k], dx)?;
        }
        Ok(())
    }
}
