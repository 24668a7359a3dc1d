//! Matrix trains: their algebra, products and layouts, against dense matrices.

use ndarray::{Array2, ArrayD, IxDyn};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use tn_formats::{ContractionOrder, Layout, MatrixModes, TensorTrain, Truncation, TtMatrix};

fn noise(rows: usize, cols: usize, seed: u64) -> Array2<f64> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    Array2::from_shape_fn((rows, cols), |_| rng.random::<f64>() - 0.5)
}

fn product(modes: &[usize]) -> usize {
    modes.iter().product()
}

/// A matrix and its train of at most this rank; the matrix is the train's own.
fn sample(
    layout: Layout,
    rows: &[usize],
    cols: &[usize],
    rank: usize,
    seed: u64,
) -> (TtMatrix<f64>, Array2<f64>) {
    let modes = MatrixModes::new(layout, rows.to_vec(), cols.to_vec()).unwrap();
    let w = noise(product(rows), product(cols), seed);
    let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(rank)).unwrap();
    let dense = train.to_dense();
    (train, dense)
}

fn close(a: &Array2<f64>, b: &Array2<f64>) -> bool {
    let norm = |m: &Array2<f64>| m.iter().map(|x| x * x).sum::<f64>().sqrt();
    norm(&(a - b)) <= 1e-10 * norm(b)
}

const LAYOUTS: [Layout; 2] = [Layout::Interleaved, Layout::Split];

#[test]
fn matrix_trains_have_the_algebra_of_trains() {
    for layout in LAYOUTS {
        let (a, da) = sample(layout, &[3, 4], &[2, 5], 4, 1);
        let (b, db) = sample(layout, &[3, 4], &[2, 5], 3, 2);
        assert!(close(&a.add(&b).unwrap().to_dense(), &(&da + &db)));
        assert!(close(&a.scale(-2.5).to_dense(), &(&da * -2.5)));
        assert!(close(&a.hadamard(&b).unwrap().to_dense(), &(&da * &db)));
        assert!((a.dot(&b).unwrap() - (&da * &db).sum()).abs() < 1e-12);
        assert!((a.norm() - (&da * &da).sum().sqrt()).abs() < 1e-12);
        let apart = (&da - &db).mapv(|x| x * x).sum().sqrt();
        assert!((a.distance(&b).unwrap() - apart).abs() < 1e-12);
        assert!(close(&a.canonical(1).unwrap().to_dense(), &da));
        let sum = a.add(&a).unwrap();
        let (small, certificate) = sum.round(&Truncation::RelativeError(1e-9)).unwrap();
        assert_eq!(small.ranks(), a.ranks());
        assert!(certificate.relative_error() < 1e-9 && close(&small.to_dense(), &(&da * 2.0)));
        let (other, _) = sample(layout, &[4, 3], &[2, 5], 3, 2);
        assert!(a.add(&other).is_err() && a.dot(&other).is_err());
    }
}

#[test]
fn transposes_and_products_are_those_of_the_dense_matrices() {
    for layout in LAYOUTS {
        for (rows, inner, cols) in [
            (vec![3, 4], vec![2, 5], vec![4, 3]),
            (vec![2, 3, 2], vec![3, 2, 2], vec![2, 2, 5]),
            (vec![7], vec![6], vec![5]),
        ] {
            let (a, da) = sample(layout, &rows, &inner, 5, 3);
            let (b, db) = sample(layout, &inner, &cols, 4, 4);
            assert!(close(
                &a.transpose().unwrap().to_dense(),
                &da.t().to_owned()
            ));
            let ab = a.multiply(&b).unwrap();
            assert!(close(&ab.to_dense(), &da.dot(&db)), "{layout:?} {rows:?}");
            let plan = a.plan_product(&b).unwrap();
            assert_eq!(plan.order(), ContractionOrder::Cores);
            assert!(plan.flops() > 0 && plan.peak_scratch() > 0);
            if layout == Layout::Split {
                let (middle, ranks) = (cols.len(), ab.ranks());
                assert!(ranks[middle] <= a.ranks()[inner.len()].min(b.ranks()[cols.len()]));
            }
            if rows.len() > 1 {
                assert!(b.multiply(&b).is_err());
            }
        }
    }
}

