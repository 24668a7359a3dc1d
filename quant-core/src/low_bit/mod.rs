//! Matrices of a few levels, kept packed, and their products with rows of `f32`.

mod activation;
mod dense;
mod product;
mod rows;

pub use activation::{Activation, bias_activate};
pub use dense::{LeftMatrix, PanelMatrix};
pub use product::ProductScratch;

use crate::arch::gemm::{Codes, PANEL};
use crate::arch::simd::{LANES, Lanes};
use crate::error::{QuantError, Result, check_len};
use crate::groups::element_count;

/// The most elements that share a scale in memory: a longer block is kept as several with equal scales.
const LONGEST_CHUNK: usize = 128;

/// The parts of a [`LowBitMatrix`]: `w[j, k] = (codes[j, k] - zero - offsets[j, b]) scales[j, b]` with `b = k / block`.
#[derive(Debug, Clone, Copy)]
pub struct LowBitParts<'a> {
    /// `[n, k]`: out by in.
    pub shape: [usize; 2],
    /// One code to a byte, `[n, k]`, below `levels`.
    pub codes: &'a [u8],
    /// How many levels the grid has, 1 to 256.
    pub levels: usize,
    /// The code of zero, which need not be whole.
    pub zero: f32,
    /// Elements along k that share a scale, at least 1; the last block of a row may be shorter.
    pub block: usize,
    /// `[n, ceil(k / block)]`.
    pub scales: &'a [f32],
    /// What is added to `zero`, as many as scales, or none.
    pub offsets: &'a [f32],
}

/// A weight `[n, k]` whose codes stay packed: at 2 bits for up to 4 levels, at 4 for up to 16, else at 8.
///
/// ```
/// use quant_core::{LowBitMatrix, LowBitParts, ProductScratch};
/// // W = [[-1, 0, 1], [2, -2, 0]]: codes less one, the second row with scale 2.
/// let parts = LowBitParts {
///     shape: [2, 3],
///     codes: &[0, 1, 2, 2, 0, 1],
///     levels: 3,
///     zero: 1.0,
///     block: 3,
///     scales: &[1.0, 2.0],
///     offsets: &[],
/// };
/// let w = LowBitMatrix::new(parts)?;
/// let mut y = [0.0; 2];
/// w.matmul(&[1.0, 10.0, 100.0], &mut y, &mut ProductScratch::default())?;
/// assert_eq!(y, [99.0, -18.0]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LowBitMatrix {
    n: usize,
    k: usize,
    bits: usize,
    zero: f32,
    chunks: Chunks,
    /// `[panels][padded k / (32 / bits)][2]`.
    words: Vec<Lanes<u32>>,
    /// `[panels][chunks][2]`.
    scales: Vec<Lanes<f32>>,
    /// As the scales, or empty.
    offsets: Vec<Lanes<f32>>,
}

/// How k is cut: every block into `per_block` chunks of `length` elements, the last one of a block filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunks {
    k: usize,
    block: usize,
    per_block: usize,
    /// Elements of a block that a chunk takes.
    step: usize,
    /// Elements of a chunk in memory.
    length: usize,
}

impl Chunks {
    fn new(k: usize, block: usize, bits: usize) -> Self {
        let block = block.min(k.max(1));
        let per_block = block.div_ceil(LONGEST_CHUNK);
        let step = block.div_ceil(per_block).next_multiple_of(32 / bits);
        // Rounding up may have made the last chunks of a block empty.
        let per_block = block.div_ceil(step);
        Self {
            k,
            block,
            per_block,
            step,
            length: step,
        }
    }

    fn count(&self) -> usize {
        self.k.div_ceil(self.block) * self.per_block
    }

    fn padded(&self) -> usize {
        self.count() * self.length
    }

    /// The elements of each chunk.
    fn ranges(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.count()).map(move |c| {
            let (block, part) = (c / self.per_block, c % self.per_block);
            let end = ((block + 1) * self.block).min(self.k);
            let from = (block * self.block + part * self.step).min(end);
            from..(from + self.step).min(end)
        })
    }

    /// Where element k stands in memory.
    fn place(&self, k: usize) -> usize {
        let (block, within) = (k / self.block, k % self.block);
        (block * self.per_block + within / self.step) * self.length + within % self.step
    }

    /// Whether memory holds k without gaps.
    fn is_dense(&self) -> bool {
        self.padded() == self.k
    }
}

