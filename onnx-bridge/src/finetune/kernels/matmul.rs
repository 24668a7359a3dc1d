//! Matrix products that spend nothing on the gradient of a frozen operand.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, s};
use rayon::prelude::*;
use tn_formats::linalg::{Threads, gemm_with};

use super::super::value::{broadcast_shape, volume};

/// NumPy's `matmul`: the last two axes are matrices, the others are broadcast; vectors are taken as a row or a column.
///
/// # Numerics
/// f32 products of the linear-algebra backend; many small ones are shared among the threads, one large one is cut for them.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() == 0 || b.rank() == 0 {
        candle_core::bail!(
            "expected operands with axes, found {:?} and {:?}",
            a.dims(),
            b.dims()
        );
    }
    if a.rank() == 1 {
        return matmul(&a.unsqueeze(0)?, b)?.squeeze(if b.rank() == 1 { 0 } else { b.rank() - 2 });
    }
    if b.rank() == 1 {
        let y = matmul(a, &b.unsqueeze(1)?)?;
        return y.squeeze(y.rank() - 1);
    }
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k, n) = (a.dims()[ra - 2], a.dims()[ra - 1], b.dims()[rb - 1]);
    if b.dims()[rb - 2] != k {
        candle_core::bail!(
            "expected an inner extent of {k}, found {:?} times {:?}",
            a.dims(),
            b.dims()
        );
    }
    // One matrix on the right: the rows of all batches make one product.
    if rb == 2 || volume(&b.dims()[..rb - 2]) == 1 {
        let mut shape = a.dims()[..ra - 1].to_vec();
        shape.push(n);
        while shape.len() < rb {
            shape.insert(0, 1);
        }
        let rows = volume(&a.dims()[..ra - 1]);
        let a = a.reshape((1, rows, k))?;
        return a.apply_op2(&b.reshape((1, k, n))?, MatMul)?.reshape(shape);
    }
    let batch = broadcast_shape(&a.dims()[..ra - 2], &b.dims()[..rb - 2])
        .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
    let spread = |t: &Tensor, rows: usize, columns: usize| -> Result<Tensor> {
        let mut shape = batch.clone();
        shape.extend([rows, columns]);
        if t.dims() == shape {
            Ok(t.clone())
        } else {
            t.broadcast_as(shape)
        }
    };
    spread(a, m, k)?.apply_op2(&spread(b, k, n)?, MatMul)
}

/// Multiply-adds of a batch of products that is worth several threads.
const PARALLEL_FROM: usize = 1 << 20;

/// Rows of a product that one thread takes are a multiple of this.
const ROWS: usize = 16;

/// Strided matrices in a row.
struct Stack<'a> {
    data: &'a [f32],
    start: usize,
    /// Extents and strides of the axes before the matrix.
    batch: Vec<(usize, usize)>,
    shape: (usize, usize),
    strides: (usize, usize),
}

impl<'a> Stack<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let last = dims.len() - 2;
        Ok(Self {
            data: storage.as_slice::<f32>()?,
            start: layout.start_offset(),
            batch: dims[..last]
                .iter()
                .copied()
                .zip(strides[..last].iter().copied())
                .collect(),
            shape: (dims[last], dims[last + 1]),
            strides: (strides[last], strides[last + 1]),
        })
    }

    /// Matrix `index` in row-major order of the axes before it.
    fn matrix(&self, mut index: usize) -> Result<ArrayView2<'a, f32>> {
        let mut at = self.start;
        for &(extent, stride) in self.batch.iter().rev() {
            at += index % extent * stride;
            index /= extent;
        }
        ArrayView2::from_shape(self.shape.strides(self.strides), &self.data[at..])
            .map_err(|e| candle_core::Error::Msg(e.to_string()))
    }
}

