//! How much of every weight's error a training left, for a plan that chooses again.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::config::FinetuneConfig;
use super::objective::{Batch, Objective};
use super::student::Student;
use super::train::plan_batches;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::model::Model;
use crate::proto::GraphProto;

/// A factor stays within this, up and down: neighbouring states share their errors.
const MOST: f64 = 8.0;

/// What is left of the squared error that every weight of the teacher makes, by its name: that of the first value downstream which
/// student and teacher are compared at, after the training over before it, on the held-back samples.
///
/// # Numerics
/// Between 1/8 and 8; 1 where no value is compared downstream, or nothing was lost there.
///
/// # Errors
/// Those of [`super::finetune`].
pub fn left_by_training(
    teacher: &Model,
    before: &Model,
    after: &Model,
    data: &Dataset,
    config: &FinetuneConfig,
) -> Result<BTreeMap<String, f64>> {
    let before = errors(teacher, before, data, config)?;
    let after = errors(teacher, after, data, config)?;
    let factors: HashMap<&str, f64> = before
        .iter()
        .filter_map(|(name, before)| {
            let factor = after.get(name)? / before;
            let factor = factor.is_finite().then_some(factor)?;
            Some((name.as_str(), factor.clamp(1.0 / MOST, MOST)))
        })
        .collect();
    Ok(compared_at(teacher.graph(), &factors))
}

/// The relative squared error of every value that both are compared at, the mean over the held-back samples.
fn errors(
    teacher: &Model,
    student: &Model,
    data: &Dataset,
    config: &FinetuneConfig,
) -> Result<BTreeMap<String, f64>> {
    let trained = Student::new(student, teacher, None, config.train)?;
    let objective = Objective::new(teacher, student, &trained, config)?;
    let (_, _, batches) = plan_batches(teacher, data, config, trained.kind())?;
    let mut sums = vec![0.0; objective.compared().len()];
    for samples in batches.evaluation() {
        let feeds = batches.feeds(&samples)?;
        let batch = Batch {
            feeds: &feeds,
            keep: batches.keep(&feeds)?,
            labels: None,
            mixture: None,
        };
        let taught = objective.teach(&feeds)?;
        let ready = objective.ready(&feeds)?;
        let leaves = trained.leaves(&ready.rows)?;
        let errors = objective.errors(&ready, &leaves, &taught, &batch)?;
        for (sum, error) in sums.iter_mut().zip(errors) {
            *sum += error * samples.len() as f64;
        }
    }
    Ok(objective.compared().iter().cloned().zip(sums).collect())
}

/// Of every stored value the factor of the nearest value downstream that has one; 1 where there is none.
fn compared_at(graph: &GraphProto, factors: &HashMap<&str, f64>) -> BTreeMap<String, f64> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for input in &node.input {
            readers.entry(input).or_default().push(at);
        }
    }
    let nearest = |name: &str| -> f64 {
        let mut seen: HashSet<usize> = HashSet::new();
        let mut front: Vec<usize> = readers.get(name).cloned().unwrap_or_default();
        while !front.is_empty() {
            let outputs = |at: &usize| graph.node[*at].output.iter().map(String::as_str);
            if let Some(factor) = front.iter().flat_map(outputs).find_map(|o| factors.get(o)) {
                return *factor;
            }
            let next = front.iter().flat_map(outputs);
            let next = next.filter_map(|o| readers.get(o)).flatten().copied();
            front = next.filter(|&at| seen.insert(at)).collect();
        }
        1.0
    };
    let names = graph.initializer.iter().map(|t| t.name());
    names.map(|n| (n.to_string(), nearest(n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{TensorProto, node};

    #[test]
    fn a_weight_has_the_factor_of_the_nearest_value_that_is_compared() {
        let stored = |name: &str| TensorProto {
            name: Some(name.into()),
            ..TensorProto::default()
        };
        let graph = GraphProto {
            node: vec![
                node("MatMul", "a", &["x", "w"], "y", Vec::new()),
                node("MatMul", "b", &["y", "v"], "z", Vec::new()),
                node("Add", "c", &["y", "z"], "s", Vec::new()),
                node("MatMul", "d", &["s", "u"], "t", Vec::new()),
                node("MatMul", "e", &["t", "last"], "out", Vec::new()),
            ],
            initializer: ["w", "v", "u", "last"].map(stored).to_vec(),
            ..GraphProto::default()
        };
        let factors = HashMap::from([("s", 0.5), ("t", 0.25)]);
        let found = compared_at(&graph, &factors);
        let expected = [("last", 1.0), ("u", 0.25), ("v", 0.5), ("w", 0.5)];
        let expected = expected.map(|(name, factor)| (name.to_string(), factor));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
