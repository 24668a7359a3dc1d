//! Matrix products that spend nothing on the gradient of a frozen operand.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use ndarray::{ArrayView2, ShapeBuilder, s};
use rayon::prelude::*;

use super::super::value::{broadcast_shape, volume};
use super::binary::{BinaryOp, binary, summed};
use super::fresh::{try_fresh, written_by};
use super::{GRAIN, contiguous};

/// NumPy's `matmul`: the last two axes are matrices, the others are broadcast; vectors are taken as a row or a column.
///
/// # Numerics
/// f32 products of the linear-algebra backend; many small ones are shared among the threads, one large one is cut for them.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let Aligned { left, right, shape } = aligned(a, b)?;
    left.apply_op2(&right, MatMul)?.reshape(shape)
}

/// [`matmul`] with a vector added to every row of the result, where it has as many elements as `b` has columns; without a tape.
pub(crate) fn linear(a: &Tensor, b: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if b.rank() < 2 || bias.dims() != &b.dims()[b.rank() - 1..] {
        return binary(&matmul(a, b)?, bias, BinaryOp::Add);
    }
    let Aligned { left, right, shape } = aligned(a, b)?;
    left.apply_op3_no_bwd(&right, &bias.contiguous()?, &Linear)?
        .reshape(shape)
}

/// The gradients of both operands, of those that are needed, from that of the result.
pub(crate) fn matmul_gradients(
    a: &Tensor,
    b: &Tensor,
    grad: &Tensor,
    needed: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let Aligned { left, right, .. } = aligned(a, b)?;
    let last = left.rank() - 2;
    let mut shape = left.dims()[..=last].to_vec();
    shape.push(right.dims()[last + 1]);
    let grad = grad.reshape(shape)?;
    let da = || {
        let da = grad.apply_op2_no_bwd(&right.t()?, &MatMul)?;
        if a.elem_count() == da.elem_count() {
            return da.reshape(a.dims());
        }
        summed(&da, a.dims())
    };
    let db = || {
        let db = left.t()?.apply_op2_no_bwd(&grad, &MatMul)?;
        match b.dims() {
            &[k] => summed(&db, &[k, 1])?.reshape(k),
            dims => summed(&db, dims),
        }
    };
    Ok([
        needed[0].then(da).transpose()?,
        needed[1].then(db).transpose()?,
    ])
}

/// Two operands as stacks of as many matrices, and the shape that their product is given.
struct Aligned {
    left: Tensor,
    right: Tensor,
    shape: Vec<usize>,
}

fn aligned(a: &Tensor, b: &Tensor) -> Result<Aligned> {
    if a.rank() == 0 || b.rank() == 0 {
        candle_core::bail!(
            "expected operands with axes, found {:?} and {:?}",
            a.dims(),
            b.dims()
        );
    }
    let row = a.rank() == 1;
    let column = b.rank() == 1;
    let a = if row { a.unsqueeze(0)? } else { a.clone() };
    let b = if column { b.unsqueeze(1)? } else { b.clone() };
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k, n) = (a.dims()[ra - 2], a.dims()[ra - 1], b.dims()[rb - 1]);
    if b.dims()[rb - 2] != k {
        candle_core::bail!(
            "expected an inner extent of {k}, found {:?} times {:?}",
            a.dims(),
            b.dims()
        );
    }
    let batch = broadcast_shape(&a.dims()[..ra - 2], &b.dims()[..rb - 2])
        .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
    let mut shape = batch.clone();
    shape.extend((!row).then_some(m));
    shape.extend((!column).then_some(n));
    // One matrix on the right: the rows of all batches make one product.
    if volume(&b.dims()[..rb - 2]) == 1 {
        let rows = volume(&a.dims()[..ra - 1]);
        return Ok(Aligned {
            left: a.reshape((1, rows, k))?,
            right: b.reshape((1, k, n))?,
            shape,
        });
    }
    let spread = |t: &Tensor, rows: usize, columns: usize| -> Result<Tensor> {
        let shape = [batch.as_slice(), &[rows, columns]].concat();
        if t.dims() == shape {
            Ok(t.clone())
        } else {
            t.broadcast_as(shape)
        }
    };
    Ok(Aligned {
        left: spread(&a, m, k)?,
        right: spread(&b, k, n)?,
        shape,
    })
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

