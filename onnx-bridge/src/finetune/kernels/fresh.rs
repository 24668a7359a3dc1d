//! Arrays that are written once.
#![allow(
    unsafe_code,
    reason = "a vector's elements are made by several threads"
)]

use std::convert::Infallible;
use std::mem::MaybeUninit;

use ndarray::{ArrayView2, ArrayViewMut2};
use pulp::NullaryFnOnce;
use rayon::prelude::*;
use tn_formats::linalg::{Threads, gemm_with};

use super::GRAIN;
use super::simd::vectorized;

/// `n` elements, made by all threads in chunks of `chunk`; `f` is given a chunk's number and its elements, which are 0.
///
/// Zeroing a whole array before writing it costs one thread a pass through memory; a chunk of a fitting size is still in the cache when
/// `f` writes it.
pub(super) fn fresh(n: usize, chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    written_by(n, chunk, |index, blank| f(index, blank.zeros()))
}

/// As [`try_fresh`], of an `f` that gives no error.
pub(super) fn written_by(
    n: usize,
    chunk: usize,
    f: impl Fn(usize, &mut Blank<'_>) + Sync,
) -> Vec<f32> {
    let made = try_fresh(n, chunk, |index, blank| {
        f(index, blank);
        Ok::<(), Infallible>(())
    });
    match made {
        Ok(out) => out,
    }
}

/// As [`fresh`], of elements that `f` writes, with the first error that it gives.
///
/// # Panics
/// Where `f` leaves elements of a chunk blank and gives no error.
pub(super) fn try_fresh<E: Send>(
    n: usize,
    chunk: usize,
    f: impl Fn(usize, &mut Blank<'_>) -> Result<(), E> + Sync,
) -> Result<Vec<f32>, E> {
    let mut out: Vec<f32> = Vec::with_capacity(n);
    out.spare_capacity_mut()[..n]
        .par_chunks_mut(chunk.max(1))
        .enumerate()
        .try_for_each(|(index, raw)| {
            let mut blank = Blank { raw, written: 0 };
            f(index, &mut blank)?;
            assert_eq!(blank.written, blank.raw.len(), "elements left blank");
            Ok(())
        })?;
    // SAFETY: the capacity is at least `n`, and the chunks cover the first `n` elements, each of which was written.
    unsafe { out.set_len(n) };
    Ok(out)
}

/// As many elements as each of `inputs` has, each made by `f` of those at its place, in loops of vectors where `f` can be inlined.
pub(super) fn mapped<const K: usize>(
    inputs: [&[f32]; K],
    f: impl Fn([f32; K]) -> f32 + Copy + Sync,
) -> Vec<f32> {
    let n = inputs.first().map_or(0, |v| v.len());
    written_by(n, GRAIN, |chunk, blank| {
        blank.map(inputs.map(|v| &v[chunk * GRAIN..]), f);
    })
}

/// Elements that are written from first to last.
pub(super) struct Blank<'a> {
    raw: &'a mut [MaybeUninit<f32>],
    written: usize,
}

impl Blank<'_> {
    /// Writes zeros to all that is left.
    pub(super) fn zeros(&mut self) -> &mut [f32] {
        let rest = &mut self.raw[self.written..];
        self.written += rest.len();
        zeroed(rest)
    }

    /// Writes all that is left, each element made of those at its place in `inputs`.
    fn map<const K: usize>(&mut self, inputs: [&[f32]; K], f: impl Fn([f32; K]) -> f32) {
        let out = &mut self.raw[self.written..];
        self.written += out.len();
        vectorized(Map { inputs, out, f });
    }

    /// Writes `left right`, row-major, by the calling thread, each row added to `bias` where that is not empty.
    ///
    /// # Panics
    /// Where the shapes do not fit together, or fewer elements are left.
    pub(super) fn product(
        &mut self,
        left: ArrayView2<'_, f32>,
        right: ArrayView2<'_, f32>,
        bias: &[f32],
    ) {
        let shape = (left.nrows(), right.ncols());
        let next = &mut self.raw[self.written..][..shape.0 * shape.1];
        self.written += next.len();
        let (out, kept) = match bias {
            [] => (zeroed(next), 0.0),
            row => (repeated(next, row), 1.0),
        };
        let out = ArrayViewMut2::from_shape(shape, out).expect("as many elements as the product");
        gemm_with(Threads::One, 1.0, left, right, kept, out).expect("operands that fit together");
    }
}

struct Map<'a, F, const K: usize> {
    inputs: [&'a [f32]; K],
    out: &'a mut [MaybeUninit<f32>],
    f: F,
}

