//! What follows a product.

use crate::arch::{Isa, epilogue::Epilogue, simd};
use crate::error::{Result, check_len};

/// A function of each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `max(x, 0)`; 0 for NaN.
    Relu,
    /// `x / 2 (1 + erf(x / sqrt 2))`.
    Gelu,
}

/// Adds a bias to every row and applies an activation, in place.
///
/// # Shapes
/// `rows` is `[m, width]`, `bias` has `width` elements or none.
///
/// # Numerics
/// The error function is a polynomial, off by at most 4e-7. The same bits on every instruction set.
///
/// # Errors
/// [`crate::QuantError::Length`] unless `rows` are whole rows and `bias` fits them.
///
/// ```
/// use quant_core::{Activation, bias_activate};
/// let mut y = [1.0, -2.0, 3.0, 0.5];
/// bias_activate(&mut y, 2, &[0.5, 1.0], Activation::Relu)?;
/// assert_eq!(y, [1.5, 0.0, 3.5, 1.5]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn bias_activate(
    rows: &mut [f32],
    width: usize,
    bias: &[f32],
    activation: Activation,
) -> Result<()> {
    bias_activate_on(Isa::best(), rows, width, bias, activation)
}

pub(crate) fn bias_activate_on(
    isa: Isa,
    rows: &mut [f32],
    width: usize,
    bias: &[f32],
    activation: Activation,
) -> Result<()> {
    let whole = rows.len().checked_div(width).unwrap_or(0) * width;
    check_len("rows", whole, rows.len())?;
    if !bias.is_empty() {
        check_len("the bias", width, bias.len())?;
    }
    simd::run(
        isa,
        Epilogue {
            out: rows,
            width,
            bias,
            activation,
        },
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series of positive terms of the error function (DLMF 7.6.2), in `f64`.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..400 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn gelu_is_that_of_the_series_on_every_instruction_set() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 / 500.0).collect();
        let mut bits: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            let mut y = x.clone();
            bias_activate_on(isa, &mut y, 100, &[], Activation::Gelu).unwrap();
            for (x, y) in x.iter().zip(&y) {
                let x = f64::from(*x);
                let expected = x / 2.0 * (1.0 + erf(x / 2f64.sqrt()));
                let error = (f64::from(*y) - expected).abs();
                assert!(error < 4e-7 * x.abs().max(1.0), "{x}: {y}, {expected}");
            }
            assert_eq!(*bits.get_or_insert(y.clone()), y, "{}", isa.name());
        }
    }

    #[test]
    fn rows_that_are_not_whole_are_refused() {
        assert!(bias_activate(&mut [0.0; 5], 2, &[], Activation::None).is_err());
        assert!(bias_activate(&mut [0.0; 4], 2, &[0.0], Activation::None).is_err());
        assert!(bias_activate(&mut [], 0, &[], Activation::Relu).is_ok());
    }
}
