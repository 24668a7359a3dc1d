//! Operators that enter the tape as one node with a backward pass of their own.
//!
//! candle's primitives compute a gradient for every operand, tracked or not, and a chain of them keeps every intermediate
//! tensor. These kernels return nothing for operands that carry no gradient, and keep only what their backward pass reads.
//! The backward passes are functions of their own too, for the program's tape ([`super::tape`]).

mod attention;
mod binary;
mod fresh;
mod gap;
mod layer_norm;
mod matmul;
mod permute;
mod simd;
mod small;
mod softmax;
mod train;
mod unary;
mod window;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

pub(crate) use attention::Attention;
pub(crate) use binary::{BinaryOp, binary, binary_gradients, summed};
pub(crate) use gap::relative_gap;
pub(crate) use layer_norm::{layer_norm, layer_norm_gradients};
pub(crate) use matmul::{linear, matmul, matmul_gradients};
pub(crate) use permute::permute;
pub(crate) use simd::vectorized;
pub(crate) use softmax::{softmax_gradient, softmax_last};
pub(crate) use train::{CoreOrder, TrainShape, train};
pub(crate) use unary::{UnaryOp, unary, unary_gradient};
pub(crate) use window::{Pooling, Window, average_pool, col2im, im2col, max_pool};

/// Elements that one task of a parallel loop takes at least.
const GRAIN: usize = 1 << 14;

/// The elements that a contiguous layout covers.
fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!(
            "expected a contiguous operand, found strides {:?}",
            layout.stride()
        ),
    }
}

/// Lends the elements of a tensor, row-major; copies only when the tensor is a strided view.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.detach().contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(contiguous(cpu, layout)?)),
        _ => candle_core::bail!("expected a tensor on the cpu"),
    }
}

/// A tensor without a tape.
fn plain(data: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &candle_core::Device::Cpu)
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{Device, Result, Tensor, Var};

    /// A fixed, uneven sequence in about -1..1.
    pub(crate) fn sequence(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Compares the gradients of `sum(f(inputs) * weights)` with central differences of step 1e-2, `tolerance` absolute and
    /// relative.
    pub(crate) fn check_gradients(
        shapes: &[&[usize]],
        tolerance: f32,
        f: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        let data: Vec<Vec<f32>> = shapes
            .iter()
            .enumerate()
            .map(|(k, s)| sequence(s.iter().product(), k as u32 + 1))
            .collect();
        let loss = |tensors: &[Tensor]| -> Tensor {
            let y = f(tensors).expect("forward");
            let weights =
                Tensor::from_vec(sequence(y.elem_count(), 99), y.dims(), &Device::Cpu).unwrap();
            (y.contiguous().unwrap() * weights)
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let vars: Vec<Var> = data
            .iter()
            .zip(shapes)
            .map(|(d, s)| Var::from_vec(d.clone(), *s, &Device::Cpu).unwrap())
            .collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let grads = loss(&tensors).backward().expect("backward");
        for (k, shape) in shapes.iter().enumerate() {
            let grad = grads
                .get(&tensors[k])
                .expect("a gradient")
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            let total = grad.len();
            for at in (0..total).step_by((total / 25).max(1)) {
                let step = 1e-2f32;
                let shifted = |by: f32| {
                    let inputs: Vec<Tensor> = (0..shapes.len())
                        .map(|j| {
                            let mut d = data[j].clone();
                            if j == k {
                                d[at] += by;
                            }
                            Tensor::from_vec(d, shapes[j], &Device::Cpu).unwrap()
                        })
                        .collect();
                    f64::from(loss(&inputs).to_scalar::<f32>().unwrap())
                };
                let numeric = ((shifted(step) - shifted(-step)) / (2.0 * f64::from(step))) as f32;
                assert!(
                    (grad[at] - numeric).abs() <= tolerance * (1.0 + numeric.abs()),
                    "input {k} of shape {shape:?}, element {at}: {} against {numeric}",
                    grad[at]
                );
            }
        }
    }
}
