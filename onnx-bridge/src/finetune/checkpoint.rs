//! The whole state of a run between two steps, and the file it is kept in.

use std::borrow::Cow;
use std::collections::HashMap;

use safetensors::tensor::{Dtype, View};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use tn_qat::{AdamState, AdamW};

use super::config::FinetuneConfig;
use super::report::Evaluation;
use crate::error::{Error, Result};

/// The state of a run: put into [`super::finetune`] again, it goes on to the same bytes as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub(crate) config: FinetuneConfig,
    /// The step that comes next.
    pub(crate) step: u64,
    pub(crate) seconds: f64,
    pub(crate) parameters: Vec<Vec<f32>>,
    pub(crate) optimizer: AdamW<f32>,
    pub(crate) best: Option<Best>,
    pub(crate) curve: Vec<Evaluation>,
}

/// The best state so far on the held-back samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Best {
    pub(crate) loss: f64,
    pub(crate) step: u64,
    pub(crate) parameters: Vec<Vec<f32>>,
}

/// The key of the file's own words among its metadata.
const KEY: &str = "tnq.finetune";

/// What stands in words; the numbers are the tensors `parameters`, `best`, `mean` and `square`, one after the other.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    config: FinetuneConfig,
    step: u64,
    seconds: f64,
    curve: Vec<Evaluation>,
    /// Loss and step of the best state.
    best: Option<(f64, u64)>,
    /// The length of every parameter.
    parameters: Vec<usize>,
    /// The lengths of the optimizer's parameters, by slot.
    slots: Vec<Vec<usize>>,
    steps: Vec<u64>,
}

const VERSION: u32 = 1;

/// Arrays as one tensor of the file, made into bytes when it is written.
struct Joined<'a> {
    arrays: Vec<&'a [f32]>,
    shape: [usize; 1],
}

impl<'a> Joined<'a> {
    fn new(arrays: impl Iterator<Item = &'a Vec<f32>>) -> Self {
        let arrays: Vec<&[f32]> = arrays.map(Vec::as_slice).collect();
        let shape = [arrays.iter().map(|a| a.len()).sum()];
        Self { arrays, shape }
    }
}

impl View for Joined<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.arrays.iter().flat_map(|a| a.iter());
        values.flat_map(|v| v.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.shape[0]
    }
}

fn bad(problem: impl ToString) -> Error {
    Error::Checkpoint {
        problem: problem.to_string(),
    }
}

/// Cuts the tensor of a name into arrays of these lengths.
fn cut<'a>(
    file: &SafeTensors<'_>,
    name: &str,
    lengths: impl Iterator<Item = &'a usize>,
) -> Result<Vec<Vec<f32>>> {
    let tensor = file.tensor(name).map_err(bad)?;
    let (words, rest) = tensor.data().as_chunks::<4>();
    if tensor.dtype() != Dtype::F32 || !rest.is_empty() {
        return Err(bad(format!("`{name}`: expected floats of 32 bits")));
    }
    let mut words = words.iter().map(|b| f32::from_le_bytes(*b));
    let total = words.len();
    let mut arrays = Vec::new();
    for &length in lengths {
        if length > words.len() {
            return Err(bad(format!(
                "`{name}`: expected more numbers, found {total}"
            )));
        }
        arrays.push(words.by_ref().take(length).collect());
    }
    match words.len() {
        0 => Ok(arrays),
        left => Err(bad(format!("`{name}`: {left} numbers too many"))),
    }
}

impl Checkpoint {
    /// The step that comes next.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The settings of the run.
    pub fn config(&self) -> &FinetuneConfig {
        &self.config
    }

    /// As the bytes of a `.safetensors` file: every float of the run once, its settings among the metadata.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for what the format cannot hold.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let (steps, [mean, square]) = self.optimizer.moments();
        let lengths = |arrays: &[Vec<f32>]| arrays.iter().map(Vec::len).collect::<Vec<_>>();
        let header = Header {
            version: VERSION,
            config: self.config.clone(),
            step: self.step,
            seconds: self.seconds,
            curve: self.curve.clone(),
            best: self.best.as_ref().map(|b| (b.loss, b.step)),
            parameters: lengths(&self.parameters),
            slots: mean.iter().map(|slot| lengths(slot)).collect(),
            steps: steps.to_vec(),
        };
        let header = serde_json::to_string(&header).map_err(bad)?;
        let best = self.best.iter().flat_map(|b| &b.parameters);
        let tensors = [
            ("parameters", Joined::new(self.parameters.iter())),
            ("best", Joined::new(best)),
            ("mean", Joined::new(mean.iter().flatten())),
            ("square", Joined::new(square.iter().flatten())),
        ];
        let words = HashMap::from([(KEY.to_string(), header)]);
        serialize(tensors, Some(words)).map_err(bad)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not a checkpoint.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(bad)?;
        let file = SafeTensors::deserialize(bytes).map_err(bad)?;
        let words = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = words.ok_or_else(|| bad(format!("expected the metadata `{KEY}`")))?;
        let header: Header = serde_json::from_str(header).map_err(bad)?;
        if header.version != VERSION {
            return Err(bad(format!(
                "expected version {VERSION}, found {}",
                header.version
            )));
        }
        let moments = |name| -> Result<Vec<Vec<Vec<f32>>>> {
            let mut arrays = cut(&file, name, header.slots.iter().flatten())?.into_iter();
            let slots = header.slots.iter();
            Ok(slots
                .map(|s| arrays.by_ref().take(s.len()).collect())
                .collect())
        };
        let (mean, square) = (moments("mean")?, moments("square")?);
        let optimizer = optimizer(&header.config)?
            .with_state(AdamState {
                steps: header.steps,
                mean,
                square,
            })
            .map_err(bad)?;
        let best = match header.best {
            Some((loss, step)) => Some(Best {
                loss,
                step,
                parameters: cut(&file, "best", header.parameters.iter())?,
            }),
            None => None,
        };
        Ok(Self {
            parameters: cut(&file, "parameters", header.parameters.iter())?,
            config: header.config,
            step: header.step,
            seconds: header.seconds,
            optimizer,
            best,
            curve: header.curve,
        })
    }
}

/// The optimizer of a run before its first step.
///
/// # Errors
/// [`Error::Evaluate`] for a setting that it does not take.
pub(crate) fn optimizer(config: &FinetuneConfig) -> Result<AdamW<f32>> {
    AdamW::new((0.9, 0.99), 1e-8, config.weight_decay).map_err(|e| Error::Evaluate {
        place: "optimizer".into(),
        problem: e.to_string(),
    })
}
