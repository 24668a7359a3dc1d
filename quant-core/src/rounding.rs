//! Roundings other than half to even: stochastic, and with error feedback.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::affine::AffineMap;
use crate::error::{QuantError, Result, check_len};
use crate::groups::element_count;
use crate::params::QuantParams;
use crate::tensor::QuantizedTensor;

/// How a number between two codes becomes one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// To the nearest, halves to the even step: ONNX.
    #[default]
    HalfEven,
    /// Up with the probability of the fraction, so that the mean is kept. Element i of a seed always rounds alike.
    Stochastic {
        /// Of the generator, PCG XSL 128/64.
        seed: u64,
    },
}

/// Quantizes with a chosen rounding: `saturate(round(x / scale) + zero_point)`.
///
/// # Numerics
/// As [`crate::quantize`]. Stochastic: `floor(x / scale + u)`, u uniform in [0, 1) with 24 bits, one per element in order.
///
/// # Errors
/// As [`crate::quantize`].
///
/// ```
/// use quant_core::{Bits, QuantParams, QuantScheme, Rounding, quantize_rounded};
/// let params = QuantParams::from_scales(QuantScheme::symmetric(Bits::B8), vec![1.0])?;
/// let q = quantize_rounded(&[0.25; 4000], &[4000], params, Rounding::Stochastic { seed: 1 })?;
/// let mean = q.codes().iter().sum::<i32>() as f64 / 4000.0;
/// assert!((mean - 0.25).abs() < 0.03);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn quantize_rounded(
    data: &[f32],
    shape: &[usize],
    params: QuantParams,
    rounding: Rounding,
) -> Result<QuantizedTensor> {
    let Rounding::Stochastic { seed } = rounding else {
        return QuantizedTensor::quantize_with(data, shape, params);
    };
    let groups = params.groups(shape)?;
    check_len("data", groups.len(), data.len())?;
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut codes = vec![0; data.len()];
    groups.for_each_element(|i, group| {
        let map = params.affine(group);
        let (lo, hi) = map.steps();
        let uniform: f32 = rng.random();
        codes[i] = (data[i] / map.scale + uniform).floor().clamp(lo, hi) as i32 + map.zero_point;
    });
    QuantizedTensor::from_codes(shape, params, &codes)
}

/// In which order error feedback visits the elements along its axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeedbackOrder {
    /// From the first to the last.
    #[default]
    Natural,
    /// The largest diagonal element of the Hessian first: what matters most is rounded while all others can still make
    /// up for it.
    LargestFirst,
}

/// A Hessian prepared for error feedback: the upper Cholesky factor of its inverse, in the order of visits.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackHessian {
    order: Vec<usize>,
    /// Row-major `[k, k]`, upper triangular, rows and columns in the order of visits.
    factor: Vec<f64>,
}

impl FeedbackHessian {
    /// Prepares a Hessian, such as `X^T X` of the inputs a weight meets.
    ///
    /// # Shapes
    /// `hessian` is `[k, k]`, row-major; only its lower triangle is read.
    ///
    /// # Numerics
    /// `damping` times the mean of the diagonal is added to the diagonal (GPTQ: 0.01); an element never used (a zero
    /// on the diagonal) counts as 1. f64.
    ///
    /// # Errors
    /// [`QuantError::Length`] unless there are `k * k` elements, [`QuantError::Hessian`] if it is not positive definite
    /// after damping.
    pub fn new(hessian: &[f64], k: usize, damping: f64, order: FeedbackOrder) -> Result<Self> {
        check_len("the Hessian", element_count(&[k, k])?, hessian.len())?;
        let diagonal = |i: usize| hessian[i * k + i];
        let mean = (0..k).map(diagonal).sum::<f64>() / k.max(1) as f64;
        let mut visits: Vec<usize> = (0..k).collect();
        if order == FeedbackOrder::LargestFirst {
            visits.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)).then(a.cmp(&b)));
        }
        let mut matrix = vec![0.0; k * k];
        for (i, &from_i) in visits.iter().enumerate() {
            for (j, &from_j) in visits[..=i].iter().enumerate() {
                let (row, column) = (from_i.max(from_j), from_i.min(from_j));
                matrix[i * k + j] = hessian[row * k + column];
            }
            let d = &mut matrix[i * k + i];
            *d = if *d == 0.0 { 1.0 } else { *d } + damping * mean;
        }
        Ok(Self {
            factor: inverse_factor(matrix, k)?,
            order: visits,
        })
    }

    /// The number of elements along the axis.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// For a symmetric A (lower triangle), the upper U with `U^T U = A^-1`.
