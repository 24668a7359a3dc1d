use proptest::prelude::*;

use super::*;

type Spec = Vec<Vec<(u64, f64, f64)>>;

fn curves(spec: &Spec) -> Vec<Curve> {
    spec.iter()
        .map(|c| Curve::new(c.iter().map(|&(b, l, t)| Point::new(b, l, t)).collect()))
        .collect()
}

/// Every combination of choices: the oracle for small cases.
fn all(curves: &[Curve]) -> Vec<Allocation> {
    let mut picks: Vec<Vec<usize>> = vec![Vec::new()];
    for curve in curves {
        let more = |p: &Vec<usize>| {
            (0..curve.points().len())
                .map(|i| p.iter().copied().chain([i]).collect())
                .collect::<Vec<Vec<usize>>>()
        };
        picks = picks.iter().flat_map(more).collect();
    }
    picks
        .into_iter()
        .map(|p| Allocation::of(curves, p))
        .collect()
}

fn spec() -> impl Strategy<Value = Spec> {
    let point = (1_u64..1000, 0.0_f64..10.0, 0.1_f64..5.0);
    prop::collection::vec(prop::collection::vec(point, 1..5), 1..5)
}

/// The largest step between neighbours on any hull: what a bisection along hulls may leave unspent or unsaved.
fn largest_step(curves: &[Curve], of: impl Fn(&Point) -> f64) -> f64 {
    let steps = |c: &Curve| {
        let hull = c.hull();
        hull.windows(2)
            .map(|p| (of(&c.points()[p[0]]) - of(&c.points()[p[1]])).abs())
            .fold(0.0, f64::max)
    };
    curves.iter().map(steps).fold(0.0, f64::max)
}

proptest! {
    #[test]
    fn a_byte_budget_is_kept_whenever_it_can_be(spec in spec(), share in 0.0_f64..1.2) {
        let curves = curves(&spec);
        let most = (share * curves.iter().flat_map(Curve::points).map(Point::bytes).sum::<u64>() as f64) as u64;
        let chosen = allocate(&curves, &Limits { bytes: Some(most), ..Limits::default() });
        let possible: Vec<_> = all(&curves).into_iter().filter(|a| a.bytes <= most).collect();
        prop_assert_eq!(chosen.outcome() == &Outcome::Met, !possible.is_empty());
        if let Some(best) = possible.iter().map(Allocation::loss).reduce(f64::min) {
            prop_assert!(chosen.bytes() <= most);
            prop_assert!(chosen.loss() <= best + largest_step(&curves, Point::loss) + 1e-9);
        } else {
            let fewest = all(&curves).iter().map(Allocation::bytes).min().unwrap_or(0);
            prop_assert_eq!(chosen.bytes(), fewest);
        }
    }

    #[test]
    fn a_loss_limit_is_kept_whenever_it_can_be(spec in spec(), share in 0.0_f64..1.2) {
        let curves = curves(&spec);
        let most = share * 10.0;
        let chosen = allocate(&curves, &Limits { loss: Some(most), ..Limits::default() });
        let possible: Vec<_> = all(&curves).into_iter().filter(|a| a.loss <= most).collect();
        prop_assert_eq!(chosen.outcome() == &Outcome::Met, !possible.is_empty());
        if let Some(fewest) = possible.iter().map(Allocation::bytes).min() {
            prop_assert!(chosen.loss() <= most);
            let step = largest_step(&curves, |p| p.bytes() as f64);
            prop_assert!(chosen.bytes() as f64 <= fewest as f64 + step + 1e-9);
        }
    }

    #[test]
    fn more_bytes_never_lose_more(spec in spec(), a in 0_u64..4000, b in 0_u64..4000) {
        // Along the hulls; the greedy fill may leave the hulls, so the slack of one step is allowed.
        let curves = curves(&spec);
        let at = |most| allocate(&curves, &Limits { bytes: Some(most), ..Limits::default() });
        let (less, more) = (at(a.min(b)), at(a.max(b)));
        if less.outcome() == &Outcome::Met {
            prop_assert!(more.loss() <= less.loss() + largest_step(&curves, Point::loss) + 1e-9);
        }
    }

    #[test]
    fn no_single_change_improves_a_filled_budget(spec in spec(), most in 1_u64..4000) {
        let curves = curves(&spec);
        let chosen = allocate(&curves, &Limits { bytes: Some(most), ..Limits::default() });
        if chosen.outcome() == &Outcome::Met {
            for (w, curve) in curves.iter().enumerate() {
                for i in 0..curve.points().len() {
                    let mut picks = chosen.picks().to_vec();
                    picks[w] = i;
                    let other = Allocation::of(&curves, picks);
                    prop_assert!(other.bytes() > most || other.loss() >= chosen.loss() - 1e-12);
                }
            }
        }
    }

    #[test]
    fn a_time_limit_alone_is_kept_whenever_it_can_be(spec in spec(), share in 0.0_f64..1.0) {
        let curves = curves(&spec);
        let least: f64 = curves.iter().map(|c| c.points().iter().map(Point::time).fold(f64::INFINITY, f64::min)).sum();
        let most = least * (1.0 + share) + 1e-9;
        let chosen = allocate(&curves, &Limits { time: Some(most), ..Limits::default() });
        prop_assert!(chosen.time() <= most, "{} > {most}", chosen.time());
        prop_assert_eq!(chosen.outcome(), &Outcome::Met);
    }
}

#[test]
fn a_goal_out_of_reach_names_the_heaviest() {
    let curves = curves(&vec![
        vec![(10, 1.0, 1.0)],
        vec![(500, 3.0, 1.0), (90, 9.0, 1.0)],
        vec![(30, 2.0, 1.0)],
    ]);
    let cases = [
        (
            Limits {
                bytes: Some(100),
                ..Limits::default()
            },
            vec![1, 2, 0],
        ),
        (
            Limits {
                loss: Some(1.0),
                ..Limits::default()
            },
            vec![1, 2, 0],
        ),
    ];
    for (limits, blocking) in cases {
        let chosen = allocate(&curves, &limits);
        assert_eq!(
            chosen.outcome(),
            &Outcome::Missed { blocking },
            "{limits:?}"
        );
    }
}
