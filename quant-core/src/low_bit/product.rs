//! Products of rows with a [`LowBitMatrix`].

use super::{LowBitMatrix, rows};
use crate::arch::gemm::{CodeTile, DenseTile, Expand, IntTile, PANEL, Start};
use crate::arch::simd::{self, Lanes};
use crate::arch::{Isa, quantize_rows};
use crate::error::{Result, check_len};

/// From this many rows on, codes are made `f32` once for a panel, and not once for a tile.
const EXPAND_FROM: usize = 24;

/// Elements of k that are made `f32` at once: 32 columns of them fit a second-level cache.
const EXPANDED: usize = 1024;

/// Buffers of products, kept from one to the next so that a warm product allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct ProductScratch {
    pub(super) spread: Vec<f32>,
    pub(super) rows: Vec<f32>,
    sums: Vec<f32>,
    scales: Vec<f32>,
    quads: Vec<u32>,
    panel: Vec<Lanes<f32>>,
}

impl LowBitMatrix {
    /// `Y = X Wᵀ`.
    ///
    /// # Shapes
    /// `x` is `[m, k]`, `out` `[m, n]`.
    ///
    /// # Numerics
    /// Codes less zero are exact in `f32`; sums are fused multiply-adds in `f32`. How they are grouped depends on m and on
    /// the tile that the instruction set has, so results agree to rounding, which is relative to the sum of
    /// `|x| (|code - zero| + |offset|) scale`: an offset is taken off a chunk's sum, not off each code.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if a length does not fit.
    pub fn matmul(&self, x: &[f32], out: &mut [f32], scratch: &mut ProductScratch) -> Result<()> {
        self.matmul_on(Isa::best(), x, out, scratch)
    }

    /// [`LowBitMatrix::matmul`] on a chosen instruction set.
    ///
    /// # Errors
    /// As [`LowBitMatrix::matmul`].
    pub fn matmul_on(
        &self,
        isa: Isa,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProductScratch,
    ) -> Result<()> {
        let m = self.rows(x.len(), out.len())?;
        if m == 0 || self.n == 0 {
            return Ok(());
        }
        let ProductScratch {
            spread,
            rows: a,
            sums,
            panel,
            ..
        } = scratch;
        let x = if self.chunks.is_dense() {
            x
        } else {
            rows::spread(x, m, self.chunks, spread);
            spread
        };
        let padded = self.chunks.padded();
        if m >= EXPAND_FROM {
            rows::interleave(x, [m, padded], isa.tile_rows(), a);
            self.expanded(isa, m, a, out, panel);
            return Ok(());
        }
        let most = isa.block_rows();
        rows::interleave(x, [m, padded], most, a);
        if !self.offsets.is_empty() {
            rows::chunk_sums(a, m, self.chunks, most, sums);
        }
        let count = self.chunks.count();
        for p in 0..self.n.div_ceil(PANEL) {
            for (first, rows) in rows::tiles(m, most) {
                let tile = CodeTile {
                    a: &a[first * padded..][..rows * padded],
                    sums: sums.get(first * count..).unwrap_or(&[]),
                    rows,
                    codes: self.codes(p, 0..count),
                    columns: PANEL.min(self.n - p * PANEL),
                    out: &mut out[first * self.n + p * PANEL..],
                    out_stride: self.n,
                };
                simd::run(isa, tile);
            }
        }
        Ok(())
    }

    /// Panels made `f32`, some chunks at a time.
    fn expanded(
        &self,
        isa: Isa,
        m: usize,
        a: &[f32],
        out: &mut [f32],
        panel: &mut Vec<Lanes<f32>>,
    ) {
        let (padded, length) = (self.chunks.padded(), self.chunks.length);
        let step = (EXPANDED / length).max(1);
        panel.resize((step * length).min(padded) * 2, Lanes::default());
        for p in 0..self.n.div_ceil(PANEL) {
            let mut start = Start::Zero;
            for from in (0..self.chunks.count()).step_by(step) {
                let to = (from + step).min(self.chunks.count());
                let k = (to - from) * length;
                let b = &mut panel[..2 * k];
                simd::run(
                    isa,
                    Expand {
                        codes: self.codes(p, from..to),
                        out: b,
                    },
                );
                for (first, rows) in rows::tiles(m, isa.tile_rows()) {
                    let tile = DenseTile {
                        a: &a[first * padded + from * length * rows..][..rows * k],
                        rows,
                        b: simd::flat(b),
                        b_stride: PANEL,
                        columns: PANEL.min(self.n - p * PANEL),
                        out: &mut out[first * self.n + p * PANEL..],
                        out_stride: self.n,
                        start,
                    };
                    simd::run(isa, tile);
                }
                start = Start::Output;
            }
        }
    }

