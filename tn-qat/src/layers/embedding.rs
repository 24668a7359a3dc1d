//! Rows of a table by number.

use ndarray::{Array2, ArrayView2};
use quant_core::{Granularity, QuantScheme, QuantizedTensor};
use tn_formats::Real;

use super::linear::{generator, normal};
use crate::error::{QatError, Result, check_shape};
use crate::fake_quant::{QatPhase, StepInit};
use crate::parameter::{Gradients, Parameter};
use crate::store::Store;

/// A table `[rows, width]` whose rows are looked up by number; only those looked up are quantized and get a gradient.
///
/// Low rank is an embedding of width r followed by a layer from r to the full width.
///
/// ```
/// use ndarray::array;
/// use quant_core::{Bits, QuantScheme};
/// use tn_qat::{Embedding, StepInit};
/// let mut table = Embedding::new(array![[1.0f32, 0.6], [0.1, -0.2], [3.0, 0.0]])?;
/// table.quantize_rows(QuantScheme::symmetric(Bits::B2), None, StepInit::MinMax)?;
/// assert_eq!(table.lookup(&[2, 0, 2])?, array![[3.0, 0.0], [1.0, 1.0], [3.0, 0.0]]);
/// # Ok::<(), tn_qat::QatError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Embedding<T = f32> {
    store: Store<T>,
    rows: usize,
    width: usize,
}

impl<T: Real> Embedding<T> {
    /// A table, without quantization.
    ///
    /// # Errors
    /// [`QatError::Parameter`] for a table without elements.
    pub fn new(table: Array2<T>) -> Result<Self> {
        let (rows, width) = table.dim();
        if rows == 0 || width == 0 {
            return Err(QatError::Parameter {
                what: "shape of an embedding",
                expected: "at least one row and one column",
                found: format!("{rows} x {width}"),
            });
        }
        let mut store = Store::new();
        store.push_weight(
            "table".to_owned(),
            &[rows, width],
            table.iter().copied().collect(),
        )?;
        Ok(Self { store, rows, width })
    }

    /// Normal entries of standard deviation 1.
    ///
    /// # Errors
    /// As [`Embedding::new`].
    pub fn random(rows: usize, width: usize, seed: u64) -> Result<Self> {
        let values = normal(rows * width, 1.0, &mut generator(seed));
        Self::new(
            Array2::from_shape_vec((rows, width), values)
                .expect("as many values as the shape has elements"),
        )
    }

    /// Puts a quantizer in front of the table: a step for each row, or for each block of a row. The scheme's own
    /// granularity is replaced.
    ///
    /// # Errors
    /// [`QatError::Quant`] for a block of 0 elements or a table that is not finite.
    pub fn quantize_rows(
        &mut self,
        scheme: QuantScheme,
        block: Option<usize>,
        init: StepInit,
    ) -> Result<()> {
        let granularity = match block {
            None => Granularity::per_axis(0),
            Some(size) => Granularity::per_block(1, size)?,
        };
        self.store
            .quantize_slot(0, scheme.with_granularity(granularity), init)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `table`, and with a quantizer `table.step`, and `table.zero_point` when it is affine.
    pub fn parameters(&self) -> &[Parameter<T>] {
        self.store.parameters()
    }

    /// The same, to be changed.
    pub fn parameters_mut(&mut self) -> &mut [Parameter<T>] {
        self.store.parameters_mut()
    }

    /// What the quantizer does from now on.
    pub fn set_phase(&mut self, phase: QatPhase) {
        self.store.set_phase(phase);
    }

    /// Sets steps and zero points anew from the table.
    ///
    /// # Errors
    /// [`QatError::Quant`] when the table is not finite.
    pub fn observe(&mut self, init: StepInit) -> Result<()> {
        self.store.observe(init)
    }

    fn check(&self, indices: &[i64]) -> Result<()> {
        let wrong = indices
            .iter()
            .enumerate()
            .find(|&(_, &i)| i < 0 || i as u64 >= self.rows as u64);
        match wrong {
            None => Ok(()),
            Some((position, &found)) => Err(QatError::Index {
                what: "row of an embedding",
                position,
                bound: self.rows,
                found,
            }),
        }
    }

    /// The rows of these numbers, as the quantizer leaves them.
    ///
    /// # Shapes
    /// `[indices, width]`.
    ///
    /// # Errors
    /// [`QatError::Index`].
    pub fn lookup(&self, indices: &[i64]) -> Result<Array2<T>> {
        self.check(indices)?;
        let mut out = Array2::zeros((indices.len(), self.width));
        for (mut row, &i) in out.rows_mut().into_iter().zip(indices) {
            if let Some(row) = row.as_slice_mut() {
                self.store.effective_row(i as usize, self.width, row)?;
            }
        }
        Ok(out)
    }

    /// Adds the gradients of the table, steps and zero points.
    ///
    /// # Shapes
    /// `dy` is `[indices, width]`; `grads` has one entry for each parameter.
    ///
    /// # Errors
    /// [`QatError::Index`], [`QatError::Shape`], [`QatError::Length`].
    pub fn backward(
        &self,
        indices: &[i64],
        dy: ArrayView2<'_, T>,
        grads: &mut Gradients<T>,
    ) -> Result<()> {
        self.check(indices)?;
        check_shape(
            "gradient of looked-up rows",
            &[indices.len(), self.width],
            dy.shape(),
        )?;
        grads.check(self.store.parameters())?;
        let mut gradient = vec![T::zero(); self.width];
        for (row, &i) in dy.rows().into_iter().zip(indices) {
            gradient.iter_mut().zip(row).for_each(|(g, &d)| *g = d);
            self.store
                .backward_row(i as usize, self.width, &mut gradient, grads)?;
        }
        Ok(())
    }
}

impl Embedding<f32> {
    /// The integers, scales and zero points of the lookups, exactly.
    ///
    /// # Errors
    /// [`QatError::NotQuantized`] when the table has no quantizer.
    pub fn to_quantized(&self) -> Result<QuantizedTensor> {
        self.store.quantized(0, "a quantized embedding")
    }
}
