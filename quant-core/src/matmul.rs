//! Products with a matrix of 8-bit codes.

use crate::affine::widen;
use crate::arch::{self, Isa, Tile};
use crate::error::{QuantError, Result, check_len};
use crate::groups::element_count;
use crate::scheme::{Granularity, Signedness};
use crate::tensor::QuantizedTensor;
use crate::tiles::{Block, PANEL, Tiles};

/// How the codes of a matrix to pack are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixLayout {
    /// `[n, k]`: a weight, out by in; the product is `X Wᵀ`.
    OutByIn,
    /// `[k, n]`: the second operand of ONNX's `MatMul`; the product is `X B`.
    InByOut,
}

/// The codes of a matrix with its zero points, packed for products.
///
/// ```
/// use quant_core::{MatrixLayout, PackedMatrix, Signedness};
/// // W = [[1, 2, 3], [4, 5, 6]], out by in.
/// let w = PackedMatrix::new(&[1, 2, 3, 4, 5, 6], [2, 3], MatrixLayout::OutByIn, Signedness::Signed, &[0])?;
/// let mut y = [0; 2];
/// w.matmul(&[1, 10, 100], Signedness::Unsigned, &[0], &mut y)?;
/// assert_eq!(y, [321, 654]);
/// let mut y = [0.0; 2];
/// w.matmul_f32(&[1.0, 0.5, 2.0], &[0.1, 1.0], &mut y)?;
/// assert_eq!(y, [0.8, 18.5]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    /// `[panels][k / 4][2]`, codes as signed bytes: unsigned ones less 128.
    blocks: Vec<Block>,
    /// Of the signed bytes, one or `n`.
    zero_points: Vec<i32>,
    /// Of the signed bytes over k, for every column of every panel.
    sums: Vec<i32>,
}

impl PackedMatrix {
    /// Packs code bytes.
    ///
    /// # Shapes
    /// `codes` is row-major of `shape`, `[n, k]` or `[k, n]` as `layout` says; one zero point, or `n` of them.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a length does not fit, [`QuantError::ZeroPoint`] for a zero point that is not a code
    /// byte of this signedness.
    pub fn new(
        codes: &[u8],
        shape: [usize; 2],
        layout: MatrixLayout,
        signedness: Signedness,
        zero_points: &[i32],
    ) -> Result<Self> {
        check_len("codes", element_count(&shape)?, codes.len())?;
        let (n, k) = match layout {
            MatrixLayout::OutByIn => (shape[0], shape[1]),
            MatrixLayout::InByOut => (shape[1], shape[0]),
        };
        check_zero_points("zero points of the matrix", zero_points, n, signedness)?;
        let (quads, panels) = (k.div_ceil(4), n.div_ceil(PANEL));
        let mut blocks = vec![Block([0; 64]); panels * quads * 2];
        let mut sums = vec![0i32; panels * PANEL];
        let flip = match signedness {
            Signedness::Signed => 0,
            Signedness::Unsigned => 0x80,
        };
        let mut put = |column: usize, k: usize, code: u8| {
            let code = (code ^ flip) as i8;
            let block = (column / PANEL * quads + k / 4) * 2 + column % PANEL / 16;
            blocks[block].0[column % 16 * 4 + k % 4] = code;
            sums[column] = sums[column].wrapping_add(i32::from(code));
        };
        let inner = shape[1].max(1);
        for (outer, row) in codes.chunks(inner).enumerate() {
            for (inner, &code) in row.iter().enumerate() {
                match layout {
                    MatrixLayout::OutByIn => put(outer, inner, code),
                    MatrixLayout::InByOut => put(inner, outer, code),
                }
            }
        }
        let zero_points = zero_points.iter().map(|z| z - i32::from(flip)).collect();
        Ok(Self {
            n,
            k,
            blocks,
            zero_points,
            sums,
        })
    }

    /// Packs a quantized weight `[n, k]` and gives its scales, one or `n`, for [`PackedMatrix::matmul_f32`].
    ///
    /// # Errors
    /// [`QuantError::Rank`] unless it is a matrix, [`QuantError::MatrixGranularity`] unless it is quantized per tensor
    /// or per row.
    pub fn from_tensor(weight: &QuantizedTensor) -> Result<(Self, Vec<f32>)> {
        let &[n, k] = weight.shape() else {
            return Err(QuantError::Rank {
                expected: 2,
                shape: weight.shape().to_vec(),
            });
        };
        let granularity = weight.scheme().granularity();
        if !matches!(
            granularity,
            Granularity::PerTensor | Granularity::PerAxis { axis: 0 }
        ) {
            return Err(QuantError::MatrixGranularity {
                actual: granularity,
            });
        }
        let params = weight.params();
        let signedness = weight.scheme().signedness();
        let codes = weight.code_bytes();
        let packed = Self::new(
            &codes,
            [n, k],
            MatrixLayout::OutByIn,
            signedness,
            params.zero_points(),
        )?;
        Ok((packed, params.scales().to_vec()))
    }

