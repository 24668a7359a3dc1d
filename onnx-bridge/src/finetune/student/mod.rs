//! What of a student is trained: quantized arrays behind fake quantization, and plain float initializers.

mod fuse;
mod grid;
mod select;
mod start;
#[cfg(test)]
mod tests;
mod trainable;

use candle_core::Tensor;
use rayon::prelude::*;
use tn_qat::{AdamW, FakeQuant, Gradients, QatPhase};

use super::config::Train;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{self, GraphProto};
use crate::recognise::{StoredArray, StoredBlocks, stored_arrays, stored_blocks};
use grid::GridQuant;
pub(crate) use select::states;
use trainable::{Part, Trainable};

#[derive(Debug)]
enum Source {
    /// Weight, steps and, for an affine scheme, zero points that stand still.
    Array(Box<StoredArray>, Box<FakeQuant>),
    /// Weight and the roots of its scales.
    Blocks(GridQuant, Box<StoredBlocks>),
    /// An initializer as it is.
    Float,
}

/// The trained part of a student.
#[derive(Debug)]
pub(crate) struct Student {
    trainables: Vec<Trainable>,
    phase: QatPhase,
}

/// What weights are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The cores and factors of products.
    Cores,
    /// Matrices as they are.
    Matrices,
    /// Matrices of few levels in blocks, which a plan calibrates.
    Blocks,
}

/// Where rows of a trained table are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableLookup {
    /// Which of the trained values.
    pub(crate) table: usize,
    /// How many rows it has.
    pub(crate) rows: usize,
    /// The graph's value that says which rows.
    pub(crate) indices: String,
    /// The graph's value, given to it, that says which of the rows at hand.
    pub(crate) places: String,
    /// The graph's value that the rows make.
    pub(crate) value: String,
}

/// Of every trained value that is a table, the rows at hand, each once and in order.
pub(crate) type TableRows = Vec<Option<Vec<usize>>>;

/// The gradients of all parameters, and the rows of tables that have any.
pub(crate) struct Sums {
    gradients: Vec<Gradients<f32>>,
    touched: TableRows,
}

fn trouble(name: &str, problem: impl ToString) -> Error {
    Error::Evaluate {
        place: format!("trained value `{name}`"),
        problem: problem.to_string(),
    }
}

fn part(rows: &Option<Vec<usize>>) -> Part<'_> {
    rows.as_deref().map_or(Part::Whole, Part::Rows)
}

impl Student {
    /// Finds what is to be trained.
    ///
    /// # Errors
    /// [`Error::Evaluate`] where there is nothing to train or an array's scheme cannot be trained.
    pub(crate) fn new(
        model: &Model,
        teacher: &Model,
        warm: Option<&Model>,
        train: Train,
    ) -> Result<Self> {
        let graph = model.graph();
        let mut trainables = Vec::new();
        for array in stored_arrays(graph) {
            trainables.push(Trainable::array(array)?);
        }
        for blocks in stored_blocks(graph) {
            trainables.push(Trainable::blocks(blocks)?);
        }
        if trainables.is_empty() {
            return Err(trouble(
                "",
                "expected a compressed model with quantized layers, found none",
            ));
        }
        for name in select::floats(graph, teacher.graph(), &trainables, train) {
            if let Some(proto) = graph.initializer.iter().find(|t| t.name() == name) {
                trainables.push(Trainable::float(proto)?);
            }
        }
        if let Some(warm) = warm {
            start::warm_start(&mut trainables, warm)?;
        }
        start::balance(&mut trainables);
        Ok(Self {
            trainables,
            phase: QatPhase::Learn,
        })
    }

    /// The graph's values that are trained.
    pub(crate) fn values(&self) -> Vec<String> {
        self.trainables.iter().map(|t| t.value.clone()).collect()
    }

