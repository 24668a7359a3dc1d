//! The order of samples, and the arrays of a batch.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use ndarray::{ArrayD, Axis};
use tn_formats::npy::NpyArray;

use super::ops::OpError;
use super::value::{HostArray, IntArray, IntKind, Value};
use crate::dataset::Dataset;
use crate::error::{Error, Result};

/// A small generator whose whole state is a number.
///
/// # Source
/// SplitMix64: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, figure 17.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// A stream of its own for every pair.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed.next();
        mixed
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform below `n`, which is at least 1; the bias is below n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The samples of a data set, in batches.
pub(crate) struct Batches<'a> {
    data: &'a Dataset,
    inputs: Vec<String>,
    training: Vec<usize>,
    held_back: Vec<usize>,
    /// Of every sample: how many leading positions the mask keeps.
    lengths: Option<(String, Vec<usize>)>,
    batch: usize,
    seed: u64,
}

/// Samples held back at most: as many as tell states apart, few enough to be evaluated often.
const MOST_HELD_BACK: usize = 512;

/// The samples trained on, and those held back, both in order.
pub(crate) fn split(samples: usize, part: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..samples).collect();
    SplitMix::new(seed, u64::MAX).shuffle(&mut order);
    let count = (samples as f64 * part) as usize;
    let count = count.min(MOST_HELD_BACK).min(samples.saturating_sub(1));
    let mut training = order.split_off(count);
    training.sort_unstable();
    order.sort_unstable();
    (training, order)
}

/// Batches whose samples are looked through together when they are sorted by length.
const BUCKET: usize = 16;

impl<'a> Batches<'a> {
    /// Splits off the part held back.
    ///
    /// # Errors
    /// [`Error::MissingInput`] for an input that the data lacks, [`Error::Dataset`] for a mask that is no matrix of integers.
    pub(crate) fn new(
        data: &'a Dataset,
        inputs: Vec<String>,
        mask: Option<&str>,
        (batch, held_back, seed): (usize, f64, u64),
    ) -> Result<Self> {
        for name in &inputs {
            data.input(name)?;
        }
        let lengths = mask
            .map(|name| Ok::<_, Error>((name.to_string(), lengths(name, data.input(name)?)?)))
            .transpose()?;
        let (training, held_back) = split(data.len(), held_back, seed);
        Ok(Self {
            data,
            inputs,
            training,
            held_back,
            lengths,
            batch,
            seed,
        })
    }

    /// How many samples there are, those held back included.
    pub(crate) fn samples(&self) -> usize {
        self.data.len()
    }

    /// Up to where the mask keeps a sample's positions; `None` without a mask.
    pub(crate) fn length(&self, sample: usize) -> Option<usize> {
        let (_, lengths) = self.lengths.as_ref()?;
        Some(lengths[sample].max(1))
    }

    /// All samples in batches, by length where there are lengths.
    pub(crate) fn everything(&self) -> Vec<Vec<usize>> {
        self.by_length((0..self.data.len()).collect())
    }

    fn by_length(&self, mut order: Vec<usize>) -> Vec<Vec<usize>> {
        if let Some((_, lengths)) = &self.lengths {
            order.sort_by_key(|&i| lengths[i]);
        }
        let batches = order.chunks(self.batch.max(1));
        batches.map(<[usize]>::to_vec).collect()
    }

    /// How many batches one pass over the training part has; a last one that is not full is left out.
    fn per_epoch(&self) -> usize {
        (self.training.len() / self.batch).max(1)
    }

    /// The samples of optimizer step `step`: a function of the seed and the step alone.
    pub(crate) fn training(&self, step: u64) -> Vec<usize> {
        let per_epoch = self.per_epoch() as u64;
        let mut random = SplitMix::new(self.seed, step / per_epoch);
        let mut order = self.training.clone();
        random.shuffle(&mut order);
        let size = self.batch.min(order.len());
        if let Some((_, lengths)) = &self.lengths {
            for chunk in order.chunks_mut(size * BUCKET) {
                chunk.sort_by_key(|&i| lengths[i]);
            }
        }
        let mut batches: Vec<usize> = (0..per_epoch as usize).collect();
        random.shuffle(&mut batches);
        let at = batches[(step % per_epoch) as usize] * size;
        order[at..at + size].to_vec()
    }

