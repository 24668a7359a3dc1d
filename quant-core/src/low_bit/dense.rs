//! Matrices kept as `f32` in the layout of the kernels.

use super::product::row_count;
use super::{ProductScratch, rows};
use crate::arch::Isa;
use crate::arch::gemm::{DenseTile, PANEL, RowTile, Start};
use crate::arch::simd::{self, LANES, Lanes};
use crate::error::{Result, check_len};
use crate::groups::element_count;

/// Elements of k that a panel goes through before the next rows come.
const DEPTH: usize = 1024;
/// The most panels for which rows are read where they are.
const DIRECT: usize = 8;
/// The most rows of a tile that reads them so.
const DIRECT_ROWS: usize = 11;

/// A weight `[n, k]` in panels of columns.
///
/// ```
/// use quant_core::{PanelMatrix, ProductScratch};
/// let w = PanelMatrix::new(&[1.0, 2.0, 3.0, 4.0], [2, 2])?;
/// let mut y = [0.0; 2];
/// w.matmul(&[1.0, 10.0], &mut y, &mut ProductScratch::default())?;
/// assert_eq!(y, [21.0, 43.0]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PanelMatrix {
    n: usize,
    k: usize,
    /// `[panels][k][2]`.
    panels: Vec<Lanes<f32>>,
}

impl PanelMatrix {
    /// Packs a row-major `[n, k]`.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if the length does not fit the shape.
    pub fn new(w: &[f32], shape: [usize; 2]) -> Result<Self> {
        check_len("the matrix", element_count(&shape)?, w.len())?;
        let [n, k] = shape;
        let mut panels = vec![Lanes::default(); n.div_ceil(PANEL) * k * 2];
        for (j, row) in w.chunks(k.max(1)).enumerate() {
            let first = j / PANEL * k * 2 + j % PANEL / LANES;
            for (i, &v) in row.iter().enumerate() {
                panels[first + 2 * i].0[j % LANES] = v;
            }
        }
        Ok(Self { n, k, panels })
    }

    /// Rows of the weight, columns of the product.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// What the product sums over.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        64 * self.panels.len()
    }

    /// `Y = X Wᵀ` for `x [m, k]` and `out [m, n]`, in fused multiply-adds of `f32`.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if a length does not fit.
    pub fn matmul(&self, x: &[f32], out: &mut [f32], scratch: &mut ProductScratch) -> Result<()> {
        self.matmul_on(Isa::best(), x, out, scratch)
    }

    /// [`PanelMatrix::matmul`] on a chosen instruction set.
    ///
    /// # Errors
    /// As [`PanelMatrix::matmul`].
    pub fn matmul_on(
        &self,
        isa: Isa,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProductScratch,
    ) -> Result<()> {
        let (n, k) = (self.n, self.k);
        let m = row_count([n, k], x.len(), out.len())?;
        if m == 0 || n == 0 {
            return Ok(());
        }
        if k == 0 {
            out.fill(0.0);
            return Ok(());
        }
        // Rows that few panels read are read where they are; else one copy serves all panels.
        let direct = m == 1 || n.div_ceil(PANEL) <= DIRECT;
        let most = match isa.tile_rows() {
            most if direct => most.min(DIRECT_ROWS),
            most => {
                rows::interleave(x, [m, k], most, &mut scratch.rows);
                most
            }
        };
        for (p, panel) in self.panels.chunks(2 * k).enumerate() {
            for from in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - from);
                let b = simd::flat(&panel[2 * from..2 * (from + depth)]);
                let columns = PANEL.min(n - p * PANEL);
                let start = match from {
                    0 => Start::Zero,
                    _ => Start::Output,
                };
                for (first, rows) in rows::tiles(m, most) {
                    let out = &mut out[first * n + p * PANEL..];
                    if direct {
                        let a = &x[first * k + from..];
                        let tile = RowTile {
                            a,
                            a_stride: k,
                            rows,
                            b: b.as_chunks().0,
                            columns,
                            out,
                            out_stride: n,
                            start,
                        };
                        simd::run(isa, tile);
                    } else {
                        let a = &scratch.rows[first * k + from * rows..][..rows * depth];
                        let tile = DenseTile {
                            a,
                            rows,
                            b,
                            b_stride: PANEL,
                            columns,
                            out,
                            out_stride: n,
                            start,
                        };
                        simd::run(isa, tile);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A matrix `[m, k]` that multiplies from the left, in tiles of rows.
///
/// ```
/// use quant_core::LeftMatrix;
/// let a = LeftMatrix::new(&[1.0, 10.0], [1, 2])?;
/// let mut y = [0.0; 3];
/// a.multiply(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut y)?;
/// assert_eq!(y, [41.0, 52.0, 63.0]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LeftMatrix {
    m: usize,
    k: usize,
    most: usize,
    isa: Isa,
    /// `[tile][k][row]`.
    tiles: Vec<f32>,
}

impl LeftMatrix {
    /// Packs a row-major `[m, k]` for the best instruction set.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if the length does not fit the shape.
    pub fn new(a: &[f32], shape: [usize; 2]) -> Result<Self> {
        Self::new_on(Isa::best(), a, shape)
    }

    /// [`LeftMatrix::new`] for a chosen instruction set.
    ///
    /// # Errors
    /// As [`LeftMatrix::new`].
    pub fn new_on(isa: Isa, a: &[f32], shape: [usize; 2]) -> Result<Self> {
        check_len("the matrix", element_count(&shape)?, a.len())?;
        let [m, k] = shape;
        let most = isa.tile_rows();
        let mut tiles = Vec::new();
        rows::interleave(a, shape, most, &mut tiles);
        Ok(Self {
            m,
            k,
            most,
            isa,
            tiles,
        })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        4 * self.tiles.len()
    }

    /// `C = A B` for any number of matrices B one behind the other.
    ///
    /// # Shapes
    /// `b` is `[k, n]`, `out` `[m, n]`, both row-major; n follows from their lengths.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if the lengths do not fit.
    pub fn multiply(&self, b: &[f32], out: &mut [f32]) -> Result<()> {
        let n = out.len().checked_div(self.m).unwrap_or(0);
        check_len("the product", self.m * n, out.len())?;
        check_len("the right operand", self.k * n, b.len())?;
        if self.k == 0 {
            out.fill(0.0);
            return Ok(());
        }
        for from in (0..n).step_by(PANEL) {
            for (first, rows) in rows::tiles(self.m, self.most) {
                let tile = DenseTile {
                    a: &self.tiles[first * self.k..][..rows * self.k],
                    rows,
                    b: &b[from..],
                    b_stride: n,
                    columns: PANEL.min(n - from),
                    out: &mut out[first * n + from..],
                    out_stride: n,
                    start: Start::Zero,
                };
                simd::run(self.isa, tile);
            }
        }
        Ok(())
    }
}
