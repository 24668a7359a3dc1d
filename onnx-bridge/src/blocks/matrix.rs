//! A matrix of few-level codes with one scale for every block of a row.

use serde::{Deserialize, Serialize};

use super::levels::Levels;

/// How a matrix is quantized: the grid, and how many neighbours along a row share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockFormat {
    /// The grid.
    pub levels: Levels,
    /// Columns to a block; the last block of a row may be shorter. At least 1.
    pub block: usize,
}

impl BlockFormat {
    /// The same grid with blocks that divide a row: the longest such not above `block`, or the whole row where that
    /// would be below a quarter of it.
    pub fn fitted(&self, cols: usize) -> Self {
        let most = self.block.clamp(1, cols.max(1));
        let divisor = (1..=most)
            .rev()
            .find(|&b| cols.is_multiple_of(b))
            .unwrap_or(1);
        Self {
            block: if 4 * divisor < most { cols } else { divisor },
            ..*self
        }
    }

    /// Blocks of a row.
    pub fn blocks(&self, cols: usize) -> usize {
        cols.div_ceil(self.block.max(1))
    }

    /// Bytes of a matrix packed as a whole, its scales and their unit.
    pub fn matrix_bytes(&self, rows: usize, cols: usize) -> u64 {
        (self.levels.packed_bytes(rows * cols) + rows * self.blocks(cols) + 4) as u64
    }

    /// Bytes of a table whose rows are packed one by one.
    pub fn table_bytes(&self, rows: usize, cols: usize) -> u64 {
        (rows * (self.levels.packed_bytes(cols) + self.blocks(cols)) + 4) as u64
    }
}

/// A quantized matrix `[rows, cols]`, row-major: `(code - zero) * scale`, the scale of a block being
/// `(step * unit)^2` with one byte `step` and one `unit` for the matrix.
///
/// # Numerics
/// The square spreads the 255 steps over a range of 65025 in the scale, no step further than 1 % from its neighbour
/// where the scale is a fiftieth of the largest or more.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMatrix {
    rows: usize,
    cols: usize,
    format: BlockFormat,
    codes: Vec<u8>,
    steps: Vec<u8>,
    unit: f32,
}

impl BlockMatrix {
    /// A matrix of the given parts.
    ///
    /// # Errors
    /// A sentence with what was expected and found, where lengths, codes or the unit do not fit.
    pub fn new(
        [rows, cols]: [usize; 2],
        format: BlockFormat,
        codes: Vec<u8>,
        steps: Vec<u8>,
        unit: f32,
    ) -> Result<Self, String> {
        let len = |what: &str, expected: Option<usize>, found: usize| {
            if expected == Some(found) {
                Ok(())
            } else {
                Err(format!("expected {expected:?} {what}, found {found}"))
            }
        };
        if format.block == 0 {
            return Err("expected blocks of at least 1 column, found 0".into());
        }
        len("codes", rows.checked_mul(cols), codes.len())?;
        len("steps", rows.checked_mul(format.blocks(cols)), steps.len())?;
        if let Some(code) = codes
            .iter()
            .find(|c| u16::from(**c) >= format.levels.count())
        {
            return Err(format!(
                "expected codes below {}, found {code}",
                format.levels.count()
            ));
        }
        if !(unit.is_finite() && unit >= 0.0) {
            return Err(format!(
                "expected a finite unit of at least 0, found {unit}"
            ));
        }
        Ok(Self {
            rows,
            cols,
            format,
            codes,
            steps,
            unit,
        })
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// How it is quantized.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// One code to a byte, row-major.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One byte for every block, `[rows, blocks]`.
    pub fn steps(&self) -> &[u8] {
        &self.steps
    }

    /// What a step is multiplied by before it is squared.
    pub fn unit(&self) -> f32 {
        self.unit
    }

    /// The scale of one step, as the emitted operators compute it.
    pub fn scale(&self, step: u8) -> f32 {
        scale_of(step, self.unit)
    }

    /// The matrix itself, row-major, as the emitted operators compute it: to the bit, where they compute in `f32`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.codes.len());
        (0..self.rows).for_each(|row| self.dequantize_row(row, &mut values));
        values
    }