/// Products of stacked matrices: the rows of one shared among all threads, or many of them.
fn products(a: &Stack<'_>, b: &Stack<'_>, count: usize) -> Result<Vec<f32>> {
    let ((m, k), (_, n)) = (a.shape, b.shape);
    let mut out = vec![0.0f32; count * m * n];
    if out.is_empty() {
        return Ok(out);
    }
    let one = |threads, index: usize, out: &mut [f32]| -> Result<()> {
        let out = ArrayViewMut2::from_shape((m, n), out)
            .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        gemm_with(threads, 1.0, a.matrix(index)?, b.matrix(index)?, 0.0, out)
            .map_err(|e| candle_core::Error::Msg(e.to_string()))
    };
    if count == 1 && m * n * k >= PARALLEL_FROM {
        // Rows are shared out here: the backend's own threads wait for each other by spinning, several times a product.
        let rows = m
            .div_ceil(rayon::current_num_threads())
            .next_multiple_of(ROWS);
        let (left, right) = (a.matrix(0)?, b.matrix(0)?);
        out.par_chunks_mut(rows * n)
            .enumerate()
            .try_for_each(|(part, out)| {
                let height = out.len() / n;
                let left = left.slice(s![part * rows..part * rows + height, ..]);
                let out = ArrayViewMut2::from_shape((height, n), out)
                    .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
                gemm_with(Threads::One, 1.0, left, right, 0.0, out)
                    .map_err(|e| candle_core::Error::Msg(e.to_string()))
            })?;
    } else if count == 1 {
        one(Threads::One, 0, &mut out)?;
    } else if count * m * n * k < PARALLEL_FROM {
        for (index, out) in out.chunks_mut(m * n).enumerate() {
            one(Threads::One, index, out)?;
        }
    } else {
        out.par_chunks_mut(m * n)
            .enumerate()
            .try_for_each(|(index, out)| one(Threads::One, index, out))?;
    }
    Ok(out)
}

struct MatMul;

impl CustomOp2 for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (Stack::new(s1, l1)?, Stack::new(s2, l2)?);
        let mut shape = l1.dims().to_vec();
        let count = volume(&shape[..shape.len() - 2]);
        if let Some(last) = shape.last_mut() {
            *last = b.shape.1;
        }
        Ok((
            CpuStorage::F32(products(&a, &b, count)?),
            Shape::from(shape),
        ))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (pa, pb) = (a.detach(), b.detach());
        let da = a
            .track_op()
            .then(|| grad.apply_op2_no_bwd(&pb.t()?, &Self))
            .transpose()?;
        let db = b
            .track_op()
            .then(|| pa.t()?.apply_op2_no_bwd(grad, &Self))
            .transpose()?;
        Ok((da, db))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradients, sequence};
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn shapes_follow_numpy() {
        for (a, b, expected) in [
            (&[2usize, 3][..], &[3usize, 4][..], &[2usize, 4][..]),
            (&[3], &[3, 4], &[4]),
            (&[2, 3], &[3], &[2]),
            (&[3], &[3], &[]),
            (&[5, 2, 3], &[3, 4], &[5, 2, 4]),
            (&[5, 2, 3], &[5, 3, 4], &[5, 2, 4]),
            (&[2, 3], &[5, 3, 4], &[5, 2, 4]),
            (&[6, 1, 2, 3], &[5, 3, 4], &[6, 5, 2, 4]),
            (&[2, 3], &[1, 3, 4], &[1, 2, 4]),
        ] {
            let x = Tensor::from_vec(sequence(volume(a), 1), a, &Device::Cpu).unwrap();
            let y = Tensor::from_vec(sequence(volume(b), 2), b, &Device::Cpu).unwrap();
            assert_eq!(matmul(&x, &y).unwrap().dims(), expected, "{a:?} {b:?}");
            check_gradients(&[a, b], 2e-3, |t| matmul(&t[0], &t[1]));
        }
    }

    #[test]
    fn transposed_operands_and_frozen_ones() {
        check_gradients(&[&[2, 3, 4, 5], &[2, 3, 6, 5]], 2e-3, |t| {
            matmul(
                &t[0].transpose(1, 2)?.transpose(1, 2)?,
                &t[1].transpose(2, 3)?,
            )
        });
        check_gradients(&[&[2, 4, 3, 5], &[2, 4, 3, 6]], 2e-3, |t| {
            matmul(
                &t[0].transpose(1, 2)?.transpose(2, 3)?,
                &t[1].transpose(1, 2)?,
            )
        });
        let frozen = Tensor::from_vec(sequence(12, 3), (3, 4), &Device::Cpu).unwrap();
        let var = Var::from_vec(sequence(6, 4), (2, 3), &Device::Cpu).unwrap();
        let grads = matmul(var.as_tensor(), &frozen)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        assert!(grads.get(&var).is_some());
        assert!(grads.get(&frozen).is_none());
    }
}