/// Products of stacked matrices, each row added to `bias`: the rows of one shared among all threads, or many of them.
fn products(a: &Stack<'_>, b: &Stack<'_>, count: usize, bias: &[f32]) -> Result<Vec<f32>> {
    let ((m, k), (_, n)) = (a.shape, b.shape);
    let size = (m * n).max(1);
    let work = count * m * n * k;
    if count == 1 && work >= PARALLEL_FROM {
        // Rows are shared out here: the backend's own threads wait for each other by spinning, several times a product.
        let rows = m
            .div_ceil(rayon::current_num_threads())
            .next_multiple_of(ROWS);
        let (left, right) = (a.matrix(0)?, b.matrix(0)?);
        if a.strides.0 == 1 && k >= m.min(n) && bias.is_empty() {
            return Ok(summed_products(left, right));
        }
        return Ok(written_by(m * n, rows * n, |part, out| {
            let rows = part * rows..((part + 1) * rows).min(m);
            out.product(left.slice(s![rows, ..]), right, bias);
        }));
    }
    let together = if work < PARALLEL_FROM { count } else { 1 };
    try_fresh(count * m * n, together * size, |part, out| {
        for index in part * together..((part + 1) * together).min(count) {
            out.product(a.matrix(index)?, b.matrix(index)?, bias);
        }
        Ok(())
    })
}

/// The product of a matrix that lies column by column, the columns shared among all threads: some rows of it would have to be copied.
fn summed_products(left: ArrayView2<'_, f32>, right: ArrayView2<'_, f32>) -> Vec<f32> {
    let (m, k, n) = (left.nrows(), left.ncols(), right.ncols());
    let width = k
        .div_ceil(rayon::current_num_threads())
        .next_multiple_of(ROWS);
    let parts = (0..k.div_ceil(width)).into_par_iter().map(|part| {
        let columns = part * width..((part + 1) * width).min(k);
        let (left, right) = (
            left.slice(s![.., columns.clone()]),
            right.slice(s![columns, ..]),
        );
        written_by(m * n, m * n, |_, out| out.product(left, right, &[]))
    });
    let parts: Vec<Vec<f32>> = parts.collect();
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        sum.par_chunks_mut(GRAIN)
            .zip(part.par_chunks(GRAIN))
            .for_each(|(sum, part)| sum.iter_mut().zip(part).for_each(|(s, p)| *s += p));
    }
    sum
}

/// The products of two stacks with a bias.
fn multiplied(
    (s1, l1): (&CpuStorage, &Layout),
    (s2, l2): (&CpuStorage, &Layout),
    bias: &[f32],
) -> Result<(CpuStorage, Shape)> {
    let (a, b) = (Stack::new(s1, l1)?, Stack::new(s2, l2)?);
    let mut shape = l1.dims().to_vec();
    let count = volume(&shape[..shape.len() - 2]);
    if let Some(last) = shape.last_mut() {
        *last = b.shape.1;
    }
    let made = products(&a, &b, count, bias)?;
    Ok((CpuStorage::F32(made), Shape::from(shape)))
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
        multiplied((s1, l1), (s2, l2), &[])
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

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        multiplied((s1, l1), (s2, l2), contiguous(s3, l3)?)
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
    fn a_bias_is_added_to_every_row() {
        for (a, b, n) in [
            (&[2usize, 3][..], &[3usize, 4][..], 4),
            (&[3], &[3, 4], 4),
            (&[5, 40, 96], &[96, 128], 128),
            (&[5, 2, 3], &[5, 3, 4], 4),
            (&[2, 3], &[3, 4], 1),
        ] {
            let tensor = |s: &[usize], seed| {
                Tensor::from_vec(sequence(volume(s), seed), s, &Device::Cpu).unwrap()
            };
            let (x, w, bias) = (tensor(a, 1), tensor(b, 2), tensor(&[n], 3));
            let expected = matmul(&x, &w).unwrap().broadcast_add(&bias).unwrap();
            let found = linear(&x, &w, &bias).unwrap();
            assert_eq!(found.dims(), expected.dims());
            let gap = (found - expected)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-5, "{a:?} {b:?}");
        }
    }

    #[test]
    fn own_gradients_equal_those_of_the_tape() {
        for (a, b) in [
            (&[2usize, 3][..], &[3usize, 4][..]),
            (&[3], &[3, 4]),
            (&[2, 3], &[3]),
            (&[5, 2, 3], &[3, 4]),
            (&[6, 1, 2, 3], &[5, 3, 4]),
            (&[2, 3], &[5, 3, 4]),
            (&[4, 300, 70], &[70, 40]),
        ] {
            let var = |s: &[usize], seed| {
                Var::from_vec(sequence(volume(s), seed), s, &Device::Cpu).unwrap()
            };
            let (x, y) = (var(a, 1), var(b, 2));
            let product = matmul(&x, &y).unwrap();
            let g = product.ones_like().unwrap();
            let [dx, dy] = matmul_gradients(&x.detach(), &y.detach(), &g, [true, true]).unwrap();
            let store = product.sum_all().unwrap().backward().unwrap();
            for (own, var) in [(dx, &x), (dy, &y)] {
                let (own, theirs) = (own.unwrap(), store.get(var).unwrap());
                assert_eq!(own.dims(), theirs.dims());
                let gap = (own - theirs).unwrap().abs().unwrap().max_all().unwrap();
                assert!(gap.to_scalar::<f32>().unwrap() < 1e-3, "{a:?} {b:?}");
            }
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
