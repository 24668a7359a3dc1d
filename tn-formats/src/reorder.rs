//! The reordering between a matrix and the tensor its train stands for.

use ndarray::{Array2, ArrayView2, ArrayViewD, ArrayViewMutD, Axis, CowArray, Ix2, IxDyn};
use rayon::prelude::*;

use crate::modes::{Layout, MatrixModes};
use crate::scalar::{Real, norm_sq, scaled};

/// Elements at most that a thread puts in order at a time: a piece of a result that stays in the first-level cache.
const CHUNK: usize = 1 << 13;

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

/// In which order [`Woven::strips`] takes the columns of the first unfolding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// As they stand in it.
    OfTheTensor,
    /// As they lie in memory: for what does not depend on the order.
    OfTheMatrix,
}

/// Strips of the columns of a first unfolding, equally wide, still in the order of the matrix.
pub(crate) struct Strips<'a, T> {
    data: &'a [T],
    /// Where in `data` each strip starts.
    starts: Vec<usize>,
    /// From there.
    runs: Runs,
    width: usize,
}

impl<'a, T: Real> Woven<'a, T> {
    /// Rows and columns of the first unfolding.
    pub(crate) fn dim(&self) -> (usize, usize) {
        (self.rows, self.matrix.len() / self.rows)
    }

    /// The first unfolding in strips of at most `width` columns, where the last mode allows it.
    pub(crate) fn strips(&self, width: usize, columns: Columns) -> Strips<'_, T> {
        let mut axes = self.strided();
        if columns == Columns::OfTheMatrix {
            axes[self.row_axes..].sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        }
        let (rows, columns) = axes.split_at(self.row_axes);
        let mut inner = columns.len().min(1);
        while inner < columns.len() && size(&columns[columns.len() - inner - 1..]) <= width {
            inner += 1;
        }
        let (outer, inner) = columns.split_at(columns.len() - inner);
        Strips {
            data: self
                .matrix
                .as_slice()
                .expect("standard layout by construction"),
            starts: places(outer),
            runs: Runs::new(&[rows, inner].concat()),
            width: size(inner),
        }
    }

    /// The same matrix, borrowed.
    pub(crate) fn reborrow(&self) -> Woven<'_, T> {
        Woven {
            matrix: CowArray::from(self.matrix.view()),
            axes: self.axes.clone(),
            order: self.order.clone(),
            ..*self
        }
    }

    /// The unfolding whose rows are the present ones and the next mode of the train, of this size.
    pub(crate) fn with_next(self, mode: usize) -> Self {
        let (mut row_axes, mut rows) = (self.row_axes, self.rows);
        while rows < self.rows * mode {
            rows *= self.axes[self.order[row_axes]];
            row_axes += 1;
        }
        Woven {
            row_axes,
            rows,
            ..self
        }
    }

    /// `scale` times the first unfolding as an array of its own.
    pub(crate) fn unfolded<S: Real>(&self, scale: f64) -> Array2<S> {
        let data = self
            .matrix
            .as_slice()
            .expect("standard layout by construction");
        let axes = self.strided();
        let mut inner = axes.len().min(1);
        while inner < axes.len() && size(&axes[axes.len() - inner - 1..]) <= CHUNK {
            inner += 1;
        }
        let (outer, inner) = axes.split_at(axes.len() - inner);
        let runs = Runs::new(inner);
        let starts = places(outer);
        let mut out = Array2::zeros(self.dim());
        if let Some(out) = out.as_slice_mut() {
            out.par_chunks_mut(size(inner))
                .zip(&starts)
                .for_each(|(to, &start)| runs.copy(&data[start..], scale, to));
        }
        out
    }

    /// Sizes and strides of the tensor's axes.
    fn strided(&self) -> Vec<(usize, usize)> {
        let stride = |axis: usize| self.axes[axis + 1..].iter().product::<usize>();
        let axes = self.order.iter();
        axes.map(|&axis| (self.axes[axis], stride(axis))).collect()
    }
}

/// Elements of a tensor with these sizes and strides.
fn size(axes: &[(usize, usize)]) -> usize {
    axes.iter().map(|&(n, _)| n).product()
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
        self.runs.copy(&self.data[self.starts[k]..], scale, to);
    }
}

/// Elements in one piece of memory, all of one of these lengths.
const PIECES: [usize; 5] = [16, 8, 4, 2, 1];

/// Where the elements of a tensor lie, in pieces, and where they go in row-major order; in the order of memory.
struct Runs {
    places: Vec<(usize, usize)>,
    piece: usize,
}

impl Runs {
    /// Of a tensor with these sizes and strides.
    fn new(axes: &[(usize, usize)]) -> Self {
        let (mut run, mut outer) = (1, axes);
        while let Some((&(n, stride), rest)) = outer.split_last()
            && stride == run
        {
            (run, outer) = (run * n, rest);
        }
        let piece = PIECES.into_iter().find(|p| run % p == 0).unwrap_or(1);
        let from = places(&[outer, &[(run / piece, piece)]].concat());
        let mut places: Vec<_> = from.into_iter().zip((0..).step_by(piece)).collect();
        places.sort_unstable();
        Self { places, piece }
    }

    /// `to = scale from`.
    fn copy<T: Real, S: Real>(&self, from: &[T], scale: f64, to: &mut [S]) {
        match self.piece {
            16 => self.copy_pieces::<T, S, 16>(from, scale, to),
            8 => self.copy_pieces::<T, S, 8>(from, scale, to),
            4 => self.copy_pieces::<T, S, 4>(from, scale, to),
            2 => self.copy_pieces::<T, S, 2>(from, scale, to),
            _ => self.copy_pieces::<T, S, 1>(from, scale, to),
        }
    }

    fn copy_pieces<T: Real, S: Real, const N: usize>(&self, from: &[T], scale: f64, to: &mut [S]) {
        for &(place, start) in &self.places {
            for (to, x) in to[start..start + N].iter_mut().zip(&from[place..place + N]) {
                *to = scaled(*x, scale);
            }
        }
    }
}

/// The first unfolding of an array to decompose, or of what is left of it in `A`.
pub(crate) enum Unfolding<'a, T, A = T> {
    /// As it lies in memory.
    Plain(CowArray<'a, A, Ix2>),
    /// With its elements still in the order of the matrix.
    Woven(Woven<'a, T>),
}

impl<T: Real> Unfolding<'_, T> {
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
}

impl<'a, T: Real> Unfolding<'a, T> {
    pub(crate) fn plain(self) -> CowArray<'a, T, Ix2> {
        match self {
            Self::Plain(a) => a,
            Self::Woven(w) => CowArray::from(w.unfolded(1.0)),
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
