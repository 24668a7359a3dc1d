//! Arrays that are written once.
#![allow(
    unsafe_code,
    reason = "a vector's elements are made by several threads"
)]

use std::convert::Infallible;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::GRAIN;

/// `n` elements, made by all threads in chunks of `chunk`; `f` is given a chunk's number and its elements, which are 0.
///
/// Zeroing a whole array before writing it costs one thread a pass through memory; a chunk of a fitting size is still in the cache when
/// `f` writes it.
pub(super) fn fresh(n: usize, chunk: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let made = try_fresh(n, chunk, &[0.0], |index, out| {
        f(index, out);
        Ok::<(), Infallible>(())
    });
    match made {
        Ok(out) => out,
    }
}

/// As [`fresh`], with the first error that `f` gives; the elements of a chunk are those of `row`, again and again.
pub(super) fn try_fresh<E: Send>(
    n: usize,
    chunk: usize,
    row: &[f32],
    f: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Vec<f32>, E> {
    let mut out: Vec<f32> = Vec::with_capacity(n);
    out.spare_capacity_mut()[..n]
        .par_chunks_mut(chunk.max(1))
        .enumerate()
        .try_for_each(|(index, raw)| {
            match row {
                [] => raw.fill(MaybeUninit::new(0.0)),
                [value] => raw.fill(MaybeUninit::new(*value)),
                row => raw.chunks_mut(row.len()).for_each(|raw| {
                    for (raw, &v) in raw.iter_mut().zip(row) {
                        raw.write(v);
                    }
                }),
            }
            // SAFETY: every element was written by the lines above, and `MaybeUninit<f32>` is laid out as `f32`.
            let elements = unsafe { &mut *(std::ptr::from_mut(raw) as *mut [f32]) };
            f(index, elements)
        })?;
    // SAFETY: the capacity is at least `n`, and the chunks cover the first `n` elements, each of which was written.
    unsafe { out.set_len(n) };
    Ok(out)
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
        assert_eq!(
            try_fresh(5, 2, &[0.0], |c, _| if c == 1 { Err(c) } else { Ok(()) }),
            Err(1)
        );
        assert!(fresh(7, 3, |_, _| {}).iter().all(|&v| v == 0.0));
    }
}
