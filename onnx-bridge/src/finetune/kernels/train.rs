//! A matrix train as one operator: the forward and backward passes of `tn-qat`'s layers.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use ndarray::{Array4, ArrayView2, ArrayViewMut2};
use tn_formats::{MatrixModes, TtMatrix, TtMatrixCore};
use tn_qat::{Cache, Gradients, Layer, TtLinear};

use super::{contiguous, plain, read};

/// The cores of a train `[r, m, n, r']`, and how each lies in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrainShape {
    pub(crate) cores: Vec<[usize; 4]>,
    pub(crate) order: CoreOrder,
}

/// The order of a core's axes in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoreOrder {
    /// `[r, n, r', m]`, contracted from the first core on.
    Forward,
    /// `[n, r', m, r]`, contracted from the last core on.
    Backward,
}

impl CoreOrder {
    /// Which axis of `[r, m, n, r']` comes where.
    fn axes(self) -> [usize; 4] {
        match self {
            Self::Forward => [0, 2, 3, 1],
            Self::Backward => [2, 3, 1, 0],
        }
    }
}

/// `x Wᵀ` for a train `W` of the given cores.
///
/// # Shapes
/// `x` is `[B, N]`, `cores` have the elements of their shapes, the result is `[B, M]`.
///
/// # Numerics
/// As [`tn_qat::TtLinear`]: in f32, merging neighbouring cores first where that costs less.
pub(crate) fn train(x: &Tensor, cores: &[Tensor], shape: &TrainShape) -> Result<Tensor> {
    let flat: Vec<Tensor> = cores
        .iter()
        .map(Tensor::flatten_all)
        .collect::<Result<_>>()?;
    let flat = Tensor::cat(&flat, 0)?;
    let op = Train {
        shape: shape.clone(),
        state: Mutex::new(None),
    };
    x.contiguous()?.apply_op2(&flat.contiguous()?, op)
}

struct Train {
    shape: TrainShape,
    /// The layer and what its forward pass left.
    state: Mutex<Option<(TtLinear<f32>, Cache<f32>)>>,
}

fn trouble(error: impl ToString) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}

impl Train {
    fn layer(&self, flat: &[f32]) -> Result<TtLinear<f32>> {
        let axes = self.shape.order.axes();
        let mut back = [0; 4];
        axes.iter().enumerate().for_each(|(k, &a)| back[a] = k);
        let (mut cores, mut at) = (Vec::new(), 0);
        for shape in &self.shape.cores {
            let len: usize = shape.iter().product();
            let data = flat.get(at..at + len).ok_or_else(|| {
                trouble(format!(
                    "expected {len} more elements of cores, found fewer"
                ))
            })?;
            at += len;
            let stored = Array4::from_shape_vec(axes.map(|a| shape[a]), data.to_vec());
            let core = stored.map_err(trouble)?.permuted_axes(back);
            let core = core.as_standard_layout().into_owned();
            cores.push(TtMatrixCore::new(core).map_err(trouble)?);
        }
        let modes = |axis: usize| self.shape.cores.iter().map(|c| c[axis]).collect();
        let modes = MatrixModes::new(tn_formats::Layout::Interleaved, modes(1), modes(2));
        let train = TtMatrix::from_cores(modes.map_err(trouble)?, cores).map_err(trouble)?;
        TtLinear::from_train(&train).map_err(trouble)
    }

    fn sizes(&self, axis: usize) -> usize {
        self.shape.cores.iter().map(|c| c[axis]).product()
    }
}

impl CustomOp2 for Train {
    fn name(&self) -> &'static str {
        "matrix train"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, flat) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let (rows, columns) = (self.sizes(1), self.sizes(2));
        let batch = x.len() / columns.max(1);
        let layer = self.layer(flat)?;
        let mut cache = Cache::new();
        let mut y = vec![0.0f32; batch * rows];
        let x = ArrayView2::from_shape((batch, columns), x).map_err(trouble)?;
        let out = ArrayViewMut2::from_shape((batch, rows), &mut y).map_err(trouble)?;
        layer.forward_into(x, &mut cache, out).map_err(trouble)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Some((layer, cache));
        Ok((CpuStorage::F32(y), Shape::from((batch, rows))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        cores: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((layer, mut cache)) = state.take() else {
            candle_core::bail!("expected a forward pass before the backward pass, found none");
        };
        let (rows, columns) = (self.sizes(1), self.sizes(2));
        let mut gradients = Gradients::zeros(layer.parameters());
        let mut dx = x.track_op().then(|| vec![0.0f32; x.elem_count()]);
        read(x, |x| {
            read(grad, |grad| {
                let batch = x.len() / columns.max(1);
                let x = ArrayView2::from_shape((batch, columns), x).map_err(trouble)?;
                let grad = ArrayView2::from_shape((batch, rows), grad).map_err(trouble)?;
                let dx = dx
                    .as_mut()
                    .map(|dx| ArrayViewMut2::from_shape((batch, columns), dx).map_err(trouble))
                    .transpose()?;
                layer
                    .backward_into(x, &mut cache, grad, &mut gradients, dx)
                    .map_err(trouble)
            })
        })???;
        let axes = self.shape.order.axes();
        let mut flat = Vec::with_capacity(cores.elem_count());
        for (shape, gradient) in self.shape.cores.iter().zip(gradients.iter()) {
            let core = ndarray::ArrayView4::from_shape(*shape, gradient).map_err(trouble)?;
            flat.extend(core.permuted_axes(axes).iter().copied());
        }
        let dx = dx.map(|dx| plain(dx, x.dims())).transpose()?;
        let flat = cores
            .track_op()
            .then(|| plain(flat, cores.dims()))
            .transpose()?;
        Ok((dx, flat))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_gradients;
    use super::*;

    #[test]
    fn gradients_equal_central_differences() {
        for order in [CoreOrder::Forward, CoreOrder::Backward] {
            // Modes 3 x 2, 4 x 3, 2 x 2 out by in; ranks 2 and 2.
            let cores = vec![[1, 3, 2, 2], [2, 4, 3, 2], [2, 2, 2, 1]];
            let shape = TrainShape { cores, order };
            let sizes: Vec<[usize; 1]> = shape.cores.iter().map(|c| [c.iter().product()]).collect();
            let inputs: Vec<&[usize]> = [&[3usize, 12][..]]
                .into_iter()
                .chain(sizes.iter().map(|s| &s[..]))
                .collect();
            check_gradients(&inputs, 3e-3, |t| train(&t[0], &t[1..], &shape));
        }
    }
}
