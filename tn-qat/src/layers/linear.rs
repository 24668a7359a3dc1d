//! What all layers are inside: a store of weights and the structure that makes a matrix of them.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tn_formats::Real;

use crate::chain::{self, Cache, LayerPlan, Route, Structure};
use crate::error::{Result, check_shape};
use crate::parameter::Gradients;
use crate::store::Store;

#[derive(Debug, Clone)]
pub(crate) struct Linear<T> {
    pub(crate) store: Store<T>,
    pub(crate) structure: Structure,
    pub(crate) route: Route,
}

impl<T: Real> Linear<T> {
    pub(crate) fn new(store: Store<T>, structure: Structure) -> Self {
        Self {
            store,
            structure,
            route: Route::Auto,
        }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.structure.matrix_shape()[0]
    }

    pub(crate) fn inputs(&self) -> usize {
        self.structure.matrix_shape()[1]
    }

    pub(crate) fn plan(&self, batch: usize) -> LayerPlan {
        LayerPlan::new(&self.structure.plan(batch, self.route), batch)
    }

    pub(crate) fn forward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        mut y: ArrayViewMut2<'_, T>,
    ) -> Result<()> {
        let batch = x.nrows();
        check_shape("input of a layer", &[batch, self.inputs()], x.shape())?;
        check_shape("output of a layer", &[batch, self.outputs()], y.shape())?;
        let x = x.as_standard_layout();
        let x = x.as_slice().unwrap_or_default();
        let how = (&self.structure, self.route);
        match y.as_slice_mut() {
            Some(y) => chain::forward(&self.store, how, x, batch, cache, y),
            None => {
                let mut copy = vec![T::zero(); y.len()];
                chain::forward(&self.store, how, x, batch, cache, &mut copy)?;
                y.iter_mut().zip(copy).for_each(|(y, c)| *y = c);
                Ok(())
            }
        }
    }

    pub(crate) fn backward_into(
        &self,
        x: ArrayView2<'_, T>,
        cache: &mut Cache<T>,
        dy: ArrayView2<'_, T>,
        grads: &mut Gradients<T>,
        dx: Option<ArrayViewMut2<'_, T>>,
    ) -> Result<()> {
        let batch = x.nrows();
        check_shape("input of a layer", &[batch, self.inputs()], x.shape())?;
        check_shape(
            "gradient of a layer's output",
            &[batch, self.outputs()],
            dy.shape(),
        )?;
        grads.check(self.store.parameters())?;
        cache.check(&self.structure, batch)?;
        self.store.backward_bias(dy, grads);
        let (x, dy) = (x.as_standard_layout(), dy.as_standard_layout());
        let (x, dy) = (
            x.as_slice().unwrap_or_default(),
            dy.as_slice().unwrap_or_default(),
        );
        let Some(mut dx) = dx else {
            return chain::backward(&self.store, x, cache, dy, grads, None);
        };
        check_shape(
            "gradient of a layer's input",
            &[batch, self.inputs()],
            dx.shape(),
        )?;
        match dx.as_slice_mut() {
            Some(dx) => chain::backward(&self.store, x, cache, dy, grads, Some(dx)),
            None => {
                let mut copy = vec![T::zero(); dx.len()];
                chain::backward(&self.store, x, cache, dy, grads, Some(&mut copy))?;
                dx.iter_mut().zip(copy).for_each(|(d, c)| *d = c);
                Ok(())
            }
        }
    }

    pub(crate) fn effective_weight(&self) -> Result<Array2<T>> {
        chain::dense_weight(&self.store, &self.structure)
    }
}

/// Normal deviates of this standard deviation (Box-Muller), the same for the same seed.
pub(crate) fn normal<T: Real>(len: usize, deviation: f64, rng: &mut impl Rng) -> Vec<T> {
    let mut values = Vec::with_capacity(len + 1);
    while values.len() < len {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        let (radius, angle) = (
            (-2.0 * u.ln()).sqrt() * deviation,
            std::f64::consts::TAU * v,
        );
        values.push(T::narrow(radius * angle.cos()));
        values.push(T::narrow(radius * angle.sin()));
    }
    values.truncate(len);
    values
}

