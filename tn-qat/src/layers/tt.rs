//! A matrix train as a layer.

use ndarray::{Array4, ArrayView2};
use tn_formats::{
    Layout, MatrixModes, QuantizedTtMatrix, Real, Truncation, TtMatrix, TtMatrixCore,
};

use super::linear::{Linear, delegate_layer, generator, normal};
use crate::chain::Structure;
use crate::error::{Result, check_len};
use crate::store::Store;

/// A layer whose weight is a matrix train (interleaved or split; split with two cores is low rank) and whose cores each
/// pass their own fake quantization. The source document's `QATTTLinear`.
///
/// Weight k is `core.k`, `[r, m, n, r']`.
///
/// ```
/// use ndarray::Array2;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{Layout, MatrixModes, TtMatrix, Truncation};
/// use tn_qat::{Cache, Layer, StepInit, TtLinear};
/// let w = Array2::from_shape_fn((12, 20), |(i, j)| ((i * j) as f32 * 0.3).sin());
/// let modes = MatrixModes::new(Layout::Interleaved, vec![3, 4], vec![4, 5])?;
/// let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(6))?;
/// let mut layer = TtLinear::from_train(&train)?;
/// layer.quantize(QuantScheme::symmetric(Bits::B8), StepInit::MinMax)?;
///
/// let x = Array2::from_shape_fn((2, 20), |(b, j)| (b + j) as f32 / 20.0);
/// let y = layer.forward(x.view(), &mut Cache::new())?;
/// // The integers of that pass, and the same outputs from them.
/// let stored = layer.to_quantized()?;
/// let again = stored.dequantize().matmul(x.view())?;
/// assert!((&y - &again).iter().all(|d| d.abs() < 1e-4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TtLinear<T = f32> {
    linear: Linear<T>,
    modes: MatrixModes,
}

delegate_layer!(TtLinear);

impl<T: Real> TtLinear<T> {
    /// A layer from a matrix train, without quantization and bias.
    ///
    /// # Errors
    /// None for a valid train.
    pub fn from_train(train: &TtMatrix<T>) -> Result<Self> {
        let mut store = Store::new();
        for (k, core) in train.cores().iter().enumerate() {
            store.push_weight(format!("core.{k}"), &core.shape(), core.as_slice().to_vec())?;
        }
        let shapes = train.cores().iter().map(TtMatrixCore::shape).collect();
        Ok(Self {
            linear: Linear::new(store, Structure::Train(shapes)),
            modes: train.modes().clone(),
        })
    }

    /// A layer from a dense weight by TT-SVD with ranks up to `rank`.
    ///
    /// # Shapes
    /// `w` is `[M, N]`.
    ///
    /// # Errors
    /// [`crate::QatError::Format`] when modes, weight and rank do not fit.
    pub fn from_matrix(w: ArrayView2<'_, T>, modes: &MatrixModes, rank: usize) -> Result<Self> {
        let (train, _) = TtMatrix::decompose(w, modes, &Truncation::MaxRank(rank))?;
        Self::from_train(&train)
    }

    /// Normal cores such that the entries of `W` have variance `2 / (M + N)` (Glorot and Bengio 2010).
    ///
    /// # Shapes
    /// `ranks` are those between the cores, one less than cores.
    ///
    /// # Errors
    /// [`crate::QatError::Length`] for a wrong number of ranks, [`crate::QatError::Format`] for a rank of 0.
    pub fn random(modes: &MatrixModes, ranks: &[usize], seed: u64) -> Result<Self> {
        let pairs = modes.core_modes();
        check_len("ranks between cores", pairs.len() - 1, ranks.len())?;
        let all: Vec<usize> = [&[1], ranks, &[1]].concat();
        let paths: f64 = ranks.iter().map(|&r| r as f64).product();
        let variance = 2.0 / (modes.rows() + modes.cols()) as f64;
        let deviation = (variance / paths).powf(0.5 / pairs.len() as f64);
        let mut rng = generator(seed);
        let cores = pairs.iter().enumerate().map(|(k, &(m, n))| {
            let shape = (all[k], m, n, all[k + 1]);
            let values = normal(shape.0 * m * n * shape.3, deviation, &mut rng);
            TtMatrixCore::new(
                Array4::from_shape_vec(shape, values)
                    .expect("as many values as the shape has elements"),
            )
        });
        let cores = cores.collect::<Result<Vec<_>, _>>()?;
        Self::from_train(&TtMatrix::from_cores(modes.clone(), cores)?)
    }

    /// Modes and layout.
    pub fn modes(&self) -> &MatrixModes {
        &self.modes
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.modes.layout()
    }

    /// Ranks, one more than cores; first and last are 1.
    pub fn ranks(&self) -> Vec<usize> {
        let Structure::Train(cores) = &self.linear.structure else {
            return Vec::new();
        };
        std::iter::once(1)
            .chain(cores.iter().map(|c| c[3]))
            .collect()
    }

    /// The cores as they are trained, before fake quantization.
    ///
    /// # Errors
    /// None for a valid layer.
    pub fn to_train(&self) -> Result<TtMatrix<T>> {
        let cores = (0..self.linear.store.slots()).map(|slot| {
            let p = self.linear.store.weight(slot);
            let [r, m, n, s] = [0, 1, 2, 3].map(|axis| p.shape()[axis]);
            let values = Array4::from_shape_vec((r, m, n, s), p.values().to_vec());
            TtMatrixCore::new(values.expect("as many values as the shape has elements"))
        });
        let cores = cores.collect::<Result<Vec<_>, _>>()?;
        Ok(TtMatrix::from_cores(self.modes.clone(), cores)?)
    }
}

impl TtLinear<f32> {
    /// The integers, scales and zero points of the forward pass, exactly: dequantized, they are the cores it used.
    ///
    /// # Errors
    /// [`crate::QatError::NotQuantized`] when a core has no quantizer.
    pub fn to_quantized(&self) -> Result<QuantizedTtMatrix> {
        let store = &self.linear.store;
        let cores = (0..store.slots()).map(|slot| store.quantized(slot, "a quantized train"));
        Ok(QuantizedTtMatrix::from_cores(
            self.modes.clone(),
            cores.collect::<Result<_>>()?,
        )?)
    }
}
