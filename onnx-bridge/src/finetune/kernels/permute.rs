//! Axes in another order, as a copy that is contiguous in both directions.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{contiguous, plain, read};
use crate::axes::permuted;

/// `x` with axis `k` of the result being axis `order[k]` of `x`.
pub(crate) fn permute(x: &Tensor, order: &[usize]) -> Result<Tensor> {
    if order.iter().enumerate().all(|(k, &o)| k == o) {
        return Ok(x.clone());
    }
    x.contiguous()?.apply_op1(Permute {
        order: order.to_vec(),
    })
}

struct Permute {
    order: Vec<usize>,
}

impl CustomOp1 for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let shape: Vec<usize> = self.order.iter().map(|&k| layout.dims()[k]).collect();
        Ok((
            CpuStorage::F32(permuted(x, layout.dims(), &self.order)),
            Shape::from(shape),
        ))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut back = vec![0; self.order.len()];
        self.order
            .iter()
            .enumerate()
            .for_each(|(k, &o)| back[o] = k);
        let dx = read(grad, |g| permuted(g, res.dims(), &back))?;
        Ok(Some(plain(dx, arg.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradients, sequence};
    use super::*;
    use candle_core::Device;

    #[test]
    fn permutes_as_candle_does_with_its_gradient() {
        let x = Tensor::from_vec(sequence(120, 1), (2, 3, 4, 5), &Device::Cpu).unwrap();
        for order in [[0, 2, 1, 3], [3, 2, 1, 0], [1, 0, 3, 2], [0, 1, 2, 3]] {
            let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(
                flat(permute(&x, &order).unwrap()),
                flat(x.permute(order).unwrap()),
                "{order:?}"
            );
            check_gradients(&[&[2, 3, 4, 5]], 1e-3, |t| permute(&t[0], &order));
        }
    }
}
