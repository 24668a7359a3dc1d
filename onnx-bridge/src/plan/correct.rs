//! Curves corrected by what plans were really found to lose: errors of one format may matter more than their size says.

use std::collections::{BTreeMap, BTreeSet};

use super::curve::{Curve, Point};
use super::form::Candidate;

/// A correction stays within this factor, up and down: a few trials are no reason for more.
const MOST: f64 = 8.0;

/// The name of what no plan has to correct.
const KEEP: &str = "keep";

/// A plan that was solved and run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// The choice of every weight.
    pub(crate) picks: Vec<usize>,
    /// The format of every weight, and the squared loss that is predicted for it.
    pub(crate) parts: Vec<(&'static str, f64)>,
    /// The squared loss that was found.
    pub(crate) verified: f64,
}

/// The formats that are offered, by name, without the one that changes nothing.
pub(crate) fn formats(offers: &[Vec<Candidate>]) -> Vec<&'static str> {
    let names: BTreeSet<&'static str> = offers.iter().flatten().map(|c| c.format_name()).collect();
    names.into_iter().filter(|name| *name != KEEP).collect()
}

/// Every point's loss times what `factor` says of its weight and candidate.
fn scaled(
    curves: &[Curve],
    offers: &[Vec<Candidate>],
    factor: impl Fn(usize, &Candidate) -> f64,
) -> Vec<Curve> {
    let one = |(t, (curve, offered)): (usize, (&Curve, &Vec<Candidate>))| {
        let points = curve.points().iter().zip(offered);
        Curve::new(
            points
                .map(|(p, c)| Point::new(p.bytes(), p.loss() * factor(t, c), p.time()))
                .collect(),
        )
    };
    curves.iter().zip(offers).enumerate().map(one).collect()
}

/// The curves with a factor for every weight.
pub(crate) fn by_weight(
    curves: &[Curve],
    offers: &[Vec<Candidate>],
    factors: &[f64],
) -> Vec<Curve> {
    scaled(curves, offers, |t, _| factors[t])
}

/// The curves with one weight's choices cut down to some: all others count as the worst there is.
pub(crate) fn only(curves: &[Curve], weight: usize, some: impl Fn(usize) -> bool) -> Vec<Curve> {
    let mut curves = curves.to_vec();
    if let Some(curve) = curves.get_mut(weight) {
        let points = curve.points().iter().enumerate();
        let cut = |(i, p): (usize, &Point)| {
            let loss = if some(i) { p.loss() } else { f64::INFINITY };
            Point::new(p.bytes(), loss, p.time())
        };
        *curve = Curve::new(points.map(cut).collect());
    }
    curves
}

/// The curves of one format alone: what is of another counts as the worst there is.
pub(crate) fn alone(curves: &[Curve], offers: &[Vec<Candidate>], format: &str) -> Vec<Curve> {
    scaled(curves, offers, |_, c| match c.format_name() {
        // Nothing is lost there: any factor would do but an infinite one.
        KEEP => 1.0,
        name if name == format => 1.0,
        _ => f64::INFINITY,
    })
}

/// What a factor is of: a weight, a format, both, or all there is.
type Part = (Option<usize>, Option<&'static str>);

/// The factors that a weight's choice has, whose product corrects it: by format, weight and both together, the coarser as far as they
/// explain it.
fn parts_of(weight: usize, format: &'static str) -> [Part; 4] {
    [
        (None, None),
        (None, Some(format)),
        (Some(weight), None),
        (Some(weight), Some(format)),
    ]
}

/// What errors really do over what was predicted, in the logarithm.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Factors {
    logs: BTreeMap<Part, f64>,
}

