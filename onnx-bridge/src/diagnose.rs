//! What a report shows of one weight beside its error: how the errors of its elements are spread, and how its singular
//! values fall.

use ndarray::{Array2, ArrayView2, Axis};
use serde::Serialize;
use tn_formats::linalg;

use crate::model::Model;
use crate::skip::SkipReason;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// Bins of a histogram: an odd number, so that one is around zero.
const BINS: usize = 31;

/// Above this short side a matrix gets no spectrum: its eigenvalues would take longer than its compression.
const LARGEST_SIDE: usize = 1024;

/// Lines of a matrix that its Gram matrix is summed over at once.
const LINES: usize = 2048;

/// Singular values that a spectrum holds at most.
const VALUES: usize = 64;

/// How often the elements of `W~ - W` lie between two edges.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ErrorHistogram {
    /// The edges of the bins, rising, evenly spaced and symmetric about zero: one more than there are counts.
    pub edges: Vec<f64>,
    /// Elements in each bin. Their sum is the number of elements.
    pub counts: Vec<u64>,
}

/// Some of the singular values of a weight, over the largest of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spectrum {
    /// Which ones, the largest being number 1; rising, the first and the last always there.
    pub index: Vec<usize>,
    /// The values, falling from 1; all 0 for a zero matrix.
    pub value: Vec<f64>,
}

/// What can be seen of one weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The name under which the weight is stored.
    pub name: String,
    /// The errors of its elements; none where one of them is not finite.
    pub errors: Option<ErrorHistogram>,
    /// Its singular values; none where it is too large or not finite.
    pub spectrum: Option<Spectrum>,
}

/// What a weight became, made when it is asked for: `[M, N]`.
pub type Became<'a> = Box<dyn FnOnce() -> Option<Array2<f32>> + 'a>;

/// Looks at the weights of `model` that `became` has a matrix for, in the order of the file, one after the other.
///
/// # Shapes
/// `became` gives `[M, N]`: outputs by inputs of a dense layer or a kernel, rows by columns of a table. A matrix of another shape counts
/// as none.
///
/// # Numerics
/// Singular values are the square roots of the eigenvalues of the shorter Gram matrix in `f64`: those below `1e-8` of the
/// largest are noise. Deterministic.
pub fn diagnose<'a>(model: &Model, became: &dyn Fn(&str) -> Option<Became<'a>>) -> Vec<Diagnosis> {
    let view = GraphView::new(model);
    let mut found = Vec::new();
    // Weights one at a time, each given back before the next: a model may be larger than memory.
    for weight in &Weight::all(&view) {
        let name = weight.name().to_string();
        let Some(became) = became(&name) else {
            continue;
        };
        let Ok(original) = matrix(&view, weight) else {
            continue;
        };
        // What it is read from is given back before what it became is made.
        model.release();
        let Some(became) = became().filter(|b| b.dim() == original.dim()) else {
            continue;
        };
        found.push(Diagnosis {
            errors: histogram(original.view(), became.view()),
            spectrum: spectrum(original.view()),
            name,
        });
    }
    found
}

/// The matrix of a weight.
fn matrix(view: &GraphView<'_>, weight: &Weight<'_>) -> Result<Array2<f32>, SkipReason> {
    let (shape, matrix) = match weight.role().map_err(Clone::clone)? {
        Role::Dense(layers) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            ((layer.outputs(), layer.inputs()), layer.matrix(view)?)
        }
        Role::Table(layers) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            let [rows, columns] = layer.shape();
            ((rows, columns), layer.matrix(view)?)
        }
        Role::Conv(layers) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            ((layer.outputs(), layer.inputs()), layer.matrix(view)?)
        }
    };
    Array2::from_shape_vec(shape, matrix).map_err(|e| SkipReason::Misfit {
        problem: e.to_string(),
    })
}

