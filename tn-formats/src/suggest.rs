//! How many singular values are signal.

use crate::error::{Error, Result};
use crate::linalg::eigh;
use crate::range::gram_rows;
use crate::scalar::Real;
use ndarray::ArrayView2;

/// The fewest singular values that hold `share` of the energy (the sum of squares).
///
/// # Errors
/// [`Error::Parameter`] for a share outside `(0, 1]`, [`Error::Empty`] for no values.
///
/// ```
/// use tn_formats::energy_rank;
/// assert_eq!(energy_rank(&[3.0, 2.0, 1.0, 0.1], 0.9)?, 2);
/// assert_eq!(energy_rank(&[3.0, 2.0, 1.0, 0.1], 1.0)?, 4);
/// # Ok::<(), tn_formats::Error>(())
/// ```
pub fn energy_rank(singular_values: &[f64], share: f64) -> Result<usize> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::Parameter {
            what: "share of energy",
            expected: "in (0, 1]",
            found: share.to_string(),
        });
    }
    if singular_values.is_empty() {
        return Err(Error::Empty {
            what: "list of singular values",
        });
    }
    let total: f64 = singular_values.iter().map(|s| s * s).sum();
    let mut tail = 0.0;
    let mut rank = singular_values.len();
    while rank > 1 {
        tail += singular_values[rank - 1].powi(2);
        if tail > (1.0 - share) * total {
            break;
        }
        rank -= 1;
    }
    Ok(rank)
}

/// The rank that empirical variational Bayes finds in a noisy matrix, 0 for pure noise; the noise is estimated too.
///
/// # Numerics
/// Singular values from a Gram matrix in `f64`; the noise variance by golden-section search on the free energy.
///
/// # Errors
/// [`Error::Empty`], [`Error::NotFinite`], [`Error::LinAlg`].
///
/// # Source
/// Nakajima, Sugiyama, Babacan, Tomioka 2013, JMLR 14, corollary 2 and theorem 2.
///
/// ```
/// use ndarray::Array2;
/// use tn_formats::evbmf_rank;
/// // Rank 2 and a little noise.
/// let mut state = 1u64;
/// let mut noise = || {
///     state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
///     (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
/// };
/// let a = Array2::from_shape_fn((40, 60), |(i, j)| {
///     let signal = 3.0 * (i as f64 * 0.2).sin() * (j as f64 * 0.1).cos() + 2.0 * (i as f64 * 0.5).cos();
///     signal + 0.2 * noise()
/// });
/// assert_eq!(evbmf_rank(a.view())?, 2);
/// # Ok::<(), tn_formats::Error>(())
/// ```
pub fn evbmf_rank<T: Real>(a: ArrayView2<'_, T>) -> Result<usize> {
    if a.is_empty() {
        return Err(Error::Empty { what: "matrix" });
    }
    if a.iter().any(|x| !x.is_finite()) {
        return Err(Error::NotFinite { what: "matrix" });
    }
    let wide = if a.nrows() <= a.ncols() {
        a
    } else {
        a.reversed_axes()
    };
    let (l, m) = (wide.nrows() as f64, wide.ncols() as f64);
    let (values, _) = eigh(gram_rows(wide).view())?;
    let squares: Vec<f64> = values.iter().map(|v| v.max(0.0)).collect();
    let total: f64 = squares.iter().sum();
    if total == 0.0 {
        return Ok(0);
    }
    let alpha = l / m;
    let tau_bar = 2.5129 * alpha.sqrt();
    let x_bar = (1.0 + tau_bar) * (1.0 + alpha / tau_bar);

    let from = ((l / (1.0 + alpha)).ceil() as usize)
        .saturating_sub(1)
        .min(squares.len() - 1);
    let rest = &squares[from..];
    let lower = (rest[0] / (m * x_bar)).max(rest.iter().sum::<f64>() / rest.len() as f64 / m);
    let upper = total / (l * m);
    let energy = |variance: f64| free_energy(&squares, variance, m, alpha, x_bar);
    let variance = golden(lower.max(upper * 1e-12).min(upper), upper, energy);
    let threshold = m * variance * x_bar;
    Ok(squares.iter().filter(|&&s| s > threshold).count())
}

fn free_energy(squares: &[f64], variance: f64, m: f64, alpha: f64, x_bar: f64) -> f64 {
    squares
        .iter()
        .map(|&s| {
            let x = (s / (m * variance)).max(f64::MIN_POSITIVE);
            if x > x_bar {
                let root = ((x - 1.0 - alpha).powi(2) - 4.0 * alpha).max(0.0).sqrt();
                let tau = 0.5 * (x - 1.0 - alpha + root);
                x - tau + ((tau + 1.0) / x).ln() + alpha * (tau / alpha + 1.0).ln()
            } else {
                x - x.ln()
            }
        })
        .sum()
}

/// The minimum of `f` in `[a, b]` by golden sections of the logarithm.
fn golden(a: f64, b: f64, f: impl Fn(f64) -> f64) -> f64 {
    let share = (5f64.sqrt() - 1.0) / 2.0;
    let (mut a, mut b) = (a.ln(), b.ln());
    for _ in 0..100 {
        let (c, d) = (b - share * (b - a), a + share * (b - a));
        if f(c.exp()) < f(d.exp()) {
            b = d
        } else {
            a = c
        }
    }
    ((a + b) / 2.0).exp()
}
