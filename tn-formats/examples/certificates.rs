//! Certificates against measured errors on every weight of an `.npz`: both layouts, 2 to 4 modes on each side (split also 1),
//! three error budgets and two rank caps, single and double precision, trains and Tucker.
//!
//! ```text
//! python tn-formats/tools/export_weights.py weights.npz MODEL.onnx ...
//! cargo run --release -p tn-formats --example certificates -- weights.npz [MODES]
//! ```
//!
//! `MODES`, such as `2,3`, leaves the other numbers of modes out. The last line is the summary: the number of decompositions that
//! discarded something and the largest relative distance between their certificate and the measured error; the number of those
//! that discarded nothing (or a thousandth of the round-off) and the largest share of [`Certificate::roundoff`] that they
//! were off; the largest share of a budget that was spent. Exits with an error when one is above 1e-5, 1 or 1.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs::File;

use ndarray::{Array2, Ix2};
use tn_formats::npy::Npz;
use tn_formats::{Certificate, Layout, MatrixModes, Real, Truncation, TtMatrix, Tucker};

/// The worst that was seen.
#[derive(Default)]
struct Worst {
    /// Decompositions that discarded something, and those that did not.
    cases: [usize; 2],
    /// Relative distance between certificate and measurement where something was discarded.
    apart: f64,
    /// Share of an error budget that was spent.
    spent: f64,
    /// The measured error over [`Certificate::roundoff`] where nothing was discarded.
    roundoff: f64,
}

impl Worst {
    /// `measured` is `||W - W~||`, in double precision.
    fn take(&mut self, certificate: &Certificate, measured: f64, truncation: &Truncation) {
        let lossless = certificate.error() <= 1e3 * certificate.roundoff();
        self.cases[usize::from(lossless)] += 1;
        let apart = (certificate.error() - measured).abs();
        if lossless {
            self.roundoff = self.roundoff.max(apart / certificate.roundoff());
        } else {
            self.apart = self.apart.max(apart / measured);
        }
        if let Truncation::RelativeError(eps) = truncation {
            self.spent = self.spent.max(measured / (eps * certificate.norm()));
        }
    }

    fn join(&mut self, other: &Self) {
        for (sum, cases) in self.cases.iter_mut().zip(other.cases) {
            *sum += cases;
        }
        self.apart = self.apart.max(other.apart);
        self.spent = self.spent.max(other.spent);
        self.roundoff = self.roundoff.max(other.roundoff);
    }

    fn print(&self, name: &str) {
        let [lossy, lossless] = self.cases;
        println!(
            "{name}: {lossy} cases {:.1e} apart, {lossless} lossless at {:.2} of the round-off, {:.6} spent",
            self.apart, self.roundoff, self.spent
        );
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
        let (mut single, mut double) = (Worst::default(), Worst::default());
        check(&weight, &orders, &mut single)?;
        check(&weight.mapv(f64::from), &orders, &mut double)?;
        for (worst, precision) in [(&single, "f32"), (&double, "f64")] {
            worst.print(&format!("{name} {precision}"));
            all.join(worst);
        }
    }
    all.print("all");
    if all.apart > 1e-5 || all.roundoff > 1.0 || all.spent > 1.0 {
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
