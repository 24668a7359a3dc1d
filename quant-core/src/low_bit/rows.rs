//! Rows of activations, interleaved for the kernels.

use super::Chunks;

/// `m` rows cut into tiles of nearly the same height, none above `most`: `(first, rows)` of each.
pub(super) fn tiles(m: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = m.div_ceil(most);
    (0..count).scan(0, move |first, tile| {
        let rows = (m - *first).div_ceil(count - tile);
        *first += rows;
        Some((*first - rows, rows))
    })
}

/// Lays `[m, k]` out as `[tile][k][row]`.
pub(super) fn interleave(x: &[f32], [m, k]: [usize; 2], most: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(m * k, 0.0);
    for (first, rows) in tiles(m, most) {
        let tile = &mut out[first * k..][..rows * k];
        let x = &x[first * k..][..rows * k];
        match rows {
            1 => tile.copy_from_slice(x),
            4 => interleave_rows::<4>(x, k, tile),
            5 => interleave_rows::<5>(x, k, tile),
            6 => interleave_rows::<6>(x, k, tile),
            8 => interleave_rows::<8>(x, k, tile),
            9 => interleave_rows::<9>(x, k, tile),
            10 => interleave_rows::<10>(x, k, tile),
            11 => interleave_rows::<11>(x, k, tile),
            12 => interleave_rows::<12>(x, k, tile),
            _ => {
                for (r, row) in x.chunks(k.max(1)).enumerate() {
                    for (v, o) in row.iter().zip(tile.iter_mut().skip(r).step_by(rows)) {
                        *o = *v;
                    }
                }
            }
        }
    }
}

fn interleave_rows<const R: usize>(x: &[f32], k: usize, tile: &mut [f32]) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * k..][..k]);
    let (tile, _) = tile.as_chunks_mut::<R>();
    for (k, out) in tile.iter_mut().enumerate() {
        *out = std::array::from_fn(|r| rows[r][k]);
    }
}

/// Copies rows `[m, k]` so that they have the gaps that the chunks have.
pub(super) fn spread(x: &[f32], m: usize, chunks: Chunks, out: &mut Vec<f32>) {
    out.clear();
    out.resize(m * chunks.padded(), 0.0);
    for (row, out) in x
        .chunks(chunks.k.max(1))
        .zip(out.chunks_mut(chunks.padded().max(1)))
    {
        for (range, out) in chunks.ranges().zip(out.chunks_mut(chunks.length)) {
            out[..range.len()].copy_from_slice(&row[range]);
        }
    }
}

/// The sums over the chunks of interleaved rows: `[tile][chunk][row]`.
pub(super) fn chunk_sums(a: &[f32], m: usize, chunks: Chunks, most: usize, out: &mut Vec<f32>) {
    out.clear();
    for (first, rows) in tiles(m, most) {
        let tile = &a[first * chunks.padded()..][..rows * chunks.padded()];
        for chunk in tile.chunks(rows * chunks.length) {
            let from = out.len();
            out.resize(from + rows, 0.0);
            for step in chunk.chunks(rows) {
                out[from..].iter_mut().zip(step).for_each(|(o, v)| *o += v);
            }
        }
    }
}