    /// Rows of the weight, columns of the product.
    pub const fn n(&self) -> usize {
        self.n
    }

    /// What the product sums over.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// The integer product `out[i, j] = sum_k (a[i, k] - z_a) (w[j, k] - z_w)`: ONNX's `MatMulInteger`.
    ///
    /// # Shapes
    /// `a` is `[m, k]` code bytes, `out` `[m, n]`; one zero point for `a`, or one for each of its m rows.
    ///
    /// # Numerics
    /// Accumulates in i32, wrapping: exact where the result fits, in particular for k up to 33,025 whatever the zero
    /// points. The same on every instruction set.
    ///
    /// # Errors
    /// [`QuantError::Length`] and [`QuantError::ZeroPoint`] as [`PackedMatrix::new`].
    pub fn matmul(
        &self,
        a: &[u8],
        signedness: Signedness,
        a_zero_points: &[i32],
        out: &mut [i32],
    ) -> Result<()> {
        self.matmul_on(Isa::best(), a, signedness, a_zero_points, out)
    }

    /// [`PackedMatrix::matmul`] on a chosen instruction set.
    ///
    /// # Errors
    /// As [`PackedMatrix::matmul`].
    pub fn matmul_on(
        &self,
        isa: Isa,
        a: &[u8],
        signedness: Signedness,
        a_zero_points: &[i32],
        out: &mut [i32],
    ) -> Result<()> {
        let m = self.rows(a.len(), out.len(), a_zero_points.len())?;
        check_zero_points(
            "zero points of the activations",
            a_zero_points,
            m,
            signedness,
        )?;
        if m == 0 || self.n == 0 {
            return Ok(());
        }
        // What the kernels see is a + shift and w; with zero points to match,
        // sum (a - z_a) (w - z_w) = sum a w - z_a sum w - z_w sum (a - z_a).
        let (flips, shift) = match (signedness, isa.quad_signedness()) {
            (Signedness::Signed, Signedness::Unsigned) => (0x8080_8080, 128),
            (Signedness::Unsigned, Signedness::Signed) => (0x8080_8080, -128),
            _ => (0, 0),
        };
        let tiles = Tiles::new(m, isa);
        let mut quads = vec![0u32; m * self.k.div_ceil(4)];
        tiles.interleave(a, self.k, &mut quads, |bytes: &[u8; 4]| {
            u32::from_le_bytes(*bytes) ^ flips
        });
        let common = if a_zero_points.len() == 1 {
            a_zero_points[0] + shift
        } else {
            0
        };
        self.for_each_tile(&tiles, |panel, first_row, rows, tile| {
            let sums = &self.sums[panel * PANEL..][..PANEL];
            let init = std::array::from_fn(|c| common.wrapping_mul(sums[c]).wrapping_neg());
            let a = &quads[first_row * self.k.div_ceil(4)..][..rows * self.k.div_ceil(4)];
            arch::tile_i32(
                isa,
                tile.with(a),
                &init,
                &mut out[first_row * self.n + panel * PANEL..],
            );
        });
        if a_zero_points.len() > 1 {
            for (row, z) in out.chunks_mut(self.n).zip(a_zero_points) {
                let z = z + shift;
                row.iter_mut()
                    .zip(&self.sums)
                    .for_each(|(o, s)| *o = o.wrapping_sub(z.wrapping_mul(*s)));
            }
        }
        if self.zero_points.iter().any(|&z| z != 0) {
            self.subtract_zero_points(a, signedness, a_zero_points, out);
        }
        Ok(())
    }

    /// Takes `z_w sum (a - z_a)` off every row.
    fn subtract_zero_points(
        &self,
        a: &[u8],
        signedness: Signedness,
        a_zero_points: &[i32],
        out: &mut [i32],
    ) {
        for (i, row) in out.chunks_mut(self.n).enumerate() {
            let z = a_zero_points[i.min(a_zero_points.len() - 1)];
            let bytes = &a[i * self.k..][..self.k];
            let sum = bytes
                .iter()
                .fold(0i32, |s, &b| s.wrapping_add(widen(b, signedness) - z));
            match self.zero_points.as_slice() {
                [w] => row
                    .iter_mut()
                    .for_each(|o| *o = o.wrapping_sub(w.wrapping_mul(sum))),
                ws => row
                    .iter_mut()
                    .zip(ws)
                    .for_each(|(o, w)| *o = o.wrapping_sub(w.wrapping_mul(sum))),
            }
        }
    }

