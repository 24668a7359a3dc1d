//! Products of matrices that the first cache holds, for which packing takes a backend longer than the product.

use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use pulp::NullaryFnOnce;
use tn_formats::linalg::{Threads, gemm_with};

use super::simd::{fuses, vectorized};

/// Elements of a right factor that stays in the first cache.
const MOST: usize = 1 << 13;
/// Rows and columns of the result that are summed in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 32;
/// Columns where fewer than [`COLUMNS`] are left.
const FEWER: usize = 8;

/// Rows and columns in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) shape: [usize; 2],
    /// Elements from one row to the next, and from one column to the next.
    pub(super) strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows that follow each other.
    pub(super) fn dense(data: &'a [f32], shape: [usize; 2]) -> Self {
        Self {
            data,
            shape,
            strides: [shape[1], 1],
        }
    }

    /// Rows and columns exchanged.
    pub(super) fn t(self) -> Self {
        let ([rows, columns], [r, c]) = (self.shape, self.strides);
        Self {
            data: self.data,
            shape: [columns, rows],
            strides: [c, r],
        }
    }

    fn view(self) -> ArrayView2<'a, f32> {
        let shape = (self.shape[0], self.shape[1]).strides((self.strides[0], self.strides[1]));
        ArrayView2::from_shape(shape, self.data).expect("a matrix lies in its elements")
    }
}

/// Writes `scale left right` to rows that are `stride` elements apart in `out`; `room` is overwritten.
///
/// # Numerics
/// Sums in f32 in the order of the inner extent, of multiply-adds that are rounded once where the processor has them; by the
/// linear-algebra backend where `right` is large.
///
/// # Panics
/// Where the shapes do not fit together.
pub(super) fn multiply(
    scale: f32,
    left: Matrix<'_>,
    right: Matrix<'_>,
    (out, stride): (&mut [f32], usize),
    room: &mut Vec<f32>,
) {
    let ([rows, depth], [inner, columns]) = (left.shape, right.shape);
    assert_eq!(depth, inner);
    if depth * columns > MOST {
        let shape = (rows, columns).strides((stride, 1));
        let out = ArrayViewMut2::from_shape(shape, out).expect("a result lies in its elements");
        gemm_with(Threads::One, scale, left.view(), right.view(), 0.0, out)
            .expect("operands that fit together");
        return;
    }
    let right = if right.strides[1] == 1 {
        right
    } else {
        turned(right, room)
    };
    let product = Product {
        scale,
        left,
        right,
        out,
        stride,
    };
    if fuses() {
        vectorized(Fused(product));
    } else {
        vectorized(product);
    }
}

/// The same matrix with rows that follow each other, in `room`.
fn turned<'a>(of: Matrix<'_>, room: &'a mut Vec<f32>) -> Matrix<'a> {
    let ([rows, columns], [down, across]) = (of.shape, of.strides);
    room.resize(rows * columns, 0.0);
    for column in 0..columns {
        let line = of.data[column * across..].iter().step_by(down.max(1));
        let out = room.iter_mut().skip(column).step_by(columns);
        out.zip(line).for_each(|(out, &v)| *out = v);
    }
    Matrix::dense(room, of.shape)
}

struct Product<'a> {
    scale: f32,
    left: Matrix<'a>,
    right: Matrix<'a>,
    out: &'a mut [f32],
    stride: usize,
}

impl NullaryFnOnce for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        self.run(|sum, a, b| sum + a * b);
    }
}

/// A product whose multiply-adds are rounded once.
struct Fused<'a>(Product<'a>);

impl NullaryFnOnce for Fused<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        self.0.run(|sum, a, b| a.mul_add(b, sum));
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run(&mut self, add: impl Fn(f32, f32, f32) -> f32 + Copy) {
        let rows = self.left.shape[0];
        let whole = rows - rows % ROWS;
        for row in (0..whole).step_by(ROWS) {
            self.rows::<ROWS>(row, add);
        }
        for row in whole..rows {
            self.rows::<1>(row, add);
        }
    }

    #[inline(always)]
    fn rows<const R: usize>(&mut self, row: usize, add: impl Fn(f32, f32, f32) -> f32 + Copy) {
        let columns = self.right.shape[1];
        let mut at = 0;
        while at + COLUMNS <= columns {
            self.tile::<R, COLUMNS>(row, at, add);
            at += COLUMNS;
        }
        while at + FEWER <= columns {
            self.tile::<R, FEWER>(row, at, add);
            at += FEWER;
        }
        for at in at..columns {
            self.tile::<R, 1>(row, at, add);
        }
    }

    #[inline(always)]
    fn tile<const R: usize, const C: usize>(
        &mut self,
        row: usize,
        column: usize,
        add: impl Fn(f32, f32, f32) -> f32 + Copy,
    ) {
        let [down, across] = self.left.strides;
        let mut sums = [[0.0f32; C]; R];
        for k in 0..self.left.shape[1] {
            let right = &self.right.data[k * self.right.strides[0] + column..][..C];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = self.left.data[(row + r) * down + k * across];
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = add(*sum, left, *right);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut self.out[(row + r) * self.stride + column..][..C];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = self.scale * sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sequence;
    use super::*;

    #[test]
    fn equals_the_sum_of_products_however_its_operands_lie() {
        for (m, k, n) in [(1, 1, 1), (4, 3, 32), (7, 33, 45), (5, 0, 3), (9, 120, 90)] {
            for turn in [[false, false], [true, false], [false, true], [true, true]] {
                let (a, b) = (sequence(m * k, 1), sequence(k * n, 2));
                let matrix = |data, shape: [usize; 2], turn: bool| match turn {
                    false => Matrix::dense(data, shape),
                    true => Matrix::dense(data, [shape[1], shape[0]]).t(),
                };
                let (left, right) = (matrix(&a, [m, k], turn[0]), matrix(&b, [k, n], turn[1]));
                let stride = n + 2;
                let mut out = vec![f32::NAN; m * stride];
                multiply(0.5, left, right, (&mut out, stride), &mut Vec::new());
                let at = |of: Matrix<'_>, i, j| of.data[i * of.strides[0] + j * of.strides[1]];
                for (place, found) in out.iter().enumerate() {
                    let (i, j) = (place / stride, place % stride);
                    if j >= n {
                        assert!(found.is_nan());
                        continue;
                    }
                    let products = (0..k).map(|k| f64::from(at(left, i, k) * at(right, k, j)));
                    let expected = 0.5 * products.sum::<f64>() as f32;
                    assert!((found - expected).abs() < 1e-4, "{m} {k} {n} {turn:?}");
                }
            }
        }
    }
}
