//! Rows of a fused layer on the threads that tract's executor has.

use rayon::prelude::*;
use tract_linalg::multithread::{Executor, current_tract_executor};

/// Cycles of work that a thread is woken for, some 15 microseconds.
const WORTH_WAKING: f64 = 50_000.0;

/// How many parts rows of work that takes `cycles` are worth: one for each thread of the executor at most.
pub(super) fn parts(rows: usize, cycles: f64) -> usize {
    let Executor::MultiThread(pool) = current_tract_executor() else {
        return 1;
    };
    let worth = (cycles / WORTH_WAKING) as usize;
    pool.current_num_threads().min(rows).min(worth).max(1)
}

/// Runs `work` on rows of `x` (`width` elements each) and of `out` (`out_width`), in so many parts, each on a thread of the executor.
///
/// # Errors
/// The first of `work`.
pub(super) fn in_parts<E: Send>(
    parts: usize,
    (x, width): (&[f32], usize),
    (out, out_width): (&mut [f32], usize),
    work: impl Fn(&[f32], &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let rows = x.len().checked_div(width).unwrap_or(0).div_ceil(parts);
    let (size, out_size) = ((rows * width).max(1), (rows * out_width).max(1));
    match current_tract_executor() {
        Executor::MultiThread(pool) if parts > 1 => pool.install(|| {
            x.par_chunks(size)
                .zip(out.par_chunks_mut(out_size))
                .try_for_each(|(x, out)| work(x, out))
        }),
        _ => work(x, out),
    }
}
