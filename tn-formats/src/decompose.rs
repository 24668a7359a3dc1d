//! TT-SVD.

use ndarray::{Array2, CowArray};

use crate::error::{Error, Result};
use crate::range::{Keep, PLAIN, dominant_range, dominant_range_woven};
use crate::reorder::{Unfolding, Woven};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};
use crate::truncation::{BondCertificate, Certificate, Truncation};

/// Elements from which a sweep in single precision is worth trying first.
const LARGE: usize = 1 << 18;

/// TT-SVD from the first unfolding `n_1 x (n_2 .. n_d)`, left to right.
pub(crate) fn tt_svd<T: Real>(
    unfolding: Unfolding<'_, T>,
    modes: &[usize],
    truncation: &Truncation,
) -> Result<(TensorTrain<T>, Certificate)> {
    if let Truncation::Bytes(_) = truncation {
        let (train, _) = tt_svd(unfolding, modes, &Truncation::RelativeError(0.0))?;
        return train.round(truncation);
    }
    let bonds = modes.len() - 1;
    let caps = truncation.caps(bonds)?;
    let epsilon = truncation.epsilon()?;
    let total_sq = unfolding.norm_sq();
    if !total_sq.is_finite() {
        return Err(Error::NotFinite {
            what: "array to decompose",
        });
    }
    // Storing d cores in T costs about d roundings on top of the truncation.
    let rounding_sq = 4.0 * (modes.len() as f64) * T::UNIT_ROUNDOFF.powi(2);
    let job = Job {
        modes,
        caps: &caps,
        allowed_sq: ((epsilon * epsilon - rounding_sq) * total_sq).max(0.0),
        total_sq,
        scale: 1.0,
        least_sq: 0.0,
    };
    let (rows, cols) = unfolding.dim();
    let single = match &unfolding {
        Unfolding::Woven(woven)
            if T::BYTES == 8 && epsilon == 0.0 && rows * cols >= LARGE && job.cuts() =>
        {
            in_single(woven, &job)?
        }
        _ => None,
    };
    let Parts {
        mut cores,
        last,
        bonds,
    } = match single {
        Some(parts) => parts,
        None => sweep::<T, T>(unfolding, &job)?.expect("no error is too small for it"),
    };
    // It holds the norm, which T may not reach to.
    if !last.iter().all(|x| x.is_finite()) {
        return Err(Error::NotFinite {
            what: "last core of a train",
        });
    }
    let rank = last.nrows();
    cores.push(TtCore::from_unfolding(last, rank, modes[bonds.len()], 1));
    let certificate = Certificate::new::<T>(total_sq.sqrt(), epsilon, rows.max(cols), bonds);
    Ok((TensorTrain::from_parts(cores), certificate))
}

/// What a sweep is to do with `scale` times an array.
struct Job<'a> {
    modes: &'a [usize],
    caps: &'a [usize],
    /// Squared error that may be spent.
    allowed_sq: f64,
    total_sq: f64,
    scale: f64,
    /// Given up where the first bond with an error has a smaller one than this, squared.
    least_sq: f64,
}

impl Job<'_> {
    /// Whether some cap is below the rank that its unfolding may have.
    fn cuts(&self) -> bool {
        let size = |modes: &[usize]| modes.iter().product::<usize>();
        self.caps.iter().enumerate().any(|(k, &cap)| {
            let (left, right) = self.modes.split_at(k + 1);
            cap < size(left).min(size(right))
        })
    }
}

/// What a sweep makes: the cores but the last, that one `r x n`, and what each bond discarded.
struct Parts<T, A> {
    cores: Vec<TtCore<T>>,
    last: Array2<A>,
    bonds: Vec<BondCertificate>,
}