    /// The held-back samples in batches; the training samples of a first batch where none are held back.
    pub(crate) fn evaluation(&self) -> Vec<Vec<usize>> {
        let samples = if self.held_back.is_empty() {
            &self.training[..self.batch.min(self.training.len())]
        } else {
            &self.held_back
        };
        self.by_length(samples.to_vec())
    }

    /// The arrays of some samples, cut to the longest of them.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an array of another kind than numbers.
    pub(crate) fn feeds(&self, samples: &[usize]) -> Result<BTreeMap<String, Value>> {
        let cut = self.lengths.as_ref().map(|(mask, lengths)| {
            let full = self.data.input(mask).map_or(0, |a| a.shape()[1]);
            (
                full,
                samples
                    .iter()
                    .map(|&i| lengths[i])
                    .max()
                    .unwrap_or(1)
                    .max(1),
            )
        });
        self.inputs
            .iter()
            .map(|name| {
                let value =
                    rows(self.data.input(name)?, samples, cut).map_err(|e| Error::Evaluate {
                        place: format!("input `{name}`"),
                        problem: e.to_string(),
                    })?;
                Ok((name.clone(), value))
            })
            .collect()
    }

    /// The mask of some samples as floats `[n, length, 1]`.
    pub(crate) fn keep(&self, feeds: &BTreeMap<String, Value>) -> Result<Option<Tensor>> {
        let Some((name, _)) = &self.lengths else {
            return Ok(None);
        };
        let Some(Value::Int(mask)) = feeds.get(name) else {
            return Ok(None);
        };
        let shape = [mask.array.shape(), &[1]].concat();
        let data: Vec<f32> = mask
            .array
            .data()
            .iter()
            .map(|&v| f32::from(v != 0))
            .collect();
        let tensor = Tensor::from_vec(data, shape, &Device::Cpu);
        tensor.map(Some).map_err(|e| Error::Evaluate {
            place: format!("mask `{name}`"),
            problem: e.to_string(),
        })
    }

    /// The classes of some samples.
    pub(crate) fn labels(&self, samples: &[usize]) -> Option<Vec<u32>> {
        let labels = self.data.labels()?;
        samples
            .iter()
            .map(|&i| u32::try_from(labels[i]).ok())
            .collect()
    }
}

/// Whether an array is a matrix of the integers 0 and 1.
pub(crate) fn is_mask(array: &NpyArray) -> bool {
    match array {
        NpyArray::I64(a) => a.ndim() == 2 && a.iter().all(|v| [0, 1].contains(v)),
        NpyArray::I32(a) => a.ndim() == 2 && a.iter().all(|v| [0, 1].contains(v)),
        _ => false,
    }
}

/// How many positions up to the last one that the mask keeps.
fn lengths(name: &str, mask: &NpyArray) -> Result<Vec<usize>> {
    fn count<T: Copy + PartialEq + Default>(a: &ArrayD<T>) -> Vec<usize> {
        a.outer_iter()
            .map(|row| {
                row.iter()
                    .enumerate()
                    .filter(|(_, v)| **v != T::default())
                    .map(|(p, _)| p + 1)
                    .last()
                    .unwrap_or(0)
            })
            .collect()
    }
    match mask {
        NpyArray::I64(a) if a.ndim() == 2 => Ok(count(a)),
        NpyArray::I32(a) if a.ndim() == 2 => Ok(count(a)),
        _ => Err(Error::Dataset {
            array: name.to_string(),
            problem: format!(
                "expected a mask of integers [n, length], found {} {:?}",
                mask.dtype(),
                mask.shape()
            ),
        }),
    }
}

