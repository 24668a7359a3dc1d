//! Ranks between those that were measured: what they lose is read off between their neighbours.

use super::form::Candidate;
use crate::calibrate::Target;
use crate::emit::packed::RunsOn;

/// Neighbouring ranks are at most so far apart.
const STEP: f64 = 1.06;

/// Adds to the offers of every weight the ranks between two that differ in nothing else, and to their losses what a line
/// through the logarithms of the two says. A plan that takes one is solved and run like any other.
pub(crate) fn between(
    targets: &[Target],
    runs_on: RunsOn,
    offers: &mut [Vec<Candidate>],
    losses: &mut [Vec<f64>],
) {
    for ((target, offered), losses) in targets.iter().zip(offers).zip(losses) {
        let (mut ranks, mut read) = (Vec::new(), Vec::new());
        for (candidate, loss) in filled(offered, losses) {
            if candidate.bytes(target, runs_on) < target.bytes() {
                ranks.push(candidate);
                read.push(loss);
            }
        }
        offered.append(&mut ranks);
        losses.append(&mut read);
    }
}

/// What lies between the offers that have a rank.
fn filled(offered: &[Candidate], losses: &[f64]) -> Vec<(Candidate, f64)> {
    let mut found = Vec::new();
    for (low, loss) in offered.iter().zip(losses) {
        let Some(rank) = low.rank() else { continue };
        // The next rank of the same family.
        let next = offered
            .iter()
            .zip(losses)
            .filter(|(c, _)| c.rank().is_some_and(|r| r > rank) && c.with_rank(rank) == *low)
            .min_by_key(|(c, _)| c.rank());
        let Some((high, less)) = next else { continue };
        let (Some(most), true) = (high.rank(), *less > 0.0 && less < loss && loss.is_finite())
        else {
            continue;
        };
        let ratio = most as f64 / rank as f64;
        let steps = (ratio.ln() / STEP.ln()).ceil() as usize;
        let mut last = rank;
        for k in 1..steps {
            let between = (rank as f64 * ratio.powf(k as f64 / steps as f64)).round() as usize;
            if between <= last || between >= most {
                continue;
            }
            last = between;
            let part = (between - rank) as f64 / (most - rank) as f64;
            let read = (loss.ln() * (1.0 - part) + less.ln() * part).exp();
            found.push((low.with_rank(between), read));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockFormat, Levels};

    #[test]
    fn ranks_fill_the_gaps_of_their_own_family() {
        let format = |levels| BlockFormat { levels, block: 128 };
        let low = |rank, levels| Candidate::LowRank {
            rank,
            format: format(levels),
        };
        let offered = [
            Candidate::Keep,
            Candidate::Dense {
                format: format(Levels::L16),
            },
            low(32, Levels::L16),
            low(16, Levels::L16),
            low(16, Levels::L256),
        ];
        let found = filled(&offered, &[0.0, 0.1, 0.25, 1.0, 0.9]);
        let ranks: Vec<usize> = found.iter().filter_map(|(c, _)| c.rank()).collect();
        assert_eq!(ranks, [17, 18, 19, 20, 21, 23, 24, 25, 27, 29, 30]);
        for (candidate, loss) in &found {
            assert_eq!(candidate.with_rank(32), offered[2]);
            assert!((0.25..1.0).contains(loss));
        }
        let middle = found.iter().find(|(c, _)| c.rank() == Some(24));
        assert!(middle.is_some_and(|(_, loss)| (loss - 0.5).abs() < 1e-12));
    }

    #[test]
    fn nothing_is_read_off_what_was_not_measured_or_does_not_fall() {
        let low = |rank| Candidate::LowRank {
            rank,
            format: BlockFormat {
                levels: Levels::L16,
                block: 128,
            },
        };
        let offered = [low(16), low(32)];
        for losses in [
            [1.0, f64::INFINITY],
            [f64::INFINITY, 1.0],
            [0.5, 0.5],
            [1.0, 0.0],
        ] {
            assert!(filled(&offered, &losses).is_empty(), "{losses:?}");
        }
    }
}
