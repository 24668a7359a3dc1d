//! One batch: the teacher's values, the student's, and the loss between them.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::config::{FinetuneConfig, LossKind};
use super::fusing::fuse;
use super::kernels::relative_gap;
use super::loss::{self, Loss};
use super::mix::Mixture;
use super::program::{Prepared, Program, Request};
use super::student::{Student, TableLookup, TableRows, states};
use super::value::{IntArray, Value};
use crate::error::{Error, Result};
use crate::model::Model;

/// Weight of the hidden states beside logits: a rank too small to copy them would spend itself on them.
const HIDDEN_BESIDE_LOGITS: f64 = 0.05;

/// Teacher and student ready to run, and how their values are compared.
pub(crate) struct Objective {
    teacher: Program,
    student: Program,
    lookups: Vec<TableLookup>,
    values: usize,
    outputs: Vec<(String, LossKind)>,
    /// What is compared: the outputs, then the hidden states.
    compared: Vec<String>,
    hidden_weight: f64,
    temperature: f64,
    labels_weight: f64,
}

/// What a batch brings beside its arrays.
pub(crate) struct Batch<'a> {
    pub(crate) feeds: &'a BTreeMap<String, Value>,
    /// `[n, length, 1]`, 0 at padded positions.
    pub(crate) keep: Option<Tensor>,
    /// One for every sample; they count for outputs with one row of logits each.
    pub(crate) labels: Option<&'a [u32]>,
    /// What the samples were mixed of, and their labels with them.
    pub(crate) mixture: Option<&'a Mixture>,
}

impl Batch<'_> {
    /// The mask of a value that has one row for every position.
    fn keep_of(&self, value: &Tensor) -> Option<&Tensor> {
        let keep = self.keep.as_ref()?;
        (value.rank() == 3 && value.dims()[..2] == keep.dims()[..2]).then_some(keep)
    }
}

fn trouble(error: candle_core::Error) -> Error {
    Error::Evaluate {
        place: "loss".into(),
        problem: error.to_string(),
    }
}

/// What the teacher makes of a batch: the values compared, in order.
pub(crate) type Taught = Vec<Tensor>;

/// The part of the student that no trained value reaches.
pub(crate) struct Ready {
    student: Prepared,
    /// The rows of tables that the batch looks up.
    pub(crate) rows: TableRows,
}

fn floats(values: Vec<Value>, place: &str) -> Result<Vec<Tensor>> {
    let float = |value| match value {
        Value::Float(t) => Some(t),
        _ => None,
    };
    let floats = values.into_iter().map(float).collect::<Option<_>>();
    floats.ok_or_else(|| Error::Evaluate {
        place: place.into(),
        problem: "expected float outputs".into(),
    })
}

impl Objective {
    /// Prepares both graphs.
    ///
    /// # Errors
    /// [`Error::MissingOperators`] before anything runs; [`Error::Evaluate`] where teacher and student have no output in common.
    pub(crate) fn new(
        teacher: &Model,
        student: &Model,
        trained: &Student,
        config: &FinetuneConfig,
    ) -> Result<Self> {
        let outputs: Vec<String> = teacher
            .graph()
            .output
            .iter()
            .map(|o| o.name().to_string())
            .filter(|o| student.graph().output.iter().any(|s| s.name() == o))
            .collect();
        if outputs.is_empty() {
            return Err(Error::Evaluate {
                place: "student".into(),
                problem: "expected an output of the teacher's name, found none".into(),
            });
        }
        let hidden: Vec<String> = states(student, teacher)
            .into_iter()
            .filter(|h| !outputs.contains(h))
            .collect();
        let wanted: Vec<String> = outputs.iter().chain(&hidden).cloned().collect();
        let lacking = [teacher, student].map(super::missing_operators);
        let mut lacking = lacking.concat();
        lacking.dedup();
        if !lacking.is_empty() {
            return Err(Error::MissingOperators { operators: lacking });
        }
        let mut original = teacher.graph().clone();
        fuse(&mut original);
        let lookups = trained.lookups();
        let values = trained.values();
        let given: Vec<String> = lookups.iter().map(|l| l.places.clone()).collect();
        let seen: Vec<String> = lookups.iter().map(|l| l.indices.clone()).collect();
        let mut graph = trained.graph(student);
        fuse(&mut graph);
        let student = Program::new(&Request {
            graph: &graph,
            opset: student.opset(),
            trained: &values,
            given: &given,
            seen: &seen,
            wanted: &wanted,
        })?;
        let kinds: Vec<(String, LossKind)> = outputs
            .into_iter()
            .map(|name| {
                let kind = match config.loss {
                    LossKind::Auto => kind_of(teacher, &name),
                    chosen => chosen,
                };
                (name, kind)
            })
            .collect();
        let logits = kinds.iter().any(|(_, k)| *k == LossKind::Logits);
        let hidden_weight =
            config
                .hidden_weight
                .unwrap_or(if logits { HIDDEN_BESIDE_LOGITS } else { 1.0 });
        Ok(Self {
            teacher: Program::new(&Request {
                graph: &original,
                ..Request::outputs(teacher, &wanted)
            })?,
            student,
            lookups,
            values: values.len(),
            outputs: kinds,
            compared: wanted,
            hidden_weight,
            temperature: config.temperature,
            labels_weight: config.labels_weight,
        })
    }