/// The plan counts what the product of interleaved cores does.
#[test]
fn a_product_of_two_cores_costs_what_the_plan_says() {
    let (a, _) = sample(Layout::Interleaved, &[3, 4], &[2, 5], 4, 1);
    let (b, _) = sample(Layout::Interleaved, &[2, 5], &[6, 2], 3, 2);
    let (r, q) = (a.ranks()[1], b.ranks()[1]);
    let flops = 2 * (3 * r * 2 * 6 * q + r * 4 * 5 * q * 2);
    assert_eq!(a.plan_product(&b).unwrap().flops(), flops);
}

#[test]
fn layouts_turn_into_each_other_without_loss() {
    for (rows, cols) in [
        (vec![3, 4], vec![4, 5]),
        (vec![2, 3, 4], vec![3, 2, 3]),
        (vec![6], vec![7]),
    ] {
        for (from, to) in [(LAYOUTS[0], LAYOUTS[1]), (LAYOUTS[1], LAYOUTS[0])] {
            let (train, dense) = sample(from, &rows, &cols, 3, 5);
            let exact = Truncation::RelativeError(0.0);
            let (turned, bound) = train.to_layout(to, &exact).unwrap();
            assert_eq!((turned.layout(), turned.shape()), (to, train.shape()));
            assert!(
                bound < 1e-10 && close(&turned.to_dense(), &dense),
                "{from:?} {rows:?}"
            );
            let (back, _) = turned
                .to_layout(from, &Truncation::RelativeError(1e-9))
                .unwrap();
            assert!(back.distance(&train).unwrap() <= 1e-8 * train.norm());
            assert_eq!(back.ranks(), train.ranks());
        }
    }
}

#[test]
fn a_conversion_keeps_its_error_and_its_ranks() {
    let w = Array2::from_shape_fn((24, 30), |(i, j)| {
        1.0 / (1.0 + (i as f64 - j as f64).powi(2))
    });
    let modes = MatrixModes::new(Layout::Interleaved, vec![4, 6], vec![5, 6]).unwrap();
    let (woven, _) =
        TtMatrix::decompose(w.view(), &modes, &Truncation::RelativeError(0.0)).unwrap();
    let apart = |m: &TtMatrix<f64>| {
        let difference = &m.to_dense() - &w;
        (difference.mapv(|x| x * x).sum() / w.mapv(|x| x * x).sum()).sqrt()
    };
    for eps in [0.2, 0.05, 0.01] {
        let budget = Truncation::RelativeError(eps);
        let (halves, bound) = woven.to_layout(Layout::Split, &budget).unwrap();
        assert!(
            apart(&halves) <= bound + 1e-12 && bound <= eps * 1.01,
            "{eps}: {bound}"
        );
        let (direct, _) = TtMatrix::decompose(w.view(), halves.modes(), &budget).unwrap();
        assert!(halves.parameters() <= 2 * direct.parameters());
    }
    let (capped, bound) = woven
        .to_layout(Layout::Split, &Truncation::MaxRank(3))
        .unwrap();
    assert!(capped.ranks().iter().all(|r| *r <= 3));
    assert!((apart(&capped) - bound).abs() < 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn permuting_modes_permutes_axes(
        shape in prop::collection::vec(1usize..5, 1..6),
        seed in any::<u64>(),
    ) {
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
        let a = ArrayD::from_shape_fn(IxDyn(&shape), |_| rng.random::<f64>() - 0.5);
        let (train, _) = TensorTrain::decompose(a.view(), &Truncation::RelativeError(0.0)).unwrap();
        let mut order: Vec<usize> = (0..shape.len()).collect();
        for k in (1..order.len()).rev() {
            order.swap(k, rng.random_range(0..=k));
        }
        let (turned, bound) = train.permute(&order, 0.0).unwrap();
        prop_assert!(bound < 1e-10);
        let wanted = a.permuted_axes(order.clone());
        prop_assert_eq!(turned.modes(), wanted.shape());
        prop_assert!((&turned.to_dense() - &wanted).iter().all(|d| d.abs() < 1e-11));
        let wrong = train.permute(&vec![0; shape.len() + 1], 0.0);
        prop_assert!(wrong.is_err());
    }
}
