//! What products cost, in cycles of one core: enough to choose between ways to compute the same.
//!
//! The kernels go through panels of 32 columns, up to 12 rows at once: a step along k takes two multiply-adds of vectors
//! for each row, or the time in which two vectors of weights arrive, whichever is longer. Numbers are those of a Zen 4 with
//! AVX-512; what matters are their ratios, which other cores share.

/// Columns of a panel.
const PANEL: usize = 32;
/// Rows of a tile.
const TILE: usize = 12;
/// Cycles for a tile beside its steps: its sums are cleared, joined and stored.
const TILE_OVERHEAD: f64 = 40.0;
/// Cycles in which a number is read and written again.
const COPY: f64 = 0.5;

/// Cycles until two vectors of a matrix of so many bytes arrive.
fn arrival(bytes: usize) -> f64 {
    match bytes {
        0..=24_576 => 2.0,
        24_577..=786_432 => 4.0,
        786_433..=12_582_912 => 6.0,
        _ => 21.0,
    }
}

/// `[rows, k] [k, columns]`, the right operand being `f32` in panels.
pub(super) fn right(rows: usize, k: usize, columns: usize) -> f64 {
    if rows == 0 {
        return 0.0;
    }
    let interleave = if rows == 1 {
        0.0
    } else {
        COPY * (rows * k) as f64
    };
    interleave + product(rows, k, columns, arrival(4 * k * columns))
}

/// `[rows, k] [k, columns]`, the left operand being in tiles and the right one a state in the first cache.
pub(super) fn left(rows: usize, k: usize, columns: usize) -> f64 {
    product(rows, k, columns, arrival(0))
}

/// `[rows, k] [k, columns]`, the right operand being codes of `bits` bits.
pub(super) fn packed(rows: usize, k: usize, columns: usize, bits: usize) -> f64 {
    // Codes are made `f32` in registers: two vectors of them take some four operations.
    let unpack = 4.0;
    let arrival = arrival(k * columns * bits / 8) * bits as f64 / 32.0;
    COPY * (rows * k) as f64 + product(rows, k, columns, arrival.max(unpack))
}

fn product(rows: usize, k: usize, columns: usize, arrival: f64) -> f64 {
    let panels = columns.div_ceil(PANEL) as f64;
    let tiles = rows.div_ceil(TILE);
    let height = rows as f64 / tiles.max(1) as f64;
    // A panel that a tile has gone through stays near for the next.
    let step = (2.0 * height).max(arrival) + (tiles.max(1) - 1) as f64 * (2.0 * height).max(2.0);
    panels * (k as f64 * step + tiles as f64 * TILE_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_cost_their_multiply_adds_and_one_row_its_weights() {
        let per_mac = |cycles: f64, rows: usize, k: usize, n: usize| cycles / (rows * k * n) as f64;
        let many = per_mac(right(128, 4096, 4096), 128, 4096, 4096);
        assert!((1.0 / 16.0..1.2 / 16.0).contains(&many), "{many}");
        let one = per_mac(right(1, 4096, 4096), 1, 4096, 4096);
        assert!(one > 8.0 * many, "{one}");
        assert!(packed(1, 4096, 4096, 4) < right(1, 4096, 4096) / 4.0);
        assert!(left(32, 64, 1) > left(32, 64, 32) * 0.9);
    }
}
