//! One trained value of the graph: its parameters, what the forward pass makes of them, and the way back into the file.

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use tn_qat::{FakeQuant, Gradients, Parameter, ParameterKind, QatPhase, StepInit};

use super::grid::GridQuant;
use super::{Kind, Source, trouble};
use crate::error::Result;
use crate::finetune::kernels::read;
use crate::proto::{GraphProto, TensorProto};
use crate::recognise::{Stored, StoredArray, StoredBlocks};
use crate::tensor;

/// One trained value of the graph.
#[derive(Debug)]
pub(super) struct Trainable {
    /// The graph's value that it stands for.
    pub(super) value: String,
    pub(super) shape: Vec<usize>,
    /// Weights first, then steps or roots of scales, then zero points.
    pub(super) parameters: Vec<Parameter<f32>>,
    pub(super) source: Source,
}

/// What of a value the graph is given: all of it, or rows of a table by number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    Whole,
    Rows(&'a [usize]),
}

/// The rows of `data`, `width` elements each.
fn pick(data: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        out.extend_from_slice(&data[row * width..(row + 1) * width]);
    }
    out
}

/// Adds rows to those of `sum`.
fn add_rows(sum: &mut [f32], width: usize, rows: &[usize], data: &[f32]) {
    for (&row, data) in rows.iter().zip(data.chunks(width.max(1))) {
        for (s, d) in sum[row * width..(row + 1) * width].iter_mut().zip(data) {
            *s += d;
        }
    }
}

impl Trainable {
    pub(super) fn array(array: StoredArray) -> Result<Self> {
        let name = array.value().to_string();
        let tensor = array.tensor();
        let fake =
            FakeQuant::new(*tensor.scheme(), tensor.shape()).map_err(|e| trouble(&name, e))?;
        let new = |suffix: &str, kind, shape: &[usize], values: Vec<f32>| {
            Parameter::new(format!("{name}{suffix}"), kind, shape, values)
                .map_err(|e| trouble(&name, e))
        };
        let scales = tensor.params().scales().to_vec();
        let groups = [scales.len()];
        let mut parameters = vec![
            new(
                "",
                ParameterKind::Weight,
                tensor.shape(),
                tensor.dequantize(),
            )?,
            new(".step", ParameterKind::Step, &groups, scales)?,
        ];
        if tensor.scheme().has_zero_points() {
            let zero = tensor
                .params()
                .zero_points()
                .iter()
                .map(|&z| z as f32)
                .collect();
            parameters.push(new(".zero_point", ParameterKind::ZeroPoint, &groups, zero)?);
        }
        let shape = array.shape().to_vec();
        Ok(Self {
            value: name,
            shape,
            parameters,
            source: Source::Array(Box::new(array), Box::new(fake)),
        })
    }

    pub(super) fn blocks(stored: StoredBlocks) -> Result<Self> {
        let name = stored.value().to_string();
        let (values, extent) = (stored.values(), stored.extent());
        let roots = values
            .steps
            .iter()
            .map(|&s| f32::from(s) * values.unit)
            .collect();
        let weights = Parameter::new(
            name.as_str(),
            ParameterKind::Weight,
            stored.shape(),
            stored.dequantize(),
        );
        let roots = Parameter::new(
            format!("{name}.root"),
            ParameterKind::Step,
            &[extent.blocks()],
            roots,
        );
        Ok(Self {
            shape: stored.shape().to_vec(),
            parameters: vec![
                weights.map_err(|e| trouble(&name, e))?,
                roots.map_err(|e| trouble(&name, e))?,
            ],
            value: name,
            source: Source::Blocks(GridQuant::new(extent, stored.levels()), Box::new(stored)),
        })
    }

    pub(super) fn float(proto: &TensorProto) -> Result<Self> {
        let name = proto.name();
        let shape = tensor::shape(proto)?;
        let values = tensor::to_f32(proto).ok_or_else(|| trouble(name, "expected floats"))?;
        let parameter = Parameter::new(name, ParameterKind::Bias, &shape, values)
            .map_err(|e| trouble(name, e))?;
        Ok(Self {
            value: name.to_string(),
            shape,
            parameters: vec![parameter],
            source: Source::Float,
        })
    }