impl<F: Fn([f32; K]) -> f32, const K: usize> NullaryFnOnce for Map<'_, F, K> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let n = self.out.len();
        let inputs = self.inputs.map(|v| &v[..n]);
        for (k, o) in self.out.iter_mut().enumerate() {
            o.write((self.f)(std::array::from_fn(|i| inputs[i][k])));
        }
    }
}

fn zeroed(raw: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    raw.fill(MaybeUninit::new(0.0));
    // SAFETY: the line above writes every element.
    unsafe { written(raw) }
}

/// Writes a row again and again.
fn repeated<'a>(raw: &'a mut [MaybeUninit<f32>], row: &[f32]) -> &'a mut [f32] {
    for raw in raw.chunks_mut(row.len()) {
        for (element, &v) in raw.iter_mut().zip(row) {
            element.write(v);
        }
    }
    // SAFETY: a chunk has at most as many elements as the row, so that every one is written.
    unsafe { written(raw) }
}

/// The elements as numbers.
///
/// # Safety
/// Every one of them has been written.
unsafe fn written(raw: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: the caller's promise, and `MaybeUninit<f32>` is laid out as `f32`.
    unsafe { &mut *(std::ptr::from_mut(raw) as *mut [f32]) }
}

/// Several arrays of `count` chunks, of `sizes` elements each; `f` is given a chunk's number and its elements of every array, which are 0.
pub(super) fn fresh_together<const N: usize>(
    count: usize,
    sizes: [usize; N],
    f: impl Fn(usize, [&mut [f32]; N]) + Sync,
) -> [Vec<f32>; N] {
    let mut made = sizes.map(|size| Vec::<f32>::with_capacity(count * size));
    let mut rest = made.each_mut().map(|v| v.spare_capacity_mut());
    let mut tasks: Vec<[&mut [MaybeUninit<f32>]; N]> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut sizes = sizes.into_iter();
        tasks.push(rest.each_mut().map(|rest| {
            rest.split_off_mut(..sizes.next().unwrap_or(0))
                .unwrap_or_default()
        }));
    }
    tasks
        .into_par_iter()
        .enumerate()
        .for_each(|(index, task)| f(index, task.map(zeroed)));
    for (v, size) in made.iter_mut().zip(sizes) {
        // SAFETY: the capacity is at least `count * size`, and the chunks cover as many elements, each of which was written.
        unsafe { v.set_len(count * size) };
    }
    made
}

/// As many elements as each of `inputs` has, made row by row of `n`; `f` is given a row's number, the rows of the inputs, and zeros.
pub(super) fn rows<const K: usize>(
    n: usize,
    inputs: [&[f32]; K],
    f: impl Fn(usize, [&[f32]; K], &mut [f32]) + Sync,
) -> Vec<f32> {
    let n = n.max(1);
    let some = (GRAIN / n).max(1);
    fresh(inputs.first().map_or(0, |v| v.len()), some * n, |c, out| {
        for (r, out) in out.chunks_mut(n).enumerate() {
            let row = c * some + r;
            f(row, inputs.map(|v| &v[row * n..][..out.len()]), out);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_made_once() {
        for (n, chunk) in [(0, 4), (1, 4), (9, 4), (8, 4), (5, 0), (5, 100)] {
            let out = fresh(n, chunk, |c, out| {
                for (k, o) in out.iter_mut().enumerate() {
                    *o += (c * chunk.max(1) + k) as f32;
                }
            });
            let expected: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(out, expected, "{n} {chunk}");
        }
        let failing = |c: usize, blank: &mut Blank<'_>| match c {
            1 => Err(c),
            _ => {
                blank.zeros();
                Ok(())
            }
        };
        assert_eq!(try_fresh(5, 2, failing), Err(1));
        assert!(fresh(7, 3, |_, _| {}).iter().all(|&v| v == 0.0));
    }

    #[test]
    #[should_panic(expected = "left blank")]
    fn what_is_left_blank_is_noticed() {
        let _ = try_fresh(5, 5, |_, _| Ok::<(), ()>(()));
    }

    #[test]
    fn several_arrays_are_made_chunk_by_chunk() {
        let [a, b, c] = fresh_together(3, [2, 0, 1], |i, [a, b, c]| {
            assert!(b.is_empty());
            a.copy_from_slice(&[i as f32, 1.0]);
            c[0] -= i as f32;
        });
        assert_eq!((a, b), (vec![0.0, 1.0, 1.0, 1.0, 2.0, 1.0], Vec::new()));
        assert_eq!(c, [0.0, -1.0, -2.0]);
    }
}
