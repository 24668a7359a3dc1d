//! Tucker networks.

mod hooi;

use ndarray::{Array2, Array3, ArrayD, ArrayView2, ArrayView3, ArrayViewD, Axis, IxDyn, s};

use crate::error::{Error, Result, checked_product};
use crate::linalg::{add_gram_lower, eigh, mm};
use crate::range::{GRAM_FLOOR, Keep, by_svd, pick_rank};
use crate::scalar::{Real, norm_sq};
use crate::truncation::{BondCertificate, Certificate, Truncation, ranks_within, tucker_size};

/// A Tucker network: a core `[r_1, .., r_d]` times a factor `[n_k, r_k]` in every mode.
///
/// ```
/// use ndarray::Array;
/// use tn_formats::{Truncation, Tucker};
/// let a = Array::from_shape_fn((6, 7, 8), |(i, j, k)| (i as f32) + (j * k) as f32).into_dyn();
/// let (tucker, certificate) = Tucker::decompose(a.view(), &Truncation::RelativeError(1e-4))?;
/// assert_eq!(tucker.multilinear_ranks(), [2, 2, 2]);
/// assert!(certificate.relative_error() < 1e-4);
/// assert!((&tucker.to_dense() - &a).iter().all(|d| d.abs() < 1e-2));
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tucker<T = f32> {
    core: ArrayD<T>,
    factors: Vec<Array2<T>>,
}

impl<T: Real> Tucker<T> {
    /// A network from its core and its factors.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Length`] when the core has not one axis per factor; [`Error::Shape`] when a factor's
    /// columns differ from the core's axis.
    pub fn from_parts(core: ArrayD<T>, factors: Vec<Array2<T>>) -> Result<Self> {
        check_tucker(core.shape(), factors.iter().map(|f| f.dim()))?;
        let core = if core.is_standard_layout() {
            core
        } else {
            core.as_standard_layout().into_owned()
        };
        let standard = |f: Array2<T>| {
            if f.is_standard_layout() {
                f
            } else {
                f.as_standard_layout().into_owned()
            }
        };
        Ok(Self {
            core,
            factors: factors.into_iter().map(standard).collect(),
        })
    }

    /// ST-HOSVD of a dense array, mode by mode from the first.
    ///
    /// # Numerics
    /// Gram matrices, eigenvalues and certificate in `f64`; factors are orthonormal. The steps discard orthogonal parts,
    /// so the certificate is the error, and what one mode leaves of the budget goes to the next.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::NotFinite`] for a NaN, an infinity or a norm beyond the largest number; [`Error::Parameter`] and
    /// [`Error::Length`] for a truncation that does not fit.
    ///
    /// # Source
    /// Vannieuwenhoven, Vandebril, Meerbergen 2012, SIAM J. Sci. Comput. 34(2).
    pub fn decompose(a: ArrayViewD<'_, T>, truncation: &Truncation) -> Result<(Self, Certificate)> {
        let modes: Vec<usize> = (0..a.ndim()).collect();
        Self::decompose_modes(a, &modes, truncation)
    }

    /// ST-HOSVD over some modes only (partial Tucker); the others keep their size and get an identity factor.
    ///
    /// # Shapes
    /// `modes` are axes of `a`, each at most once; a truncation by ranks has one rank per entry of `modes`.
    ///
    /// # Errors
    /// As [`Tucker::decompose`], and [`Error::Parameter`] for an axis out of range or given twice.
    pub fn decompose_modes(
        a: ArrayViewD<'_, T>,
        modes: &[usize],
        truncation: &Truncation,
    ) -> Result<(Self, Certificate)> {
        check_modes(a.shape(), modes)?;
        let shape = a.shape().to_vec();
        let epsilon = truncation.epsilon()?;
        let total_sq = norm_sq(a.view());
        if !total_sq.is_finite() {
            return Err(Error::NotFinite {
                what: "array to decompose",
            });
        }
        let caps = mode_caps(a.view(), modes, truncation)?;
        let rounding_sq = 4.0 * ((shape.len() + 1) as f64) * T::UNIT_ROUNDOFF.powi(2);
        let allowed_sq = ((epsilon * epsilon - rounding_sq) * total_sq).max(0.0);

        let mut factors: Vec<Array2<T>> = shape.iter().map(|&n| Array2::eye(n)).collect();
        let mut core = a.as_standard_layout().into_owned();
        let mut spent_sq = 0.0;
        let mut certificate = Vec::with_capacity(modes.len());
        for (k, &mode) in modes.iter().enumerate() {
            let tail_sq = (allowed_sq - spent_sq).max(0.0) / (modes.len() - k) as f64;
            let keep = Keep {
                cap: caps[k],
                tail_sq,
            };
            let (factor, discarded) = mode_basis(core.view(), mode, total_sq, keep)?;
            let rank = factor.ncols();
            core = mode_product(core.view(), mode, factor.t());
            factors[mode] = factor;
            spent_sq += discarded;
            certificate.push(BondCertificate {
                rank,
                discarded: discarded.sqrt(),
            });
        }
        // It holds the norm, which T may not reach to.
        if !core.iter().all(|x| x.is_finite()) {
            return Err(Error::NotFinite {
                what: "core of a Tucker network",
            });
        }
        let certificate = Certificate::new::<T>(
            total_sq.sqrt(),
            epsilon,
            longest_unfolding(&shape),
            certificate,
        );
        Ok((Self { core, factors }, certificate))
    }

