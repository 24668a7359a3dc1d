//! Decompositions against the dense arrays they came from.

use ndarray::{Array, Array1, Array2, ArrayD, Ix2, IxDyn};
use rand::{RngExt, SeedableRng};
use tn_formats::npy::Npz;
use tn_formats::{
    Certificate, Layout, MatrixModes, Real, TensorTrain, Truncation, TtMatrix, Tucker,
};

fn noise<T: Real>(shape: &[usize], seed: u64) -> ArrayD<T> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    ArrayD::from_shape_fn(IxDyn(shape), |_| T::narrow(rng.random::<f64>() - 0.5))
}

fn smooth<T: Real>(shape: &[usize]) -> ArrayD<T> {
    ArrayD::from_shape_fn(IxDyn(shape), |ix| {
        let s: f64 = (0..shape.len())
            .map(|k| (k + 1) as f64 * ix[k] as f64 / shape[k] as f64)
            .sum();
        T::narrow(1.0 / (1.0 + s * s))
    })
}

fn distance<T: Real>(a: &ArrayD<T>, b: &ArrayD<T>) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| (x.widen() - y.widen()).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The certificate is the measured error: within 1e-5, and within the round-off where that is more than a thousandth of it.
fn check(name: &str, certificate: &Certificate, measured: f64) {
    let difference = (certificate.error() - measured).abs();
    let allowed = if certificate.error() > 1e3 * certificate.roundoff() {
        1e-5 * measured
    } else {
        certificate.roundoff()
    };
    assert!(
        difference <= allowed,
        "{name}: certificate {}, measured {measured}",
        certificate.error()
    );
}

fn check_array<T: Real>(name: &str, a: &ArrayD<T>) {
    for truncation in [
        Truncation::MaxRank(3),
        Truncation::RelativeError(0.1),
        Truncation::RelativeError(0.01),
    ] {
        let (train, certificate) = TensorTrain::decompose(a.view(), &truncation).unwrap();
        let measured = distance(&train.cast::<f64>().to_dense(), &a.mapv(Real::widen));
        check(name, &certificate, measured);
        let (tucker, tucker_certificate) = Tucker::decompose(a.view(), &truncation).unwrap();
        check(name, &tucker_certificate, distance(&tucker.to_dense(), a));
        if let Truncation::RelativeError(eps) = truncation {
            assert!(
                measured <= eps * certificate.norm(),
                "{name}: {measured} exceeds {eps}"
            );
        }
    }
}

/// Exactly low rank, plus noise of this size.
fn low_rank<T: Real>(shape: &[usize], noise_size: f64) -> ArrayD<T> {
    let noisy = noise::<f64>(shape, 77);
    ArrayD::from_shape_fn(IxDyn(shape), |ix| {
        let sum: usize = (0..shape.len()).map(|k| ix[k] * (k + 1)).sum();
        T::narrow((sum as f64 * 0.3).sin() + noise_size * noisy[&ix])
    })
}

/// The images of the digits example, or nothing where it is absent.
#[allow(clippy::print_stderr, reason = "a skipped part of a test says so")]
fn digits() -> Option<ArrayD<f32>> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/train.npz");
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    };
    let arrays = Npz::open(file).unwrap().read_all().unwrap();
    arrays
        .into_iter()
        .map(|(_, a)| a.to_f32())
        .find(|a| a.ndim() > 1)
}

/// 5 shapes, 4 kinds, 2 precisions, 3 truncations, train and Tucker: 240 cases, and the real data.
#[test]
fn certificates_are_the_measured_error() {
    for (k, shape) in [
        vec![6, 7, 8],
        vec![16, 5],
        vec![3, 4, 5, 6],
        vec![40],
        vec![1, 9, 1, 9],
    ]
    .iter()
    .enumerate()
    {
        check_array::<f64>("noise", &noise(shape, k as u64));
        check_array::<f32>("noise", &noise(shape, k as u64));
        check_array::<f64>("smooth", &smooth(shape));
        check_array::<f32>("smooth", &smooth(shape));
        check_array::<f64>("low rank", &low_rank(shape, 0.0));
        check_array::<f32>("low rank", &low_rank(shape, 0.0));
        check_array::<f64>("low rank and noise", &low_rank(shape, 0.05));
        check_array::<f32>("low rank and noise", &low_rank(shape, 0.05));
    }
    if let Some(images) = digits() {
        check_array::<f32>("digits", &images);
        check_array::<f64>("digits", &images.mapv(f64::from));
    }
}

/// Large `f64` matrices that lose much to a cap of ranks are multiplied in `f32`. It does not show, in the bases or in the error, and
/// what loses little or nothing is exact.
#[test]
fn a_large_f64_matrix_has_orthogonal_cores_and_the_certified_error() {
    let square = |a: ArrayD<f64>| a.into_dimensionality::<Ix2>().unwrap();
    let modes = MatrixModes::new(Layout::Interleaved, vec![8; 3], vec![8; 3]).unwrap();
    for (name, w) in [
        ("noise", square(noise(&[512, 512], 3))),
        ("large noise", square(noise(&[512, 512], 4)) * 1e150),
        ("small noise", square(noise(&[512, 512], 5)) * 1e-150),
        ("low rank", square(low_rank(&[512, 512], 0.0))),
        ("low rank and noise", square(low_rank(&[512, 512], 0.05))),
        (
            "low rank and much noise",
            square(low_rank(&[512, 512], 4.0)),
        ),
    ] {
        let cap = Truncation::MaxRank(12);
        let (tt, certificate) = TtMatrix::decompose(w.view(), &modes, &cap).unwrap();
        let unit = certificate.norm();
        let measured = distance(&(tt.to_dense() / unit).into_dyn(), &(&w / unit).into_dyn());
        let certified = certificate.relative_error();
        let allowed = 1e-8 * certified + certificate.roundoff() / unit;
        assert!(
            (certified - measured).abs() <= allowed,
            "{name}: certificate {certified}, measured {measured}"
        );
        assert_eq!(certified < 1e-12, name == "low rank", "{name}: {certified}");
        for core in &tt.cores()[..2] {
            let q = core.as_train_core().left_unfolding();
            let off = q.t().dot(&q) - Array2::<f64>::eye(q.ncols());
            assert!(off.iter().all(|x| x.abs() < 1e-12), "{name}");
        }
    }
}