/// The sweep with remainders in `f32`: their round-off is added to the error at right angles, squared, so that it does not
/// count beside what the ranks cut off; `None` where that is too little.
fn in_single<T: Real>(woven: &Woven<'_, T>, job: &Job<'_>) -> Result<Option<Parts<T, T>>> {
    let norm = job.total_sq.sqrt();
    let scale = norm.recip();
    if !scale.is_normal() {
        return Ok(None);
    }
    let scaled = Job {
        total_sq: 1.0,
        scale,
        least_sq: PLAIN,
        ..*job
    };
    let parts = sweep::<T, f32>(Unfolding::Woven(woven.reborrow()), &scaled)?;
    let Some(mut parts) = parts.filter(Parts::has_error) else {
        return Ok(None);
    };
    for bond in &mut parts.bonds {
        bond.discarded *= norm;
    }
    Ok(Some(Parts {
        cores: parts.cores,
        last: parts.last.mapv(|x| T::narrow(x.widen() * norm)),
        bonds: parts.bonds,
    }))
}

impl<T, A> Parts<T, A> {
    fn has_error(&self) -> bool {
        self.bonds.iter().any(|bond| bond.discarded > 0.0)
    }
}

/// From left to right, with what is left to decompose kept in `A`.
fn sweep<T: Real, A: Real>(
    unfolding: Unfolding<'_, T, A>,
    job: &Job<'_>,
) -> Result<Option<Parts<T, A>>> {
    let count = job.modes.len() - 1;
    let mut spent_sq = 0.0;
    let mut bonds = Vec::with_capacity(count);
    let mut cores = Vec::with_capacity(job.modes.len());
    let mut rank = 1;
    let mut rest = unfolding;
    for (k, (&mode, &next_mode)) in job.modes.iter().zip(&job.modes[1..]).enumerate() {
        let left_sq = job.total_sq - spent_sq;
        let keep = Keep {
            cap: job.caps[k],
            tail_sq: (job.allowed_sq - spent_sq).max(0.0) / (count - k) as f64,
        };
        let (q, tail_sq, left) = match rest {
            Unfolding::Plain(rest) => {
                let range = dominant_range(rest, left_sq, keep)?;
                (range.q, range.tail_sq, regrouped(range.b, next_mode))
            }
            Unfolding::Woven(woven) => {
                let (m, n) = woven.dim();
                if m <= n && left_sq > 0.0 && keep.is_lossless(m) {
                    let left = Unfolding::Woven(woven.with_next(next_mode));
                    (Array2::eye(m), 0.0, left)
                } else {
                    let range = dominant_range_woven(woven, job.scale, left_sq, keep)?;
                    (range.q, range.tail_sq, regrouped(range.b, next_mode))
                }
            }
        };
        if spent_sq == 0.0 && tail_sq > 0.0 && tail_sq < job.least_sq {
            return Ok(None);
        }
        rest = left;
        spent_sq += tail_sq;
        let next = q.ncols();
        bonds.push(BondCertificate {
            rank: next,
            discarded: tail_sq.sqrt(),
        });
        cores.push(TtCore::from_unfolding(q, rank, mode, next));
        rank = next;
    }
    let last = match rest {
        Unfolding::Plain(rest) => rest.into_owned(),
        Unfolding::Woven(woven) => woven.unfolded(job.scale),
    };
    let columns = last.len() / rank;
    let last = last
        .into_shape_with_order((rank, columns))
        .expect("same number of elements");
    Ok(Some(Parts { cores, last, bonds }))
}

/// [`regroup`] of what a step leaves.
fn regrouped<'a, T, A: Real>(b: Array2<A>, mode: usize) -> Unfolding<'a, T, A> {
    Unfolding::Plain(CowArray::from(regroup(b, mode)))
}

/// `r x (n rest)` as `(r n) x rest`.
fn regroup<T: Real>(b: Array2<T>, mode: usize) -> Array2<T> {
    let b = if b.is_standard_layout() {
        b
    } else {
        b.as_standard_layout().into_owned()
    };
    let (r, cols) = b.dim();
    b.into_shape_with_order((r * mode, cols / mode))
        .expect("the next mode divides the columns")
}
