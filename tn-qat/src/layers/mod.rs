//! Trainable layers `y = W x + b` over a batch.

mod dense;
mod embedding;
mod fixed;
mod linear;
#[cfg(test)]
mod tests;
mod tt;
mod tucker;

use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use tn_formats::Real;

use crate::chain::Cache;
use crate::error::Result;
use crate::fake_quant::{QatPhase, StepInit};
use crate::parameter::{Gradients, Parameter};

pub use dense::DenseLinear;
pub use embedding::Embedding;
pub use fixed::FixedLinear;
pub(crate) use linear::{generator, normal};
pub use tt::TtLinear;
pub use tucker::TuckerLinear;

/// A linear layer that can be trained: `Y = X Wᵀ + b`, where `W` passes fake quantization.
///
/// A layer holds parameters; what a forward pass leaves for its backward pass lives in a [`Cache`], so one layer can serve
/// several batches at once. Parameters are flat slices by name, so any optimizer can move them.
///
/// ```
/// use ndarray::Array2;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{Layout, MatrixModes};
/// use tn_qat::{Cache, Layer, StepInit, TtLinear};
/// let modes = MatrixModes::new(Layout::Interleaved, vec![2, 3], vec![3, 4])?;
/// let mut layer = TtLinear::<f32>::random(&modes, &[4], 7)?.with_zero_bias();
/// layer.quantize(QuantScheme::symmetric(Bits::B4), StepInit::Mse)?;
/// let names: Vec<_> = layer.parameters().iter().map(|p| p.name()).collect();
/// assert_eq!(names, ["core.0", "core.1", "bias", "core.0.step", "core.1.step"]);
///
/// let (x, mut cache) = (Array2::ones((5, 12)), Cache::new());
/// let y = layer.forward(x.view(), &mut cache)?;
/// assert_eq!(y.dim(), (5, 6));
/// let (dx, grads) = layer.backward(x.view(), &mut cache, y.view())?;
/// assert_eq!((dx.dim(), grads.len()), ((5, 12), 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Layer<T: Real = f32>: Send + Sync {
    /// N, the length of an input.
    fn inputs(&self) -> usize;

    /// M, the length of an output.
    fn outputs(&self) -> usize;

    /// Weights, bias, steps and zero points, each by its name.
    fn parameters(&self) -> &[Parameter<T>];

    /// The same, to be changed.
    fn parameters_mut(&mut self) -> &mut [Parameter<T>];

    /// What the quantizers do from now on.
    fn set_phase(&mut self, phase: QatPhase);

    /// Sets all steps and zero points anew from the weights.
    ///
    /// # Errors
    /// [`crate::QatError::Quant`] when a weight is not finite.
    fn observe(&mut self, init: StepInit) -> Result<()>;

    /// `y = x Wᵀ + b`, keeping in `cache` what the backward pass needs.
    ///
    /// # Shapes
    /// `x` is `[batch, N]`, `y` is `[batch, M]`. Views in standard layout are used where they are, others are copied.
    ///
    /// # Numerics
    /// Accumulates in `T`, in an order that depends on shapes and the number of threads only.
    ///
    /// # Errors
    /// [`crate::QatError::Shape`].
    fn forward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        y: ArrayViewMut2<'_, T>,
    ) -> Result<()>;

    /// Adds the parameters' gradients to `grads` and, unless it is `None`, sets `dx`.
    ///
    /// # Shapes
    /// `x` is the input of the forward pass that filled `cache`, `dy` `[batch, M]`, `dx` `[batch, N]`.
    ///
    /// # Errors
    /// [`crate::QatError::Shape`], [`crate::QatError::Length`] when `grads` has not one entry for each parameter,
    /// [`crate::QatError::NoForward`] when the cache is of another batch.
    fn backward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        dy: ArrayView2<'_, T>,
        grads: &mut Gradients<T>,
        dx: Option<ArrayViewMut2<'_, T>>,
    ) -> Result<()>;

    /// `x Wᵀ + b` as a new array.
    ///
    /// # Errors
    /// As [`Layer::forward_into`].
    fn forward(&self, x: ArrayView2<'_, T>, cache: &mut Cache<T>) -> Result<Array2<T>> {
        let mut y = Array2::zeros((x.nrows(), self.outputs()));
        self.forward_into(x, cache, y.view_mut())?;
        Ok(y)
    }

    /// The gradients of input and parameters as new arrays.
    ///
    /// # Errors
    /// As [`Layer::backward_into`].
    fn backward(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        dy: ArrayView2<'_, T>,
    ) -> Result<(Array2<T>, Gradients<T>)> {
        let mut grads = Gradients::zeros(self.parameters());
        let mut dx = Array2::zeros((x.nrows(), self.inputs()));
        self.backward_into(x, cache, dy, &mut grads, Some(dx.view_mut()))?;
        Ok((dx, grads))
    }

    /// The dense weight `[M, N]` that the forward pass applies.
    ///
    /// # Errors
    /// As [`Layer::forward_into`].
    fn effective_weight(&self) -> Result<Array2<T>>;
}

/// A borrowed layer is a layer.
impl<T: Real, L: Layer<T> + ?Sized> Layer<T> for &mut L {
    fn inputs(&self) -> usize {
        (**self).inputs()
    }
    fn outputs(&self) -> usize {
        (**self).outputs()
    }
    fn parameters(&self) -> &[Parameter<T>] {
        (**self).parameters()
    }
    fn parameters_mut(&mut self) -> &mut [Parameter<T>] {
        (**self).parameters_mut()
    }
    fn set_phase(&mut self, phase: QatPhase) {
        (**self).set_phase(phase);
    }
    fn observe(&mut self, init: StepInit) -> Result<()> {
        (**self).observe(init)
    }
    fn forward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        y: ArrayViewMut2<'_, T>,
    ) -> Result<()> {
        (**self).forward_into(x, cache, y)
    }
    fn backward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        dy: ArrayView2<'_, T>,
        grads: &mut Gradients<T>,
        dx: Option<ArrayViewMut2<'_, T>>,
    ) -> Result<()> {
        (**self).backward_into(x, cache, dy, grads, dx)
    }
    fn effective_weight(&self) -> Result<Array2<T>> {
        (**self).effective_weight()
    }
}
