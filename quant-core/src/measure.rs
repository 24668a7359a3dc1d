//! How far an approximation is from what it stands for.

use crate::error::{Result, check_len};
use crate::groups::{Groups, element_count};
use crate::params::QuantParams;
use crate::scheme::Granularity;

/// The errors of an approximation, summed in f64.
///
/// ```
/// use quant_core::ErrorStats;
/// let stats = ErrorStats::between(&[3.0, 4.0], &[3.0, 4.5])?;
/// assert_eq!((stats.mse(), stats.relative_l2(), stats.max_abs()), (0.125, 0.1, 0.5));
/// assert_eq!(stats.sqnr_db(), 20.0);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ErrorStats {
    count: usize,
    error: f64,
    signal: f64,
    approximation: f64,
    cross: f64,
    max_abs: f64,
}

impl ErrorStats {
    /// The errors of `approximation`.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless both are as long as each other.
    pub fn between(reference: &[f32], approximation: &[f32]) -> Result<Self> {
        check_len("the approximation", reference.len(), approximation.len())?;
        let mut stats = Self::default();
        reference
            .iter()
            .zip(approximation)
            .for_each(|(&x, &y)| stats.add(x, y));
        Ok(stats)
    }

    /// The errors for each index of an axis.
    ///
    /// # Shapes
    /// Both are row-major of `shape`; one result for each of `shape[axis]`.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] if they do not fill the shape, [`crate::QuantError::Axis`] if it lacks the axis.
    pub fn per_axis(
        reference: &[f32],
        approximation: &[f32],
        shape: &[usize],
        axis: usize,
    ) -> Result<Vec<Self>> {
        let groups = Groups::new(shape, Granularity::per_axis(axis))?;
        check_len("the reference", groups.len(), reference.len())?;
        check_len("the approximation", groups.len(), approximation.len())?;
        let mut stats = vec![Self::default(); groups.count()];
        groups.for_each_element(|i, group| stats[group].add(reference[i], approximation[i]));
        Ok(stats)
    }

    fn add(&mut self, x: f32, y: f32) {
        let (x, y) = (f64::from(x), f64::from(y));
        let error = x - y;
        self.count += 1;
        self.error += error * error;
        self.signal += x * x;
        self.approximation += y * y;
        self.cross += x * y;
        self.max_abs = self.max_abs.max(error.abs());
    }

    /// The number of elements.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The mean squared error; 0 for no elements.
    pub fn mse(&self) -> f64 {
        self.error / self.count.max(1) as f64
    }

    /// The signal's power over the error's, in decibel; infinite without error.
    pub fn sqnr_db(&self) -> f64 {
        if self.error == 0.0 {
            f64::INFINITY
        } else {
            10.0 * (self.signal / self.error).log10()
        }
    }

    /// `||x - y|| / ||x||`; 0 without error.
    pub fn relative_l2(&self) -> f64 {
        if self.error == 0.0 {
            0.0
        } else {
            (self.error / self.signal).sqrt()
        }
    }

    /// The cosine of the angle between both; 1 where both are 0, 0 where one is.
    pub fn cosine(&self) -> f64 {
        match (self.signal == 0.0, self.approximation == 0.0) {
            (true, true) => 1.0,
            (false, false) => self.cross / (self.signal.sqrt() * self.approximation.sqrt()),
            _ => 0.0,
        }
    }

    /// The largest magnitude of an error.
    pub const fn max_abs(&self) -> f64 {
        self.max_abs
    }
}

/// The mean squared error that rounding alone is expected to make: `scale^2 / 12`, averaged over all elements.
///
/// # Numerics
/// Holds where values spread evenly within steps and none is clipped; what is measured beyond it is clipping, or values
/// that sit on a grid.
///
/// # Errors
/// [`crate::QuantError::Length`] if the parameters do not fit the shape.
///
/// # Source
/// Bennett 1948, "Spectra of quantized signals".
pub fn expected_mse(params: &QuantParams, shape: &[usize]) -> Result<f64> {
    let groups = params.groups(shape)?;
    let mut sum = 0.0;
    groups.for_each_element(|_, group| sum += f64::from(params.scales()[group]).powi(2) / 12.0);
    Ok(sum / groups.len().max(1) as f64)
}

/// The signal-to-noise ratio in decibel that [`expected_mse`] gives for `data`.
///
/// # Errors
/// [`crate::QuantError::Length`] if data or parameters do not fit the shape.
///
/// ```
/// use quant_core::{Bits, QuantParams, QuantScheme, expected_sqnr_db};
/// // A full-scale ramp at 8 bits: 6.02 dB a bit.
/// let ramp: Vec<f32> = (-5000..=5000).map(|i| i as f32 / 5000.0).collect();
/// let params = QuantParams::min_max(&ramp, &[10_001], &QuantScheme::affine(Bits::B8))?;
/// assert!((expected_sqnr_db(&ramp, &[10_001], &params)? - 6.02 * 8.0).abs() < 0.1);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn expected_sqnr_db(data: &[f32], shape: &[usize], params: &QuantParams) -> Result<f64> {
    check_len("data", element_count(shape)?, data.len())?;
    let signal: f64 =
        data.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / data.len().max(1) as f64;
    Ok(10.0 * (signal / expected_mse(params, shape)?).log10())
}
