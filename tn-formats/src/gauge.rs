//! Gauges: `G_k -> P^-1 G_k Q` at every bond, which leaves the tensor as it is and changes what quantizing the cores costs.

use ndarray::{Array1, Array2};
use rand::{RngExt, SeedableRng};

use crate::canonical::scale_rows;
use crate::error::Result;
use crate::linalg::{mm, qr};
use crate::matrix::TtMatrix;
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};

/// How the freedom at the bonds of a train is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gauge {
    /// All cores but the last left-orthogonal, as TT-SVD leaves them.
    Left,
    /// All cores but the first right-orthogonal.
    Right,
    /// `L_(k-1)^(-1/2) A_k L_k^(1/2)` with the singular values `L` of Vidal's form: each bond's weight shared evenly, so
    /// that the product of the neighbours' norms is least (the nuclear norm).
    Symmetric,
    /// The symmetric gauge, then an orthogonal matrix in every bond that spreads outliers.
    Rotated(Rotation),
}

/// Which orthogonal matrix goes into a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rotation {
    /// Hadamard times random signs where the rank is a power of two, else random orthogonal.
    Hadamard {
        /// Seed of the signs.
        seed: u64,
    },
    /// The orthogonal factor of a Gaussian matrix.
    Random {
        /// Seed of the matrix.
        seed: u64,
    },
    /// Starts as `Hadamard` and descends on the fourth moment of the two neighbours' elements, bond by bond.
    Learned {
        /// Seed of the start.
        seed: u64,
        /// Gradient steps per bond.
        steps: u32,
    },
}

impl Rotation {
    fn seed(self) -> u64 {
        match self {
            Self::Hadamard { seed } | Self::Random { seed } | Self::Learned { seed, .. } => seed,
        }
    }
}

/// Singular values are floored at this share of the largest, so that the gauge stays invertible.
const FLOOR: f64 = 1e-10;

impl<T: Real> TensorTrain<T> {
    /// The same tensor in another gauge.
    ///
    /// # Numerics
    /// In `f64`, rounded to `T` once; the tensor changes by round-off only. Ranks above what their neighbours can carry
    /// shrink. A fixed seed gives fixed bits.
    ///
    /// # Errors
    /// [`crate::Error::LinAlg`] when a singular value decomposition does not converge.
    ///
    /// # Source
    /// Gauge freedom: Vidal 2003, Phys. Rev. Lett. 91, 147902. Rotations against outliers: Ashkboos et al. 2024, arXiv
    /// 2404.00456, there for activations.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Gauge, Rotation, TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((6, 7, 8), |(i, j, k)| ((i * j) as f64 + k as f64).sqrt()).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(4))?;
    /// let rotated = train.gauge(Gauge::Rotated(Rotation::Hadamard { seed: 1 }))?;
    /// assert!(train.distance(&rotated)? < 1e-10 * train.norm());
    /// assert_ne!(train.cores()[0], rotated.cores()[0]);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn gauge(&self, gauge: Gauge) -> Result<Self> {
        match gauge {
            Gauge::Left => self.canonical(self.order() - 1),
            Gauge::Right => self.canonical(0),
            Gauge::Symmetric => Ok(symmetric(self)?.cast()),
            Gauge::Rotated(rotation) => Ok(rotate(symmetric(self)?, rotation).cast()),
        }
    }
}

impl<T: Real> TtMatrix<T> {
    /// The same matrix in another gauge, see [`TensorTrain::gauge`].
    ///
    /// # Errors
    /// As [`TensorTrain::gauge`].
    pub fn gauge(&self, gauge: Gauge) -> Result<Self> {
        Self::from_train(self.to_train().gauge(gauge)?, self.modes().clone())
    }
}

/// An orthogonal matrix into every bond.
pub(crate) fn rotate(train: TensorTrain<f64>, rotation: Rotation) -> TensorTrain<f64> {
    let mut cores = train.into_cores();
    for k in 0..cores.len() - 1 {
        let q = bond_rotation(rotation, k, &cores[k], &cores[k + 1]);
        turn(&mut cores, k, &q);
    }
    TensorTrain::from_parts(cores)
}

pub(crate) fn symmetric<T: Real>(train: &TensorTrain<T>) -> Result<TensorTrain<f64>> {
    let (train, values) = train.vidal()?.into_parts();
    let weights: Vec<Array1<f64>> = values
        .iter()
        .map(|v| {
            let floor = (v[0] * FLOOR).max(f64::MIN_POSITIVE);
            v.mapv(|s| s.max(floor).sqrt())
        })
        .collect();
    let mut cores = train.into_cores();
    for (k, w) in weights.iter().enumerate() {
        let (r, n, e) = cores[k].view().dim();
        let mut left = cores[k].left_unfolding().to_owned();
        left *= w;
        cores[k] = TtCore::from_unfolding(left, r, n, e);
        let (r, n, e) = cores[k + 1].view().dim();
        let right = scale_rows(
            cores[k + 1].right_unfolding().to_owned(),
            &w.mapv(f64::recip),
        );
        cores[k + 1] = TtCore::from_unfolding(right, r, n, e);
    }
    Ok(TensorTrain::from_parts(cores))
}