    /// The kinds of loss by output, and how many hidden states are matched.
    pub(crate) fn describe(&self) -> (&[(String, LossKind)], usize) {
        (&self.outputs, self.compared.len() - self.outputs.len())
    }

    /// The values that teacher and student are compared at, outputs first.
    pub(crate) fn compared(&self) -> &[String] {
        &self.compared
    }

    /// The relative squared error of every value compared.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn errors(
        &self,
        ready: &Ready,
        leaves: &[Tensor],
        taught: &Taught,
        batch: &Batch<'_>,
    ) -> Result<Vec<f64>> {
        let student = floats(self.student.run(&ready.student, leaves)?, "student")?;
        let each = student.iter().zip(taught);
        each.map(|(s, t)| relative_gap(s, t, batch.keep_of(s), None).map(|(value, _)| value))
            .collect::<candle_core::Result<_>>()
            .map_err(trouble)
    }

    /// How many nodes of the student run once per batch, and how many on every pass.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.student.counts()
    }

    /// Runs the teacher.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn teach(&self, feeds: &BTreeMap<String, Value>) -> Result<Taught> {
        let values = self.teacher.run(&self.teacher.prepare(feeds)?, &[])?;
        floats(values, "teacher")
    }

    /// Runs what of the student needs no tape.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn ready(&self, feeds: &BTreeMap<String, Value>) -> Result<Ready> {
        let mut prepared = self.student.prepare(feeds)?;
        let rows = self.look_up(&mut prepared)?;
        Ok(Ready {
            student: prepared,
            rows,
        })
    }

    /// Finds the rows that a batch looks up in tables, and tells the graph where they will stand among those at hand.
    fn look_up(&self, prepared: &mut Prepared) -> Result<TableRows> {
        let seen: Vec<IntArray> = self
            .student
            .seen(prepared)
            .zip(&self.lookups)
            .map(|(value, lookup)| match value {
                Some(Value::Int(a)) => Ok(a.clone()),
                _ => Err(Error::Evaluate {
                    place: format!("`{}`", lookup.indices),
                    problem: "expected integers that nothing trained reaches".into(),
                }),
            })
            .collect::<Result<_>>()?;
        let mut rows: TableRows = vec![None; self.values];
        for (indices, lookup) in seen.iter().zip(&self.lookups) {
            let rows = rows[lookup.table].get_or_insert_default();
            for &i in indices.array.data() {
                let row = usize::try_from(i).ok().filter(|&r| r < lookup.rows);
                rows.push(row.ok_or_else(|| Error::Evaluate {
                    place: format!("`{}`", lookup.indices),
                    problem: format!("expected rows below {}, found {i}", lookup.rows),
                })?);
            }
        }
        for rows in rows.iter_mut().flatten() {
            rows.sort_unstable();
            rows.dedup();
        }
        let places = seen
            .into_iter()
            .zip(&self.lookups)
            .map(|(indices, lookup)| {
                let rows = rows[lookup.table].as_deref().unwrap_or_default();
                let place = |&i: &i64| rows.binary_search(&(i as usize)).unwrap_or(0) as i64;
                Value::Int(IntArray {
                    array: indices.array.map(place),
                    kind: indices.kind,
                })
            })
            .collect();
        self.student.give(prepared, places);
        Ok(rows)
    }

    /// The loss of one batch; `taught` gives what the teacher makes of it, and runs beside the student.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn loss(
        &self,
        ready: &Ready,
        leaves: &[Tensor],
        taught: impl FnOnce() -> Result<Taught> + Send,
        batch: &Batch<'_>,
    ) -> Result<f64> {
        let run = || self.student.run(&ready.student, leaves);
        let (values, taught) = rayon::join(run, taught);
        let student = floats(values?, "student")?;
        let lost = self.compare(&student, &taught?, batch, false)?;
        Ok(lost.iter().map(|l| l.value).sum())
    }

    /// The loss of one batch as [`Objective::loss`] has it, and its gradients by `leaves`; `None` for one that it does not depend on.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn gradients(
        &self,
        ready: &Ready,
        leaves: &[Tensor],
        taught: impl FnOnce() -> Result<Taught> + Send,
        batch: &Batch<'_>,
    ) -> Result<(f64, Vec<Option<Tensor>>)> {
        // An operator of either finds work for a thread that the other leaves idle.
        let record = || self.student.record(&ready.student, leaves);
        let (recorded, taught) = rayon::join(record, taught);
        let (values, tape) = recorded?;
        let student = floats(values, "student")?;
        let lost = self.compare(&student, &taught?, batch, true)?;
        let value = lost.iter().map(|l| l.value).sum();
        let gradients = lost.into_iter().map(|l| l.gradient).collect();
        Ok((value, self.student.backward(tape, gradients)?))
    }

    /// What every value of the student loses, with gradients where they are `sloped`.
    fn compare<'a>(
        &self,
        student: &'a [Tensor],
        taught: &Taught,
        batch: &Batch<'_>,
        sloped: bool,
    ) -> Result<Vec<Loss<'a>>> {
        let each = student.par_iter().zip(taught).enumerate();
        each.map(|(k, (s, t))| {
            let mut loss = Loss::new(s, sloped);
            self.add(&mut loss, (k, s), t, batch).map_err(trouble)?;
            Ok(loss)
        })
        .collect()
    }

    /// Adds what value `k`, `s` of the student, loses of the teacher's.
    fn add(
        &self,
        loss: &mut Loss<'_>,
        (k, s): (usize, &Tensor),
        teacher: &Tensor,
        batch: &Batch<'_>,
    ) -> candle_core::Result<()> {
        let keep = batch.keep_of(s);
        match self.outputs.get(k).map(|(_, kind)| kind) {
            Some(LossKind::Logits) => {
                loss.add(1.0, |s| loss::divergence(s, teacher, self.temperature))?;
                let labels = batch.labels.filter(|labels| {
                    self.labels_weight > 0.0
                        && matches!(s.dims(), [rows, _] if *rows == labels.len())
                });
                match labels {
                    Some(labels) => loss.add(self.labels_weight, |s| {
                        loss::cross_entropy(s, labels, batch.mixture)
                    }),
                    None => Ok(()),
                }
            }
            Some(kind) => {
                loss.add_relative_error(1.0, teacher, keep)?;
                if *kind == LossKind::Embedding && s.rank() >= 2 {
                    loss.add(1.0, |s| loss::geometry(s, teacher, keep))?;
                }
                Ok(())
            }
            None if self.hidden_weight > 0.0 => {
                loss.add_relative_error(self.hidden_weight, teacher, keep)
            }
            None => Ok(()),
        }
    }
}

/// What an output looks like: two axes are logits, unless its name says that it is an embedding.
fn kind_of(model: &Model, name: &str) -> LossKind {
    let rank = crate::view::GraphView::new(model).rank(name);
    let lower = name.to_lowercase();
    let embedding = ["embed", "pool", "hidden", "feature"]
        .iter()
        .any(|w| lower.contains(w));
    match rank {
        Some(2) if !embedding => LossKind::Logits,
        _ => LossKind::Embedding,
    }
}
