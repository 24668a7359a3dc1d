//! One matrix product on the calling thread, of operands whose rows and columns lie any distance apart.
#![allow(
    unsafe_code,
    reason = "the product's kernels take pointers and distances"
)]

use std::mem::MaybeUninit;

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2};

/// `out = scale left right`.
///
/// # Panics
/// Where the shapes do not fit together.
pub(super) fn multiply(
    scale: f32,
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    assert_eq!(out.dim(), (left.nrows(), right.ncols()));
    let strides = [out.strides()[0], out.strides()[1]];
    // SAFETY: `out` is borrowed alone, and has as many rows and columns as the product.
    unsafe { raw(scale, left, right, out.as_mut_ptr(), strides, false) }
}

/// Writes `left right` into `out`, row-major, each row added to `bias` where that is not empty.
///
/// # Panics
/// Where the shapes do not fit together.
pub(super) fn multiply_into<'a>(
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    bias: &[f32],
    out: &'a mut [MaybeUninit<f32>],
) -> &'a mut [f32] {
    let columns = right.ncols();
    assert_eq!(out.len(), left.nrows() * columns);
    if !bias.is_empty() {
        assert_eq!(bias.len(), columns);
        for row in out.chunks_exact_mut(columns) {
            for (element, &b) in row.iter_mut().zip(bias) {
                element.write(b);
            }
        }
    }
    let start = out.as_mut_ptr().cast::<f32>();
    let strides = [columns.cast_signed(), 1];
    // SAFETY: the product has as many elements as `out`; they are read only where `bias` was written to all of them, and all of
    // them are written: `raw` leaves none out.
    unsafe {
        raw(1.0, left, right, start, strides, !bias.is_empty());
        &mut *(std::ptr::from_mut(out) as *mut [f32])
    }
}

/// Writes `scale left right` to `out`, or adds it to what stands there.
///
/// # Safety
/// `out` may be written at every place that rows of `left` and columns of `right` give with these strides, and nothing else refers to
/// those places; where the product is added they hold numbers.
unsafe fn raw(
    scale: f32,
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    out: *mut f32,
    [rows, columns]: [isize; 2],
    add: bool,
) {
    let ((m, k), (inner, n)) = (left.dim(), right.dim());
    assert_eq!(k, inner);
    let ([ls, lc], [rs, rc]) = (
        [left.strides()[0], left.strides()[1]],
        [right.strides()[0], right.strides()[1]],
    );
    // SAFETY: views may be read at every place that their shapes and strides give; `out` is the caller's promise. Without an inner
    // extent the function writes zeros, or leaves what it adds to.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            columns,
            rows,
            add,
            left.as_ptr(),
            lc,
            ls,
            right.as_ptr(),
            rc,
            rs,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sequence;
    use super::*;
    use ndarray::{Array2, s};

    fn slowly(left: ArrayView2<'_, f32>, right: ArrayView2<'_, f32>) -> Array2<f32> {
        Array2::from_shape_fn((left.nrows(), right.ncols()), |(i, j)| {
            let products = left.row(i).into_iter().zip(right.column(j));
            products.map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
        })
    }

    fn near(found: ArrayView2<'_, f32>, expected: &Array2<f32>) -> bool {
        found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn operands_and_result_may_lie_any_way() {
        for (m, k, n) in [(3, 4, 5), (40, 33, 70), (1, 9, 6), (6, 9, 1), (2, 0, 3)] {
            let wide = Array2::from_shape_vec((2 * m, 3 * k), sequence(6 * m * k, 1)).unwrap();
            let left = wide.slice(s![..;2, ..;3]);
            let right = Array2::from_shape_vec((n, k), sequence(n * k, 2)).unwrap();
            let mut out = Array2::from_elem((m, 2 * n), f32::NAN);
            multiply(0.5, left, right.t(), out.slice_mut(s![.., n..]));
            let expected = slowly(left, right.t());
            assert!(
                near(out.slice(s![.., n..]), &(&expected * 0.5)),
                "{m} {k} {n}"
            );
            assert!(out.slice(s![.., ..n]).iter().all(|v| v.is_nan()));
            let bias = sequence(n, 3);
            for bias in [&[][..], &bias] {
                let mut out = vec![MaybeUninit::new(f32::NAN); m * n];
                let found = multiply_into(left, right.t(), bias, &mut out).to_vec();
                let found = Array2::from_shape_vec((m, n), found).unwrap();
                let added = match bias {
                    [] => expected.clone(),
                    bias => &expected + &Array2::from_shape_vec((1, n), bias.to_vec()).unwrap(),
                };
                assert!(near(found.view(), &added), "{m} {k} {n}");
            }
        }
    }
}
