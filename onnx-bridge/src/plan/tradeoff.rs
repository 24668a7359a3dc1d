//! What a planner saw around its choice: the best loss at every size, what plain quantization would be, what was tried.

use serde::{Deserialize, Serialize};

use super::allocate::{Limits, allocate};
use super::curve::Curve;
use super::form::Candidate;
use crate::blocks::{BlockFormat, Levels};
use crate::calibrate::Target;

/// Sizes that the curve is asked for.
const SIZES: usize = 25;

/// A file of so many bytes and its predicted loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TradeoffPoint {
    /// Bytes of the file; of its graph as many as the chosen plan's has.
    pub bytes: u64,
    /// Predicted relative L2 distance of the outputs.
    pub predicted_loss: f64,
}

/// All weights quantized one way, without a decomposition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Baseline {
    /// `dense int8` or `dense int4`.
    pub name: String,
    /// Size and loss.
    #[serde(flatten)]
    pub point: TradeoffPoint,
}

/// A plan that was solved and run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TriedPlan {
    /// Bytes of the file.
    pub bytes: u64,
    /// Predicted relative L2 distance of the outputs.
    pub predicted_loss: f64,
    /// The one that was found.
    pub verified_loss: f64,
    /// The accuracy that was found, on data with labels.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Whether it kept the goal.
    #[serde(default)]
    pub kept: bool,
}

/// Why the search for the smallest file that keeps a goal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ended {
    /// A file at most 3 % smaller was tried and misses the goal, and so does the best that is predicted for a file 3 % smaller.
    Tried,
    /// Among all that the weights may become no file was found between the chosen one and the largest smaller one that misses
    /// the goal.
    NothingBetween,
    /// As many plans were tried as are for one goal: a smaller file might do.
    Rounds,
}

/// The surroundings of a plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tradeoff {
    /// The least predicted loss at rising sizes: the lower hull over all weights together.
    pub curve: Vec<TradeoffPoint>,
    /// Plain quantization at its sizes, where the plan was allowed it; a weight that it does not shrink stays.
    pub baselines: Vec<Baseline>,
    /// Every plan that was solved, in the order of the search.
    pub tried: Vec<TriedPlan>,
    /// Why the search for the smallest file ended; none of a goal on size or speed, nor where no file was found.
    #[serde(default)]
    pub ended: Option<Ended>,
}

/// Everything but what was tried and why that ended, for a plan of `picks` in a file of `bytes`.
pub(crate) fn tradeoff(
    targets: &[Target],
    offers: &[Vec<Candidate>],
    curves: &[Curve],
    picks: &[usize],
    bytes: u64,
) -> Tradeoff {
    let sum = |picks: &[usize]| -> (u64, f64) {
        let points = curves.iter().zip(picks).map(|(c, &p)| c.points()[p]);
        points.fold((0, 0.0), |(b, l), p| (b + p.bytes(), l + p.loss()))
    };
    let rest = bytes.saturating_sub(sum(picks).0);
    let at = |(bytes, loss): (u64, f64)| TradeoffPoint {
        bytes: bytes + rest,
        predicted_loss: loss.sqrt(),
    };
    Tradeoff {
        curve: frontier(curves).into_iter().map(at).collect(),
        baselines: [
            ("dense int8", Levels::L256, 128),
            ("dense int4", Levels::L16, 32),
        ]
        .into_iter()
        .filter_map(|(name, levels, block)| {
            let picks = plain(targets, offers, levels, block)?;
            let point = at(sum(&picks));
            point.predicted_loss.is_finite().then(|| Baseline {
                name: name.to_string(),
                point,
            })
        })
        .collect(),
        tried: Vec::new(),
        ended: None,
    }
}

/// Bytes and squared loss of the best choices at sizes between the least and the most, evenly spaced in their logarithm.
fn frontier(curves: &[Curve]) -> Vec<(u64, f64)> {
    let extreme = |pick: fn(&[u64]) -> Option<u64>| -> u64 {
        let of = |c: &Curve| -> Vec<u64> {
            let hull = c.hull();
            hull.into_iter().map(|i| c.points()[i].bytes()).collect()
        };
        curves.iter().filter_map(|c| pick(&of(c))).sum()
    };
    let least = extreme(|bytes| bytes.iter().min().copied()).max(1);
    let most = extreme(|bytes| bytes.iter().max().copied()).max(least);
    let ratio = most as f64 / least as f64;
    let mut found: Vec<(u64, f64)> = Vec::with_capacity(SIZES);
    for k in 0..SIZES {
        let part = k as f64 / (SIZES - 1) as f64;
        let budget = (least as f64 * ratio.powf(part)).ceil() as u64;
        let chosen = allocate(
            curves,
            &Limits {
                bytes: Some(budget),
                ..Limits::default()
            },
        );
        let point = (chosen.bytes(), chosen.loss());
        let further = found
            .last()
            .is_none_or(|last| point.0 > last.0 && point.1 < last.1);
        if point.1.is_finite() && further {
            found.push(point);
        }
    }
    found
}

/// The picks that make every weight a plain matrix of these levels; `None` where no weight may be one.
fn plain(
    targets: &[Target],
    offers: &[Vec<Candidate>],
    levels: Levels,
    block: usize,
) -> Option<Vec<usize>> {
    let mut any = false;
    let picks = targets.iter().zip(offers).map(|(target, offered)| {
        let format = BlockFormat {
            levels,
            block: block.min(target.shape()[1]),
        };
        let position = |wanted| offered.iter().position(|c| *c == wanted);
        let dense = position(Candidate::Dense { format });
        any |= dense.is_some();
        dense.or(position(Candidate::Keep))
    });
    let picks: Option<Vec<usize>> = picks.collect();
    picks.filter(|_| any)
}

#[cfg(test)]
mod tests {
    use super::super::curve::tests::curve;
    use super::*;

    #[test]
    fn the_frontier_falls_from_the_smallest_to_the_best() {
        let curves = [
            curve(&[(400, 0.0), (100, 0.5), (50, 2.0)]),
            curve(&[(800, 0.0), (200, 0.1), (100, 4.0)]),
        ];
        let found = frontier(&curves);
        assert_eq!(found.first(), Some(&(150, 6.0)));
        assert_eq!(found.last(), Some(&(1200, 0.0)));
        for pair in found.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1, "{found:?}");
        }
        assert!(frontier(&[]).len() <= 1);
    }
}
