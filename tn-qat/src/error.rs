//! The one error type of the crate.

/// Everything that can go wrong in this crate; each variant carries what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QatError {
    /// An array has another shape than its place asks for.
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
    /// A backward pass without the forward pass it belongs to.
    #[error(
        "backward of a batch of {batch} needs the cache of its forward pass, found one of {found}"
    )]
    NoForward {
        /// Samples of the backward pass.
        batch: usize,
        /// Samples of the forward pass that filled the cache; 0 for none.
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
    /// A layer without fake quantization was asked for integers.
    #[error("{what} `{name}` has no quantization scheme, expected one")]
    NotQuantized {
        /// What was asked for.
        what: &'static str,
        /// The parameter.
        name: String,
    },
    /// A row number or a label outside the table.
    #[error("{what}: expected an index below {bound}, found {found} at position {position}")]
    Index {
        /// What was being looked up.
        what: &'static str,
        /// Where in the list of indices.
        position: usize,
        /// Number of rows or classes.
        bound: usize,
        /// The index.
        found: i64,
    },
    /// Training left the finite numbers.
    #[error("{what} is not finite at step {step}")]
    NotFinite {
        /// Which value.
        what: &'static str,
        /// At which optimizer step.
        step: u64,
    },
    /// A quantizer refused.
    #[error("quantization: {0}")]
    Quant(#[from] quant_core::QuantError),
    /// A tensor format refused.
    #[error("tensor network: {0}")]
    Format(#[from] tn_formats::Error),
    /// A plot could not be drawn.
    #[error("plot: {0}")]
    Plot(String),
}

/// Result with this crate's [`QatError`].
pub type Result<T, E = QatError> = std::result::Result<T, E>;

pub(crate) fn check_len(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(QatError::Length {
            what,
            expected,
            found,
        })
    }
}

pub(crate) fn check_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(QatError::Shape {
            what,
            expected: expected.to_vec(),
            found: found.to_vec(),
        })
    }
}
