//! Where to look for the smallest file that keeps a goal.

use super::Trial;

/// The part by which a file that misses may be smaller than the one that keeps the goal, for a search to end.
const TIGHT: f64 = 0.03;

/// The part by which a file is to be smaller that is tried to end a search.
const AIM: f64 = 0.025;

/// The same where few files can be made at all: anything from here to 3 % will do.
const WINDOW: f64 = 0.02;

/// How the logarithm of the loss falls with that of the size, where nothing is known yet: of few bits half the size has about
/// three times the loss.
const SLOPE: f64 = -1.5;

/// The logarithm of the largest step.
const MOST_STEP: f64 = 2.0;

/// What is known while a search for the smallest file goes on.
#[derive(Debug, Default)]
pub(super) struct Bracket {
    /// The smallest file that keeps the goal.
    pub(super) kept: Option<Trial>,
    /// The best of those that do not.
    pub(super) missed: Option<Trial>,
    /// Size and excess of every trial: the logarithm of what was verified over what is allowed.
    pub(super) known: Vec<(u64, f64)>,
}

impl Bracket {
    /// The size of the largest file that missed the goal, below that which keeps it.
    pub(super) fn largest_missed(&self) -> u64 {
        let missed = self.known.iter().filter(|(_, excess)| *excess > 0.0);
        let missed = missed.map(|(bytes, _)| *bytes);
        let below = |m: &u64| self.kept.as_ref().is_none_or(|k| *m < k.bytes);
        missed.filter(below).max().unwrap_or(0)
    }

    /// The smallest size that counts as at most 3 % below the file that keeps the goal.
    pub(super) fn proof(&self) -> Option<u64> {
        let kept = self.kept.as_ref()?;
        Some((kept.bytes as f64 * (1.0 - TIGHT)).ceil() as u64)
    }

    /// The size to try next; `None` where a file at most 3 % below the smallest that keeps the goal has missed it.
    ///
    /// The logarithm of the loss is close to a line over the logarithm of the size, so the next size is where the line
    /// through the two trials around the goal crosses it; where all lie on one side, that of the usual slope.
    pub(super) fn next(&self) -> Option<u64> {
        let below = self.largest_missed();
        let excess = |bytes: u64| {
            let known = self.known.iter().filter(|(known, _)| *known == bytes);
            known
                .map(|(_, excess)| *excess)
                .fold(f64::INFINITY, f64::min)
        };
        let crossing = |from: u64, slope: f64| {
            let fall = (excess(from) / slope).clamp(-MOST_STEP, MOST_STEP);
            from as f64 * (-fall).exp()
        };
        let Some((kept, proof)) = self.kept.as_ref().zip(self.proof()) else {
            let missed = self.missed.as_ref()?.bytes;
            let least = below.max(missed) as f64 * (1.0 + TIGHT);
            return Some(crossing(missed, SLOPE).max(least) as u64);
        };
        if below >= proof {
            return None;
        }
        let slope = if below > 0 {
            let apart = (kept.bytes as f64 / below as f64).ln();
            ((excess(kept.bytes) - excess(below)) / apart).min(-0.1)
        } else {
            SLOPE
        };
        // As good as the line says, but never without the chance to prove that 3 % less is too little.
        let most = kept.bytes as f64 * (1.0 - AIM);
        let least = below as f64 + 0.2 * (most - below as f64);
        Some(crossing(kept.bytes, slope).clamp(least.min(most), most) as u64)
    }

    /// Sizes to look through, more than the first and at most the second, where one price of a byte offers nothing new:
    /// where a miss would end the search, then all that lies between.
    pub(super) fn windows(&self) -> Vec<(u64, u64)> {
        let missed = self.largest_missed();
        match (&self.kept, self.proof()) {
            (Some(kept), Some(proof)) => {
                let aim = (kept.bytes as f64 * (1.0 - WINDOW)) as u64;
                vec![
                    (proof.saturating_sub(1).max(missed), aim),
                    (aim, kept.bytes.saturating_sub(1)),
                    (missed, proof.saturating_sub(1)),
                ]
            }
            _ => vec![(missed, missed.saturating_mul(8)), (missed, u64::MAX / 2)],
        }
    }
}