impl Factors {
    /// Such that the plans' sums of parts come near what was found.
    ///
    /// # Numerics
    /// Kaczmarz's steps in the logarithm, plan after plan, each moving a factor as far as its part in that plan is large; a
    /// few hundred rounds over the plans. Each factor stays between 1/8 and 8, and so does their product. Deterministic.
    pub(crate) fn of(found: &[Found]) -> Self {
        let most = MOST.ln();
        let mut factors = Self {
            logs: BTreeMap::new(),
        };
        for _ in 0..300 {
            for plan in found {
                let now = plan.parts.iter().enumerate().filter(|(_, p)| p.0 != KEEP);
                let now: Vec<(usize, &'static str, f64)> = now
                    .map(|(t, &(format, part))| (t, format, part * factors.at(t, format)))
                    .collect();
                let sum: f64 = now.iter().map(|(.., part)| part).sum();
                if !(sum > 0.0 && sum.is_finite() && plan.verified > 0.0) {
                    continue;
                }
                let mut shares: BTreeMap<Part, f64> = BTreeMap::new();
                for (t, format, part) in now {
                    for of in parts_of(t, format) {
                        *shares.entry(of).or_insert(0.0) += part / sum;
                    }
                }
                let off = (plan.verified / sum).ln();
                let norm: f64 = shares.values().map(|share| share.powi(2)).sum();
                for (of, share) in shares {
                    let log = factors.logs.entry(of).or_insert(0.0);
                    *log = (*log + off * share / norm).clamp(-most, most);
                }
            }
        }
        factors
    }

    /// That of a weight in a format: 1 where nothing is known of either.
    fn at(&self, weight: usize, format: &'static str) -> f64 {
        let parts = parts_of(weight, format).into_iter();
        let known = parts.filter_map(|part| self.logs.get(&part));
        known.sum::<f64>().clamp(-MOST.ln(), MOST.ln()).exp()
    }

    /// The curves with these factors.
    pub(crate) fn corrected(&self, curves: &[Curve], offers: &[Vec<Candidate>]) -> Vec<Curve> {
        scaled(curves, offers, |t, c| match c.format_name() {
            KEEP => 1.0,
            format => self.at(t, format),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockFormat, Levels};

    fn found(parts: &[(&'static str, f64)], verified: f64) -> Found {
        Found {
            picks: Vec::new(),
            parts: parts.to_vec(),
            verified,
        }
    }

    #[test]
    fn factors_explain_what_was_found() {
        let plans = [
            found(&[("dense", 0.03), ("low-rank", 0.07)], 0.02 + 0.14),
            found(&[("dense", 0.12), ("keep", 0.0)], 0.08),
        ];
        let factors = Factors::of(&plans);
        assert!(
            (factors.at(0, "dense") - 2.0 / 3.0).abs() < 1e-6,
            "{factors:?}"
        );
        assert!(
            (factors.at(1, "low-rank") - 2.0).abs() < 1e-6,
            "{factors:?}"
        );
        assert_eq!(Factors::of(&[]).at(0, "tt"), 1.0);
    }

    #[test]
    fn weights_are_told_apart_where_their_formats_are_not_to_blame() {
        let plans = [
            found(&[("dense", 0.1), ("dense", 0.1)], 0.1 + 0.01),
            found(&[("dense", 0.1), ("dense", 0.4)], 0.1 + 0.04),
            found(&[("dense", 0.4), ("dense", 0.1)], 0.4 + 0.01),
        ];
        let factors = Factors::of(&plans);
        assert!((factors.at(0, "dense") - 1.0).abs() < 0.05, "{factors:?}");
        assert!((factors.at(1, "dense") - 0.1).abs() < 0.05, "{factors:?}");
        // Of what was never tried the weight tells something, and so does what is common to all.
        assert!(factors.at(1, "tt") < factors.at(0, "tt"), "{factors:?}");
    }

    #[test]
    fn nothing_wild_comes_of_a_few_plans() {
        let wild = [
            found(&[("dense", 1e-9)], 1.0),
            found(&[("dense", 0.0), ("tt", f64::INFINITY)], 0.5),
        ];
        let factors = Factors::of(&wild);
        let at = ["dense", "tt"].map(|format| factors.at(0, format));
        assert!(at.iter().all(|f| (0.124..=8.01).contains(f)), "{factors:?}");
    }

    #[test]
    fn a_format_alone_leaves_what_stays_and_takes_no_other() {
        let format = BlockFormat {
            levels: Levels::L16,
            block: 32,
        };
        let offers = vec![vec![
            Candidate::Keep,
            Candidate::Dense { format },
            Candidate::LowRank { rank: 2, format },
        ]];
        let points = [(100, 0.0), (40, 0.2), (10, 0.5)];
        let curves = [Curve::new(
            points.iter().map(|&(b, l)| Point::new(b, l, 1.0)).collect(),
        )];
        assert_eq!(formats(&offers), ["dense", "low-rank"]);
        let dense = alone(&curves, &offers, "dense");
        let losses: Vec<f64> = dense[0].points().iter().map(Point::loss).collect();
        assert_eq!(losses, [0.0, 0.2, f64::INFINITY]);
        let factors = Factors {
            logs: BTreeMap::from([((None, Some("dense")), 0.5_f64.ln())]),
        };
        let corrected = factors.corrected(&curves, &offers);
        assert!((corrected[0].points()[1].loss() - 0.1).abs() < 1e-12);
    }
}
