//! Choices for files between two sizes: where a plan has few weights, one price of a byte leaves gaps there.

use super::curve::{Curve, Point};

/// Sizes that are told apart, up to the largest.
const SIZES: u64 = 4096;

/// What is known of one way to choose for the first weights.
#[derive(Debug, Clone, Copy)]
struct State {
    bytes: u64,
    loss: f64,
    /// Which state of the weights before this one.
    before: usize,
    pick: usize,
}

/// Picks whose bytes are more than `over` and at most `most`: for each of the sizes told apart those of least loss, the best
/// of all first. Exact where no two choices share a size, else within a part in 4096 of the largest size at each weight.
///
/// A curve without a finite choice is left out of the sums and its pick is 0.
pub(crate) fn between(curves: &[Curve], over: u64, most: u64) -> Vec<Vec<usize>> {
    let finite = |p: &Point| p.loss().is_finite();
    let least = |c: &Curve| {
        c.points()
            .iter()
            .filter(|p| finite(p))
            .map(Point::bytes)
            .min()
    };
    let mut rest: u64 = curves.iter().filter_map(least).sum();
    let start = State {
        bytes: 0,
        loss: 0.0,
        before: 0,
        pick: 0,
    };
    let mut levels = vec![vec![start]];
    for curve in curves {
        rest -= least(curve).unwrap_or(0);
        let mut choices: Vec<(usize, u64, f64)> = curve
            .points()
            .iter()
            .enumerate()
            .filter(|(_, p)| finite(p))
            .map(|(i, p)| (i, p.bytes(), p.loss()))
            .collect();
        if choices.is_empty() {
            choices.push((0, 0, 0.0));
        }
        let mut best: Vec<Option<State>> = vec![None; SIZES as usize + 1];
        for (before, state) in levels.last().into_iter().flatten().enumerate() {
            for &(pick, more, loss) in &choices {
                let (bytes, loss) = (state.bytes + more, state.loss + loss);
                if bytes + rest > most {
                    continue;
                }
                let slot =
                    (u128::from(bytes) * u128::from(SIZES) / u128::from(most.max(1))) as usize;
                if best[slot].is_none_or(|known| loss < known.loss) {
                    best[slot] = Some(State {
                        bytes,
                        loss,
                        before,
                        pick,
                    });
                }
            }
        }
        levels.push(best.into_iter().flatten().collect());
    }
    let mut ends: Vec<State> = levels.last().into_iter().flatten().copied().collect();
    ends.retain(|end| end.bytes > over && end.bytes <= most);
    ends.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.bytes.cmp(&b.bytes)));
    let picks = |end: State| {
        let mut picks = vec![end.pick; curves.len()];
        let mut state = end;
        for w in (0..curves.len()).rev() {
            picks[w] = state.pick;
            state = levels[w][state.before];
        }
        picks
    };
    ends.into_iter().map(picks).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::curve::tests::curve;

    #[test]
    fn a_window_is_searched_in_the_order_of_loss() {
        let curves = [
            curve(&[(10, 9.0), (20, 1.0), (5, f64::INFINITY)]),
            curve(&[(10, 3.0), (21, 2.5)]),
        ];
        assert_eq!(between(&curves, 0, 40), [[1, 0], [0, 1], [0, 0]]);
        assert_eq!(between(&curves, 20, 30), [[1, 0]]);
        assert_eq!(between(&curves, 20, 31), [[1, 0], [0, 1]]);
        assert!(between(&curves, 31, 40).is_empty());
        assert!(between(&curves, 0, 19).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_in_the_window_loses_less(
            points in prop::collection::vec(prop::collection::vec((1_u64..400, 0.0_f64..9.0), 1..7), 1..4),
            window in (0_u64..600, 1_u64..600),
        ) {
            let curves: Vec<Curve> = points.iter().map(|p| curve(p)).collect();
            let (over, most) = (window.0, window.0 + window.1);
            let sum = |picks: &[usize]| {
                let at = points.iter().zip(picks).map(|(p, &i)| p[i]);
                at.fold((0, 0.0), |(b, l), (bytes, loss)| (b + bytes, l + loss))
            };
            let mut all = vec![Vec::new()];
            for p in &points {
                all = all.iter().flat_map(|a: &Vec<usize>| (0..p.len()).map(move |i| [&a[..], &[i]].concat())).collect();
            }
            let inside = all.iter().map(|a| sum(a)).filter(|(b, _)| *b > over && *b <= most);
            let least = inside.map(|(_, l)| l).fold(f64::INFINITY, f64::min);
            let found = between(&curves, over, most);
            prop_assert!(found.iter().map(|p| sum(p)).all(|(b, _)| b > over && b <= most));
            let first = found.first().map_or(f64::INFINITY, |p| sum(p).1);
            prop_assert!((first - least).abs() < 1e-9 || first == least, "{first} {least}");
        }
    }
}
