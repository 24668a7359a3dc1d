//! The global choice: one price of a byte over all weights, found by bisection, and the remainder filled greedily.

use super::curve::{Curve, Point};

/// What a choice over all weights has to keep. A limit that is not set does not bind.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// The most bytes that the choices may take together.
    pub bytes: Option<u64>,
    /// The most that the choices may lose together.
    pub loss: Option<f64>,
    /// The most time that the choices may take together.
    pub time: Option<f64>,
}

/// Whether the limits were kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of them are.
    Met,
    /// At least one cannot be; these weights, the heaviest first, take most of what is too much.
    Missed {
        /// Indices of the weights.
        blocking: Vec<usize>,
    },
}

/// One choice for every weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    picks: Vec<usize>,
    bytes: u64,
    loss: f64,
    time: f64,
    outcome: Outcome,
}

impl Allocation {
    /// The index of the choice of every weight.
    pub fn picks(&self) -> &[usize] {
        &self.picks
    }

    /// The bytes of all choices.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The predicted loss of all choices.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// The time of all choices.
    pub fn time(&self) -> f64 {
        self.time
    }

    /// Whether the limits are kept.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The predicted loss of some picks.
    pub(crate) fn loss_of(curves: &[Curve], picks: &[usize]) -> f64 {
        let points = curves.iter().zip(picks).map(|(c, &i)| &c.points()[i]);
        points.map(Point::loss).sum()
    }

    /// These picks, held to no limit.
    pub(crate) fn of(curves: &[Curve], picks: Vec<usize>) -> Self {
        let at = || curves.iter().zip(&picks).map(|(c, &i)| &c.points()[i]);
        let (bytes, loss) = (at().map(Point::bytes).sum(), Self::loss_of(curves, &picks));
        let time = at().map(Point::time).sum();
        Self {
            picks,
            bytes,
            loss,
            time,
            outcome: Outcome::Met,
        }
    }

    fn within(&self, limits: &Limits) -> bool {
        limits.bytes.is_none_or(|most| self.bytes <= most)
            && limits.loss.is_none_or(|most| self.loss <= most)
            && limits.time.is_none_or(|most| self.time <= most)
    }
}

/// Chooses for every weight: with a limit on bytes the least loss within it, else the fewest bytes within the limit on
/// loss. A limit on time holds in both cases. Without limits on bytes and loss: the least loss.
///
/// Every curve has to offer at least one finite choice; a curve without one is left out of the sums and its pick is 0.
///
/// # Numerics
/// The price of a byte is bisected; that of time, where its limit binds, is the best of a grid. Sums run in the order of the weights, so the
/// same curves give the same choice.
///
/// # Source
/// Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36(9), 1988: the
/// choices along the hulls of all weights at one slope. The greedy fill goes on from there over all choices, hull or not.
///
/// ```
/// use onnx_bridge::plan::{Curve, Limits, Outcome, Point, allocate};
///
/// let curve = |points: &[(u64, f64)]| Curve::new(points.iter().map(|&(b, l)| Point::new(b, l, 0.0)).collect());
/// let curves = [curve(&[(10, 9.0), (20, 1.0)]), curve(&[(10, 3.0), (20, 2.5)])];
/// let chosen = allocate(&curves, &Limits { bytes: Some(30), ..Limits::default() });
/// assert_eq!((chosen.picks(), chosen.bytes()), (&[1, 0][..], 30));
/// assert_eq!(chosen.outcome(), &Outcome::Met);
/// ```
pub fn allocate(curves: &[Curve], limits: &Limits) -> Allocation {
    let free = solve(curves, limits, 0.0);
    if free.within(limits) || limits.time.is_none() {
        return judged(curves, limits, free);
    }
    // Time has a price too: the best over a grid of prices around what a unit of time is worth on average.
    let points = || {
        curves
            .iter()
            .flat_map(Curve::points)
            .filter(|p| p.time().is_finite())
    };
    let (bytes, time) = points().fold((0.0, 0.0), |(b, t), p| (b + p.bytes() as f64, t + p.time()));
    let worth = if time > 0.0 { bytes / time } else { 1.0 };
    let exact = TIME_PRICES.map(|k| solve(curves, limits, worth * 2.0_f64.powi(k)));
    let rank = |a: &Allocation| {
        let excess = limits.time.map_or(0.0, |most| (a.time - most).max(0.0));
        let broken = f64::from(u8::from(!a.within(limits)));
        let value = if limits.bytes.is_none() && limits.loss.is_some() {
            a.bytes as f64
        } else {
            a.loss
        };
        [broken, excess * broken, value]
    };
    let better = |a: Allocation, b: Allocation| if rank(&b) < rank(&a) { b } else { a };
    let chosen = exact.fold(free, better);
    judged(curves, limits, chosen)
}

/// Powers of two around the average worth of a unit of time that are tried as its price.
const TIME_PRICES: std::ops::RangeInclusive<i32> = -20..=40;

