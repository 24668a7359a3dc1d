//! What a quantized tensor's codes mean: width, mapping, signedness, granularity.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{QuantError, Result};

/// The width of a code: 2 to 8 bits.
///
/// ```
/// use quant_core::Bits;
/// assert_eq!(Bits::new(4)?, Bits::B4);
/// assert!(Bits::new(9).is_err());
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Bits(u8);

impl Bits {
    /// 2 bits.
    pub const B2: Bits = Bits(2);
    /// 3 bits.
    pub const B3: Bits = Bits(3);
    /// 4 bits.
    pub const B4: Bits = Bits(4);
    /// 5 bits.
    pub const B5: Bits = Bits(5);
    /// 6 bits.
    pub const B6: Bits = Bits(6);
    /// 7 bits.
    pub const B7: Bits = Bits(7);
    /// 8 bits.
    pub const B8: Bits = Bits(8);
    /// All widths, narrowest first.
    pub const ALL: [Bits; 7] = [
        Self::B2,
        Self::B3,
        Self::B4,
        Self::B5,
        Self::B6,
        Self::B7,
        Self::B8,
    ];

    /// A width of `bits` bits.
    ///
    /// # Errors
    /// [`QuantError::Bits`] outside 2 to 8.
    pub fn new(bits: u8) -> Result<Self> {
        if (2..=8).contains(&bits) {
            Ok(Bits(bits))
        } else {
            Err(QuantError::Bits {
                actual: u32::from(bits),
            })
        }
    }

    /// The width as a number, 2 to 8.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number of different codes, `2^bits`.
    pub const fn levels(self) -> i32 {
        1 << self.0
    }

    /// The narrowest width that ONNX has a type for (2, 4 or 8) and that holds these codes.
    pub const fn onnx_container(self) -> Bits {
        match self.0 {
            2 => Self::B2,
            3 | 4 => Self::B4,
            _ => Self::B8,
        }
    }
}

impl TryFrom<u8> for Bits {
    type Error = QuantError;
    fn try_from(bits: u8) -> Result<Self> {
        Self::new(bits)
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> u8 {
        bits.0
    }
}

impl FromStr for Bits {
    type Err = QuantError;
    fn from_str(text: &str) -> Result<Self> {
        let actual: u32 = text
            .trim()
            .parse()
            .map_err(|_| QuantError::Bits { actual: 0 })?;
        u8::try_from(actual)
            .map_err(|_| QuantError::Bits { actual })
            .and_then(Self::new)
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which codes a symmetric mapping uses, and so the step that the largest magnitude gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymmetricRange {
    /// Codes in ±(2^(b-1) - 1), step = max / (2^(b-1) - 1): every value is represented within half a step.
    #[default]
    Restricted,
    /// Codes down to -2^(b-1), step = max / 2^(b-1): a finer step, but a positive value near the largest
    /// magnitude is cut to 2^(b-1) - 1 steps.
    Full,
}

/// How real numbers map to codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// Zero is the middle code; only scales are stored.
    Symmetric(SymmetricRange),
    /// An integer zero point per group, stored beside its scale; zero is represented exactly.
    Affine,
}

/// Whether codes are two's complement or unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signedness {
    /// Two's complement, `-2^(b-1) ..= 2^(b-1) - 1`.
    Signed,
    /// `0 ..= 2^b - 1`; a symmetric mapping then has the zero point `2^(b-1)`.
    Unsigned,
}

/// Which elements share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// One scale for all.
    PerTensor,
    /// One scale for each index of an axis.
    PerAxis {
        /// The axis, from 0.
        axis: usize,
    },
    /// One scale for each run of `block_size` indices of an axis, at each index of the other axes. The last block
    /// of the axis may be shorter. Scales are laid out as ONNX has them: the data's shape with the axis divided.
    PerBlock {
        /// The axis, from 0.
        axis: usize,
        /// Elements per block.
        block_size: NonZeroUsize,
    },
}

impl Granularity {
    /// Blocks of `block_size` elements along `axis`.
    ///
    /// # Errors
    /// [`QuantError::BlockSize`] for a block of 0 elements.
    pub fn per_block(axis: usize, block_size: usize) -> Result<Self> {
        let block_size = NonZeroUsize::new(block_size).ok_or(QuantError::BlockSize)?;
        Ok(Granularity::PerBlock { axis, block_size })
    }