/// Multiplies `q` into the bond after core k: core k times q, qᵀ times core k + 1.
fn turn(cores: &mut [TtCore<f64>], k: usize, q: &Array2<f64>) {
    let (r, n, e) = cores[k].view().dim();
    let (_, next, end) = cores[k + 1].view().dim();
    let left = mm(cores[k].left_unfolding(), q.view());
    let right = mm(q.t(), cores[k + 1].right_unfolding());
    cores[k] = TtCore::from_unfolding(left, r, n, e);
    cores[k + 1] = TtCore::from_unfolding(right, e, next, end);
}

fn bond_rotation(
    rotation: Rotation,
    bond: usize,
    left: &TtCore<f64>,
    right: &TtCore<f64>,
) -> Array2<f64> {
    let start = free_rotation(rotation, bond, left.right_rank());
    match rotation {
        Rotation::Learned { steps, .. } => learn(start, steps, left, right),
        Rotation::Hadamard { .. } | Rotation::Random { .. } => start,
    }
}

/// The rotation of a bond that knows nothing of its neighbours.
pub(crate) fn free_rotation(rotation: Rotation, bond: usize, rank: usize) -> Array2<f64> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(rotation.seed() ^ ((bond as u64 + 1) << 32));
    match rotation {
        Rotation::Random { .. } => random_orthogonal(rank, &mut rng),
        Rotation::Hadamard { .. } | Rotation::Learned { .. } => hadamard(rank, &mut rng),
    }
}

/// `H D / sqrt(n)` with random signs D for a power of two, else random orthogonal.
fn hadamard(rank: usize, rng: &mut rand_pcg::Pcg64Mcg) -> Array2<f64> {
    if !rank.is_power_of_two() {
        return random_orthogonal(rank, rng);
    }
    let scale = (rank as f64).sqrt().recip();
    let signs: Vec<f64> = (0..rank)
        .map(|_| if rng.random::<bool>() { scale } else { -scale })
        .collect();
    Array2::from_shape_fn((rank, rank), |(i, j)| {
        if (i & j).count_ones() % 2 == 0 {
            signs[i]
        } else {
            -signs[i]
        }
    })
}

/// Orthogonal factor of a Gaussian matrix.
fn random_orthogonal(rank: usize, rng: &mut rand_pcg::Pcg64Mcg) -> Array2<f64> {
    let gaussian = Array2::from_shape_fn((rank, rank), |_| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    });
    qr(gaussian.view()).0
}

/// Descends on `|A Q|_4^4 / |A|_2^4 N_A + |Qᵀ B|_4^4 / |B|_2^4 N_B` over orthogonal Q: tangent gradient, QR retraction, the
/// step halved where it does not help.
fn learn(mut q: Array2<f64>, steps: u32, left: &TtCore<f64>, right: &TtCore<f64>) -> Array2<f64> {
    let (a, b) = (left.left_unfolding(), right.right_unfolding());
    let weight = |m: ndarray::ArrayView2<'_, f64>| {
        let square: f64 = m.iter().map(|x| x * x).sum();
        if square > 0.0 {
            m.len() as f64 / (square * square)
        } else {
            0.0
        }
    };
    let (wa, wb) = (weight(a), weight(b));
    let evaluate = |q: &Array2<f64>| {
        let (ya, yb) = (mm(a, q.view()), mm(b.t(), q.view()));
        let fourth = |y: &Array2<f64>| y.iter().map(|x| x.powi(4)).sum::<f64>();
        (wa * fourth(&ya) + wb * fourth(&yb), ya, yb)
    };
    let (mut value, mut ya, mut yb) = evaluate(&q);
    let mut step = 1.0;
    for _ in 0..steps {
        let gradient = mm(a.t(), ya.mapv(|x| 4.0 * wa * x.powi(3)).view())
            + mm(b, yb.mapv(|x| 4.0 * wb * x.powi(3)).view());
        let overlap = mm(q.t(), gradient.view());
        let tangent = mm(q.view(), (&overlap - &overlap.t()).view());
        let size = tangent.iter().map(|x| x * x).sum::<f64>().sqrt();
        if size <= 1e-12 * value {
            break;
        }
        let mut improved = false;
        for _ in 0..8 {
            let trial = retract(&q - &(&tangent * (step / size)));
            let next = evaluate(&trial);
            if next.0 < value {
                (q, (value, ya, yb)) = (trial, next);
                step *= 1.5;
                improved = true;
                break;
            }
            step *= 0.5;
        }
        if !improved {
            break;
        }
    }
    q
}

/// The orthogonal QR factor with the signs that make it continuous in its argument.
fn retract(m: Array2<f64>) -> Array2<f64> {
    let (mut q, r) = qr(m.view());
    for (mut column, d) in q.columns_mut().into_iter().zip(r.diag()) {
        if *d < 0.0 {
            column.mapv_inplace(|x| -x);
        }
    }
    q
}