    /// Where rows of tables are looked up.
    pub(crate) fn lookups(&self) -> Vec<TableLookup> {
        let mut lookups = Vec::new();
        for (table, trainable) in self.trainables.iter().enumerate() {
            if let Source::Blocks(_, stored) = &trainable.source {
                lookups.extend(stored.lookups().iter().map(|lookup| TableLookup {
                    table,
                    rows: trainable.rows().unwrap_or(0),
                    indices: lookup.indices.clone(),
                    places: format!("{}/places", lookup.value),
                    value: lookup.value.clone(),
                }));
            }
        }
        lookups
    }

    /// The student's graph with every decoding of rows replaced by a `Gather` of the rows at hand, and every train that
    /// runs core by core by one operator.
    pub(crate) fn graph(&self, model: &Model) -> GraphProto {
        let mut graph = model.graph().clone();
        for lookup in self.lookups() {
            let decoded = |n: &&mut proto::NodeProto| n.output.contains(&lookup.value);
            if let Some(node) = graph.node.iter_mut().find(decoded) {
                let table = &self.trainables[lookup.table].value;
                let name = node.name().to_string();
                let inputs = [table.as_str(), &lookup.places];
                *node = proto::node("Gather", &name, &inputs, &lookup.value, Vec::new());
            }
        }
        let matrices: Vec<(String, [usize; 2])> = self
            .trainables
            .iter()
            .filter_map(|t| Some((t.value.clone(), <[usize; 2]>::try_from(&t.shape[..]).ok()?)))
            .collect();
        fuse::fuse(&mut graph, &matrices);
        graph
    }

    /// What the weights are mostly stored as.
    pub(crate) fn kind(&self) -> Kind {
        let count = |kind| -> usize {
            let of = |t: &&Trainable| t.kind() == Some(kind);
            let lengths = self.trainables.iter().filter(of);
            lengths.map(|t| t.parameters[0].values().len()).sum()
        };
        let kinds = [Kind::Cores, Kind::Matrices, Kind::Blocks];
        kinds
            .into_iter()
            .max_by_key(|&k| count(k))
            .unwrap_or(Kind::Cores)
    }