#[test]
fn a_matrix_train_multiplies_as_its_dense_matrix() {
    let w: Array2<f64> = noise::<f64>(&[24, 30], 5)
        .into_shape_with_order((24, 30))
        .unwrap();
    let x: Array2<f64> = noise::<f64>(&[7, 30], 6)
        .into_shape_with_order((7, 30))
        .unwrap();
    for (layout, rows, cols) in [
        (Layout::Interleaved, vec![4, 6], vec![5, 6]),
        (Layout::Interleaved, vec![2, 3, 4], vec![5, 2, 3]),
        (Layout::Split, vec![24], vec![30]),
        (Layout::Split, vec![4, 6], vec![5, 6]),
        (Layout::Split, vec![2, 3, 4], vec![5, 6]),
    ] {
        let modes = MatrixModes::new(layout, rows, cols).unwrap();
        for (truncation, exact) in [
            (Truncation::RelativeError(0.0), true),
            (Truncation::MaxRank(4), false),
        ] {
            let (train, certificate) = TtMatrix::decompose(w.view(), &modes, &truncation).unwrap();
            let dense = train.to_dense();
            check(
                "matrix",
                &certificate,
                distance(&dense.clone().into_dyn(), &w.clone().into_dyn()),
            );
            if exact {
                assert!((&dense - &w).iter().all(|d| d.abs() < 1e-12));
            }
            let y = train.matmul(x.view()).unwrap();
            assert!(
                (&y - &x.dot(&dense.t())).iter().all(|d| d.abs() < 1e-11),
                "{modes:?}"
            );
            let one: Array1<f64> = train.matvec(x.row(0)).unwrap();
            assert!((&one - &y.row(0)).iter().all(|d| d.abs() < 1e-12));
        }
    }
}

#[test]
fn a_wide_cap_takes_the_krylov_path_and_stays_exact() {
    let a: Array2<f32> = noise::<f32>(&[600, 700], 9)
        .into_shape_with_order((600, 700))
        .unwrap();
    let (train, certificate) = TtMatrix::decompose(
        a.view(),
        &MatrixModes::low_rank(600, 700).unwrap(),
        &Truncation::MaxRank(20),
    )
    .unwrap();
    check(
        "krylov",
        &certificate,
        distance(&train.to_dense().into_dyn(), &a.clone().into_dyn()),
    );
    // The Gram path is taken at a rank too large for Krylov; its singular values are the reference.
    let (_, exact) = TtMatrix::decompose(
        a.view(),
        &MatrixModes::low_rank(600, 700).unwrap(),
        &Truncation::MaxRank(300),
    )
    .unwrap();
    assert!(exact.error() < certificate.error());
    let spectrum = Array::from_iter(train.cores()[1].as_slice().iter().map(|x| f64::from(*x)));
    assert!(spectrum.iter().all(|x| x.is_finite()));
}

#[test]
fn a_byte_budget_is_kept() {
    let a = smooth::<f32>(&[12, 10, 8, 6]);
    for bytes in [200, 1000, 4000] {
        let (train, certificate) =
            TensorTrain::decompose(a.view(), &Truncation::Bytes(bytes)).unwrap();
        assert!(
            4 * train.parameters() <= bytes,
            "{bytes}: {:?}",
            train.ranks()
        );
        check("bytes", &certificate, distance(&train.to_dense(), &a));
        let (tucker, certificate) = Tucker::decompose(a.view(), &Truncation::Bytes(bytes)).unwrap();
        assert!(
            4 * tucker.parameters() <= bytes,
            "{bytes}: {:?}",
            tucker.multilinear_ranks()
        );
        check("bytes", &certificate, distance(&tucker.to_dense(), &a));
    }
}

#[test]
fn a_wide_unfolding_takes_the_coarse_path_and_stays_exact() {
    let shape = (400, 400 * 9);
    let modes = MatrixModes::low_rank(shape.1, shape.0).unwrap();
    let flat: Array2<f32> = noise::<f32>(&[shape.1, shape.0], 11)
        .into_shape_with_order((shape.1, shape.0))
        .unwrap();
    let (capped, certificate) =
        TtMatrix::decompose(flat.view(), &modes, &Truncation::MaxRank(20)).unwrap();
    check(
        "coarse",
        &certificate,
        distance(&capped.to_dense().into_dyn(), &flat.clone().into_dyn()),
    );
    // The full spectrum's best 20 are the reference.
    let (all, _) = TtMatrix::decompose(flat.view(), &modes, &Truncation::MaxRank(399)).unwrap();
    let mut energies: Vec<f64> = all.cores()[1]
        .as_train_core()
        .right_unfolding()
        .outer_iter()
        .map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum())
        .collect();
    energies.sort_by(|a, b| b.total_cmp(a));
    let best = (certificate.norm().powi(2) - energies[..20].iter().sum::<f64>()).sqrt();
    assert!(
        certificate.error() <= 1.0001 * best,
        "{} against {best}",
        certificate.error()
    );
}
