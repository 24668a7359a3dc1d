//! A Tucker network as a layer.

use ndarray::{Array2, ArrayD, IxDyn};
use tn_formats::{QuantizedTucker, Real, Tucker};

use super::linear::{Linear, delegate_layer, generator, normal};
use crate::chain::Structure;
use crate::error::{QatError, Result, check_len};
use crate::store::Store;

/// A layer whose weight `[m_1 .. m_p, n_1 .. n_q]` is a Tucker network; core and factors each pass their own fake
/// quantization. With one mode on each side it is `W = U C Vᵀ`.
///
/// Weight 0 is `core`, then come `factor.0`, `factor.1` .. in the order of the modes, row (output) modes first.
///
/// ```
/// use ndarray::Array2;
/// use tn_formats::{Truncation, Tucker};
/// use tn_qat::{Cache, Layer, TuckerLinear};
/// let w = Array2::from_shape_fn((6, 20), |(i, j)| ((i * j) as f32 * 0.3).sin());
/// let tensor = w.to_shape((6, 4, 5))?.to_owned().into_dyn();
/// let (network, _) = Tucker::decompose(tensor.view(), &Truncation::RelativeError(1e-6))?;
/// let layer = TuckerLinear::from_tucker(&network, 1)?; // one row mode, two column modes
/// let x = Array2::from_shape_fn((3, 20), |(b, j)| (b + j) as f32 / 20.0);
/// let y = layer.forward(x.view(), &mut Cache::new())?;
/// assert!((&y - &x.dot(&w.t())).iter().all(|d| d.abs() < 1e-4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TuckerLinear<T = f32> {
    linear: Linear<T>,
}

delegate_layer!(TuckerLinear);

impl<T: Real> TuckerLinear<T> {
    /// A layer from a network whose first `row_modes` modes are the output's and whose other modes are the input's.
    ///
    /// # Errors
    /// [`QatError::Parameter`] unless both sides have a mode.
    pub fn from_tucker(network: &Tucker<T>, row_modes: usize) -> Result<Self> {
        let order = network.order();
        if row_modes == 0 || row_modes >= order {
            return Err(QatError::Parameter {
                what: "number of row modes",
                expected: "at least one mode on each side",
                found: format!("{row_modes} of {order}"),
            });
        }
        let mut store = Store::new();
        let core = network.core();
        store.push_weight(
            "core".to_owned(),
            core.shape(),
            core.iter().copied().collect(),
        )?;
        for (k, factor) in network.factors().iter().enumerate() {
            store.push_weight(
                format!("factor.{k}"),
                factor.shape(),
                factor.iter().copied().collect(),
            )?;
        }
        let shapes: Vec<[usize; 2]> = network
            .factors()
            .iter()
            .map(|f| [f.nrows(), f.ncols()])
            .collect();
        let (rows, cols) = shapes.split_at(row_modes);
        let structure = Structure::Tucker {
            rows: rows.to_vec(),
            cols: cols.to_vec(),
        };
        Ok(Self {
            linear: Linear::new(store, structure),
        })
    }

    /// Normal core and factors such that the entries of `W` have variance `2 / (M + N)`.
    ///
    /// # Shapes
    /// One `(mode, rank)` for each row mode and for each column mode.
    ///
    /// # Errors
    /// [`QatError::Parameter`] unless both sides have a mode, [`QatError::Format`] for a size of 0.
    pub fn random(rows: &[(usize, usize)], cols: &[(usize, usize)], seed: u64) -> Result<Self> {
        let all = [rows, cols].concat();
        let size = |modes: &[(usize, usize)]| modes.iter().map(|m| m.0).product::<usize>();
        let ranks: Vec<usize> = all.iter().map(|m| m.1).collect();
        let paths: f64 = ranks.iter().map(|&r| r as f64).product();
        let variance = 2.0 / (size(rows) + size(cols)).max(1) as f64;
        let deviation = (variance / paths.max(1.0)).powf(0.5 / (all.len() + 1) as f64);
        let mut rng = generator(seed);
        let core = normal(ranks.iter().product(), deviation, &mut rng);
        let core = ArrayD::from_shape_vec(IxDyn(&ranks), core)
            .expect("as many values as the shape has elements");
        let factors = all.iter().map(|&(n, r)| {
            let values = normal(n * r, deviation, &mut rng);
            Array2::from_shape_vec((n, r), values)
                .expect("as many values as the shape has elements")
        });
        let factors = factors.collect();
        Self::from_tucker(&Tucker::from_parts(core, factors)?, rows.len())
    }

    /// Multilinear ranks, row modes first.
    pub fn multilinear_ranks(&self) -> Vec<usize> {
        self.linear.store.weight(0).shape().to_vec()
    }

    /// Core and factors as they are trained, before fake quantization.
    ///
    /// # Errors
    /// None for a valid layer.
    pub fn to_tucker(&self) -> Result<Tucker<T>> {
        let store = &self.linear.store;
        let core = store.weight(0);
        let core = ArrayD::from_shape_vec(IxDyn(core.shape()), core.values().to_vec());
        let factors = (1..store.slots()).map(|slot| {
            let f = store.weight(slot);
            let shape = (f.shape()[0], f.shape()[1]);
            Array2::from_shape_vec(shape, f.values().to_vec())
                .expect("as many values as the shape has elements")
        });
        let core = core.expect("as many values as the shape has elements");
        Ok(Tucker::from_parts(core, factors.collect())?)
    }
}

impl TuckerLinear<f32> {
    /// The integers, scales and zero points of the forward pass, exactly.
    ///
    /// # Errors
    /// [`QatError::NotQuantized`] when a weight has no quantizer.
    pub fn to_quantized(&self) -> Result<QuantizedTucker> {
        let store = &self.linear.store;
        let parts =
            (0..store.slots()).map(|slot| store.quantized(slot, "a quantized Tucker network"));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        check_len("weights of a Tucker layer", store.slots(), parts.len())?;
        let factors = parts.split_off(1);
        Ok(QuantizedTucker::from_parts(parts.swap_remove(0), factors)?)
    }
}
