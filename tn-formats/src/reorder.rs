//! The reordering between a matrix and the tensor its train stands for.

use ndarray::{Array2, ArrayView2, ArrayViewD, ArrayViewMutD, Axis, CowArray, Ix2, IxDyn};
use rayon::prelude::*;

use crate::modes::{Layout, MatrixModes};
use crate::scalar::{Real, norm_sq};

/// Axes of `w` cut into modes: row modes, then column modes.
fn split_axes(modes: &MatrixModes) -> Vec<usize> {
    modes
        .row_modes()
        .iter()
        .chain(modes.col_modes())
        .copied()
        .collect()
}

/// Order of [`split_axes`] in the tensor the train stands for.
fn tensor_order(modes: &MatrixModes) -> Vec<usize> {
    let rows = modes.row_modes().len();
    match modes.layout() {
        Layout::Interleaved => (0..rows).flat_map(|k| [k, rows + k]).collect(),
        Layout::Split => (rows..rows + modes.col_modes().len())
            .chain(0..rows)
            .collect(),
    }
}

/// The matrix whose tensor is given flat: the inverse of [`unfold`].
pub(crate) fn fold<T: Real>(flat: Array2<T>, modes: &MatrixModes) -> Array2<T> {
    let mut out = Array2::zeros((modes.rows(), modes.cols()));
    let order = tensor_order(modes);
    let axes = split_axes(modes);
    let split: Vec<usize> = order.iter().map(|&k| axes[k]).collect();
    let tensor = flat
        .into_shape_with_order(IxDyn(&split))
        .expect("same number of elements");
    let target = out
        .view_mut()
        .into_shape_with_order(IxDyn(&axes))
        .expect("same number of elements");
    copy_parallel(tensor.view(), target.permuted_axes(IxDyn(&order)));
    out
}

/// The tensor a matrix train stands for, as it lies in the matrix.
pub(crate) struct Woven<'a, T> {
    /// In standard layout.
    matrix: CowArray<'a, T, Ix2>,
    axes: Vec<usize>,
    order: Vec<usize>,
    /// Axes of the tensor that are the rows of its first unfolding, and their product.
    row_axes: usize,
    rows: usize,
}

/// Consecutive strips of the columns of a first unfolding, equally wide, still in the order of the matrix.
pub(crate) struct Strips<'a, T> {
    data: &'a [T],
    /// Where in `data` each strip starts.
    starts: Vec<usize>,
    /// Where each run of a strip lies from there, and where it goes in the strip; in the order of memory.
    runs: Vec<(usize, usize)>,
    run: usize,
    width: usize,
}

impl<'a, T: Real> Woven<'a, T> {
    /// Rows and columns of the first unfolding.
    pub(crate) fn dim(&self) -> (usize, usize) {
        (self.rows, self.matrix.len() / self.rows)
    }

    /// The first unfolding in strips of at most `width` columns, where the last mode allows it.
    pub(crate) fn strips(&self, width: usize) -> Strips<'_, T> {
        let stride = |axis: usize| self.axes[axis + 1..].iter().product::<usize>();
        let axes: Vec<(usize, usize)> = self
            .order
            .iter()
            .map(|&axis| (self.axes[axis], stride(axis)))
            .collect();
        let (rows, columns) = axes.split_at(self.row_axes);
        let mut inner = columns.len().min(1);
        let size = |inner: usize| {
            let inner = &columns[columns.len() - inner..];
            inner.iter().map(|&(n, _)| n).product::<usize>()
        };
        while inner < columns.len() && size(inner + 1) <= width {
            inner += 1;
        }
        let (outer, inner) = columns.split_at(columns.len() - inner);
        let width = inner.iter().map(|&(n, _)| n).product();
        let (run, inner) = match inner.split_last() {
            Some((&(n, 1), inner)) => (n, inner),
            _ => (1, inner),
        };
        let offsets = places(&[rows, inner].concat());
        let mut runs: Vec<_> = offsets.into_iter().zip((0..).step_by(run)).collect();
        runs.sort_unstable();
        Strips {
            data: self
                .matrix
                .as_slice()
                .expect("standard layout by construction"),
            starts: places(outer),
            runs,
            run,
            width,
        }
    }

    /// The first unfolding as an array of its own.
    pub(crate) fn unfolded(&self) -> Array2<T> {
        let tensor = self
            .matrix
            .view()
            .into_shape_with_order(IxDyn(&self.axes))
            .expect("modes fit the matrix")
            .permuted_axes(IxDyn(&self.order));
        let mut out = Array2::zeros(self.dim());
        let target = out
            .view_mut()
            .into_shape_with_order(tensor.raw_dim())
            .expect("modes fit the matrix");
        copy_parallel(tensor, target);
        out
    }
}