    /// Appends one row of what [`BlockMatrix::dequantize`] gives; nothing for a row that is not there.
    pub(crate) fn dequantize_row(&self, row: usize, values: &mut Vec<f32>) {
        let blocks = self.format.blocks(self.cols);
        let zero = self.format.levels.zero();
        let codes = self.codes.chunks(self.cols.max(1)).nth(row).unwrap_or(&[]);
        for (b, block) in codes.chunks(self.format.block).enumerate() {
            let scale = self.scale(self.steps[row * blocks + b]);
            values.extend(block.iter().map(|&c| (f32::from(c) - zero) * scale));
        }
    }

    /// The codes and steps with rows and columns exchanged: `[cols, rows]` and `[blocks, rows]`.
    #[cfg(feature = "tract")]
    pub(crate) fn transposed(&self) -> (Vec<u8>, Vec<u8>) {
        let turn = |data: &[u8], cols: usize| {
            let rows = self.rows;
            let mut turned = vec![0; data.len()];
            for (r, row) in data.chunks(cols.max(1)).enumerate() {
                for (c, v) in row.iter().enumerate() {
                    turned[c * rows + r] = *v;
                }
            }
            turned
        };
        (
            turn(&self.codes, self.cols),
            turn(&self.steps, self.format.blocks(self.cols)),
        )
    }

    /// The rows `from..to`.
    pub(crate) fn row_range(&self, from: usize, to: usize) -> Self {
        let blocks = self.format.blocks(self.cols);
        Self {
            rows: to - from,
            codes: self.codes[from * self.cols..to * self.cols].to_vec(),
            steps: self.steps[from * blocks..to * blocks].to_vec(),
            ..*self
        }
    }
}

/// `(step * unit)^2`.
pub(crate) fn scale_of(step: u8, unit: f32) -> f32 {
    let root = f32::from(step) * unit;
    root * root
}

/// The step whose scale is nearest on the scale of steps.
pub(crate) fn step_of(scale: f32, unit: f32) -> u8 {
    if unit > 0.0 && scale > 0.0 {
        (scale.sqrt() / unit).round().clamp(1.0, 255.0) as u8
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let format = BlockFormat {
            levels: Levels::L4,
            block: 2,
        };
        let ok = BlockMatrix::new([1, 3], format, vec![0, 1, 3], vec![255, 1], 1.0 / 255.0);
        assert_eq!(
            ok.map(|m| m.dequantize()[..2].to_vec()),
            Ok(vec![-1.5, -0.5])
        );
        for (codes, steps, unit, part) in [
            (vec![0, 1], vec![1, 1], 1.0, "codes"),
            (vec![0, 1, 2], vec![1], 1.0, "steps"),
            (vec![0, 1, 4], vec![1, 1], 1.0, "below 4"),
            (vec![0, 1, 2], vec![1, 1], f32::NAN, "unit"),
        ] {
            let error = BlockMatrix::new([1, 3], format, codes, steps, unit).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let none = BlockMatrix::new(
            [1, 3],
            BlockFormat { block: 0, ..format },
            vec![0; 3],
            vec![1; 3],
            1.0,
        );
        assert!(none.is_err());
    }

    #[test]
    fn bytes_are_those_of_the_parts() {
        for levels in Levels::ALL {
            let format = BlockFormat { levels, block: 64 };
            assert_eq!(
                format.matrix_bytes(384, 384),
                (levels.packed_bytes(384 * 384) + 384 * 6 + 4) as u64
            );
            assert_eq!(
                format.table_bytes(10, 100),
                (10 * (levels.packed_bytes(100) + 2) + 4) as u64
            );
        }
    }
}