///
/// With `J` the reversal, `J A J = L L^T` gives `A^-1 = (J L^-T J)(J L^-1 J)`, and `J L^-1 J` is upper triangular.
fn inverse_factor(a: Vec<f64>, k: usize) -> Result<Vec<f64>> {
    let at = |i: usize, j: usize| {
        let (i, j) = (k - 1 - i, k - 1 - j);
        a[i.max(j) * k + i.min(j)]
    };
    let mut l = vec![0.0f64; k * k];
    for i in 0..k {
        for j in 0..=i {
            let (row_i, row_j) = (&l[i * k..i * k + j], &l[j * k..j * k + j]);
            let rest = at(i, j) - row_i.iter().zip(row_j).map(|(x, y)| x * y).sum::<f64>();
            l[i * k + j] = if i > j {
                rest / l[j * k + j]
            } else if rest > 0.0 && rest.is_finite() {
                rest.sqrt()
            } else {
                return Err(QuantError::Hessian {
                    index: i,
                    actual: rest,
                });
            };
        }
    }
    // Row i of the inverse from the rows before it.
    let mut inverse = vec![0.0f64; k * k];
    for i in 0..k {
        let (before, row) = inverse.split_at_mut(i * k);
        let row = &mut row[..k];
        for (m, &factor) in l[i * k..i * k + i].iter().enumerate() {
            let earlier = &before[m * k..m * k + m + 1];
            row.iter_mut()
                .zip(earlier)
                .for_each(|(r, e)| *r -= factor * e);
        }
        row[i] = 1.0;
        let diagonal = l[i * k + i];
        row[..=i].iter_mut().for_each(|r| *r /= diagonal);
    }
    let mut upper = vec![0.0; k * k];
    for i in 0..k {
        for j in i..k {
            upper[i * k + j] = inverse[(k - 1 - i) * k + (k - 1 - j)];
        }
    }
    Ok(upper)
}

/// Quantizes one element after the other along an axis, each time moving the elements still to come so that they make up
/// for the error in the sense of the Hessian.
///
/// # Shapes
/// `data` is row-major of `shape`; the Hessian is as long as `shape[axis]`. Every line along the axis is on its own.
///
/// # Numerics
/// f64 for the moved elements, half to even onto the codes. With U the Hessian's prepared factor and e the error of
/// element i over `U[i][i]`, element j > i moves by `-e U[i][j]`.
///
/// # Errors
/// As [`crate::quantize`]; [`QuantError::Length`] also if the Hessian has another size, [`QuantError::Axis`] also for
/// `axis`.
///
/// # Source
/// GPTQ, Frantar et al. 2023, arXiv 2210.17323, algorithm 1, without its blocks (which only reorder the work) and with the
/// parameters fixed beforehand.
///
/// ```
/// use quant_core::{Bits, FeedbackHessian, FeedbackOrder, QuantParams, QuantScheme, quantize_with_feedback};
/// // Two inputs that are always alike: what one weight loses, the other can take over.
/// let hessian = FeedbackHessian::new(&[1.0, 0.999, 0.999, 1.0], 2, 0.0, FeedbackOrder::Natural)?;
/// let params = QuantParams::from_scales(QuantScheme::symmetric(Bits::B4), vec![1.0])?;
/// let q = quantize_with_feedback(&[0.4, 0.4], &[1, 2], 1, params, &hessian)?;
/// assert_eq!(q.codes(), [0, 1]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn quantize_with_feedback(
    data: &[f32],
    shape: &[usize],
    axis: usize,
    params: QuantParams,
    hessian: &FeedbackHessian,
) -> Result<QuantizedTensor> {
    let groups = params.groups(shape)?;
    check_len("data", groups.len(), data.len())?;
    let k = *shape.get(axis).ok_or(QuantError::Axis {
        axis,
        rank: shape.len(),
    })?;
    check_len("the Hessian's side", k, hessian.len())?;
    let inner: usize = shape[axis + 1..].iter().product();
    let mut group_of = vec![0; data.len()];
    groups.for_each_element(|i, group| group_of[i] = group);
    let mut codes = vec![0; data.len()];
    let mut line = vec![0.0f64; k];
    for first in (0..data.len()).filter(|i| inner > 0 && (i / inner).is_multiple_of(k)) {
        let place = |i: usize| first + hessian.order[i] * inner;
        line.iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = f64::from(data[place(i)]));
        for i in 0..k {
            let map = params.affine(group_of[place(i)]);
            let code = nearest(line[i], map);
            codes[place(i)] = code;
            let row = &hessian.factor[i * k..][i..k];
            let error = (line[i] - f64::from(map.value(code))) / row[0];
            line[i..]
                .iter_mut()
                .zip(row)
                .skip(1)
                .for_each(|(x, u)| *x -= error * u);
        }
    }
    QuantizedTensor::from_codes(shape, params, &codes)
}

/// The code nearest to an f64.
fn nearest(x: f64, map: AffineMap) -> i32 {
    let (lo, hi) = map.steps();
    (x / f64::from(map.scale))
        .round_ties_even()
        .clamp(f64::from(lo), f64::from(hi)) as i32
        + map.zero_point
}