fn rows(
    array: &NpyArray,
    samples: &[usize],
    cut: Option<(usize, usize)>,
) -> Result<Value, OpError> {
    fn pick<T: Copy>(
        a: &ArrayD<T>,
        samples: &[usize],
        cut: Option<(usize, usize)>,
    ) -> (Vec<usize>, Vec<T>) {
        let length = match cut {
            Some((full, length)) if a.ndim() == 2 && a.shape()[1] == full => Some(length.min(full)),
            _ => None,
        };
        let mut data = Vec::new();
        for &i in samples {
            let row = a.index_axis(Axis(0), i);
            data.extend(row.iter().take(length.unwrap_or(usize::MAX)).copied());
        }
        let mut shape = a.shape().to_vec();
        shape[0] = samples.len();
        if let Some(length) = length {
            shape[1] = length;
        }
        (shape, data)
    }
    let integers = |(shape, data): (Vec<usize>, Vec<i64>), kind| -> Result<Value, OpError> {
        Ok(Value::Int(IntArray {
            array: HostArray::new(shape, data)?,
            kind,
        }))
    };
    let wide =
        |(shape, data): (Vec<usize>, Vec<i32>)| (shape, data.into_iter().map(i64::from).collect());
    match array {
        NpyArray::F32(a) => {
            let (shape, data) = pick(a, samples, cut);
            Value::float(&shape, data)
        }
        NpyArray::F64(a) => {
            let (shape, data) = pick(a, samples, cut);
            Value::float(&shape, data.into_iter().map(|v| v as f32).collect())
        }
        NpyArray::F16(a) => {
            let (shape, data) = pick(a, samples, cut);
            Value::float(&shape, data.into_iter().map(f32::from).collect())
        }
        NpyArray::I64(a) => integers(pick(a, samples, cut), IntKind::I64),
        NpyArray::I32(a) => integers(wide(pick(a, samples, cut)), IntKind::signed(32)),
        NpyArray::U8(a) => {
            let (shape, data) = pick(a, samples, cut);
            integers(
                (shape, data.into_iter().map(i64::from).collect()),
                IntKind::unsigned(8),
            )
        }
        NpyArray::I8(a) => {
            let (shape, data) = pick(a, samples, cut);
            integers(
                (shape, data.into_iter().map(i64::from).collect()),
                IntKind::signed(8),
            )
        }
        NpyArray::Bool(a) => {
            let (shape, data) = pick(a, samples, cut);
            Ok(Value::Bool(HostArray::new(shape, data)?))
        }
        other => Err(OpError::new(format!(
            "expected numbers, found {}",
            other.dtype()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of 1 to 32 positions, each as often as any other.
    fn data(samples: usize) -> Dataset {
        let mask =
            ArrayD::from_shape_fn(vec![samples, 32], |at| i64::from(at[1] <= at[0] * 7 % 32));
        Dataset::new(vec![("mask".into(), NpyArray::I64(mask))]).unwrap()
    }

    #[test]
    fn every_sample_is_seen_once_a_pass_among_samples_of_its_length() {
        let data = data(660);
        let batches =
            Batches::new(&data, vec!["mask".into()], Some("mask"), (16, 0.03, 5)).unwrap();
        assert_eq!((batches.training.len(), batches.held_back.len()), (641, 19));
        let per_epoch = batches.per_epoch() as u64;
        assert_eq!(per_epoch, 40);
        let (mut spread, mut seen) = (0, Vec::new());
        for step in 0..per_epoch {
            let samples = batches.training(step);
            let lengths = || samples.iter().filter_map(|&i| batches.length(i));
            let longest = lengths().max().unwrap();
            spread += longest - lengths().min().unwrap();
            let feeds = batches.feeds(&samples).unwrap();
            assert_eq!(
                batches.keep(&feeds).unwrap().unwrap().dims(),
                [16, longest, 1]
            );
            seen.extend(samples);
        }
        // Without buckets it would be about 28 a batch.
        assert!(spread < 4 * per_epoch as usize, "{spread}");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 640);
        let held: Vec<usize> = batches.evaluation().concat();
        assert!(held.iter().all(|i| !seen.contains(i)));
        assert_ne!(batches.training(0), batches.training(per_epoch));
        assert_eq!(batches.everything().concat().len(), 660);
    }
}
