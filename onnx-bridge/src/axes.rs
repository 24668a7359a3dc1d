//! Row-major arrays: how far neighbours are apart, walks, axes in another order, indices from either end.

use std::ops::Range;

use rayon::prelude::*;

/// Rows and columns of a tile: both sides of it stay in the first cache.
const TILE: usize = 16;
/// Elements that a thread is woken for.
const GRAIN: usize = 1 << 15;

/// The elements of `data`, of `shape`, with axis `k` of the result being axis `order[k]` of `data`; `order` names every axis once.
///
/// Tiles of the axis that lies closest in `data` and the one that lies closest in the result, on all threads.
pub(crate) fn permuted<T: Copy + Send + Sync>(
    data: &[T],
    shape: &[usize],
    order: &[usize],
) -> Vec<T> {
    let Some((&first, &last)) = data.first().zip(order.last()) else {
        return data.to_vec();
    };
    let own = strides(shape);
    let target: Vec<usize> = order.iter().map(|&k| shape[k]).collect();
    let steps: Vec<usize> = order.iter().map(|&k| own[k]).collect();
    let to = strides(&target);
    let offsets = |axes: Range<usize>, steps: &[usize]| -> Vec<usize> {
        strided(target[axes.clone()].to_vec(), steps[axes].to_vec(), 0).collect()
    };
    let mut out = vec![first; data.len()];
    let columns = shape[last];
    let end = order.len() - 1;
    // The axis of the result along which `data` is read on end.
    let near = order.iter().position(|&k| k + 1 == order.len());
    let Some(near) = near.filter(|&near| near != end) else {
        let starts = offsets(0..end, &steps);
        out.par_chunks_mut(columns)
            .zip(&starts)
            .with_min_len((GRAIN / columns).max(1))
            .for_each(|(row, &start)| row.copy_from_slice(&data[start..start + columns]));
        return out;
    };
    let step = own[last];
    let outer = offsets(0..near, &steps);
    let from = offsets(near + 1..end, &steps);
    let into = offsets(near + 1..end, &to);
    let (row, block) = (to[near], TILE * to[near]);
    out.par_chunks_mut(target[near] * row)
        .zip(&outer)
        .with_min_len((GRAIN / (target[near] * row)).max(1))
        .for_each(|(part, &outer)| {
            part.par_chunks_mut(block)
                .enumerate()
                .with_min_len((GRAIN / block).max(1))
                .for_each(|(tile, rows)| {
                    let (count, start) = (rows.len() / row, outer + tile * TILE);
                    for (&from, &into) in from.iter().zip(&into) {
                        for column in (0..columns).step_by(TILE) {
                            let end = (column + TILE).min(columns);
                            for i in 0..count {
                                let source = &data[start + from + i + column * step..];
                                rows[i * row + into..][column..end]
                                    .iter_mut()
                                    .zip(source.iter().step_by(step))
                                    .for_each(|(o, &v)| *o = v);
                            }
                        }
                    }
                });
        });
    out
}

/// `[rows, cols]` with rows and columns exchanged.
pub(crate) fn turned<T: Copy + Send + Sync>(data: &[T], cols: usize) -> Vec<T> {
    let rows = data.len().checked_div(cols).unwrap_or(0);
    permuted(data, &[rows, cols], &[1, 0])
}

/// What an index below `length` names, one below zero from the end; `None` where there is no such place.
#[cfg(any(feature = "tract", feature = "finetune"))]
pub(crate) fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let from_start = if index < 0 { index + length } else { index };
    (0..length)
        .contains(&from_start)
        .then_some(from_start as usize)
}

/// Elements between neighbours along each axis.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for k in (1..shape.len()).rev() {
        out[k - 1] = out[k] * shape[k];
    }
    out
}

/// Flat positions `start + sum(index[k] * steps[k])` over all indices below `shape`, in row-major order.
pub(crate) fn strided(
    shape: Vec<usize>,
    steps: Vec<usize>,
    start: usize,
) -> impl Iterator<Item = usize> {
    let total = shape.iter().product();
    let mut index = vec![0usize; shape.len()];
    let mut at = start;
    (0..total).map(move |_| {
        let here = at;
        for k in (0..shape.len()).rev() {
            index[k] += 1;
            at += steps[k];
            if index[k] < shape[k] {
                break;
            }
            at -= steps[k] * shape[k];
            index[k] = 0;
        }
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[cfg(any(feature = "tract", feature = "finetune"))]
    #[test]
    fn an_index_below_zero_counts_from_the_end() {
        let found = [0, 3, -1, -4, 4, -5, i64::MIN, i64::MAX].map(|i| place(i, 4));
        let none = None;
        assert_eq!(
            found,
            [Some(0), Some(3), Some(3), Some(0), none, none, none, none]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn as_ndarray_does(
            axes in prop::collection::vec((0usize..40, 0u32..1000), 0..5),
        ) {
            let shape: Vec<usize> = axes.iter().map(|a| a.0 % if axes.len() > 3 { 7 } else { 40 }).collect();
            let mut order: Vec<usize> = (0..shape.len()).collect();
            order.sort_by_key(|&k| axes[k].1);
            let data: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
            let view = ndarray::ArrayViewD::from_shape(shape.as_slice(), &data).unwrap();
            let expected: Vec<u32> = view.permuted_axes(order.clone()).iter().copied().collect();
            prop_assert_eq!(permuted(&data, &shape, &order), expected);
        }
    }
}