    /// The core, `[r_1, .., r_d]`.
    pub fn core(&self) -> ArrayViewD<'_, T> {
        self.core.view()
    }

    /// The factors, `[n_k, r_k]`.
    pub fn factors(&self) -> &[Array2<T>] {
        &self.factors
    }

    /// Number of modes, d.
    pub fn order(&self) -> usize {
        self.factors.len()
    }

    /// Mode sizes `n_k`.
    pub fn modes(&self) -> Vec<usize> {
        self.factors.iter().map(Array2::nrows).collect()
    }

    /// Multilinear ranks `r_k`.
    pub fn multilinear_ranks(&self) -> Vec<usize> {
        self.core.shape().to_vec()
    }

    /// Number of elements in core and factors.
    pub fn parameters(&self) -> usize {
        self.core.len() + self.factors.iter().map(Array2::len).sum::<usize>()
    }

    /// The dense array `[n_1, .., n_d]`.
    pub fn to_dense(&self) -> ArrayD<T> {
        let mut out = self.core.clone();
        for (mode, factor) in self.factors.iter().enumerate() {
            out = mode_product(out.view(), mode, factor.view());
        }
        out
    }

    /// Core and factors, given away.
    pub fn into_parts(self) -> (ArrayD<T>, Vec<Array2<T>>) {
        (self.core, self.factors)
    }
}

/// Checks that factors `[n_k, r_k]` fit a core.
pub(crate) fn check_tucker(
    core: &[usize],
    factors: impl Iterator<Item = (usize, usize)>,
) -> Result<()> {
    let factors: Vec<_> = factors.collect();
    if core.len() != factors.len() {
        return Err(Error::Length {
            what: "factors of a Tucker network",
            expected: core.len(),
            found: factors.len(),
        });
    }
    if core.is_empty() || core.contains(&0) || factors.iter().any(|f| f.0 == 0) {
        return Err(Error::Empty {
            what: "core or factor of a Tucker network",
        });
    }
    for (&r, &(n, cols)) in core.iter().zip(&factors) {
        if cols != r {
            return Err(Error::Shape {
                what: "factor of a Tucker network",
                expected: vec![n, r],
                found: vec![n, cols],
            });
        }
    }
    checked_product(core)?;
    checked_product(&factors.iter().map(|f| f.0).collect::<Vec<_>>()).map(drop)
}

/// Checks that `modes` are axes of an array of this shape, each at most once.
fn check_modes(shape: &[usize], modes: &[usize]) -> Result<()> {
    if shape.is_empty() || checked_product(shape)? == 0 {
        return Err(Error::Empty {
            what: "array to decompose",
        });
    }
    for (k, mode) in modes.iter().enumerate() {
        if *mode >= shape.len() || modes[..k].contains(mode) {
            return Err(Error::Parameter {
                what: "mode of a partial decomposition",
                expected: "an axis of the array, at most once",
                found: mode.to_string(),
            });
        }
    }
    Ok(())
}

/// The longest side of a mode's unfolding.
pub(crate) fn longest_unfolding(shape: &[usize]) -> usize {
    let total: usize = shape.iter().product();
    total / shape.iter().copied().min().unwrap_or(1).max(1)
}