    /// How many quantized numbers, and how many plain ones, are trained.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.trainables
            .iter()
            .fold((0, 0), |(q, f), t| match t.source {
                Source::Float => (q, f + t.parameters[0].values().len()),
                _ => (q + t.parameters[0].values().len(), f),
            })
    }

    /// Changes what the quantizers do; leaving the float phase sets the steps anew from the weights.
    ///
    /// # Errors
    /// [`Error::Evaluate`] when a weight is not finite.
    pub(crate) fn set_phase(&mut self, phase: QatPhase) -> Result<()> {
        if self.phase == QatPhase::Float && phase != QatPhase::Float {
            for trainable in &mut self.trainables {
                trainable.observe()?;
            }
        }
        self.phase = phase;
        Ok(())
    }

    /// The values as the forward pass uses them, of tables the rows asked for.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn leaves(&self, rows: &TableRows) -> Result<Vec<Tensor>> {
        self.trainables
            .par_iter()
            .zip(rows)
            .map(|(t, rows)| t.leaf(self.phase, part(rows)))
            .collect()
    }

    /// The gradients of all parameters from those of the leaves, taken of the same rows, times `factor`, added to `sums`.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn accumulate(
        &self,
        gradients: Vec<Option<Tensor>>,
        rows: &TableRows,
        factor: f32,
        sums: &mut Sums,
    ) -> Result<()> {
        let each = self.trainables.par_iter().zip(gradients).zip(rows);
        let sums = sums.gradients.par_iter_mut().zip(&mut sums.touched);
        each.zip(sums)
            .try_for_each(|(((trainable, gradient), rows), (sum, touched))| {
                let Some(gradient) = gradient else {
                    return Ok(());
                };
                if let (Some(touched), Some(rows)) = (touched, rows) {
                    touched.extend(rows);
                    touched.sort_unstable();
                    touched.dedup();
                }
                trainable.backward(&gradient, factor, self.phase, part(rows), sum)
            })
    }

    /// Zeros for every parameter.
    pub(crate) fn sums(&self) -> Sums {
        Sums {
            gradients: self
                .trainables
                .iter()
                .map(|t| Gradients::zeros(&t.parameters))
                .collect(),
            touched: self
                .trainables
                .iter()
                .map(|t| t.rows().map(|_| Vec::new()))
                .collect(),
        }
    }

    /// Moves all parameters against their gradients, those clipped to a common norm, and leaves zeros.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an optimizer of another student.
    pub(crate) fn update(
        &mut self,
        sums: &mut Sums,
        clip: f64,
        optimizer: &mut AdamW<f32>,
        rate: f64,
    ) -> Result<()> {
        let norm = sums.norm(&self.trainables);
        let factor = if norm > clip && norm.is_finite() {
            clip / norm
        } else {
            1.0
        };
        let slots = optimizer.slots(self.trainables.len());
        let sums = sums.gradients.par_iter_mut().zip(&mut sums.touched);
        let each = self.trainables.par_iter_mut().zip(slots).zip(sums);
        each.try_for_each(|((trainable, slot), (gradients, touched))| {
            let rows = trainable.rows().unwrap_or(1).max(1);
            let parameters = &mut trainable.parameters;
            let moved = match touched {
                None => {
                    if factor != 1.0 {
                        gradients.scale(factor);
                    }
                    let moved = slot.step(parameters, gradients, rate);
                    gradients.clear();
                    moved
                }
                Some(touched) => {
                    scale_rows(gradients, rows, touched, factor as f32);
                    let moved = slot.step_rows(parameters, gradients, rate, (rows, touched));
                    scale_rows(gradients, rows, touched, 0.0);
                    touched.clear();
                    moved
                }
            };
            moved.map_err(|e| trouble(&trainable.value, e))
        })
    }

    /// A copy of all numbers.
    pub(crate) fn snapshot(&self) -> Vec<Vec<f32>> {
        self.trainables
            .iter()
            .flat_map(|t| t.parameters.iter().map(|p| p.values().to_vec()))
            .collect()
    }

    /// Puts a copy back.
    ///
    /// # Errors
    /// [`Error::Evaluate`] where it is of another student.
    pub(crate) fn restore(&mut self, snapshot: &[Vec<f32>]) -> Result<()> {
        let mut source = snapshot.iter();
        for trainable in &mut self.trainables {
            for parameter in &mut trainable.parameters {
                let fitting = source
                    .next()
                    .filter(|s| s.len() == parameter.values().len());
                let values = fitting.ok_or_else(|| {
                    trouble(&trainable.value, "expected a checkpoint of this student")
                })?;
                parameter.values_mut().copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// The student with the integers, scales and floats of the last forward pass in its initializers.
    ///
    /// # Errors
    /// [`Error::Evaluate`] when a step is not a finite number.
    pub(crate) fn export(&self, model: &Model) -> Result<Model> {
        let mut proto = model.proto().clone();
        if let Some(graph) = proto.graph.as_mut() {
            for trainable in &self.trainables {
                trainable.store(graph)?;
            }
        }
        Model::from_proto(proto)
    }
}

/// Multiplies the gradients of some rows of a table of `count`.
fn scale_rows(gradients: &mut Gradients<f32>, count: usize, rows: &[usize], factor: f32) {
    for values in gradients.iter_mut() {
        let width = values.len() / count;
        for &row in rows {
            values[row * width..(row + 1) * width]
                .iter_mut()
                .for_each(|g| *g *= factor);
        }
    }
}

impl Sums {
    /// The norm of all gradients together.
    fn norm(&self, trainables: &[Trainable]) -> f64 {
        let each = self.gradients.par_iter().zip(&self.touched).zip(trainables);
        let squares = each.map(|((gradients, touched), trainable)| match touched {
            None => gradients.norm_sq(),
            Some(touched) => {
                let rows = trainable.rows().unwrap_or(1).max(1);
                let square = |v: &[f32]| v.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
                gradients
                    .iter()
                    .map(|values| {
                        let width = values.len() / rows;
                        let of = |&row: &usize| square(&values[row * width..][..width]);
                        touched.iter().map(of).sum::<f64>()
                    })
                    .sum()
            }
        });
        squares.collect::<Vec<f64>>().iter().sum::<f64>().sqrt()
    }
}