/// The generator of a seed.
pub(crate) fn generator(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Implements [`crate::Layer`] for a type with a field `linear`.
macro_rules! delegate_layer {
    ($layer:ident) => {
        impl<T: tn_formats::Real> crate::layers::Layer<T> for $layer<T> {
            fn inputs(&self) -> usize {
                self.linear.inputs()
            }
            fn outputs(&self) -> usize {
                self.linear.outputs()
            }
            fn parameters(&self) -> &[crate::Parameter<T>] {
                self.linear.store.parameters()
            }
            fn parameters_mut(&mut self) -> &mut [crate::Parameter<T>] {
                self.linear.store.parameters_mut()
            }
            fn set_phase(&mut self, phase: crate::QatPhase) {
                self.linear.store.set_phase(phase);
            }
            fn observe(&mut self, init: crate::StepInit) -> crate::Result<()> {
                self.linear.store.observe(init)
            }
            fn forward_into(
                &self,
                x: ndarray::ArrayView2<'_, T>,
                cache: &mut crate::Cache<T>,
                y: ndarray::ArrayViewMut2<'_, T>,
            ) -> crate::Result<()> {
                self.linear.forward_into(x, cache, y)
            }
            fn backward_into(
                &self,
                x: ndarray::ArrayView2<'_, T>,
                cache: &mut crate::Cache<T>,
                dy: ndarray::ArrayView2<'_, T>,
                grads: &mut crate::Gradients<T>,
                dx: Option<ndarray::ArrayViewMut2<'_, T>>,
            ) -> crate::Result<()> {
                self.linear.backward_into(x, cache, dy, grads, dx)
            }
            fn effective_weight(&self) -> crate::Result<ndarray::Array2<T>> {
                self.linear.effective_weight()
            }
        }

        impl<T: tn_formats::Real> $layer<T> {
            /// Adds a bias, or replaces it.
            ///
            /// # Errors
            /// [`crate::QatError::Length`] unless there is one entry for each output.
            pub fn with_bias(mut self, bias: Vec<T>) -> crate::Result<Self> {
                self.linear.store.set_bias(self.linear.outputs(), bias)?;
                Ok(self)
            }

            /// Adds a bias in place, or replaces it.
            ///
            /// # Errors
            /// As `with_bias`.
            pub fn set_bias(&mut self, bias: Vec<T>) -> crate::Result<()> {
                let outputs = self.linear.outputs();
                self.linear.store.set_bias(outputs, bias)
            }

            /// Adds a bias of zeros, or sets it to zero.
            #[must_use]
            pub fn with_zero_bias(mut self) -> Self {
                let outputs = self.linear.outputs();
                if self
                    .linear
                    .store
                    .set_bias(outputs, vec![T::zero(); outputs])
                    .is_err()
                {
                    unreachable!("the bias has one zero for each output");
                }
                self
            }

            /// Fixes how products are computed; [`crate::Route::Auto`] otherwise.
            #[must_use]
            pub fn with_route(mut self, route: crate::Route) -> Self {
                self.linear.route = route;
                self
            }

            /// What a forward pass of `batch` samples does.
            pub fn plan(&self, batch: usize) -> crate::LayerPlan {
                self.linear.plan(batch)
            }

            /// The bias.
            pub fn bias(&self) -> Option<&[T]> {
                self.linear.store.bias()
            }

            /// What the quantizers do.
            pub fn phase(&self) -> crate::QatPhase {
                self.linear.store.phase()
            }

            /// Puts a quantizer of this scheme in front of every weight, with fresh steps.
            ///
            /// # Errors
            /// [`crate::QatError::Quant`] when a weight lacks the scheme's axis or is not finite.
            pub fn quantize(
                &mut self,
                scheme: quant_core::QuantScheme,
                init: crate::StepInit,
            ) -> crate::Result<()> {
                (0..self.linear.store.slots())
                    .try_for_each(|slot| self.quantize_weight(slot, scheme, init))
            }

            /// Puts a quantizer in front of weight `index` alone, in the order of the weights.
            ///
            /// # Errors
            /// As `quantize`, and [`crate::QatError::Length`] when there is no such weight.
            pub fn quantize_weight(
                &mut self,
                index: usize,
                scheme: quant_core::QuantScheme,
                init: crate::StepInit,
            ) -> crate::Result<()> {
                self.linear.store.quantize_slot(index, scheme, init)
            }

            /// The scheme of weight `index`, if it has one.
            pub fn scheme(&self, index: usize) -> Option<&quant_core::QuantScheme> {
                (index < self.linear.store.slots())
                    .then(|| self.linear.store.scheme(index))
                    .flatten()
            }
        }
    };
}
pub(crate) use delegate_layer;