/// Offsets of all elements of a tensor with these sizes and strides, in row-major order.
fn places(axes: &[(usize, usize)]) -> Vec<usize> {
    axes.iter().fold(vec![0], |places, &(n, stride)| {
        let along = |place| (0..n).map(move |i| place + i * stride);
        places.into_iter().flat_map(along).collect()
    })
}

impl<T: Real> Strips<'_, T> {
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Columns of each.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Strip `k` times `scale` in row-major order.
    pub(crate) fn copy_to<S: Real>(&self, k: usize, scale: f64, to: &mut [S]) {
        let data = &self.data[self.starts[k]..];
        for &(from, start) in &self.runs {
            let from = &data[from..from + self.run];
            for (to, x) in to[start..start + self.run].iter_mut().zip(from) {
                *to = S::narrow(x.widen() * scale);
            }
        }
    }
}

/// The first unfolding of an array to decompose.
pub(crate) enum Unfolding<'a, T> {
    /// As it lies in memory.
    Plain(CowArray<'a, T, Ix2>),
    /// With its elements still in the order of the matrix.
    Woven(Woven<'a, T>),
}

impl<'a, T: Real> Unfolding<'a, T> {
    pub(crate) fn dim(&self) -> (usize, usize) {
        match self {
            Self::Plain(a) => a.dim(),
            Self::Woven(w) => w.dim(),
        }
    }

    pub(crate) fn norm_sq(&self) -> f64 {
        match self {
            Self::Plain(a) => norm_sq(a.view()),
            Self::Woven(w) => norm_sq(w.matrix.view()),
        }
    }

    pub(crate) fn plain(self) -> CowArray<'a, T, Ix2> {
        match self {
            Self::Plain(a) => a,
            Self::Woven(w) => CowArray::from(w.unfolded()),
        }
    }
}

/// First unfolding of the tensor that a matrix train stands for.
pub(crate) fn unfold<'a, T: Real>(w: ArrayView2<'a, T>, modes: &MatrixModes) -> Unfolding<'a, T> {
    let (m, n) = modes.core_modes()[0];
    if modes.layout() == Layout::Split && modes.cores() == 2 {
        return Unfolding::Plain(CowArray::from(w.reversed_axes()));
    }
    let matrix = if w.is_standard_layout() {
        CowArray::from(w)
    } else {
        CowArray::from(w.as_standard_layout().into_owned())
    };
    Unfolding::Woven(Woven {
        matrix,
        axes: split_axes(modes),
        order: tensor_order(modes),
        row_axes: match modes.layout() {
            Layout::Interleaved => 2,
            Layout::Split => 1,
        },
        rows: m * n,
    })
}

/// Copies between views of equal shape, in parallel over the leading axes.
fn copy_parallel<T: Real>(from: ArrayViewD<'_, T>, to: ArrayViewMutD<'_, T>) {
    let mut pairs = vec![(from, to)];
    while pairs.len() < 64 && pairs[0].0.ndim() > 2 {
        pairs = pairs
            .into_iter()
            .flat_map(|(from, to)| {
                let n = from.shape()[0];
                let mut targets = Vec::with_capacity(n);
                let mut rest = to;
                while rest.shape()[0] > 1 {
                    let (head, tail) = rest.split_at(Axis(0), 1);
                    targets.push(head.index_axis_move(Axis(0), 0));
                    rest = tail;
                }
                targets.push(rest.index_axis_move(Axis(0), 0));
                (0..n)
                    .zip(targets)
                    .map(move |(i, t)| (from.clone().index_axis_move(Axis(0), i), t))
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    pairs
        .into_par_iter()
        .for_each(|(from, mut to)| to.assign(&from));
}
