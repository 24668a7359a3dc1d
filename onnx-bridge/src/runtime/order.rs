//! In which order the cores of a train multiply, and which of them are merged.

use super::cost;

/// Rows that an order is chosen for.
const TYPICAL_ROWS: usize = 16;

/// Which group comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// How a train runs: the ends of its groups, and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    pub(super) ends: Vec<usize>,
    pub(super) direction: Direction,
}

/// One step of an order by its sizes: how often, then `[rows, k] [k, columns]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) times: usize,
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) columns: usize,
}

/// `[r, m, n, r']` of groups that end before these cores.
fn groups(shapes: &[[usize; 4]], ends: &[usize]) -> Vec<[usize; 4]> {
    let mut from = 0;
    let mut group = |&to: &usize| {
        let part = &shapes[from..to];
        let product = |axis: usize| part.iter().map(|s| s[axis]).product();
        from = to;
        [part[0][0], product(1), product(2), part[part.len() - 1][3]]
    };
    ends.iter().map(&mut group).collect()
}

impl Order {
    /// The steps for one row.
    pub(super) fn sizes(&self, shapes: &[[usize; 4]]) -> Vec<Sizes> {
        let groups = groups(shapes, &self.ends);
        let product =
            |axis: usize, part: &[[usize; 4]]| -> usize { part.iter().map(|s| s[axis]).product() };
        let step = |i: usize| {
            let [r, m, n, next] = groups[i];
            let (before, after) = (&groups[..i], &groups[i + 1..]);
            match self.direction {
                Direction::Forward => Sizes {
                    times: product(1, before),
                    rows: m * next,
                    k: r * n,
                    columns: product(2, after),
                },
                Direction::Backward => Sizes {
                    times: product(2, before),
                    rows: r * m,
                    k: n * next,
                    columns: product(1, after),
                },
            }
        };
        match self.direction {
            Direction::Forward => (0..groups.len()).map(step).collect(),
            Direction::Backward => (0..groups.len()).rev().map(step).collect(),
        }
    }

    /// Cycles for so many rows.
    pub(super) fn cost(&self, shapes: &[[usize; 4]], rows: usize) -> f64 {
        let steps = self.sizes(shapes).into_iter();
        steps
            .map(|s| match s.columns {
                1 => cost::right(rows * s.times, s.k, s.rows),
                columns => (rows * s.times) as f64 * cost::left(s.rows, s.k, columns),
            })
            .sum()
    }

    /// The cheaper direction through the cores one by one.
    pub(super) fn each_core(shapes: &[[usize; 4]]) -> Self {
        let [forward, backward] = [Direction::Forward, Direction::Backward].map(|direction| Self {
            ends: (1..=shapes.len()).collect(),
            direction,
        });
        if backward.cost(shapes, TYPICAL_ROWS) < forward.cost(shapes, TYPICAL_ROWS) {
            backward
        } else {
            forward
        }
    }

    /// The cheapest order of a train.
    pub(super) fn cheapest(shapes: &[[usize; 4]]) -> Self {
        let count = shapes.len();
        let ends = |cuts: u32| -> Vec<usize> {
            let cut = |k: &usize| *k == count || cuts >> (k - 1) & 1 == 1;
            (1..=count).filter(cut).collect()
        };
        // Longer trains than this are cut everywhere: their groups are too many to try.
        let inner = count.saturating_sub(1) as u32;
        let all = if inner > 12 {
            vec![u32::MAX]
        } else {
            (0..1 << inner).collect()
        };
        let orders = all.into_iter().flat_map(|cuts| {
            [Direction::Forward, Direction::Backward].map(|direction| Self {
                ends: ends(cuts),
                direction,
            })
        });
        let whole = Self {
            ends: vec![count],
            direction: Direction::Forward,
        };
        orders
            .filter(|o| o.ends.len() > 1)
            .min_by(|a, b| {
                a.cost(shapes, TYPICAL_ROWS)
                    .total_cmp(&b.cost(shapes, TYPICAL_ROWS))
            })
            .unwrap_or(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cores_are_merged_where_that_saves_products() {
        // 784 to 1024 as 4x7x7x4 : 4x8x8x4 at rank 8.
        let shapes = [[1, 4, 4, 8], [8, 8, 7, 8], [8, 8, 7, 8], [8, 4, 4, 1]];
        let order = Order::cheapest(&shapes);
        assert_eq!(order.ends, [2, 4]);
        for rows in [1, 128] {
            let merged = order.cost(&shapes, rows);
            assert!(merged < cost::right(rows, 784, 1024), "{rows}");
            let all = Order {
                ends: vec![1, 2, 3, 4],
                direction: Direction::Forward,
            };
            assert!(merged < all.cost(&shapes, rows), "{rows}");
        }
    }

    #[test]
    fn a_split_train_becomes_two_matrices_where_that_saves_products() {
        let merged = |inner: usize, middle: usize| {
            let shapes = [
                [1, 1, 64, inner],
                [inner, 1, 64, middle],
                [middle, 64, 1, inner],
                [inner, 64, 1, 1],
            ];
            Order::cheapest(&shapes).ends == [2, 4]
        };
        assert!(merged(64, 64));
        // Two cores of rank 32 take fewer products than their half as one matrix.
        assert!(!merged(32, 128));
    }
}
