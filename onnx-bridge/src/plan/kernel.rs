//! Kernels of convolutions as two channel maps around a window of few channels, in the norm of the windows.

use ndarray::{Array2, ArrayView2};
use tn_formats::linalg;

use super::feedback::{Effort, quantize};
use super::low_rank::{Directions, product};
use super::metric::Metric;
use super::spd::solve_right;
use crate::blocks::{BlockFormat, BlockMatrix};

/// The damping of a norm that the inputs were given, in parts of its mean.
const DAMPING: f64 = 1e-4;

/// `W [M, (in taps)]` from `L [M, r_out]`, `C [r_out, (r_in taps)]` and `R [r_in, in]`.
pub(crate) fn contract(
    left: ArrayView2<'_, f32>,
    core: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    taps: usize,
) -> Array2<f32> {
    left.dot(&widened(core, right, taps))
}

/// `C [r_out, (r_in taps)]` over the channels that `R [r_in, in]` makes its own of: `[r_out, (in taps)]`.
fn widened(core: ArrayView2<'_, f32>, right: ArrayView2<'_, f32>, taps: usize) -> Array2<f32> {
    let (inner, channels) = right.dim();
    let mut wide = Array2::zeros((core.nrows(), channels * taps));
    for (from, mut to) in core.outer_iter().zip(wide.outer_iter_mut()) {
        for r in 0..inner {
            for c in 0..channels {
                let factor = right[[r, c]];
                for t in 0..taps {
                    to[c * taps + t] += factor * from[r * taps + t];
                }
            }
        }
    }
    wide
}

/// The three parts `L [M, r_out]`, `C [r_out, (r_in taps)]`, `R [r_in, in]`, rounded from the right: each of the others
/// solved anew against what stands right of it.
///
/// # Shapes
/// `weight`: `[M, (in taps)]`, `metric` over its columns.
///
/// # Numerics
/// `R` spans the leading directions of the input channels, in the norm of their covariance over all taps; it is
/// orthonormal before it is rounded.
///
/// # Errors
/// A sentence, where a decomposition does not converge or sizes do not fit.
pub(crate) fn solve_kernel(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    [inner, outer]: [usize; 2],
    taps: usize,
    format: BlockFormat,
    effort: Effort,
) -> Result<[BlockMatrix; 3], String> {
    let channels = weight.ncols() / taps.max(1);
    let moment = metric.moment();
    let mut covariance = Array2::<f64>::zeros((channels, channels));
    let mut gram = Array2::<f64>::zeros((channels, channels));
    for t in 0..taps {
        let tap = |c: usize| c * taps + t;
        let of_tap =
            Array2::from_shape_fn((weight.nrows(), channels), |(m, c)| weight[[m, tap(c)]]);
        let own = product(of_tap.t(), of_tap.view())?;
        gram.zip_mut_with(&own, |g, v| *g += f64::from(*v));
        let share = 1.0 / taps as f64;
        for a in 0..channels {
            for b in 0..channels {
                covariance[[a, b]] += share * f64::from(moment[[tap(a), tap(b)]]);
            }
        }
    }
    let right = basis(&covariance, &gram, inner)?;
    let own = Metric::new(covariance.view(), DAMPING)?;
    let right = quantize(right.view(), &own, format, effort)?;
    let rounded = super::form::dense(&right);
    // What the window sees: the channels that R makes, tap by tap.
    let seen = Array2::from_shape_fn((inner * taps, channels * taps), |(i, j)| {
        if i % taps == j % taps {
            rounded[[i / taps, j / taps]]
        } else {
            0.0
        }
    });
    let weighted = product(seen.view(), moment)?;
    let reduced = product(weighted.view(), seen.t())?.mapv(f64::from);
    let mut damped = reduced.clone();
    let mean = damped.diag().iter().sum::<f64>() / damped.nrows().max(1) as f64;
    damped
        .diag_mut()
        .iter_mut()
        .for_each(|d| *d += 1e-6 * mean + f64::MIN_POSITIVE);
    let wanted = product(weight, weighted.t())?.mapv(f64::from);
    let wanted = solve_right(damped, wanted).mapv(|v| v as f32);
    let norm = Metric::new(reduced.view(), DAMPING)?;
    let [left, core] = Directions::new(wanted.view(), &norm)?.quantize(
        wanted.view(),
        &norm,
        outer,
        format,
        effort,
    )?;
    Ok([left, core, right])
}

/// Orthonormal rows over the channels that keep most of `W x`: of `Pᵀ C^(-1/2)` with the leading eigenvectors P of
/// `C^(1/2) G C^(1/2)`, `C` the covariance of the channels and `G` the Gram matrix of the kernel over them.
fn basis(covariance: &Array2<f64>, gram: &Array2<f64>, rank: usize) -> Result<Array2<f32>, String> {
    let failed = |e: tn_formats::Error| e.to_string();
    let (values, vectors) = linalg::eigh(covariance.view()).map_err(failed)?;
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let roots = values.mapv(|v| v.max(1e-6 * largest).sqrt());
    let half = (&vectors * &roots).dot(&vectors.t());
    let inverse = (&vectors / &roots).dot(&vectors.t());
    let inner = half.dot(gram).dot(&half);
    let inner = (&inner + &inner.t()) / 2.0;
    let (_, leading) = linalg::eigh(inner.view()).map_err(failed)?;
    let rows = leading.slice(ndarray::s![.., ..rank]).t().dot(&inverse);
    let own = rows.dot(&rows.t());
    let (values, vectors) = linalg::eigh(own.view()).map_err(failed)?;
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scale = values.mapv(|v| v.max(1e-12 * largest).sqrt().recip());
    let turn = (&vectors * &scale).dot(&vectors.t());
    Ok(turn.dot(&rows).mapv(|v| v as f32))
}

#[cfg(test)]
mod tests {
    use super::super::form::dense;
    use super::super::metric::tests::sample;
    use super::*;
    use crate::blocks::Levels;

    #[test]
    fn full_ranks_leave_little_and_more_rank_leaves_less() {
        // 20 outputs of 8 channels by 6 taps.
        let (weight, moment) = sample(20, 48);
        let metric = Metric::new(moment.view(), 0.01).unwrap();
        let format = BlockFormat {
            levels: Levels::L256,
            block: 48,
        };
        let error = |ranks: [usize; 2]| {
            let parts = solve_kernel(weight.view(), &metric, ranks, 6, format, Effort::Feedback);
            let [left, core, right] = parts.unwrap();
            let [l, c, r] = [&left, &core, &right].map(dense);
            let made = contract(l.view(), c.view(), r.view(), 6);
            metric.energy((&weight - &made).view()) / metric.energy(weight.view())
        };
        let errors = [[2, 4], [4, 8], [6, 16], [8, 20]].map(error);
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        assert!(errors[3] < 1e-3, "{errors:?}");
    }
}