impl LowBitMatrix {
    /// Packs codes.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a length does not fit, [`QuantError::BlockSize`] for blocks of nothing,
    /// [`QuantError::Code`] for a code that is not below `levels` or levels that are more than 256.
    pub fn new(parts: LowBitParts<'_>) -> Result<Self> {
        let [n, k] = parts.shape;
        if parts.block == 0 {
            return Err(QuantError::BlockSize);
        }
        check_len("codes", element_count(&parts.shape)?, parts.codes.len())?;
        let blocks = k.div_ceil(parts.block);
        check_len("scales", n * blocks, parts.scales.len())?;
        if !parts.offsets.is_empty() {
            check_len("offsets", n * blocks, parts.offsets.len())?;
        }
        let code = |index: usize, actual: usize| QuantError::Code {
            index,
            actual: actual as i32,
            min: 0,
            max: parts.levels.clamp(1, 256) as i32 - 1,
        };
        if !(1..=256).contains(&parts.levels) {
            return Err(code(0, parts.levels));
        }
        if let Some(i) = parts
            .codes
            .iter()
            .position(|&c| usize::from(c) >= parts.levels)
        {
            return Err(code(i, usize::from(parts.codes[i])));
        }
        let bits = match parts.levels {
            0..=4 => 2,
            5..=16 => 4,
            _ => 8,
        };
        let chunks = Chunks::new(k, parts.block, bits);
        let per_word = 32 / bits;
        let (panels, words_of_panel) = (n.div_ceil(PANEL), chunks.padded() / per_word);
        let mut words = vec![Lanes([0u32; LANES]); panels * words_of_panel * 2];
        for (j, row) in parts.codes.chunks(k.max(1)).enumerate() {
            let (panel, column) = (j / PANEL, j % PANEL);
            for (i, &code) in row.iter().enumerate() {
                let place = chunks.place(i);
                let word = (panel * words_of_panel + place / per_word) * 2 + column / LANES;
                let within = place % per_word;
                let shift = 8 * (within % 4) + bits * (within / 4);
                words[word].0[column % LANES] |= u32::from(code) << shift;
            }
        }
        let spread = |values: &[f32]| {
            let mut out = vec![Lanes([0f32; LANES]); panels * chunks.count() * 2];
            for (j, row) in values.chunks(blocks.max(1)).enumerate() {
                for c in 0..chunks.count() {
                    let at = ((j / PANEL) * chunks.count() + c) * 2 + j % PANEL / LANES;
                    out[at].0[j % LANES] = row[c / chunks.per_block];
                }
            }
            out
        };
        let uniform = parts.offsets.iter().all(|&o| o == 0.0);
        Ok(Self {
            n,
            k,
            bits,
            zero: parts.zero,
            chunks,
            words,
            scales: spread(parts.scales),
            offsets: if uniform {
                Vec::new()
            } else {
                spread(parts.offsets)
            },
        })
    }

    /// Rows of the weight, columns of the product.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// What the product sums over.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Bits of a code in memory: 2, 4 or 8.
    pub const fn bits(&self) -> usize {
        self.bits
    }

    /// Bytes of codes, scales and offsets in memory.
    pub fn bytes(&self) -> usize {
        64 * (self.words.len() + self.scales.len() + self.offsets.len())
    }

    /// The matrix, `[n, k]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let per_word = 32 / self.bits;
        let mask = (1u32 << self.bits) - 1;
        let words = self.chunks.padded() / per_word;
        let mut out = Vec::with_capacity(self.n * self.k);
        for j in 0..self.n {
            let (panel, column) = (j / PANEL, j % PANEL);
            for k in 0..self.k {
                let place = self.chunks.place(k);
                let word = self.words[(panel * words + place / per_word) * 2 + column / LANES].0
                    [column % LANES];
                let within = place % per_word;
                let code = (word >> (8 * (within % 4) + self.bits * (within / 4))) & mask;
                let at =
                    (panel * self.chunks.count() + place / self.chunks.length) * 2 + column / LANES;
                let offset = self.offsets.get(at).map_or(0.0, |o| o.0[column % LANES]);
                out.push((code as f32 - self.zero - offset) * self.scales[at].0[column % LANES]);
            }
        }
        out
    }

    /// The chunks `range` of a panel.
    fn codes(&self, panel: usize, range: std::ops::Range<usize>) -> Codes<'_> {
        let words_of_chunk = self.chunks.length * self.bits / 32;
        let count = self.chunks.count();
        let part = |per_chunk: usize| {
            let from = panel * count * per_chunk;
            (from + range.start * per_chunk) * 2..(from + range.end * per_chunk) * 2
        };
        let offsets = match self.offsets.as_slice() {
            [] => &[][..],
            offsets => &offsets[part(1)],
        };
        Codes {
            bits: self.bits,
            chunk: self.chunks.length,
            words: &self.words[part(words_of_chunk)],
            scales: &self.scales[part(1)],
            zero: self.zero,
            offsets,
        }
    }
}
