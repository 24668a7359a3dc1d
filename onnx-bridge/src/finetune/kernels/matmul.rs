//! Matrix products that spend nothing on the gradient of a frozen operand.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::super::value::{broadcast_shape, volume};

/// NumPy's `matmul`: the last two axes are matrices, the others are broadcast; vectors are taken as a row or a column.
///
/// # Numerics
/// f32 products of the backend; every element is summed in one order, whatever the number of threads.
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
        return usable(&a)?
            .apply_op2(&usable(&b.reshape((1, k, n))?)?, MatMul)?
            .reshape(shape);
    }
    let batch = broadcast_shape(&a.dims()[..ra - 2], &b.dims()[..rb - 2])
        .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
    let spread = |t: &Tensor, rows: usize, columns: usize| -> Result<Tensor> {
        let mut shape = batch.clone();
        shape.extend([rows, columns]);
        let t = if t.dims() == shape {
            t.clone()
        } else {
            t.broadcast_as(shape)?
        };
        let t = if mergeable(&t) { t } else { t.contiguous()? };
        usable(&t.reshape((volume(&batch), rows, columns))?)
    };
    let y = spread(a, m, k)?.apply_op2(&spread(b, k, n)?, MatMul)?;
    let mut shape = batch.clone();
    shape.extend([m, n]);
    y.reshape(shape)
}

/// Whether the batch axes can be flattened without a copy.
fn mergeable(t: &Tensor) -> bool {
    t.is_contiguous()
}

/// A tensor whose matrices the backend can read: row-major or transposed, batches in order.
fn usable(t: &Tensor) -> Result<Tensor> {
    if t.is_contiguous() || t.t()?.is_contiguous() {
        Ok(t.clone())
    } else {
        t.contiguous()
    }
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
        let (a, b) = (l1.dims(), l2.dims());
        let (batch, m, k, n) = (a[0], a[1], a[2], b[2]);
        Ok((
            s1.matmul(s2, (batch, m, n, k), l1, l2)?,
            Shape::from((batch, m, n)),
        ))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = usable(grad)?;
        let (pa, pb) = (a.detach(), b.detach());
        let da = a
            .track_op()
            .then(|| grad.matmul(&usable(&pb.t()?)?))
            .transpose()?;
        let db = b
            .track_op()
            .then(|| usable(&pa.t()?)?.matmul(&grad))
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