    /// What it is stored as; `None` for a plain float.
    pub(super) fn kind(&self) -> Option<Kind> {
        match &self.source {
            Source::Array(..) => {
                let part = self.value.rsplit('/').nth(1).unwrap_or_default();
                let of_a_product = part.starts_with("core") || part.starts_with("factor");
                Some(if of_a_product {
                    Kind::Cores
                } else {
                    Kind::Matrices
                })
            }
            Source::Blocks(..) => Some(Kind::Blocks),
            Source::Float => None,
        }
    }

    fn zero_points(&self) -> Option<&[f32]> {
        self.parameters.get(2).map(Parameter::values)
    }

    /// An affine array is quantized in every phase: its zero points stand still, and fit its steps as they are.
    fn is_quantized(&self, phase: QatPhase) -> bool {
        phase != QatPhase::Float || self.parameters.len() > 2
    }

    /// Whether another is stored the same way, number for number.
    pub(super) fn has_grid_of(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Source::Array(a, _), Source::Array(b, _)) => {
                a.tensor().scheme() == b.tensor().scheme()
                    && a.tensor().shape() == b.tensor().shape()
            }
            (Source::Blocks(_, a), Source::Blocks(_, b)) => {
                a.levels() == b.levels() && a.extent() == b.extent() && a.shape() == b.shape()
            }
            _ => false,
        }
    }

    /// Sets the steps anew from the weights.
    pub(super) fn observe(&mut self) -> Result<()> {
        match (&self.source, self.parameters.as_mut_slice()) {
            (Source::Array(_, fake), [weights, steps]) => {
                let (found, _) = fake
                    .initial_steps(weights.values(), StepInit::Mse)
                    .map_err(|e| trouble(&self.value, e))?;
                steps.values_mut().copy_from_slice(&found);
            }
            (Source::Blocks(grid, _), [weights, roots]) => {
                grid.observe(weights.values(), roots.values_mut());
            }
            _ => {}
        }
        Ok(())
    }

    /// Rows of a table, where it is one.
    pub(super) fn rows(&self) -> Option<usize> {
        match &self.source {
            Source::Blocks(_, stored) if !stored.lookups().is_empty() => {
                self.shape.first().copied()
            }
            _ => None,
        }
    }

    /// Elements of every parameter that belong to one row of a table.
    fn widths(&self) -> Vec<usize> {
        let rows = self.rows().unwrap_or(1).max(1);
        self.parameters
            .iter()
            .map(|p| p.values().len() / rows)
            .collect()
    }

    /// The value as the forward pass uses it.
    pub(super) fn leaf(&self, phase: QatPhase, part: Part<'_>) -> Result<Tensor> {
        let (weights, shape) = match part {
            Part::Whole => (
                Cow::Borrowed(self.parameters[0].values()),
                self.shape.clone(),
            ),
            Part::Rows(rows) => {
                let mut shape = self.shape.clone();
                shape[0] = rows.len();
                let width = self.widths()[0];
                let picked = pick(self.parameters[0].values(), width, rows);
                (Cow::Owned(picked), shape)
            }
        };
        let values = match &self.source {
            Source::Array(_, fake) if self.is_quantized(phase) => {
                let mut values = vec![0.0; weights.len()];
                let steps = self.parameters[1].values();
                fake.forward(&weights, steps, self.zero_points(), &mut values)
                    .map_err(|e| trouble(&self.value, e))?;
                values
            }
            Source::Blocks(grid, _) if self.is_quantized(phase) => {
                let mut values = vec![0.0; weights.len()];
                let roots = self.parameters[1].values();
                let unit = GridQuant::unit(roots);
                match part {
                    Part::Whole => grid.forward(&weights, roots, unit, &mut values),
                    Part::Rows(rows) => {
                        let width = self.widths()[1];
                        let roots = pick(roots, width, rows);
                        let grid = grid.with_outer(rows.len() * width);
                        grid.forward(&weights, &roots, unit, &mut values);
                    }
                }
                values
            }
            _ => weights.into_owned(),
        };
        Tensor::from_vec(values, shape, &Device::Cpu).map_err(|e| trouble(&self.value, e))
    }

    /// Adds the gradients of the parameters, `factor` times the leaf's, to `sum`.
    pub(super) fn backward(
        &self,
        gradient: &Tensor,
        factor: f32,
        phase: QatPhase,
        part: Part<'_>,
        sum: &mut Gradients<f32>,
    ) -> Result<()> {
        let mut gradient: Vec<f32> = read(gradient, |g| {
            g.iter().map(|v| v * factor).collect::<Vec<f32>>()
        })
        .map_err(|e| trouble(&self.value, e))?;
        let mut sums = sum.iter_mut();
        let Some(weight) = sums.next() else {
            return Ok(());
        };
        let steps = sums.next().unwrap_or_default();
        let moving = phase == QatPhase::Learn;
        let quantized = self.is_quantized(phase);
        match (&self.source, part) {
            (Source::Array(_, fake), _) if quantized => {
                let mut frozen = vec![0.0; steps.len()];
                let mut ignored = self.zero_points().map(|z| vec![0.0; z.len()]);
                fake.backward(
                    self.parameters[0].values(),
                    self.parameters[1].values(),
                    self.zero_points(),
                    &mut gradient,
                    if moving { steps } else { &mut frozen },
                    ignored.as_deref_mut(),
                )
                .map_err(|e| trouble(&self.value, e))?;
            }
            (Source::Blocks(grid, _), Part::Whole) if quantized => {
                let roots = self.parameters[1].values();
                let mut frozen = vec![0.0; steps.len()];
                grid.backward(
                    self.parameters[0].values(),
                    roots,
                    GridQuant::unit(roots),
                    &mut gradient,
                    if moving { steps } else { &mut frozen },
                );
            }
            (Source::Blocks(grid, _), Part::Rows(rows)) if quantized => {
                let widths = self.widths();
                let unit = GridQuant::unit(self.parameters[1].values());
                let roots = pick(self.parameters[1].values(), widths[1], rows);
                let weights = pick(self.parameters[0].values(), widths[0], rows);
                let mut pulled = vec![0.0; roots.len()];
                grid.with_outer(rows.len() * widths[1]).backward(
                    &weights,
                    &roots,
                    unit,
                    &mut gradient,
                    &mut pulled,
                );
                if moving {
                    add_rows(steps, widths[1], rows, &pulled);
                }
            }
            _ => {}
        }
        match part {
            Part::Whole => weight.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g),
            Part::Rows(rows) => add_rows(weight, self.widths()[0], rows, &gradient),
        }
        Ok(())
    }

    /// Writes the integers, scales and floats of the last forward pass into the initializers.
    pub(super) fn store(&self, graph: &mut GraphProto) -> Result<()> {
        let stored = match &self.source {
            Source::Array(stored, fake) => {
                let tensor = fake
                    .quantize(
                        self.parameters[0].values(),
                        self.parameters[1].values(),
                        self.zero_points(),
                    )
                    .map_err(|e| trouble(&self.value, e))?;
                stored.store(graph, &tensor)
            }
            Source::Blocks(grid, stored) => {
                let [weights, roots] = [0, 1].map(|k| self.parameters[k].values());
                stored.store(graph, &grid.quantize(weights, roots))
            }
            Source::Float => {
                let old = graph
                    .initializer
                    .iter_mut()
                    .find(|t| t.name() == self.value);
                match old {
                    Some(old) => {
                        *old =
                            tensor::from_f32(&self.value, &self.shape, self.parameters[0].values());
                        Stored::Written
                    }
                    None => Stored::Misfit,
                }
            }
        };
        match stored {
            Stored::Written => Ok(()),
            Stored::Misfit => Err(trouble(
                &self.value,
                "expected the initializers it was read from",
            )),
        }
    }
}