    /// `Y = X Wᵀ` with the rows of X rounded to 8 bits, one scale for each row and each chunk of at most 128 elements.
    ///
    /// # Shapes
    /// `x` is `[m, k]`, `out` `[m, n]`.
    ///
    /// # Numerics
    /// A chunk's scale is its largest magnitude over 127; products and their sums over a chunk are exact integers, scaled
    /// and added up in `f32`. The same bits for every m and on every instruction set. The rounding of X is the error: for
    /// normally distributed activations about 0.6 % of the result's norm.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if a length does not fit.
    ///
    /// ```
    /// use quant_core::{LowBitMatrix, LowBitParts, ProductScratch};
    /// let parts = LowBitParts {
    ///     shape: [1, 2],
    ///     codes: &[3, 0],
    ///     levels: 4,
    ///     zero: 1.5,
    ///     block: 2,
    ///     scales: &[2.0],
    ///     offsets: &[],
    /// };
    /// let mut y = [0.0];
    /// LowBitMatrix::new(parts)?.matmul_int8(&[1.27, 0.27], &mut y, &mut ProductScratch::default())?;
    /// assert!((y[0] - 3.0 * (1.27 - 0.27)).abs() < 1e-6);
    /// # Ok::<(), quant_core::QuantError>(())
    /// ```
    pub fn matmul_int8(
        &self,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProductScratch,
    ) -> Result<()> {
        self.matmul_int8_on(Isa::best(), x, out, scratch)
    }

    /// [`LowBitMatrix::matmul_int8`] on a chosen instruction set.
    ///
    /// # Errors
    /// As [`LowBitMatrix::matmul_int8`].
    pub fn matmul_int8_on(
        &self,
        isa: Isa,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProductScratch,
    ) -> Result<()> {
        let m = self.rows(x.len(), out.len())?;
        if m == 0 || self.n == 0 {
            return Ok(());
        }
        let ProductScratch {
            spread,
            sums,
            scales,
            quads,
            ..
        } = scratch;
        let x = if self.chunks.is_dense() {
            x
        } else {
            rows::spread(x, m, self.chunks, spread);
            spread
        };
        let (padded, count) = (self.chunks.padded(), self.chunks.count());
        let most = isa.block_rows();
        quads.resize(m * padded / 4, 0);
        scales.resize(m * count, 0.0);
        sums.resize(m * count, 0.0);
        for (first, rows) in rows::tiles(m, most) {
            let tile = quantize_rows::QuantizeRows {
                x: &x[first * padded..][..rows * padded],
                rows,
                chunk: self.chunks.length,
                quads: &mut quads[first * padded / 4..][..rows * padded / 4],
                scales: &mut scales[first * count..][..rows * count],
                sums: &mut sums[first * count..][..rows * count],
            };
            simd::run(isa, tile);
        }
        for p in 0..self.n.div_ceil(PANEL) {
            for (first, rows) in rows::tiles(m, most) {
                let tile = IntTile {
                    a: &quads[first * padded / 4..][..rows * padded / 4],
                    a_scales: &scales[first * count..][..rows * count],
                    a_sums: &sums[first * count..][..rows * count],
                    rows,
                    codes: self.codes(p, 0..count),
                    columns: PANEL.min(self.n - p * PANEL),
                    out: &mut out[first * self.n + p * PANEL..],
                    out_stride: self.n,
                };
                simd::run(isa, tile);
            }
        }
        Ok(())
    }

    /// The number of rows of activations, if both operands have as many.
    fn rows(&self, x_len: usize, out_len: usize) -> Result<usize> {
        row_count([self.n, self.k], x_len, out_len)
    }
}

/// Rows m of `x [m, k]` and `out [m, n]`.
pub(super) fn row_count([n, k]: [usize; 2], x_len: usize, out_len: usize) -> Result<usize> {
    let by_inputs = || x_len.checked_div(k).unwrap_or(0);
    let m = out_len.checked_div(n).unwrap_or_else(by_inputs);
    check_len("the product", m * n, out_len)?;
    check_len("activations", m * k, x_len)?;
    Ok(m)
}