    /// The product with f32 activations: `out[i, j] = scale_j sum_k x[i, k] (w[j, k] - z_j)`.
    ///
    /// # Shapes
    /// `x` is `[m, k]`, `out` `[m, n]`; one scale, or `n`.
    ///
    /// # Numerics
    /// Codes less zero points are exact in f32; the sum is a chain of fused multiply-adds in the order of k, then scaled
    /// once. The same bits on every instruction set and for every m.
    ///
    /// # Errors
    /// [`QuantError::Length`] if a length does not fit.
    pub fn matmul_f32(&self, x: &[f32], scales: &[f32], out: &mut [f32]) -> Result<()> {
        self.matmul_f32_on(Isa::best(), x, scales, out)
    }

    /// [`PackedMatrix::matmul_f32`] on a chosen instruction set.
    ///
    /// # Errors
    /// As [`PackedMatrix::matmul_f32`].
    pub fn matmul_f32_on(
        &self,
        isa: Isa,
        x: &[f32],
        scales: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let m = self.rows(x.len(), out.len(), 0)?;
        if scales.len() != 1 {
            check_len("scales", self.n, scales.len())?;
        }
        if m == 0 || self.n == 0 {
            return Ok(());
        }
        let padded = self.k.next_multiple_of(4);
        let tiles = Tiles::new(m, isa);
        let mut a = vec![0.0f32; m * padded];
        tiles.interleave(x, self.k, &mut a, |x: &[f32; 1]| x[0]);
        self.for_each_tile(&tiles, |panel, first_row, rows, tile| {
            let column = |c: usize, len: usize| (panel * PANEL + c).min(len - 1);
            let scales = std::array::from_fn(|c| scales[column(c, scales.len())]);
            let zero_points =
                std::array::from_fn(|c| self.zero_points[column(c, self.zero_points.len())]);
            let a = &a[first_row * padded..][..rows * padded];
            let out = &mut out[first_row * self.n + panel * PANEL..];
            arch::tile_f32(isa, tile.with(a), &zero_points, &scales, out);
        });
        Ok(())
    }

    /// The number of rows of activations, if both operands have as many; `m` where neither has columns to count by.
    fn rows(&self, a_len: usize, out_len: usize, m: usize) -> Result<usize> {
        let by_inputs = || a_len.checked_div(self.k).unwrap_or(m);
        let m = out_len.checked_div(self.n).unwrap_or_else(by_inputs);
        check_len("the product", m * self.n, out_len)?;
        check_len("activations", m * self.k, a_len)?;
        Ok(m)
    }

    /// Calls `f(panel, first row, rows, tile)` for every tile of the product; a panel stays in cache for all rows.
    fn for_each_tile(&self, tiles: &Tiles, mut f: impl FnMut(usize, usize, usize, Tile<'_, ()>)) {
        let blocks = self.k.div_ceil(4) * 2;
        for panel in 0..self.n.div_ceil(PANEL) {
            let columns = PANEL.min(self.n - panel * PANEL);
            let blocks = &self.blocks[panel * blocks..][..blocks];
            tiles.for_each(|first_row, rows| {
                f(
                    panel,
                    first_row,
                    rows,
                    Tile {
                        a: &[],
                        rows,
                        panel: blocks,
                        columns,
                        stride: self.n,
                    },
                );
            });
        }
    }
}

impl<'a> Tile<'a, ()> {
    fn with<A>(self, a: &'a [A]) -> Tile<'a, A> {
        Tile {
            a,
            rows: self.rows,
            panel: self.panel,
            columns: self.columns,
            stride: self.stride,
        }
    }
}

fn check_zero_points(
    what: &'static str,
    zero_points: &[i32],
    n: usize,
    signedness: Signedness,
) -> Result<()> {
    if zero_points.len() != 1 {
        check_len(what, n, zero_points.len())?;
    }
    let (min, max) = match signedness {
        Signedness::Signed => (-128, 127),
        Signedness::Unsigned => (0, 255),
    };
    match zero_points
        .iter()
        .enumerate()
        .find(|(_, z)| !(min..=max).contains(*z))
    {
        Some((index, &actual)) => Err(QuantError::ZeroPoint {
            index,
            actual,
            min,
            max,
        }),
        None => Ok(()),
    }
}

/// The sum of products of signed bytes.
///
/// # Numerics
/// Accumulates in i32, wrapping; exact for up to 131,071 elements. The same on every instruction set.
///
/// # Errors
/// [`QuantError::Length`] if the two are not as long as each other.
///
/// ```
/// assert_eq!(quant_core::dot(&[-128, 1], &[-128, 2])?, 16386);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn dot(a: &[i8], b: &[i8]) -> Result<i32> {
    Isa::best().dot(a, b)
}
