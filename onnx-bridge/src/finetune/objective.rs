//! One batch: the teacher's values, the student's, and the loss between them.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::config::{FinetuneConfig, LossKind};
use super::mix::Mixture;
use super::program::{Prepared, Program, Request};
use super::student::{Student, TableLookup, TableRows, states};
use super::value::{IntArray, Value};
use super::{gelu, loss};
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
    hidden: usize,
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

/// The teacher's values and the part of the student that no trained value reaches.
pub(crate) struct Ready {
    teacher: Vec<Tensor>,
    student: Prepared,
    /// The rows of tables that the batch looks up.
    pub(crate) rows: TableRows,
}

fn tensors(values: Vec<Value>) -> Vec<Option<Tensor>> {
    values
        .into_iter()
        .map(|v| {
            if let Value::Float(t) = v {
                Some(t)
            } else {
                None
            }
        })
        .collect()
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
        gelu::fuse(&mut original);
        let lookups = trained.lookups();
        let values = trained.values();
        let given: Vec<String> = lookups.iter().map(|l| l.places.clone()).collect();
        let seen: Vec<String> = lookups.iter().map(|l| l.indices.clone()).collect();
        let mut graph = trained.graph(student);
        gelu::fuse(&mut graph);
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
            hidden: hidden.len(),
            hidden_weight,
            temperature: config.temperature,
            labels_weight: config.labels_weight,
        })
    }

    /// The kinds of loss by output, and how many hidden states are matched.
    pub(crate) fn describe(&self) -> (&[(String, LossKind)], usize) {
        (&self.outputs, self.hidden)
    }

    /// How many nodes of the student run once per batch, and how many on every pass.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.student.counts()
    }

    /// What the teacher makes of a batch: the values compared, in order.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn teach(&self, feeds: &BTreeMap<String, Value>) -> Result<Vec<Tensor>> {
        let values = self.teacher.run(&self.teacher.prepare(feeds)?, &[])?;
        let floats = tensors(values).into_iter().collect::<Option<_>>();
        floats.ok_or_else(|| Error::Evaluate {
            place: "teacher".into(),
            problem: "expected float outputs".into(),
        })
    }

    /// Runs what of the student needs no tape; `teacher` is what [`Objective::teach`] makes of the same batch.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn ready(
        &self,
        feeds: &BTreeMap<String, Value>,
        teacher: Vec<Tensor>,
    ) -> Result<Ready> {
        let mut prepared = self.student.prepare(feeds)?;
        let rows = self.look_up(&mut prepared)?;
        Ok(Ready {
            teacher,
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

    /// The loss of one batch, with a tape back to `leaves`.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn loss(
        &self,
        ready: &Ready,
        leaves: &[Tensor],
        batch: &Batch<'_>,
    ) -> Result<Tensor> {
        let fail = |e: candle_core::Error| Error::Evaluate {
            place: "loss".into(),
            problem: e.to_string(),
        };
        let values = tensors(self.student.run(&ready.student, leaves)?);
        let student = values
            .into_iter()
            .collect::<Option<Vec<Tensor>>>()
            .ok_or_else(|| Error::Evaluate {
                place: "student".into(),
                problem: "expected float outputs".into(),
            })?;
        self.compare(&student, ready, batch).map_err(fail)
    }

    fn compare(
        &self,
        student: &[Tensor],
        ready: &Ready,
        batch: &Batch<'_>,
    ) -> candle_core::Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        let mut add = |term: Tensor, weight: f64| -> candle_core::Result<()> {
            let term = (term * weight)?;
            sum = Some(match sum.take() {
                Some(s) => (s + term)?,
                None => term,
            });
            Ok(())
        };
        let keep = |t: &Tensor| {
            batch
                .keep
                .as_ref()
                .filter(|k| t.rank() == 3 && t.dims()[..2] == k.dims()[..2])
        };
        for ((s, t), (_, kind)) in student.iter().zip(&ready.teacher).zip(&self.outputs) {
            match kind {
                LossKind::Logits => {
                    add(loss::divergence(s, t, self.temperature)?, 1.0)?;
                    let labels = batch.labels.filter(|labels| {
                        self.labels_weight > 0.0
                            && matches!(s.dims(), [rows, _] if *rows == labels.len())
                    });
                    if let Some(labels) = labels {
                        let term = loss::cross_entropy(s, labels, batch.mixture)?;
                        add(term, self.labels_weight)?;
                    }
                }
                LossKind::Embedding => {
                    add(loss::relative_error(s, t, keep(t))?, 1.0)?;
                    if s.rank() >= 2 {
                        add(loss::geometry(s, t, keep(t))?, 1.0)?;
                    }
                }
                _ => add(loss::relative_error(s, t, keep(t))?, 1.0)?,
            }
        }
        if self.hidden > 0 && self.hidden_weight > 0.0 {
            let first = self.outputs.len();
            for (s, t) in student[first..].iter().zip(&ready.teacher[first..]) {
                add(loss::relative_error(s, t, keep(t))?, self.hidden_weight)?;
            }
        }
        sum.ok_or_else(|| candle_core::Error::Msg("expected an output".into()))
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
