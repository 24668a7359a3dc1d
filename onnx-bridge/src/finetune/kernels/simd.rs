//! Loops compiled for the widest vectors that the processor has, and functions that such loops can hold.
#![cfg_attr(
    target_arch = "x86_64",
    allow(
        unsafe_code,
        reason = "code for an instruction set that was found at run time"
    )
)]

use pulp::{Arch, NullaryFnOnce};

/// Runs `f`, compiled for the instruction set found at run time.
///
/// pulp's own code for vectors of 512 bits hangs on a feature that would reach the linear-algebra backend, which has the same crate.
///
/// # Numerics
/// Operations are the same on every set, none of them contracted: so are results.
pub(crate) fn vectorized<F: NullaryFnOnce>(f: F) -> F::Output {
    #[cfg(target_arch = "x86_64")]
    if wide::found() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { wide::run(f) };
    }
    Arch::new().dispatch(f)
}

/// Whether code that [`vectorized`] runs has an instruction for a multiply-add that is rounded once.
pub(crate) fn fuses() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has = cfg!(target_arch = "aarch64");
    has
}

/// Vectors of 512 bits.
#[cfg(target_arch = "x86_64")]
mod wide {
    use pulp::NullaryFnOnce;

    pub(super) fn found() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
    }

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
    pub(super) fn run<F: NullaryFnOnce>(f: F) -> F::Output {
        f.call()
    }
}

/// `e^x` within 2 units in the last place, without a branch; 0 below -87, and e^88 above 88.
///
/// # Source
/// Cody and Waite 1980, Software manual for the elementary functions: `x = n ln 2 + r`, and a polynomial in `r`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let kept = x.clamp(-87.0, 88.0);
    // Its last bits are those of the integer `n`.
    let rounded = kept * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (kept - n * HIGH) - n * LOW;
    let mut p = 1.987_569_2e-4;
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_6e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let y = (p * r * r + r + 1.0) * scale;
    if x < -87.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_give_what_single_numbers_give() {
        let x: Vec<f32> = (-9000..9000).map(|i| i as f32 / 100.0).collect();
        let mut found = vec![0.0; x.len()];
        vectorized(|| {
            for (y, &x) in found.iter_mut().zip(&x) {
                *y = exp(x) * 0.7 + x;
            }
        });
        for (x, y) in x.into_iter().zip(found) {
            assert_eq!(y.to_bits(), (exp(x) * 0.7 + x).to_bits(), "{x}");
        }
    }

    #[test]
    fn exp_is_within_two_units() {
        let mut worst = 0.0f64;
        for i in -8600..8700 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e4)), (0.0, 0.0));
    }
}
