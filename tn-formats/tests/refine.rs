//! Refinements lower the error they say they lower.

use ndarray::{Array2, ArrayD, IxDyn};
use rand::{RngExt, SeedableRng};
use tn_formats::{
    Layout, MatrixModes, Refinement, Strategy, TensorTrain, Truncation, TtMatrix, Tucker,
    TuckerQuantizer,
};

fn noise(shape: &[usize], seed: u64) -> ArrayD<f64> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    ArrayD::from_shape_fn(IxDyn(shape), |_| rng.random::<f64>() - 0.5)
}

fn norm(a: &ArrayD<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn als_and_dmrg_do_not_lose_to_tt_svd() {
    let a = noise(&[5, 6, 7, 4], 1);
    let (start, certificate) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(3)).unwrap();
    for how in [Refinement::Als, Refinement::Dmrg { max_rank: 3 }] {
        let refined = start.refine(a.view(), how, 6).unwrap();
        assert!(refined.ranks().iter().all(|r| *r <= 3));
        let error = norm(&(&refined.to_dense() - &a));
        assert!(
            error < certificate.error(),
            "{how:?}: {error} against {}",
            certificate.error()
        );
    }
}

#[test]
fn dmrg_finds_larger_ranks_than_its_start() {
    let exact = TensorTrain::decompose(noise(&[4, 5, 6], 2).view(), &Truncation::MaxRank(3))
        .unwrap()
        .0;
    let a = exact.to_dense();
    let start = exact.round(&Truncation::MaxRank(1)).unwrap().0;
    let refined = start
        .refine(a.view(), Refinement::Dmrg { max_rank: 4 }, 4)
        .unwrap();
    assert!(norm(&(&refined.to_dense() - &a)) < 1e-8 * norm(&a));
    assert_eq!(refined.ranks(), exact.ranks());
}

#[test]
fn weights_move_the_error_where_inputs_are_small() {
    let w: Array2<f64> = noise(&[24, 20], 3).into_shape_with_order((24, 20)).unwrap();
    let x: Array2<f64> = noise(&[200, 20], 4)
        .into_shape_with_order((200, 20))
        .unwrap();
    let scale = ndarray::Array1::from_shape_fn(20, |k| 0.8f64.powi(k as i32));
    let x = x * &scale;
    let c = x.t().dot(&x) / 200.0;
    let loss = |m: &TtMatrix<f64>| {
        let e = &m.to_dense() - &w;
        (&e.dot(&c) * &e).sum().sqrt()
    };
    let cases = [
        MatrixModes::low_rank(24, 20).unwrap(),
        MatrixModes::new(Layout::Interleaved, vec![4, 6], vec![5, 4]).unwrap(),
        MatrixModes::new(Layout::Split, vec![4, 6], vec![5, 4]).unwrap(),
    ];
    for modes in cases {
        let rank = Truncation::MaxRank(6);
        let (plain, _) = TtMatrix::decompose(w.view(), &modes, &rank).unwrap();
        let (aware, certificate) =
            TtMatrix::decompose_weighted(w.view(), c.view(), &modes, &rank).unwrap();
        assert!(
            loss(&aware) < 0.95 * loss(&plain),
            "{modes:?}: {} against {}",
            loss(&aware),
            loss(&plain)
        );
        assert!((certificate.error() - loss(&aware)).abs() < 0.05 * loss(&aware));
    }
}

#[test]
fn hooi_is_no_worse_than_st_hosvd_and_keeps_ranks() {
    let a = noise(&[10, 12, 14, 3], 5);
    for (modes, ranks) in [
        (vec![0, 1, 2, 3], vec![3, 4, 5, 2]),
        (vec![0, 1], vec![4, 4]),
    ] {
        let truncation = Truncation::Ranks(ranks.clone());
        let (_, start) = Tucker::decompose_modes(a.view(), &modes, &truncation).unwrap();
        let (tucker, refined) = Tucker::hooi(a.view(), &modes, &truncation, 50).unwrap();
        assert!(refined.error() <= start.error());
        for (&mode, &rank) in modes.iter().zip(&ranks) {
            assert_eq!(tucker.multilinear_ranks()[mode], rank);
        }
        let measured = norm(&(&tucker.to_dense() - &a));
        assert!(
            (measured - refined.error()).abs() < 1e-9 * measured,
            "{measured} {}",
            refined.error()
        );
    }
}

