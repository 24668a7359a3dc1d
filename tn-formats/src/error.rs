//! The one error type of the crate.

use std::io;

/// Everything that can go wrong in this crate; each variant carries what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array or matrix has another shape than its place asks for.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// What was being looked at.
        what: &'static str,
        /// The shape its place asks for.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A list has another length than its place asks for.
    #[error("{what}: expected {expected} entries, found {found}")]
    Length {
        /// What was being looked at.
        what: &'static str,
        /// The number asked for.
        expected: usize,
        /// The number found.
        found: usize,
    },
    /// A train, a network or an array without anything in it.
    #[error("{what} is empty")]
    Empty {
        /// What was being looked at.
        what: &'static str,
    },
    /// Two neighbouring cores disagree about the rank between them.
    #[error("core {core} ends in rank {left}, but core {next} starts with rank {right}", next = core + 1)]
    RankMismatch {
        /// Index of the left core.
        core: usize,
        /// Its last axis.
        left: usize,
        /// First axis of the next core.
        right: usize,
    },
    /// The outermost ranks of a train are not 1.
    #[error("the outer ranks of a train are 1, found {first} and {last}")]
    OuterRank {
        /// First axis of the first core.
        first: usize,
        /// Last axis of the last core.
        last: usize,
    },
    /// The modes do not multiply to the size they are to factorize.
    #[error("{what} {modes:?} multiply to {found}, expected {expected}")]
    ModeProduct {
        /// Which modes.
        what: &'static str,
        /// The modes.
        modes: Vec<usize>,
        /// The size to factorize.
        expected: usize,
        /// Their product.
        found: usize,
    },
    /// A parameter outside its range.
    #[error("{what} is {found}, expected {expected}")]
    Parameter {
        /// Name of the parameter.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// A size whose product does not fit in memory's address range.
    #[error("the product of {shape:?} overflows")]
    TooLarge {
        /// The sizes.
        shape: Vec<usize>,
    },
    /// An array holds a NaN or an infinity where finite numbers are needed.
    #[error("{what} holds a value that is not finite")]
    NotFinite {
        /// Which array.
        what: &'static str,
    },
    /// A factorization of the linear-algebra backend did not converge or met a singular matrix.
    #[error("{what} failed on a {rows} x {cols} matrix")]
    LinAlg {
        /// Which factorization.
        what: &'static str,
        /// Rows of its argument.
        rows: usize,
        /// Columns of its argument.
        cols: usize,
    },
    /// A `.npy` or `.npz` file breaks its format.
    #[error("npy: {place}: expected {expected}, found {found}")]
    Npy {
        /// Where in the file.
        place: String,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An array of the name asked for is not in the file.
    #[error("no array `{name}`, the file holds {found:?}")]
    MissingArray {
        /// The name asked for.
        name: String,
        /// The names the file holds.
        found: Vec<String>,
    },
    /// The container breaks a rule of FORMAT.md.
    #[error("container: {place}: expected {expected}, found {found}")]
    Container {
        /// Which metadata key or tensor.
        place: String,
        /// What FORMAT.md asks for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Reading or writing failed.
    #[error("input or output failed: {0}")]
    Io(#[from] io::Error),
    /// The quantization of a core or factor failed.
    #[error("quantization: {0}")]
    Quant(#[from] quant_core::QuantError),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Product of sizes, or [`Error::TooLarge`].
pub(crate) fn checked_product(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |acc, &n| acc.checked_mul(n))
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::TooLarge {
            shape: shape.to_vec(),
        })
}