    /// One scale for each index of `axis`.
    pub const fn per_axis(axis: usize) -> Self {
        Granularity::PerAxis { axis }
    }
}

/// Width, mapping, signedness and granularity of a quantized tensor. Every combination is valid; whether its axis
/// exists is checked against a shape when one is given.
///
/// ```
/// use quant_core::{Bits, Granularity, QuantScheme, SymmetricRange};
/// let scheme = QuantScheme::symmetric(Bits::B4);
/// assert_eq!((scheme.min_code(), scheme.max_code()), (-7, 7));
/// let full = scheme.with_range(SymmetricRange::Full).with_granularity(Granularity::per_block(1, 32)?);
/// assert_eq!((full.min_code(), full.max_code()), (-8, 7));
/// assert_eq!(QuantScheme::affine(Bits::B8).max_code(), 255);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantScheme {
    bits: Bits,
    mapping: Mapping,
    signedness: Signedness,
    granularity: Granularity,
}

impl QuantScheme {
    /// A scheme of these four parts.
    pub const fn new(
        bits: Bits,
        mapping: Mapping,
        signedness: Signedness,
        granularity: Granularity,
    ) -> Self {
        Self {
            bits,
            mapping,
            signedness,
            granularity,
        }
    }

    /// Symmetric, restricted range, signed codes, one scale per tensor.
    pub const fn symmetric(bits: Bits) -> Self {
        Self::new(
            bits,
            Mapping::Symmetric(SymmetricRange::Restricted),
            Signedness::Signed,
            Granularity::PerTensor,
        )
    }

    /// Affine, unsigned codes, one scale and zero point per tensor.
    pub const fn affine(bits: Bits) -> Self {
        Self::new(
            bits,
            Mapping::Affine,
            Signedness::Unsigned,
            Granularity::PerTensor,
        )
    }

    /// The same scheme at another granularity.
    #[must_use]
    pub const fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// The same scheme with a symmetric mapping of this range (an affine scheme becomes symmetric).
    #[must_use]
    pub const fn with_range(mut self, range: SymmetricRange) -> Self {
        self.mapping = Mapping::Symmetric(range);
        self
    }

    /// The same scheme with signed or unsigned codes.
    #[must_use]
    pub const fn with_signedness(mut self, signedness: Signedness) -> Self {
        self.signedness = signedness;
        self
    }

    /// The same scheme at another width.
    #[must_use]
    pub const fn with_bits(mut self, bits: Bits) -> Self {
        self.bits = bits;
        self
    }

    /// The width of a code.
    pub const fn bits(&self) -> Bits {
        self.bits
    }

    /// How numbers map to codes.
    pub const fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Signed or unsigned codes.
    pub const fn signedness(&self) -> Signedness {
        self.signedness
    }

    /// Which elements share a scale.
    pub const fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Whether each group stores a zero point.
    pub const fn has_zero_points(&self) -> bool {
        matches!(self.mapping, Mapping::Affine)
    }

    /// The smallest code the scheme uses.
    pub const fn min_code(&self) -> i32 {
        let restricted =
            matches!(self.mapping, Mapping::Symmetric(SymmetricRange::Restricted)) as i32;
        match self.signedness {
            Signedness::Signed => -(self.bits.levels() / 2) + restricted,
            Signedness::Unsigned => restricted,
        }
    }

    /// The largest code the scheme uses.
    pub const fn max_code(&self) -> i32 {
        match self.signedness {
            Signedness::Signed => self.bits.levels() / 2 - 1,
            Signedness::Unsigned => self.bits.levels() - 1,
        }
    }

    /// The zero point of a symmetric scheme: 0, or `2^(b-1)` for unsigned codes. `None` for an affine one.
    pub const fn symmetric_zero_point(&self) -> Option<i32> {
        match (self.mapping, self.signedness) {
            (Mapping::Affine, _) => None,
            (_, Signedness::Signed) => Some(0),
            (_, Signedness::Unsigned) => Some(self.bits.levels() / 2),
        }
    }
}
