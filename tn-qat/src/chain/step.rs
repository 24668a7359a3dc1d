//! One product of the chain over the slices of a batch, and its gradients.

use tn_formats::Real;
use tn_formats::linalg::{Threads, gemm_with};

use super::Step;
use super::prepare::{mat, mat_mut, stored, stored_mut};
use crate::error::Result;

impl Step {
    fn slices(&self, input: usize) -> usize {
        input / (self.inner * self.cols)
    }

    /// `output = A input` for each slice.
    pub(super) fn apply<T: Real>(
        &self,
        a: &[T],
        input: &[T],
        output: &mut [T],
        threads: Threads,
    ) -> Result<()> {
        let Step {
            rows, inner, cols, ..
        } = *self;
        let a = stored(a, self.turned, rows, inner);
        if cols == 1 {
            let slices = self.slices(input.len());
            let (x, y) = (mat(input, slices, inner), mat_mut(output, slices, rows));
            return Ok(gemm_with(threads, T::one(), x, a.t(), T::zero(), y)?);
        }
        for (x, y) in input
            .chunks_exact(inner * cols)
            .zip(output.chunks_exact_mut(rows * cols))
        {
            gemm_with(
                threads,
                T::one(),
                a,
                mat(x, inner, cols),
                T::zero(),
                mat_mut(y, rows, cols),
            )?;
        }
        Ok(())
    }

    /// `d_input = Aᵀ d_output` for each slice.
    pub(super) fn apply_transposed<T: Real>(
        &self,
        a: &[T],
        d_output: &[T],
        d_input: &mut [T],
        threads: Threads,
    ) -> Result<()> {
        let Step {
            rows, inner, cols, ..
        } = *self;
        let a = stored(a, self.turned, rows, inner);
        if cols == 1 {
            let slices = self.slices(d_input.len());
            let (dy, dx) = (mat(d_output, slices, rows), mat_mut(d_input, slices, inner));
            return Ok(gemm_with(threads, T::one(), dy, a, T::zero(), dx)?);
        }
        for (dy, dx) in d_output
            .chunks_exact(rows * cols)
            .zip(d_input.chunks_exact_mut(inner * cols))
        {
            gemm_with(
                threads,
                T::one(),
                a.t(),
                mat(dy, rows, cols),
                T::zero(),
                mat_mut(dx, inner, cols),
            )?;
        }
        Ok(())
    }

    /// `sum = beta sum + d_output inputᵀ`, summed over slices.
    pub(super) fn add_matrix_gradient<T: Real>(
        &self,
        input: &[T],
        d_output: &[T],
        mut beta: T,
        sum: &mut [T],
        threads: Threads,
    ) -> Result<()> {
        let Step {
            rows, inner, cols, ..
        } = *self;
        if cols == 1 {
            let slices = self.slices(input.len());
            let (x, dy) = (mat(input, slices, inner), mat(d_output, slices, rows));
            return Ok(gemm_with(
                threads,
                T::one(),
                dy.t(),
                x,
                beta,
                stored_mut(sum, self.turned, rows, inner),
            )?);
        }
        for (x, dy) in input
            .chunks_exact(inner * cols)
            .zip(d_output.chunks_exact(rows * cols))
        {
            let (x, dy) = (mat(x, inner, cols), mat(dy, rows, cols));
            gemm_with(
                threads,
                T::one(),
                dy,
                x.t(),
                beta,
                stored_mut(sum, self.turned, rows, inner),
            )?;
            beta = T::one();
        }
        Ok(())
    }
}
