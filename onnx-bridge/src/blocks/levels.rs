//! Grids of a few equidistant levels, and how many of their codes one stored word holds.

use serde::{Deserialize, Serialize};

/// The unsigned word that packed codes are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// One byte.
    U8,
    /// Two bytes, little endian.
    U16,
}

impl Word {
    /// Bytes of one word.
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
        }
    }
}

/// The number of levels of a grid that is symmetric about zero: codes `0..levels` stand for
/// `(code - (levels - 1) / 2) * scale`, so an odd grid has a level at zero and an even one a level either side of it.
///
/// Levels need not be powers of two: a word of radix `levels` holds as many digits as fit, which gives the grids between
/// 2 and 4 bits that a budget is best spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum Levels {
    /// 3 levels, five codes to a byte: 1.6 bits.
    L3,
    /// 4 levels, four codes to a byte: 2 bits.
    L4,
    /// 6 levels, three codes to a byte: 2.67 bits.
    L6,
    /// 9 levels, five codes to two bytes: 3.2 bits.
    L9,
    /// 16 levels, two codes to a byte: 4 bits.
    L16,
    /// 40 levels, three codes to two bytes: 5.33 bits.
    L40,
    /// 256 levels, one code to a byte: 8 bits.
    L256,
}

impl Levels {
    /// All of them, the coarsest first.
    pub const ALL: [Self; 7] = [
        Self::L3,
        Self::L4,
        Self::L6,
        Self::L9,
        Self::L16,
        Self::L40,
        Self::L256,
    ];

    /// How many levels.
    pub fn count(self) -> u16 {
        match self {
            Self::L3 => 3,
            Self::L4 => 4,
            Self::L6 => 6,
            Self::L9 => 9,
            Self::L16 => 16,
            Self::L40 => 40,
            Self::L256 => 256,
        }
    }

    /// The word that codes are packed into, and how many one word holds.
    pub fn packing(self) -> (Word, usize) {
        match self {
            Self::L3 => (Word::U8, 5),
            Self::L4 => (Word::U8, 4),
            Self::L6 => (Word::U8, 3),
            Self::L9 => (Word::U16, 5),
            Self::L16 => (Word::U8, 2),
            Self::L40 => (Word::U16, 3),
            Self::L256 => (Word::U8, 1),
        }
    }

    /// The code of zero, which is a half where the grid has no level there.
    pub fn zero(self) -> f32 {
        f32::from(self.count() - 1) / 2.0
    }

    /// Bits of the file for one code.
    pub fn bits(self) -> f64 {
        let (word, digits) = self.packing();
        8.0 * word.bytes() as f64 / digits as f64
    }

    /// The finest grid that takes at most as many bits for a code: for 2 to 8 bits, the whole number of bits
    /// that this grid is reported as.
    pub fn nominal_bits(self) -> u8 {
        match self {
            Self::L3 | Self::L4 => 2,
            Self::L6 | Self::L9 => 3,
            Self::L16 => 4,
            Self::L40 => 5,
            Self::L256 => 8,
        }
    }

    /// Words that `codes` codes take.
    pub fn words(self, codes: usize) -> usize {
        codes.div_ceil(self.packing().1)
    }

    /// Bytes that `codes` codes take.
    pub fn packed_bytes(self, codes: usize) -> usize {
        self.words(codes) * self.packing().0.bytes()
    }

    /// Packs codes: code `i` of `n` is digit `i / P` of word `i mod P`, with `P` the number of words, so that all
    /// digits of one place lie side by side once unpacked. Codes beyond the grid count as its last level.
    ///
    /// ```
    /// use onnx_bridge::blocks::Levels;
    ///
    /// // Two words: the digits 2, 0, 1 and 1, 2 of radix 3.
    /// assert_eq!(Levels::L3.pack(&[2, 1, 0, 2, 1, 0, 0]), [2 + 3 * 0 + 9 * 1 + 27 * 0, 1 + 3 * 2]);
    /// assert_eq!(Levels::L3.unpack(&[11, 7], 7), [2, 1, 0, 2, 1, 0, 0]);
    /// ```
    pub fn pack(self, codes: &[u8]) -> Vec<u8> {
        let (word, _) = self.packing();
        let radix = u32::from(self.count());
        let count = self.words(codes.len());
        let mut words = vec![0_u32; count];
        let mut weight = 1;
        for place in codes.chunks(count.max(1)) {
            for (w, &code) in words.iter_mut().zip(place) {
                *w += u32::from(code).min(radix - 1) * weight;
            }
            weight *= radix;
        }
        match word {
            Word::U8 => words.into_iter().map(|w| w as u8).collect(),
            Word::U16 => words
                .into_iter()
                .flat_map(|w| (w as u16).to_le_bytes())
                .collect(),
        }
    }

    /// The inverse of [`Levels::pack`]. Bytes that are missing count as 0.
    pub fn unpack(self, packed: &[u8], codes: usize) -> Vec<u8> {
        let (word, _) = self.packing();
        let radix = u32::from(self.count());
        let count = self.words(codes);
        let at = |i: usize| u32::from(packed.get(i).copied().unwrap_or(0));
        let value = |i: usize| match word {
            Word::U8 => at(i),
            Word::U16 => at(2 * i) + 256 * at(2 * i + 1),
        };
        (0..codes)
            .map(|i| (value(i % count) / radix.pow((i / count) as u32) % radix) as u8)
            .collect()
    }
}

impl From<Levels> for u16 {
    fn from(levels: Levels) -> Self {
        levels.count()
    }
}

impl TryFrom<u16> for Levels {
    type Error = String;

    fn try_from(count: u16) -> Result<Self, String> {
        let known = || Self::ALL.map(|l| l.count().to_string()).join(", ");
        let found = Self::ALL.into_iter().find(|l| l.count() == count);
        found.ok_or_else(|| format!("expected a grid of {} levels, found {count}", known()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_holds_its_digits() {
        for levels in Levels::ALL {
            let (word, digits) = levels.packing();
            let largest = u64::from(levels.count()).pow(digits as u32) - 1;
            assert!(largest < 1 << (8 * word.bytes()), "{levels:?}");
            assert_eq!(Levels::try_from(levels.count()), Ok(levels));
        }
        assert!(Levels::try_from(7).is_err());
    }

    proptest! {
        #[test]
        fn unpack_is_the_inverse_of_pack(which in 0..Levels::ALL.len(), raw in prop::collection::vec(any::<u8>(), 0..70)) {
            let levels = Levels::ALL[which];
            let codes: Vec<u8> = raw.iter().map(|c| (u16::from(*c) % levels.count()) as u8).collect();
            let packed = levels.pack(&codes);
            prop_assert_eq!(packed.len(), levels.packed_bytes(codes.len()));
            prop_assert_eq!(levels.unpack(&packed, codes.len()), codes);
        }
    }
}
