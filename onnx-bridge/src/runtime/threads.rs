//! Rows of a fused layer on the threads that tract's executor has.

use rayon::prelude::*;
use tract_linalg::multithread::{Executor, current_tract_executor};

/// Cycles of work that a thread is woken for, some 15 microseconds.
const WORTH_WAKING: f64 = 50_000.0;

/// Runs `work` on rows of `x` (`width` elements each) and of `out` (`out_width`), which takes about `cycles` for so many
/// rows: in as many parts as the executor has threads and the work is worth, each on a thread of it.
///
/// # Errors
/// The first of `work`.
pub(super) fn in_parts<E: Send>(
    cycles: impl FnOnce(usize) -> f64,
    (x, width): (&[f32], usize),
    (out, out_width): (&mut [f32], usize),
    work: impl Fn(&[f32], &mut [f32]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let Executor::MultiThread(pool) = current_tract_executor() else {
        return work(x, out);
    };
    let rows = x.len().checked_div(width).unwrap_or(0);
    let worth = (cycles(rows) / WORTH_WAKING) as usize;
    let parts = pool.current_num_threads().min(rows).min(worth);
    if parts < 2 {
        return work(x, out);
    }
    let rows = rows.div_ceil(parts);
    pool.install(|| {
        x.par_chunks(rows * width)
            .zip(out.par_chunks_mut((rows * out_width).max(1)))
            .try_for_each(|(x, out)| work(x, out))
    })
}
