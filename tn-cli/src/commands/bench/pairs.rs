//! Times of runs in turns, and what may be concluded from them.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The least and the most rounds that count.
const ROUNDS: std::ops::RangeInclusive<usize> = 11..=10_000;
/// A difference below this share is none.
const EQUAL: f64 = 0.05;

/// Runs each of the jobs in turns, every other round backwards, until the time is up; the first round does not count. One
/// list of milliseconds for each job, a round at the same place in all.
pub(super) fn in_turns<E>(
    jobs: &mut [&mut dyn FnMut() -> Result<(), E>],
    time: Duration,
) -> Result<Vec<Vec<f64>>, E> {
    let mut times = vec![Vec::new(); jobs.len()];
    for job in jobs.iter_mut() {
        job()?;
    }
    let start = Instant::now();
    for round in 0..*ROUNDS.end() {
        if round >= *ROUNDS.start() && start.elapsed() >= time {
            break;
        }
        for turn in 0..jobs.len() {
            let which = if round % 2 == 0 {
                turn
            } else {
                jobs.len() - 1 - turn
            };
            let run = Instant::now();
            jobs[which]()?;
            times[which].push(1e3 * run.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// A median, and the quartiles either side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median_ms: f64,
    pub(super) low_ms: f64,
    pub(super) high_ms: f64,
}

impl Spread {
    /// Of some times.
    pub(super) fn of(times: &[f64]) -> Self {
        let times = sorted(times.iter().copied());
        let at = |share: f64| quantile(&times, share);
        Self {
            median_ms: at(0.5),
            low_ms: at(0.25),
            high_ms: at(0.75),
        }
    }
}

/// What the rounds say about which is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Faster,
    Slower,
    Equal,
    Unclear,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Equal => "equal",
            Self::Unclear => "unclear",
        }
    }
}

/// How many times faster than the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Speedup {
    /// The median of the rounds' ratios: what a round has to itself falls out of it, and it lies between the next two.
    pub(super) speedup: f64,
    /// The interval that holds the true median of the rounds' ratios in 95 of 100 cases.
    pub(super) speedup_low: f64,
    pub(super) speedup_high: f64,
    pub(super) verdict: Verdict,
}

impl Speedup {
    /// From the times of the same rounds.
    pub(super) fn of(reference: &[f64], times: &[f64]) -> Self {
        let ratios = sorted(reference.iter().zip(times).map(|(a, b)| a / b));
        // Order statistics: the number of ratios below the true median is binomial, n trials at one half.
        let half = 0.98 / (ratios.len().max(1) as f64).sqrt();
        let [low, high] = [0.5 - half, 0.5 + half].map(|share| quantile(&ratios, share));
        let verdict = if low > 1.0 {
            Verdict::Faster
        } else if high < 1.0 {
            Verdict::Slower
        } else if low > 1.0 - EQUAL && high < 1.0 + EQUAL {
            Verdict::Equal
        } else {
            Verdict::Unclear
        };
        Self {
            speedup: quantile(&ratios, 0.5),
            speedup_low: low,
            speedup_high: high,
            verdict,
        }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value below which a share of the sorted values lies; not a number where there are none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64).round();
    sorted.get(place as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_counts_but_the_first() {
        let mut order = Vec::new();
        let log = std::cell::RefCell::new(&mut order);
        let mut first = || -> Result<(), ()> {
            log.borrow_mut().push('a');
            Ok(())
        };
        let mut second = || -> Result<(), ()> {
            log.borrow_mut().push('b');
            Ok(())
        };
        let times = in_turns(&mut [&mut first, &mut second], Duration::ZERO).unwrap();
        assert_eq!(times.iter().map(Vec::len).collect::<Vec<_>>(), [11, 11]);
        let order: String = order.iter().collect();
        assert!(order.starts_with("ababbaab"), "{order}");
        let mut failing = || Err("no");
        assert_eq!(in_turns(&mut [&mut failing], Duration::ZERO), Err("no"));
    }

    #[test]
    fn spread_is_of_quartiles() {
        let spread = Spread::of(&[5.0, 1.0, 2.0, 4.0, 3.0]);
        let want = Spread {
            median_ms: 3.0,
            low_ms: 2.0,
            high_ms: 4.0,
        };
        assert_eq!(spread, want);
    }

    #[test]
    fn verdicts_need_the_whole_interval() {
        let check = |factor: f64, noise: f64, want: Verdict| {
            let reference = vec![10.0; 41];
            let wave = |i: usize| 1.0 + noise * (f64::from(i as u32 % 5) - 2.0) / 2.0;
            let times: Vec<f64> = (0..41).map(|i| 10.0 / factor * wave(i)).collect();
            let speedup = Speedup::of(&reference, &times);
            assert_eq!(speedup.verdict, want, "{factor} {noise}: {speedup:?}");
            assert!((speedup.speedup - factor).abs() < 1e-9);
        };
        check(1.5, 0.1, Verdict::Faster);
        check(0.7, 0.1, Verdict::Slower);
        check(1.0, 0.02, Verdict::Equal);
        check(1.0, 0.5, Verdict::Unclear);
        check(1.1, 0.9, Verdict::Unclear);
    }

    /// The ratio of two medians may lie outside the interval of the median ratio; what is printed must not.
    #[test]
    fn a_speedup_lies_in_its_interval() {
        // In two rounds of three the second is faster, in the third it is held up: each median is 2.
        let reference: Vec<f64> = (0..99).map(|i| [2.0, 3.0, 1.0][i % 3]).collect();
        let times: Vec<f64> = (0..99).map(|i| [1.0, 2.0, 3.0][i % 3]).collect();
        let of_medians = Spread::of(&reference).median_ms / Spread::of(&times).median_ms;
        let speedup = Speedup::of(&reference, &times);
        assert!(speedup.speedup_low <= speedup.speedup && speedup.speedup <= speedup.speedup_high);
        assert!(of_medians < speedup.speedup_low && speedup.speedup == 1.5);
    }
}
