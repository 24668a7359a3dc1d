//! The squared distance of two tensors beside the squared size of one, with its gradient.

use candle_core::{Result, Tensor};
use pulp::NullaryFnOnce;
use rayon::prelude::*;

use super::fresh::rows;
use super::simd::vectorized;
use super::{GRAIN, plain, read};

/// `|s - t|^2 / |t|^2` over the rows that `keep` leaves; with a `weight`, its gradient by `s` times that too.
///
/// # Shapes
/// `s` and `t` are of one shape; `keep` holds 0 or 1 for each of its rows, whatever their length.
///
/// # Numerics
/// Sums in f64, in an order that does not depend on the number of threads; a `t` of zeros counts as of size 1e-12.
pub(crate) fn relative_gap(
    s: &Tensor,
    t: &Tensor,
    keep: Option<&Tensor>,
    weight: Option<f64>,
) -> Result<(f64, Option<Tensor>)> {
    let kept = keep.map(|k| read(k, <[f32]>::to_vec)).transpose()?;
    let count = kept.as_ref().map_or(1, Vec::len).max(1);
    if s.dims() != t.dims() || !s.elem_count().is_multiple_of(count) {
        candle_core::bail!(
            "expected equal shapes of {count} rows, found {:?} and {:?}",
            s.dims(),
            t.dims()
        );
    }
    let row = match kept {
        Some(_) => (s.elem_count() / count).max(1),
        None => GRAIN,
    };
    let counts = |r: usize| kept.as_ref().is_none_or(|k| k[r] != 0.0);
    let (value, gradient) = read(s, |s| {
        read(t, |t| {
            let parts: Vec<[f64; 2]> = s
                .par_chunks(row)
                .zip(t.par_chunks(row))
                .enumerate()
                .with_min_len((GRAIN / row).max(1))
                .map(|(r, (s, t))| match counts(r) {
                    true => vectorized(Sums { s, t }),
                    false => [0.0; 2],
                })
                .collect();
            let gap: f64 = parts.iter().map(|p| p[0]).sum();
            let size = parts.iter().map(|p| p[1]).sum::<f64>().max(1e-12);
            let gradient = weight.map(|weight| {
                let factor = (2.0 * weight / size) as f32;
                rows(row, [s, t], |r, [s, t], out| {
                    if counts(r) {
                        vectorized(|| {
                            for ((o, &s), &t) in out.iter_mut().zip(s).zip(t) {
                                *o = (s - t) * factor;
                            }
                        });
                    }
                })
            });
            (gap / size, gradient)
        })
    })??;
    let gradient = gradient.map(|data| plain(data, s.dims())).transpose()?;
    Ok((value, gradient))
}

/// `|s - t|^2` and `|t|^2`.
struct Sums<'a> {
    s: &'a [f32],
    t: &'a [f32],
}

impl NullaryFnOnce for Sums<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn call(self) -> [f64; 2] {
        let (mut gaps, mut sizes) = ([0.0f64; 8], [0.0f64; 8]);
        let (ss, s_rest) = self.s.as_chunks::<8>();
        let (ts, t_rest) = self.t.as_chunks::<8>();
        for (s, t) in ss.iter().zip(ts) {
            for ((sum, s), t) in gaps.iter_mut().zip(s).zip(t) {
                let gap = f64::from(s - t);
                *sum += gap * gap;
            }
            for (sum, &t) in sizes.iter_mut().zip(t) {
                *sum += f64::from(t) * f64::from(t);
            }
        }
        for (&s, &t) in s_rest.iter().zip(t_rest) {
            let (gap, t) = (f64::from(s - t), f64::from(t));
            gaps[0] += gap * gap;
            sizes[0] += t * t;
        }
        [gaps.iter().sum(), sizes.iter().sum()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sequence;
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradients_equal_central_differences_where_the_mask_keeps() {
        let tensor = |data: Vec<f32>, shape: &[usize]| plain(data, shape).unwrap();
        let shape = [2, 3, 5];
        let t = tensor(sequence(30, 1), &shape);
        let s = sequence(30, 2);
        let mask = Tensor::new(
            &[[[1.0f32], [1.0], [0.0]], [[1.0], [0.0], [0.0]]],
            &Device::Cpu,
        );
        let mask = mask.unwrap();
        for keep in [None, Some(&mask)] {
            let value = |s: Vec<f32>| relative_gap(&tensor(s, &shape), &t, keep, None).unwrap().0;
            let (_, gradient) =
                relative_gap(&tensor(s.clone(), &shape), &t, keep, Some(0.5)).unwrap();
            let gradient = read(&gradient.unwrap(), <[f32]>::to_vec).unwrap();
            for (i, &found) in gradient.iter().enumerate() {
                let moved = |by: f32| {
                    let mut s = s.clone();
                    s[i] += by;
                    value(s)
                };
                let numeric = 0.5 * (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!(
                    (f64::from(found) - numeric).abs() < 1e-4,
                    "{i}: {found} {numeric}"
                );
                let kept = keep.is_none() || [0, 1, 3].contains(&(i / 5));
                assert!(kept || found == 0.0);
            }
            assert_eq!(relative_gap(&t, &t, keep, None).unwrap().0, 0.0);
        }
    }
}