fn solve(curves: &[Curve], limits: &Limits, time_price: f64) -> Allocation {
    let hulls: Vec<Vec<usize>> = curves.iter().map(|c| c.hull_at(time_price)).collect();
    let at = |price: f64| {
        let pick = |(curve, hull): (&Curve, &Vec<usize>)| {
            // The first of equals: the cheapest.
            let cost =
                |&i: &usize| curve.points()[i].loss() + price * curve.points()[i].price(time_price);
            hull.iter()
                .copied()
                .reduce(|a, b| if cost(&b) < cost(&a) { b } else { a })
                .unwrap_or(0)
        };
        Allocation::of(curves, curves.iter().zip(&hulls).map(pick).collect())
    };
    let in_time =
        |a: &Allocation| time_price == 0.0 || limits.time.is_none_or(|most| a.time <= most);
    let fits = |a: &Allocation| match (limits.bytes, limits.loss) {
        (Some(most), _) => a.bytes <= most && in_time(a),
        // Cheaper is better as long as the loss holds: "fits" is the other side of the bisection.
        (None, Some(most)) => a.loss > most,
        (None, None) => in_time(a),
    };
    let best = at(0.0);
    if fits(&best) {
        return best;
    }
    let (mut low, mut high) = (0.0_f64, 1e-12_f64);
    while !fits(&at(high)) && high < 1e30 {
        (low, high) = (high, high * 8.0);
    }
    for _ in 0..120 {
        let middle = 0.5 * (low + high);
        if fits(&at(middle)) {
            high = middle
        } else {
            low = middle
        }
    }
    match (limits.bytes, limits.loss) {
        (Some(most), _) => fill(curves, at(high), most, time_price, limits.time),
        (None, Some(most)) => shrink(curves, at(low), most, time_price),
        (None, None) => at(high),
    }
}

/// Spends what is left of a byte budget, each time on the step that takes most loss away per byte and still fits.
fn fill(
    curves: &[Curve],
    mut chosen: Allocation,
    most: u64,
    time_price: f64,
    most_time: Option<f64>,
) -> Allocation {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (w, curve) in curves.iter().enumerate() {
            let Some(now) = curve.points().get(chosen.picks[w]) else {
                continue;
            };
            for (i, p) in curve.points().iter().enumerate() {
                let gain = now.loss() - p.loss();
                let fits = chosen.bytes - now.bytes() + p.bytes() <= most
                    && most_time.is_none_or(|t| {
                        p.time() <= now.time() || chosen.time - now.time() + p.time() <= t
                    });
                if !(gain > 0.0 && gain.is_finite() && fits) {
                    continue;
                }
                let rate = gain / (p.price(time_price) - now.price(time_price)).max(1e-9);
                if best.is_none_or(|(r, ..)| rate > r) {
                    best = Some((rate, w, i));
                }
            }
        }
        let Some((_, w, i)) = best else { return chosen };
        chosen.picks[w] = i;
        chosen = Allocation::of(curves, chosen.picks);
    }
}

/// Gives bytes back as long as the loss holds, each time by the step that loses least per byte.
fn shrink(curves: &[Curve], mut chosen: Allocation, most: f64, time_price: f64) -> Allocation {
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (w, curve) in curves.iter().enumerate() {
            let Some(now) = curve.points().get(chosen.picks[w]) else {
                continue;
            };
            for (i, p) in curve.points().iter().enumerate() {
                let saved = now.price(time_price) - p.price(time_price);
                let added = p.loss() - now.loss();
                if !(saved > 0.0 && chosen.loss + added <= most) {
                    continue;
                }
                let rate = saved / added.max(1e-300);
                if best.is_none_or(|(r, ..)| rate > r) {
                    best = Some((rate, w, i));
                }
            }
        }
        let Some((_, w, i)) = best else { return chosen };
        let mut picks = chosen.picks.clone();
        picks[w] = i;
        let next = Allocation::of(curves, picks);
        if next.loss > most {
            return chosen;
        }
        chosen = next;
    }
}

/// The most weights that a missed goal is blamed on.
const BLAMED: usize = 5;

fn judged(curves: &[Curve], limits: &Limits, mut chosen: Allocation) -> Allocation {
    if chosen.within(limits) {
        return chosen;
    }
    let too_large = limits.bytes.is_some_and(|most| chosen.bytes > most);
    let too_slow = limits.time.is_some_and(|most| chosen.time > most);
    let weight = |w: usize| {
        let Some(p) = curves[w].points().get(chosen.picks[w]) else {
            return 0.0;
        };
        if too_large {
            p.bytes() as f64
        } else if too_slow {
            p.time()
        } else {
            p.loss()
        }
    };
    let mut blocking: Vec<usize> = (0..curves.len()).collect();
    blocking.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)).then(a.cmp(&b)));
    blocking.truncate(BLAMED);
    chosen.outcome = Outcome::Missed { blocking };
    chosen
}

#[cfg(test)]
mod tests;
