//! Where to look next for the smallest file that keeps a goal.

use super::search::Trial;
use super::session::Tried;

/// A file this much smaller, in parts, has to miss the goal for a search to end.
const TIGHT: f64 = 0.03;

/// What is known while a search for the smallest file goes on.
#[derive(Debug, Default)]
pub(super) struct Bracket {
    /// The smallest file that keeps the goal.
    pub(super) kept: Option<Trial>,
    /// The best of those that do not.
    pub(super) missed: Option<Trial>,
    /// Size and excess of every trial: the logarithm of what was verified over what is allowed.
    pub(super) known: Vec<(u64, f64)>,
    /// All of them, as they are reported.
    pub(super) tried: Vec<Tried>,
}

impl Bracket {
    pub(super) fn is_known(&self, size: u64) -> bool {
        self.known.iter().any(|(known, _)| *known == size)
    }

    /// The size to try next; `None` where a file 3 % below the smallest that keeps the goal has missed it.
    ///
    /// The logarithm of the loss is close to a line over the logarithm of the size, so the next size is where the line
    /// through the two trials around the goal, or the two nearest to it, crosses it.
    pub(super) fn next(&self) -> Option<u64> {
        let kept = self.kept.as_ref().map(|t| t.bytes as f64);
        let missed = self.known.iter().filter(|(_, excess)| *excess > 0.0);
        let missed = missed
            .map(|(bytes, _)| *bytes as f64)
            .filter(|m| kept.is_none_or(|k| *m < k))
            .fold(0.0, f64::max);
        let mut near: Vec<(f64, f64)> = self
            .known
            .iter()
            .map(|(bytes, excess)| ((*bytes as f64).ln(), *excess))
            .collect();
        near.sort_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
        let crossing = match near.as_slice() {
            [a, rest @ ..] => {
                let other = rest.iter().find(|b| b.1.signum() != a.1.signum());
                let slope = other
                    .or(rest.first())
                    .map(|b| (b.1 - a.1) / (b.0 - a.0))
                    .filter(|slope| *slope < -0.3)
                    .unwrap_or(FIRST_SLOPE);
                (a.0 - a.1 / slope).exp()
            }
            [] => return None,
        };
        let wanted = match kept {
            None => crossing.max(missed * (1.0 + TIGHT)).min(missed * 8.0),
            Some(kept) => {
                // As good as the line says, but never without the chance to prove that 3 % less is too little.
                let proof = kept * (1.0 - TIGHT);
                if missed >= proof {
                    return None;
                }
                crossing.clamp(missed + 0.2 * (proof - missed), proof)
            }
        };
        Some(wanted as u64)
    }
}

/// How the logarithm of the loss falls with that of the size, where nothing is known yet: a file of four times the bits has
/// about a hundredth of the error.
const FIRST_SLOPE: f64 = -3.0;
