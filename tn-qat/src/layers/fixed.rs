//! A linear map that is not trained.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use tn_formats::Real;
use tn_formats::linalg::gemm;

use super::Layer;
use crate::chain::Cache;
use crate::error::{Result, check_len, check_shape};
use crate::fake_quant::{QatPhase, StepInit};
use crate::parameter::{Gradients, Parameter};

/// `y = W x + b` with a weight that stays: for the layers behind the ones that are trained. It has no parameters.
///
/// ```
/// use ndarray::array;
/// use tn_qat::{Cache, FixedLinear, Layer};
/// let layer = FixedLinear::new(array![[1.0f32, 2.0]]);
/// let x = array![[3.0, 4.0]];
/// let mut cache = Cache::new();
/// assert_eq!(layer.forward(x.view(), &mut cache)?, array![[11.0]]);
/// assert_eq!(layer.backward(x.view(), &mut cache, array![[2.0]].view())?.0, array![[2.0, 4.0]]);
/// assert!(layer.parameters().is_empty());
/// # Ok::<(), tn_qat::QatError>(())
/// ```
#[derive(Debug, Clone)]
pub struct FixedLinear<T = f32> {
    weight: Array2<T>,
    bias: Option<Vec<T>>,
}

impl<T: Real> FixedLinear<T> {
    /// A map by this weight `[M, N]`.
    pub fn new(weight: Array2<T>) -> Self {
        Self { weight, bias: None }
    }

    /// Adds a bias, or replaces it.
    ///
    /// # Errors
    /// [`crate::QatError::Length`] unless there is one entry for each output.
    pub fn with_bias(mut self, bias: Vec<T>) -> Result<Self> {
        check_len("bias", self.weight.nrows(), bias.len())?;
        self.bias = Some(bias);
        Ok(self)
    }
}

impl<T: Real> Layer<T> for FixedLinear<T> {
    fn inputs(&self) -> usize {
        self.weight.ncols()
    }

    fn outputs(&self) -> usize {
        self.weight.nrows()
    }

    fn parameters(&self) -> &[Parameter<T>] {
        &[]
    }

    fn parameters_mut(&mut self) -> &mut [Parameter<T>] {
        &mut []
    }

    fn set_phase(&mut self, _: QatPhase) {}

    fn observe(&mut self, _: StepInit) -> Result<()> {
        Ok(())
    }

    fn forward_into(
        &self,
        x: ArrayView2<'_, T>,
        _: &mut Cache<T>,
        mut y: ArrayViewMut2<'_, T>,
    ) -> Result<()> {
        check_shape("input of a layer", &[x.nrows(), self.inputs()], x.shape())?;
        gemm(T::one(), x, self.weight.t(), T::zero(), y.view_mut())?;
        if let Some(bias) = &self.bias {
            for mut row in y.rows_mut() {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
        Ok(())
    }

    fn backward_into(
        &self,
        _: ArrayView2<'_, T>,
        _: &mut Cache<T>,
        dy: ArrayView2<'_, T>,
        _: &mut Gradients<T>,
        dx: Option<ArrayViewMut2<'_, T>>,
    ) -> Result<()> {
        match dx {
            Some(dx) => Ok(gemm(T::one(), dy, self.weight.view(), T::zero(), dx)?),
            None => Ok(()),
        }
    }

    fn effective_weight(&self) -> Result<Array2<T>> {
        Ok(self.weight.clone())
    }
}
