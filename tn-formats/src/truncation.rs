//! How much a decomposition may discard, and what it did discard.

use crate::error::{Error, Result};
use crate::scalar::Real;

/// Where a decomposition stops.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Truncation {
    /// No rank above this one.
    MaxRank(usize),
    /// One cap per bond (order - 1 of them), or per mode for Tucker (order of them).
    Ranks(Vec<usize>),
    /// `||A - A~|| <= eps ||A||`, eps in `[0, 1)`, with ranks as small as a sweep finds. An eps below the round-off
    /// ([`Certificate::roundoff`] over the norm) keeps every rank; round-off alone then is the error. Zeros have rank 1.
    RelativeError(f64),
    /// The cores together take at most this many bytes, in the element type of the array.
    Bytes(usize),
}

impl Truncation {
    /// Caps of `bonds` ranks, `usize::MAX` where there is none.
    pub(crate) fn caps(&self, bonds: usize) -> Result<Vec<usize>> {
        match self {
            Self::MaxRank(0) => Err(rank_zero()),
            Self::MaxRank(cap) => Ok(vec![*cap; bonds]),
            Self::Ranks(caps) if caps.contains(&0) => Err(rank_zero()),
            Self::Ranks(caps) if caps.len() != bonds => Err(Error::Length {
                what: "ranks of a truncation",
                expected: bonds,
                found: caps.len(),
            }),
            Self::Ranks(caps) => Ok(caps.clone()),
            Self::RelativeError(_) | Self::Bytes(_) => Ok(vec![usize::MAX; bonds]),
        }
    }

    /// The relative error allowed, 0 where only ranks are capped.
    pub(crate) fn epsilon(&self) -> Result<f64> {
        match self {
            Self::RelativeError(eps) if !(0.0..1.0).contains(eps) => Err(Error::Parameter {
                what: "relative error",
                expected: "a number in [0, 1)",
                found: eps.to_string(),
            }),
            Self::RelativeError(eps) => Ok(*eps),
            _ => Ok(0.0),
        }
    }
}

fn rank_zero() -> Error {
    Error::Parameter {
        what: "rank",
        expected: "at least 1",
        found: "0".into(),
    }
}

/// What one bond (or one mode of a Tucker network) kept and discarded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BondCertificate {
    /// Rank kept.
    pub rank: usize,
    /// Frobenius norm of what this step discarded.
    pub discarded: f64,
}

/// The truncation error of a decomposition.
///
/// The steps discard mutually orthogonal parts, so [`Certificate::error`] is the error `||A - A~||` itself, not a bound:
/// within 1e-5 of the measured error wherever it is above a thousand times [`Certificate::roundoff`]. Below that, and so where
/// nothing is discarded, round-off is part or all of what is measured, and the two differ by at most `roundoff()`.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    norm: f64,
    budget: f64,
    roundoff: f64,
    bonds: Vec<BondCertificate>,
}

impl Certificate {
    /// `T` is what the cores are stored in, `longest` the longest side of an unfolding: what sums run over.
    pub(crate) fn new<T: Real>(
        norm: f64,
        budget: f64,
        longest: usize,
        bonds: Vec<BondCertificate>,
    ) -> Self {
        let stored = 8.0 * T::UNIT_ROUNDOFF;
        let computed = 4.0 * f64::UNIT_ROUNDOFF * (longest as f64).sqrt();
        Self {
            norm,
            budget,
            roundoff: (stored + computed) * norm * ((bonds.len() + 1) as f64).sqrt(),
            bonds,
        }
    }

    /// `||A||` of the array that was decomposed.
    pub fn norm(&self) -> f64 {
        self.norm
    }

    /// `||A - A~||`.
    pub fn error(&self) -> f64 {
        self.bonds
            .iter()
            .map(|b| b.discarded * b.discarded)
            .sum::<f64>()
            .sqrt()
    }

    /// `||A - A~|| / ||A||`, 0 for a zero array.
    pub fn relative_error(&self) -> f64 {
        if self.norm == 0.0 {
            0.0
        } else {
            self.error() / self.norm
        }
    }

    /// What the last bond left of the error budget: the error could have grown by this much (in quadrature). 0 when the
    /// truncation set no error.
    pub fn unspent(&self) -> f64 {
        let left = (self.budget * self.norm).powi(2) - self.error().powi(2);
        left.max(0.0).sqrt()
    }

    /// Bound of what computing in `f64` and storing the cores in their element type does to the error; from the sizes and the
    /// norm, with about twice the room that decompositions of weights need.
    pub fn roundoff(&self) -> f64 {
        self.roundoff
    }

    /// Step by step, in the order of the bonds or modes.
    pub fn bonds(&self) -> &[BondCertificate] {
        &self.bonds
    }
}

/// Ranks within a budget, grown from 1: the next rank goes where it captures most energy per element. At least rank 1
/// everywhere, whatever the budget.
///
/// `values` are the squared singular values, falling, of each bond or mode; `size` counts the elements at given ranks.
pub(crate) fn ranks_within(
    values: &[Vec<f64>],
    parameters: usize,
    size: impl Fn(&[usize]) -> usize,
) -> Vec<usize> {
    let mut ranks = vec![1; values.len()];
    let mut open: Vec<usize> = (0..ranks.len()).collect();
    while !open.is_empty() {
        let before = size(&ranks);
        let grown = |k: usize| {
            let mut grown = ranks.clone();
            grown[k] += 1;
            size(&grown)
        };
        open.retain(|&k| ranks[k] < values[k].len() && grown(k) <= parameters);
        let gain = |k: usize| values[k][ranks[k]] / (grown(k) - before) as f64;
        let best = open
            .iter()
            .copied()
            .max_by(|&a, &b| gain(a).total_cmp(&gain(b)));
        if let Some(k) = best {
            ranks[k] += 1;
        }
    }
    ranks
}

/// Elements of a train with these modes and inner ranks.
pub(crate) fn train_size(modes: &[usize], ranks: &[usize]) -> usize {
    let at = |k: usize| {
        if k == 0 || k > ranks.len() {
            1
        } else {
            ranks[k - 1]
        }
    };
    modes
        .iter()
        .enumerate()
        .map(|(k, n)| at(k) * n * at(k + 1))
        .sum()
}

/// Elements of a Tucker network: the product of the ranks, and one factor per mode that is decomposed.
pub(crate) fn tucker_size(shape: &[usize], modes: &[usize], ranks: &[usize]) -> usize {
    let mut core = shape.to_vec();
    for (&mode, &rank) in modes.iter().zip(ranks) {
        core[mode] = rank;
    }
    let factors: usize = modes
        .iter()
        .zip(ranks)
        .map(|(&mode, &rank)| shape[mode] * rank)
        .sum();
    core.iter().product::<usize>() + factors
}