#[test]
fn a_tucker_network_gains_from_its_gauge() {
    let a = ArrayD::from_shape_fn(IxDyn(&[16, 16, 16]), |ix| {
        1.0 / (1 + ix[0] + 2 * ix[1] + ix[2]) as f64
    });
    let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(8)).unwrap();
    let scheme = quant_core::QuantScheme::symmetric(quant_core::Bits::B4);
    let simple = TuckerQuantizer::new(scheme)
        .quantize_measured(&tucker)
        .unwrap();
    let best = TuckerQuantizer::new(scheme)
        .with_strategy(Strategy::BEST)
        .quantize_measured(&tucker)
        .unwrap();
    assert!(best.1.relative <= simple.1.relative);
    assert_eq!(best.0.byte_len(), simple.0.byte_len());
    let measured =
        norm(&(&best.0.dequantize().to_dense().mapv(f64::from) - &tucker.to_dense())) / norm(&a);
    assert!(
        (measured - best.1.relative).abs() < 1e-2 * measured,
        "{measured} {:?}",
        best.1
    );
}

/// Where the steps are small beside the numbers, as the prediction supposes.
#[test]
fn noise_of_a_tucker_network_is_as_predicted() {
    let factors = [(20, 6), (12, 5), (9, 4)].map(|(n, r)| {
        let factor = noise(&[n, r], n as u64);
        factor.into_shape_with_order((n, r)).unwrap()
    });
    let core = noise(&[6, 5, 4], 1);
    let tucker = Tucker::from_parts(core, factors.to_vec()).unwrap();
    for bits in [quant_core::Bits::B6, quant_core::Bits::B8] {
        let scheme = quant_core::QuantScheme::symmetric(bits);
        let mixed = [
            vec![quant_core::QuantScheme::symmetric(quant_core::Bits::B8)],
            vec![scheme; 3],
        ]
        .concat();
        let (_, error) = TuckerQuantizer::new(scheme)
            .with_part_schemes(mixed)
            .quantize_measured(&tucker)
            .unwrap();
        let ratio = error.predicted / error.relative;
        assert!((0.8..1.25).contains(&ratio), "{bits:?} {error:?}");
    }
}

#[test]
fn a_budget_of_a_tucker_network_is_kept_and_no_worse_than_one_width() {
    let a = ArrayD::from_shape_fn(IxDyn(&[20, 12, 9, 7]), |ix| {
        let t = ix[0] as f64 * 0.37 + ix[1] as f64 * 1.3 - ix[2] as f64 * 0.71;
        t.sin() + 1.0 / (1 + ix[1] + ix[2] * ix[3]) as f64 + 0.1 * (t * ix[3] as f64).cos()
    });
    let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(6)).unwrap();
    for strategy in [Strategy::Independent, Strategy::BEST] {
        for bits in [quant_core::Bits::B3, quant_core::Bits::B6] {
            let scheme = quant_core::QuantScheme::symmetric(bits);
            let alike = TuckerQuantizer::new(scheme).with_strategy(strategy);
            let (quantized, error) = alike.quantize_measured(&tucker).unwrap();
            let budget = quantized.byte_len();
            let chosen = alike.with_byte_budget(budget);
            let (chosen, less) = chosen.quantize_measured(&tucker).unwrap();
            assert!(chosen.byte_len() <= budget, "{bits:?} {strategy:?}");
            assert!(less.relative <= error.relative, "{less:?} {error:?}");
        }
    }
}
