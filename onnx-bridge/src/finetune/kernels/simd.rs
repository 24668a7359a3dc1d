//! Loops compiled for the widest vectors that the processor has, and functions that such loops can hold.

use pulp::{Arch, NullaryFnOnce};

/// Runs `f`, compiled for the instruction set found at run time.
///
/// # Numerics
/// Operations are the same on every set, none of them contracted: so are results.
pub(crate) fn vectorized<F: NullaryFnOnce>(f: F) -> F::Output {
    Arch::new().dispatch(f)
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
    let n = (kept * std::f32::consts::LOG2_E + ROUND) - ROUND;
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
    let scale = f32::from_bits((((n as i32) + 127) << 23) as u32);
    let y = (p * r * r + r + 1.0) * scale;
    if x < -87.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

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
