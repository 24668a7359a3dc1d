//! Trainable numbers by name, and their gradients.

use serde::{Deserialize, Serialize};
use tn_formats::Real;

use crate::error::{QatError, Result, check_len};

/// What a parameter is, so that an optimizer can treat it as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Elements of a core, a factor or a dense matrix.
    Weight,
    /// Quantization steps (scales) of a weight. Positive; an optimizer moves their logarithm.
    Step,
    /// Zero points of an affine weight, as real numbers that the forward pass rounds. One unit is one code.
    ZeroPoint,
    /// A bias.
    Bias,
}

/// A named array of trainable numbers, row-major.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter<T = f32> {
    name: String,
    kind: ParameterKind,
    shape: Vec<usize>,
    values: Vec<T>,
}

impl<T: Real> Parameter<T> {
    /// A parameter of this name and shape.
    ///
    /// # Errors
    /// [`QatError::Length`] when the values do not fill the shape.
    pub fn new(
        name: impl Into<String>,
        kind: ParameterKind,
        shape: &[usize],
        values: Vec<T>,
    ) -> Result<Self> {
        check_len(
            "values of a parameter",
            shape.iter().product(),
            values.len(),
        )?;
        Ok(Self {
            name: name.into(),
            kind,
            shape: shape.to_vec(),
            values,
        })
    }

    /// The name, unique within a layer: `core.0`, `core.0.step`, `bias`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn kind(&self) -> ParameterKind {
        self.kind
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row-major.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The values, to be changed by an optimizer.
    pub fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

/// The gradients of a list of parameters, in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gradients<T = f32> {
    values: Vec<Vec<T>>,
}

impl<T: Real> Gradients<T> {
    /// Zeros for each parameter.
    pub fn zeros(parameters: &[Parameter<T>]) -> Self {
        Self {
            values: parameters
                .iter()
                .map(|p| vec![T::zero(); p.values().len()])
                .collect(),
        }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The gradient of parameter `index`.
    ///
    /// # Errors
    /// [`QatError::Length`] when there are fewer.
    pub fn get(&self, index: usize) -> Result<&[T]> {
        let found = self.values.len();
        self.values
            .get(index)
            .map(Vec::as_slice)
            .ok_or(QatError::Length {
                what: "gradients",
                expected: index + 1,
                found,
            })
    }

    /// The gradients in order.
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        self.values.iter().map(Vec::as_slice)
    }

    /// The gradients in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        self.values.iter_mut().map(Vec::as_mut_slice)
    }

    /// Sets all to zero, before the backward passes of the next step.
    pub fn clear(&mut self) {
        self.values.iter_mut().for_each(|g| g.fill(T::zero()));
    }

    /// Sum of squares over all, in f64, in eight interleaved parts.
    pub fn norm_sq(&self) -> f64 {
        let square = |g: &T| g.widen() * g.widen();
        let mut parts = [0.0; 8];
        for values in &self.values {
            let (blocks, rest) = values.as_chunks::<8>();
            for block in blocks {
                for (part, g) in parts.iter_mut().zip(block) {
                    *part += square(g);
                }
            }
            parts[0] += rest.iter().map(square).sum::<f64>();
        }
        parts.iter().sum()
    }

    /// Multiplies all by one factor.
    pub fn scale(&mut self, factor: f64) {
        let factor = T::narrow(factor);
        self.values.iter_mut().flatten().for_each(|g| *g *= factor);
    }

    /// Checks that there is one gradient of the right length for each parameter.
    ///
    /// # Errors
    /// [`QatError::Length`].
    pub fn check(&self, parameters: &[Parameter<T>]) -> Result<()> {
        check_len("gradients", parameters.len(), self.values.len())?;
        for (g, p) in self.values.iter().zip(parameters) {
            check_len("gradient of a parameter", p.values().len(), g.len())?;
        }
        Ok(())
    }

    pub(crate) fn slot(&mut self, index: usize) -> &mut [T] {
        &mut self.values[index]
    }

    /// Two different gradients at once.
    pub(crate) fn pair(&mut self, first: usize, second: usize) -> (&mut [T], &mut [T]) {
        let [a, b] = self
            .values
            .get_disjoint_mut([first, second])
            .expect("two different parameters of one layer");
        (a, b)
    }
}
