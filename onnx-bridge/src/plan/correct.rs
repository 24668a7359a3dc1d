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
    /// The squared loss that is predicted for the weights of each format.
    pub(crate) parts: BTreeMap<&'static str, f64>,
    /// The squared loss that was found.
    pub(crate) verified: f64,
}

/// The formats that are offered, by name, without the one that changes nothing.
pub(crate) fn formats(offers: &[Vec<Candidate>]) -> Vec<&'static str> {
    let names: BTreeSet<&'static str> = offers.iter().flatten().map(|c| c.format_name()).collect();
    names.into_iter().filter(|name| *name != KEEP).collect()
}

/// Every point's loss times what `factor` says of its candidate.
fn scaled(
    curves: &[Curve],
    offers: &[Vec<Candidate>],
    factor: impl Fn(&Candidate) -> f64,
) -> Vec<Curve> {
    let one = |(curve, offered): (&Curve, &Vec<Candidate>)| {
        let points = curve.points().iter().zip(offered);
        Curve::new(
            points
                .map(|(p, c)| Point::new(p.bytes(), p.loss() * factor(c), p.time()))
                .collect(),
        )
    };
    curves.iter().zip(offers).map(one).collect()
}

/// The curves of one format alone: what is of another counts as the worst there is.
pub(crate) fn alone(curves: &[Curve], offers: &[Vec<Candidate>], format: &str) -> Vec<Curve> {
    scaled(curves, offers, |c| match c.format_name() {
        // Nothing is lost there: any factor would do but an infinite one.
        KEEP => 1.0,
        name if name == format => 1.0,
        _ => f64::INFINITY,
    })
}

/// The curves with a factor for each format.
pub(crate) fn corrected(
    curves: &[Curve],
    offers: &[Vec<Candidate>],
    factors: &BTreeMap<&'static str, f64>,
) -> Vec<Curve> {
    scaled(curves, offers, |c| {
        factors.get(c.format_name()).copied().unwrap_or(1.0)
    })
}

/// For each format what its errors really do over what was predicted: so that the plans' sums of parts come near what was
/// found.
///
/// # Numerics
/// Kaczmarz's steps in the logarithm, plan after plan, each moving a factor as far as its part in that plan is large; a few
/// hundred rounds over a few plans. Factors stay between 1/8 and 8. Deterministic.
pub(crate) fn factors(formats: &[&'static str], found: &[Found]) -> BTreeMap<&'static str, f64> {
    let mut logs: BTreeMap<&'static str, f64> = formats.iter().map(|name| (*name, 0.0)).collect();
    let most = MOST.ln();
    for _ in 0..300 {
        for plan in found {
            let parts = plan.parts.iter();
            let now: Vec<(&'static str, f64)> = parts
                .filter_map(|(name, part)| Some((*name, part * logs.get(name)?.exp())))
                .collect();
            let sum: f64 = now.iter().map(|(_, part)| part).sum();
            if !(sum > 0.0 && sum.is_finite() && plan.verified > 0.0) {
                continue;
            }
            let off = (plan.verified / sum).ln();
            let norm: f64 = now.iter().map(|(_, part)| (part / sum).powi(2)).sum();
            for (name, part) in now {
                if let Some(log) = logs.get_mut(name) {
                    *log = (*log + off * part / sum / norm).clamp(-most, most);
                }
            }
        }
    }
    logs.into_iter()
        .map(|(name, log)| (name, log.exp()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockFormat, Levels};

    fn found(parts: &[(&'static str, f64)], verified: f64) -> Found {
        Found {
            picks: Vec::new(),
            parts: parts.iter().copied().collect(),
            verified,
        }
    }

    #[test]
    fn factors_explain_what_was_found() {
        let plans = [
            found(&[("dense", 0.03), ("low-rank", 0.07)], 0.02 + 0.14),
            found(&[("dense", 0.12), ("keep", 0.0)], 0.08),
        ];
        let factors = factors(&["dense", "low-rank", "tt"], &plans);
        assert!((factors["dense"] - 2.0 / 3.0).abs() < 1e-6, "{factors:?}");
        assert!((factors["low-rank"] - 2.0).abs() < 1e-6, "{factors:?}");
        assert_eq!(factors["tt"], 1.0);
    }

    #[test]
    fn nothing_wild_comes_of_a_few_plans() {
        let wild = [
            found(&[("dense", 1e-9)], 1.0),
            found(&[("dense", 0.0), ("tt", f64::INFINITY)], 0.5),
        ];
        let factors = factors(&["dense", "tt"], &wild);
        assert!(
            factors.values().all(|f| (0.124..=8.01).contains(f)),
            "{factors:?}"
        );
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
        let factors = BTreeMap::from([("dense", 0.5)]);
        assert_eq!(
            corrected(&curves, &offers, &factors)[0].points()[1].loss(),
            0.1
        );
    }
}
