use thiserror::Error;

use crate::scheme::Granularity;

/// Everything that can be wrong with a scheme, with parameters or with the data given to them.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A code width outside 2 to 8 bits.
    #[error("code width must be 2 to 8 bits, found {actual}")]
    Bits {
        /// The width asked for.
        actual: u32,
    },
    /// A block of no elements.
    #[error("block size must be at least 1, found 0")]
    BlockSize,
    /// An axis the shape does not have.
    #[error("axis {axis} does not exist in a shape of rank {rank}")]
    Axis {
        /// The axis asked for.
        axis: usize,
        /// The number of axes there are.
        rank: usize,
    },
    /// A shape whose number of elements does not fit the address space.
    #[error("shape {shape:?} has more elements than can be addressed")]
    ShapeOverflow {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Data or an output of the wrong length.
    #[error("{what} must hold {expected} elements, found {actual}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// The length that fits the other arguments.
        expected: usize,
        /// The length found.
        actual: usize,
    },
    /// A scale that is not a positive finite number.
    #[error("scale {index} must be positive and finite, found {actual}")]
    Scale {
        /// Which scale.
        index: usize,
        /// Its value.
        actual: f32,
    },
    /// A zero point the scheme does not allow.
    #[error("zero point {index} must lie in {min}..={max}, found {actual}")]
    ZeroPoint {
        /// Which zero point.
        index: usize,
        /// Its value.
        actual: i32,
        /// Smallest value the scheme allows.
        min: i32,
        /// Largest value the scheme allows.
        max: i32,
    },
    /// A code the scheme does not allow.
    #[error("code {index} must lie in {min}..={max}, found {actual}")]
    Code {
        /// Which code.
        index: usize,
        /// Its value.
        actual: i32,
        /// Smallest code of the scheme.
        min: i32,
        /// Largest code of the scheme.
        max: i32,
    },
    /// Bits after the last code that are not zero.
    #[error(
        "the {bits} padding bits of the last packed byte must be zero, found byte {actual:#04x}"
    )]
    Padding {
        /// How many bits pad the last byte.
        bits: usize,
        /// The last byte.
        actual: u8,
    },
    /// A tensor of the wrong number of axes.
    #[error("expected a tensor of rank {expected}, found shape {shape:?}")]
    Rank {
        /// The number of axes needed.
        expected: usize,
        /// The shape found.
        shape: Vec<usize>,
    },
    /// A matrix whose scales vary along what a product sums over.
    #[error("a product needs one scale per tensor or per row of the matrix, found {actual:?}")]
    MatrixGranularity {
        /// The granularity found.
        actual: Granularity,
    },
    /// A number of histogram bins that cannot be used.
    #[error(
        "{bins} bins of at most {max_bins}: both must be even, at least 2, and the first not above the second"
    )]
    Bins {
        /// Bins asked for.
        bins: usize,
        /// The most there may be.
        max_bins: usize,
    },
    /// A percentile outside 0 to 100.
    #[error("a percentile must lie in 0..=100, found {actual}")]
    Percentile {
        /// The percentile.
        actual: f64,
    },
    /// An averaging rate outside 0 to 1.
    #[error("an averaging rate must lie above 0 and at most at 1, found {actual}")]
    Rate {
        /// The rate.
        actual: f32,
    },
    /// An entropy asked of magnitudes.
    #[error("the entropy search needs a symmetric histogram, found one of magnitudes")]
    Span,
    /// A Hessian that is not positive definite.
    #[error(
        "the hessian must be positive definite after damping, found pivot {actual} at step {index}"
    )]
    Hessian {
        /// The step of the factorization, counted from the last element visited.
        index: usize,
        /// What should have been positive.
        actual: f64,
    },
    /// A range asked for before any value was seen.
    #[error("expected at least one observed value, found none")]
    NoData,
    /// A NaN or an infinity where a range is to be estimated.
    #[error("element {index} must be finite, found {actual}")]
    NonFinite {
        /// Which element.
        index: usize,
        /// Its value.
        actual: f32,
    },
    /// A range that is empty, or not finite.
    #[error("a range needs finite ends with min <= max, found [{min}, {max}]")]
    Range {
        /// Lower end.
        min: f32,
        /// Upper end.
        max: f32,
    },
}

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, QuantError>;

/// Checks that `actual` elements of `what` were given where `expected` are needed.
pub(crate) fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual {
        Ok(())
    } else {
        Err(QuantError::Length {
            what,
            expected,
            actual,
        })
    }
}