fn histogram(original: ArrayView2<'_, f32>, became: ArrayView2<'_, f32>) -> Option<ErrorHistogram> {
    let errors = || {
        original
            .iter()
            .zip(became)
            .map(|(w, q)| f64::from(*q) - f64::from(*w))
    };
    let mut largest = 0.0_f64;
    for error in errors() {
        if !error.is_finite() {
            return None;
        }
        largest = largest.max(error.abs());
    }
    // A weight without any error has all its elements in the middle of a range that is any.
    let half = if largest > 0.0 { largest } else { 1.0 };
    let width = 2.0 * half / BINS as f64;
    let mut counts = vec![0; BINS];
    for error in errors() {
        let bin = ((error + half) / width) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    let middle = BINS as f64 / 2.0;
    let edges = (0..=BINS).map(|k| (k as f64 - middle) * width).collect();
    Some(ErrorHistogram { edges, counts })
}

fn spectrum(w: ArrayView2<'_, f32>) -> Option<Spectrum> {
    let side = w.nrows().min(w.ncols());
    if side == 0 || side > LARGEST_SIDE || !w.iter().all(|v| v.is_finite()) {
        return None;
    }
    // Along the long side some lines at a time: in f64 they would take as much again as the weight, twice.
    let lying = if w.nrows() <= w.ncols() {
        w
    } else {
        w.reversed_axes()
    };
    let mut gram = Array2::<f64>::zeros((side, side));
    for some in lying.axis_chunks_iter(Axis(1), LINES) {
        let wide = some.mapv(f64::from);
        gram += &linalg::matmul(wide.view(), wide.t()).ok()?;
    }
    let (values, _) = linalg::eigh(gram.view()).ok()?;
    let largest = values[0].max(0.0).sqrt();
    let index = chosen(side);
    let value = index.iter().map(|&i| {
        let value = values[i - 1].max(0.0).sqrt();
        if largest > 0.0 { value / largest } else { 0.0 }
    });
    Some(Spectrum {
        value: value.collect(),
        index,
    })
}

/// At most [`VALUES`] numbers from 1 to `side`, denser at the start, where a spectrum bends.
fn chosen(side: usize) -> Vec<usize> {
    if side <= VALUES {
        return (1..=side).collect();
    }
    let at = |k: usize| {
        let part = k as f64 / (VALUES - 1) as f64;
        1 + (part * part * (side - 1) as f64).round() as usize
    };
    let mut index: Vec<usize> = (0..VALUES).map(at).collect();
    index.dedup();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_element_once() {
        let w = Array2::from_shape_fn((7, 9), |(i, j)| (i as f32) - 0.3 * j as f32);
        let q = w.mapv(|v| v.round());
        let found = histogram(w.view(), q.view()).unwrap();
        assert_eq!(found.counts.iter().sum::<u64>(), 63);
        assert_eq!(found.edges.len(), found.counts.len() + 1);
        assert_eq!(found.edges[0], -found.edges[BINS]);
        let largest = w
            .iter()
            .zip(&q)
            .map(|(a, b)| (b - a).abs())
            .fold(0.0, f32::max);
        assert!((found.edges[BINS] - f64::from(largest)).abs() < 1e-12);
    }

    #[test]
    fn no_error_and_no_number_have_defined_results() {
        let w = Array2::from_elem((3, 4), 2.0_f32);
        let same = histogram(w.view(), w.view()).unwrap();
        assert_eq!(same.counts[BINS / 2], 12);
        let nan = Array2::from_elem((3, 4), f32::NAN);
        assert_eq!(histogram(w.view(), nan.view()), None);
        assert_eq!(spectrum(nan.view()), None);
        let zero = spectrum(Array2::zeros((3, 4)).view()).unwrap();
        assert_eq!(zero.value, [0.0; 3]);
    }

    #[test]
    fn a_spectrum_is_that_of_the_singular_values() {
        // diag(4, 2, 1), whichever side is the longer one.
        let w = Array2::from_shape_fn((3, 5), |(i, j)| {
            if i == j {
                4.0 / f32::powi(2.0, i as i32)
            } else {
                0.0
            }
        });
        for matrix in [w.view(), w.t()] {
            let found = spectrum(matrix).unwrap();
            assert_eq!(found.index, [1, 2, 3]);
            for (got, want) in found.value.iter().zip([1.0, 0.5, 0.25]) {
                assert!((got - want).abs() < 1e-12, "{got} {want}");
            }
        }
        let many = chosen(1024);
        assert_eq!((many[0], many.last()), (1, Some(&1024)));
        assert!(many.len() <= VALUES && many.windows(2).all(|w| w[0] < w[1]));
    }
}
