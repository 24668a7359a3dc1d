//! How the product kernels see their operands: weights in panels of columns, activations in tiles of rows.

use crate::arch::Isa;

/// Columns of the packed matrix that a kernel takes at once.
pub(crate) const PANEL: usize = 32;

/// Four consecutive k of 16 columns: the unit the kernels load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Block(pub(crate) [i8; 64]);

/// The quad of column `c` of a panel, from its two blocks.
#[inline(always)]
pub(crate) fn block_column(blocks: &[Block], c: usize) -> [i8; 4] {
    std::array::from_fn(|j| blocks[c / 16].0[c % 16 * 4 + j])
}

/// Rows of activations cut into tiles of nearly the same height.
pub(crate) struct Tiles {
    m: usize,
    count: usize,
}

impl Tiles {
    pub(crate) fn new(m: usize, isa: Isa) -> Self {
        Self {
            m,
            count: m.div_ceil(isa.max_rows()),
        }
    }

    pub(crate) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let mut first = 0;
        for tile in 0..self.count {
            let rows = (self.m - first).div_ceil(self.count - tile);
            f(first, rows);
            first += rows;
        }
    }

    /// Lays `[m, k]` out as `[tile][k / N][row]`, each N elements of a row made one; the last are filled up with what
    /// is 0 (which the weights there are, too).
    pub(crate) fn interleave<T: Copy + Default, A, const N: usize>(
        &self,
        x: &[T],
        k: usize,
        out: &mut [A],
        f: impl Fn(&[T; N]) -> A,
    ) {
        let steps = out.len() / self.m;
        self.for_each(|first, rows| {
            let tile = &mut out[first * steps..][..rows * steps];
            for r in 0..rows {
                let (parts, rest) = x[(first + r) * k..][..k].as_chunks::<N>();
                let mut column = tile.iter_mut().skip(r).step_by(rows);
                for (part, o) in parts.iter().zip(&mut column) {
                    *o = f(part);
                }
                if let (false, Some(o)) = (rest.is_empty(), column.next()) {
                    *o = f(&std::array::from_fn(|i| {
                        rest.get(i).copied().unwrap_or_default()
                    }));
                }
            }
        });
    }
}