/// The cap of each of `modes`.
fn mode_caps<T: Real>(
    a: ArrayViewD<'_, T>,
    modes: &[usize],
    truncation: &Truncation,
) -> Result<Vec<usize>> {
    let Truncation::Bytes(bytes) = truncation else {
        return truncation.caps(modes.len());
    };
    let standard = a.as_standard_layout();
    let spectrum = |&mode: &usize| Ok(eigh(mode_gram(standard.view(), mode).view())?.0.to_vec());
    let values = modes.iter().map(spectrum).collect::<Result<Vec<_>>>()?;
    Ok(ranks_within(&values, bytes / T::BYTES, |ranks| {
        tucker_size(a.shape(), modes, ranks)
    }))
}

/// `a` times the transposed factors of some modes.
fn project<T: Real>(
    a: ArrayViewD<'_, T>,
    factors: &[Array2<T>],
    modes: impl Iterator<Item = usize>,
) -> ArrayD<T> {
    // The mode that shrinks most first.
    let mut modes: Vec<usize> = modes.collect();
    modes.sort_by(|&x, &y| {
        let share = |m: usize| factors[m].ncols() as f64 / factors[m].nrows() as f64;
        share(x).total_cmp(&share(y))
    });
    let mut modes = modes.into_iter();
    let Some(first) = modes.next() else {
        return a.to_owned();
    };
    let start = mode_product(a, first, factors[first].t());
    modes.fold(start, |acc, mode| {
        mode_product(acc.view(), mode, factors[mode].t())
    })
}

/// Orthonormal basis of one mode and the squared norm of what it leaves out; `a` is row-major.
fn mode_basis<T: Real>(
    a: ArrayViewD<'_, T>,
    mode: usize,
    total_sq: f64,
    keep: Keep,
) -> Result<(Array2<T>, f64)> {
    let (values, vectors) = eigh(mode_gram(a.view(), mode).view())?;
    let rank = pick_rank(&values.to_vec(), keep);
    let discarded: f64 = values.iter().skip(rank).rev().map(|v| v.max(0.0)).sum();
    if rank < values.len() && discarded < GRAM_FLOOR * total_sq && T::BYTES == 8 {
        let n = values.len();
        let cut = around(a, mode)
            .permuted_axes([1, 0, 2])
            .as_standard_layout()
            .into_owned();
        let rest = cut.len() / n;
        let unfolding = cut
            .into_shape_with_order((n, rest))
            .expect("same number of elements");
        let range = by_svd(unfolding.view(), keep)?;
        return Ok((range.q, range.tail_sq));
    }
    Ok((vectors.slice(s![.., ..rank]).mapv(T::narrow), discarded))
}

/// `a` as `[before, n_mode, after]`, without a copy.
fn around<'a, T: Real>(a: ArrayViewD<'a, T>, mode: usize) -> ArrayView3<'a, T> {
    let shape = a.shape();
    let dims = (
        shape[..mode].iter().product::<usize>(),
        shape[mode],
        shape[mode + 1..].iter().product::<usize>(),
    );
    a.into_shape_with_order(dims).expect("a row-major array")
}

/// Gram matrix of the mode's unfolding, lower triangle; `a` is row-major.
pub(crate) fn mode_gram<T: Real>(a: ArrayViewD<'_, T>, mode: usize) -> Array2<f64> {
    let cut = around(a, mode);
    let n = cut.dim().1;
    if cut.dim().2 == 1 {
        let tall = cut.index_axis_move(Axis(2), 0);
        return crate::range::gram_rows(tall.t());
    }
    let mut gram = Array2::zeros((n, n));
    for slab in cut.outer_iter() {
        add_gram_lower(slab.mapv(Real::widen).view(), gram.view_mut());
    }
    gram
}

/// `a` times the matrix in one mode: the axis of `matrix.ncols()` becomes one of `matrix.nrows()`; `a` is row-major.
pub(crate) fn mode_product<T: Real>(
    a: ArrayViewD<'_, T>,
    mode: usize,
    matrix: ArrayView2<'_, T>,
) -> ArrayD<T> {
    let mut shape = a.shape().to_vec();
    shape[mode] = matrix.nrows();
    let cut = around(a, mode);
    let (before, n, after) = cut.dim();
    if after == 1 {
        let flat = cut
            .into_shape_with_order((before, n))
            .expect("same number of elements");
        let out = mm(flat, matrix.t());
        return out
            .into_shape_with_order(IxDyn(&shape))
            .expect("same number of elements");
    }
    let mut out = Array3::zeros((before, matrix.nrows(), after));
    for (slab, mut target) in cut.outer_iter().zip(out.outer_iter_mut()) {
        target.assign(&mm(matrix, slab));
    }
    out.into_shape_with_order(IxDyn(&shape))
        .expect("same number of elements")
}
