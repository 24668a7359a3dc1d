//! What each choice for one weight costs, and which choices a trade-off can ever pick.

/// One choice for a weight: what it costs in the file, what the model's output loses, what a run takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    bytes: u64,
    loss: f64,
    time: f64,
}

impl Point {
    /// A choice of `bytes` in the file, `loss` added to the model's, `time` for one run (any unit, the same for all).
    ///
    /// Values below zero and NaN count as the worst there is, so that no trade-off picks them by accident.
    pub fn new(bytes: u64, loss: f64, time: f64) -> Self {
        let sane = |v: f64| if v >= 0.0 { v } else { f64::INFINITY };
        Self {
            bytes,
            loss: sane(loss),
            time: sane(time),
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the model's output is predicted to lose.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// The cost of one run.
    pub fn time(&self) -> f64 {
        self.time
    }

    /// Bytes and time as one price, `time_price` bytes for a unit of time.
    pub(crate) fn price(&self, time_price: f64) -> f64 {
        self.bytes as f64 + time_price * self.time
    }
}

/// All choices for one weight, in the order in which they were offered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    points: Vec<Point>,
}

impl Curve {
    /// A curve over the given choices.
    pub fn new(points: Vec<Point>) -> Self {
        Self { points }
    }

    /// The choices.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The lower convex hull over bytes: indices of the choices that are best for some price of a byte, cheapest first.
    /// Along it bytes rise, loss falls, and each further byte buys less than the one before.
    ///
    /// ```
    /// use onnx_bridge::plan::{Curve, Point};
    ///
    /// let at = |bytes, loss| Point::new(bytes, loss, 0.0);
    /// // The second point lies above the line from the first to the third; the last costs more and loses more.
    /// let curve = Curve::new(vec![at(10, 8.0), at(20, 7.5), at(30, 1.0), at(40, 0.5), at(50, 0.7)]);
    /// assert_eq!(curve.hull(), [0, 2, 3]);
    /// ```
    pub fn hull(&self) -> Vec<usize> {
        self.hull_at(0.0)
    }

    /// The lower convex hull over bytes plus `time_price` times the time.
    pub(crate) fn hull_at(&self, time_price: f64) -> Vec<usize> {
        let price = |i: usize| self.points[i].price(time_price);
        let loss = |i: usize| self.points[i].loss;
        let finite = |&i: &usize| loss(i).is_finite() && price(i).is_finite();
        let mut order: Vec<usize> = (0..self.points.len()).filter(finite).collect();
        order.sort_by(|&a, &b| {
            price(a)
                .total_cmp(&price(b))
                .then(loss(a).total_cmp(&loss(b)))
                .then(a.cmp(&b))
        });
        let mut hull: Vec<usize> = Vec::new();
        for i in order {
            if hull.last().is_some_and(|&last| loss(i) >= loss(last)) {
                continue;
            }
            while let &[.., a, b] = hull.as_slice() {
                // b stays only if it lies strictly below the line from a to i.
                let (to_b, to_i) = (price(b) - price(a), price(i) - price(a));
                if (loss(a) - loss(b)) * to_i > (loss(a) - loss(i)) * to_b {
                    break;
                }
                hull.pop();
            }
            if let &[only] = hull.as_slice()
                && price(only) == price(i)
            {
                hull.pop();
            }
            hull.push(i);
        }
        hull
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A curve of bytes and losses.
    pub(in crate::plan) fn curve(points: &[(u64, f64)]) -> Curve {
        Curve::new(points.iter().map(|&(b, l)| Point::new(b, l, 0.0)).collect())
    }

    #[test]
    fn hull_keeps_what_some_price_picks() {
        type Case = (&'static [(u64, f64)], &'static [usize]);
        let cases: [Case; 6] = [
            (&[], &[]),
            (&[(5, 1.0)], &[0]),
            (&[(5, 1.0), (5, 0.5)], &[1]),
            (&[(1, 3.0), (2, 2.0), (3, 1.0)], &[0, 2]),
            (&[(3, 1.0), (1, 9.0), (2, 2.0)], &[1, 2, 0]),
            (&[(1, f64::NAN), (2, 2.0)], &[1]),
        ];
        for (points, expected) in cases {
            assert_eq!(curve(points).hull(), expected, "{points:?}");
        }
    }

    proptest! {
        #[test]
        fn every_price_is_served_by_the_hull(
            points in prop::collection::vec((0_u64..1000, 0.0_f64..100.0), 1..30),
            price in 0.0_f64..2.0,
        ) {
            let curve = curve(&points);
            let hull = curve.hull();
            let cost = |i: usize| points[i].1 + price * points[i].0 as f64;
            let best = (0..points.len()).map(cost).fold(f64::INFINITY, f64::min);
            let on_hull = hull.iter().map(|&i| cost(i)).fold(f64::INFINITY, f64::min);
            prop_assert!(on_hull <= best + 1e-9 * (1.0 + best));
            for pair in hull.windows(2) {
                prop_assert!(points[pair[0]].0 < points[pair[1]].0);
                prop_assert!(points[pair[0]].1 > points[pair[1]].1);
            }
        }
    }
}
