//! Certificates against measured errors on every weight of an `.npz`: both layouts, 2 to 4 modes on each side (split also 1),
//! three error budgets and two rank caps, single and double precision, trains and Tucker.
//!
//! ```text
//! python tn-formats/tools/export_weights.py weights.npz MODEL.onnx ...
//! cargo run --release -p tn-formats --example certificates -- weights.npz [MODES]
//! ```
//!
//! `MODES`, such as `2,3`, leaves the other numbers of modes out. The last line is the summary: the number of decompositions,
//! the largest relative distance between certificate and measurement beyond the round-off of storing cores, and the largest
//! share of a budget that was spent; where nothing was discarded there is only round-off, told as `lossless`. Exits with an error when one is above 1e-5 or 1.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs::File;

use ndarray::{Array2, Ix2};
use tn_formats::npy::Npz;
use tn_formats::{Certificate, Layout, MatrixModes, Real, Truncation, TtMatrix, Tucker};

/// The worst that was seen.
#[derive(Default)]
struct Worst {
    cases: usize,
    apart: f64,
    spent: f64,
    /// Relative error where nothing was discarded: round-off alone.
    lossless: f64,
}

impl Worst {
    /// `measured` is `||W - W~||`, in double precision.
    fn take(&mut self, certificate: &Certificate, measured: f64, truncation: &Truncation) {
        self.cases += 1;
        if certificate.error() == 0.0 {
            self.lossless = self.lossless.max(measured / certificate.norm());
            return;
        }
        let apart = (certificate.error() - measured).abs() - certificate.roundoff();
        self.apart = self.apart.max(apart / measured);
        if let Truncation::RelativeError(eps) = truncation {
            self.spent = self.spent.max(measured / (eps * certificate.norm()));
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args
        .first()
        .ok_or("usage: certificates WEIGHTS.npz [MODES]")?;
    let orders = args.get(1).map_or("1,2,3,4", String::as_str);
    let orders = orders.split(',').map(str::parse);
    let orders = orders.collect::<Result<Vec<usize>, _>>()?;
    let mut npz = Npz::open(File::open(path)?)?;
    let mut all = Worst::default();
    for name in npz.names().to_vec() {
        let weight = npz.read(&name)?.to_f32().into_dimensionality::<Ix2>()?;
        let mut worst = Worst::default();
        check(&weight, &orders, &mut worst)?;
        check(&weight.mapv(f64::from), &orders, &mut worst)?;
        println!(
            "{name}: {} cases, {:.1e} apart, {:.6} spent, {:.1e} lossless",
            worst.cases, worst.apart, worst.spent, worst.lossless
        );
        all.cases += worst.cases;
        all.apart = all.apart.max(worst.apart);
        all.spent = all.spent.max(worst.spent);
        all.lossless = all.lossless.max(worst.lossless);
    }
    println!(
        "all: {} cases, {:.1e} apart, {:.6} spent, {:.1e} lossless",
        all.cases, all.apart, all.spent, all.lossless
    );
    if all.apart > 1e-5 || all.spent > 1.0 {
        return Err("a certificate is wrong".into());
    }
    Ok(())
}

fn check<T: Real>(w: &Array2<T>, orders: &[usize], worst: &mut Worst) -> tn_formats::Result<()> {
    let distance = |rebuilt: &Array2<f64>| {
        let pairs = w.iter().zip(rebuilt);
        pairs
            .map(|(x, y)| (x.widen() - y).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let budgets = [0.3, 0.1, 0.01].map(Truncation::RelativeError);
    let caps = [8, 32].map(Truncation::MaxRank);
    for truncation in budgets.iter().chain(&caps) {
        for &order in orders {
            for layout in [Layout::Interleaved, Layout::Split] {
                if layout == Layout::Interleaved && order == 1 {
                    continue;
                }
                let modes = MatrixModes::balanced(layout, w.nrows(), w.ncols(), order)?;
                let (train, certificate) = TtMatrix::decompose(w.view(), &modes, truncation)?;
                let dense = train.cast::<f64>().to_dense();
                worst.take(&certificate, distance(&dense), truncation);
            }
        }
        let (network, certificate) = Tucker::decompose(w.view().into_dyn(), truncation)?;
        let (core, factors) = network.into_parts();
        let wide = factors.into_iter().map(|f| f.mapv(Real::widen)).collect();
        let network = Tucker::from_parts(core.mapv(Real::widen), wide)?;
        let dense = network.to_dense();
        let dense = dense.into_dimensionality().expect("a matrix has two axes");
        worst.take(&certificate, distance(&dense), truncation);
    }
    Ok(())
}
