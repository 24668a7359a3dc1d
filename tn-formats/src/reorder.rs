//! The reordering between a matrix and the tensor its train stands for.

use ndarray::{Array2, ArrayView2, ArrayViewD, ArrayViewMutD, Axis, CowArray, Ix2, IxDyn};
use rayon::prelude::*;

use crate::modes::{Layout, MatrixModes};
use crate::scalar::Real;

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

/// First unfolding of the tensor a matrix train stands for; a view of `w` where that is one.
pub(crate) fn unfold<'a, T: Real>(
    w: ArrayView2<'a, T>,
    modes: &MatrixModes,
) -> CowArray<'a, T, Ix2> {
    let (m, n) = modes.core_modes()[0];
    let first = m * n;
    let rest = w.len() / first;
    if modes.layout() == Layout::Split && modes.cores() == 2 {
        return CowArray::from(w.reversed_axes());
    }
    let order = tensor_order(modes);
    let axes = split_axes(modes);
    let shape: Vec<usize> = order.iter().map(|&k| axes[k]).collect();
    let standard = w.as_standard_layout();
    let tensor = standard
        .view()
        .into_shape_with_order(IxDyn(&axes))
        .expect("modes fit the matrix");
    let mut out = Array2::zeros((first, rest));
    let target = out
        .view_mut()
        .into_shape_with_order(IxDyn(&shape))
        .expect("modes fit the matrix");
    copy_parallel(tensor.permuted_axes(IxDyn(&order)), target);
    CowArray::from(out)
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
