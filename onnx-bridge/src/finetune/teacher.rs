//! What the teacher makes of every sample, computed once and kept.

use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::batches::Batches;
use super::kernels::read;
use super::objective::Objective;
use crate::error::{Error, Result};

/// The memory that kept values may take.
const MOST_BYTES: usize = 3 << 29;

/// Numbers as they are kept: halved where they would not fit otherwise, which rounds them by at most 1 part in 2048.
enum Numbers {
    Single(Vec<f32>),
    Half(Vec<f16>),
}

/// What a value has of every sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Per {
    Sample,
    /// So many numbers for each position that the mask keeps.
    Position,
}

struct Kept {
    per: Per,
    /// The axes behind those of samples and positions.
    tail: Vec<usize>,
    numbers: Numbers,
}

/// The teacher's values by sample.
///
/// # Numerics
/// A batch is given the same numbers whenever it is asked for, in a resumed run too: all are computed in one pass, in batches
/// that the data alone determines.
pub(crate) struct Teacher {
    values: Vec<Kept>,
    /// Positions of all samples before each.
    starts: Vec<usize>,
}

fn trouble(problem: impl ToString) -> Error {
    Error::Evaluate {
        place: "teacher".into(),
        problem: problem.to_string(),
    }
}

impl Teacher {
    /// Runs the teacher on every sample; `None` where its values are not of one sample each, or too many to keep.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn new(objective: &Objective, batches: &Batches<'_>) -> Result<Option<Self>> {
        let positions: Vec<usize> = (0..batches.samples())
            .map(|i| batches.length(i).unwrap_or(0))
            .collect();
        let mut starts = vec![0];
        for &length in &positions {
            starts.push(starts.last().copied().unwrap_or(0) + length);
        }
        let mut kept: Option<Self> = None;
        for samples in batches.everything() {
            let feeds = batches.feeds(&samples)?;
            let found = objective.teach(&feeds)?;
            let length = samples.iter().filter_map(|&i| batches.length(i)).max();
            if kept.is_none() {
                kept = Self::empty(&found, samples.len(), length, &starts);
            }
            let Some(kept) = kept.as_mut() else {
                return Ok(None);
            };
            if !kept.put(&samples, length, &found)? {
                return Ok(None);
            }
        }
        Ok(kept)
    }

    /// Room for values like these.
    fn empty(
        found: &[Tensor],
        samples: usize,
        length: Option<usize>,
        starts: &[usize],
    ) -> Option<Self> {
        let all = starts.len() - 1;
        let mut layout = Vec::new();
        for value in found {
            let dims = value.dims();
            let per = match (dims, length) {
                ([n, l, _], Some(length)) if *n == samples && *l == length => Per::Position,
                ([n, ..], None) | ([n, _], Some(_)) if *n == samples => Per::Sample,
                _ => return None,
            };
            let (tail, rows) = match per {
                Per::Position => (dims[2..].to_vec(), *starts.last()?),
                Per::Sample => (dims[1..].to_vec(), all),
            };
            let size = tail.iter().product::<usize>() * rows;
            layout.push((per, tail, size));
        }
        let total: usize = layout.iter().map(|(_, _, size)| size).sum();
        let single = total.checked_mul(4)? <= MOST_BYTES;
        if !single && total.checked_mul(2)? > MOST_BYTES {
            return None;
        }
        let values = layout.into_iter().map(|(per, tail, size)| Kept {
            per,
            tail,
            numbers: if single {
                Numbers::Single(vec![0.0; size])
            } else {
                Numbers::Half(vec![f16::ZERO; size])
            },
        });
        Some(Self {
            values: values.collect(),
            starts: starts.to_vec(),
        })
    }

    /// Where a sample's numbers stand, and how many there are.
    fn place(&self, value: &Kept, sample: usize) -> (usize, usize) {
        let width: usize = value.tail.iter().product();
        match value.per {
            Per::Sample => (sample * width, width),
            Per::Position => {
                let [start, end] = [self.starts[sample], self.starts[sample + 1]];
                (start * width, (end - start) * width)
            }
        }
    }

    /// Keeps a batch; whether its values have the expected shapes.
    fn put(&mut self, samples: &[usize], length: Option<usize>, found: &[Tensor]) -> Result<bool> {
        for (k, tensor) in found.iter().enumerate() {
            let value = &self.values[k];
            let shape = self.shape(value, samples.len(), length);
            if tensor.dims() != shape {
                return Ok(false);
            }
            let row: usize = shape[1..].iter().product();
            let places: Vec<_> = samples.iter().map(|&s| self.place(value, s)).collect();
            let numbers = &mut self.values[k].numbers;
            read(tensor, |data| {
                for (i, (start, len)) in places.into_iter().enumerate() {
                    let from = &data[i * row..i * row + len];
                    match numbers {
                        Numbers::Single(to) => to[start..start + len].copy_from_slice(from),
                        Numbers::Half(to) => to[start..start + len].convert_from_f32_slice(from),
                    }
                }
            })
            .map_err(trouble)?;
        }
        Ok(true)
    }

    fn shape(&self, value: &Kept, samples: usize, length: Option<usize>) -> Vec<usize> {
        let mut shape = vec![samples];
        if value.per == Per::Position {
            shape.push(length.unwrap_or(0));
        }
        shape.extend(&value.tail);
        shape
    }

    /// The values of some samples, zeros at padded positions.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn of(&self, samples: &[usize]) -> Result<Vec<Tensor>> {
        let length = samples
            .iter()
            .map(|&s| self.starts[s + 1] - self.starts[s])
            .max();
        let tensors = self.values.iter().map(|value| {
            let shape = self.shape(value, samples.len(), length);
            let row: usize = shape[1..].iter().product();
            let mut data = vec![0.0f32; samples.len() * row];
            for (i, &sample) in samples.iter().enumerate() {
                let (start, len) = self.place(value, sample);
                let to = &mut data[i * row..i * row + len];
                match &value.numbers {
                    Numbers::Single(from) => to.copy_from_slice(&from[start..start + len]),
                    Numbers::Half(from) => from[start..start + len].convert_to_f32_slice(to),
                }
            }
            Tensor::from_vec(data, shape, &Device::Cpu).map_err(trouble)
        });
        tensors.collect()
    }
}
