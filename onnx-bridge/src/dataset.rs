//! Named arrays that a model runs on.

use std::io::{Read, Seek};
use std::ops::Range;

use ndarray::{ArrayD, Axis, Slice};
use tn_formats::npy::{NpyArray, Npz};

use crate::error::{Error, Result};

/// Arrays by the name of the model input they feed; the first axis is the sample. An array `labels` of integers is kept
/// apart: one class for each sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    arrays: Vec<(String, NpyArray)>,
    labels: Option<Vec<i64>>,
    samples: usize,
}

impl Dataset {
    /// The name of the array that holds the classes.
    pub const LABELS: &str = "labels";

    /// A set of arrays.
    ///
    /// # Errors
    /// [`Error::Dataset`] when there is no array, one has no axis, or they differ in their number of samples.
    pub fn new(arrays: Vec<(String, NpyArray)>) -> Result<Self> {
        let bad = |name: &str, problem: String| Error::Dataset {
            array: name.to_string(),
            problem,
        };
        let mut samples = None;
        let mut labels = None;
        let mut inputs = Vec::with_capacity(arrays.len());
        for (name, array) in arrays {
            let Some(&count) = array.shape().first() else {
                return Err(bad(
                    &name,
                    "expected the first axis to be the sample, found a scalar".into(),
                ));
            };
            let wanted = *samples.get_or_insert(count);
            if count != wanted {
                return Err(bad(
                    &name,
                    format!("expected {wanted} samples as in the first array, found {count}"),
                ));
            }
            match (&array, name == Self::LABELS) {
                (NpyArray::I64(a), true) if a.ndim() == 1 => {
                    labels = Some(a.iter().copied().collect())
                }
                (NpyArray::I32(a), true) if a.ndim() == 1 => {
                    labels = Some(a.iter().map(|&v| i64::from(v)).collect())
                }
                (_, true) => {
                    let found = format!("{} {:?}", array.dtype(), array.shape());
                    return Err(bad(
                        &name,
                        format!("expected one int64 for each sample, found {found}"),
                    ));
                }
                _ => inputs.push((name, array)),
            }
        }
        let samples = samples.filter(|&n| n > 0 && !inputs.is_empty());
        let samples = samples.ok_or_else(|| {
            bad(
                "",
                "expected at least one array and one sample, found none".into(),
            )
        })?;
        Ok(Self {
            arrays: inputs,
            labels,
            samples,
        })
    }

    /// Reads every array of an `.npz` archive.
    ///
    /// # Errors
    /// [`Error::Format`] for an archive that cannot be read, and those of [`Dataset::new`].
    pub fn from_npz(reader: impl Read + Seek) -> Result<Self> {
        Self::new(Npz::open(reader)?.read_all()?)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.samples
    }

    /// Whether there is no sample; there always is one.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// The class of each sample.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// The arrays by name, `labels` not among them.
    pub fn arrays(&self) -> &[(String, NpyArray)] {
        &self.arrays
    }

    /// The array that feeds an input.
    #[cfg(any(feature = "tract", feature = "finetune"))]
    pub(crate) fn input(&self, name: &str) -> Result<&NpyArray> {
        let found = self.arrays.iter().find(|(n, _)| n == name);
        found
            .map(|(_, array)| array)
            .ok_or_else(|| Error::MissingInput {
                input: name.to_string(),
                found: self.arrays.iter().map(|(n, _)| n.clone()).collect(),
            })
    }

    /// The same arrays under another name for the only one: a bare `.npy` serves a model with one input.
    pub fn renamed(mut self, name: &str) -> Self {
        if let [(only, _)] = self.arrays.as_mut_slice() {
            *only = name.to_string();
        }
        self
    }

    /// Some of the samples, by number and in this order; numbers past the last sample are left out.
    ///
    /// # Errors
    /// [`Error::Dataset`] when none is left.
    pub fn select(&self, samples: &[usize]) -> Result<Self> {
        let kept = samples.iter().copied().filter(|&i| i < self.samples);
        let kept: Vec<usize> = kept.collect();
        if kept.is_empty() {
            return Err(Error::Dataset {
                array: String::new(),
                problem: "expected at least one sample to select, found none".into(),
            });
        }
        let arrays = self.arrays.iter();
        let arrays = arrays.map(|(n, a)| (n.clone(), changed(a, Rows::Each(&kept))));
        let labels = self.labels.as_ref();
        Ok(Self {
            arrays: arrays.collect(),
            labels: labels.map(|l| kept.iter().map(|&i| l[i]).collect()),
            samples: kept.len(),
        })
    }

    /// At most the first `count` samples.
    pub fn head(&self, count: usize) -> Self {
        let count = count.min(self.samples);
        let arrays = self
            .arrays
            .iter()
            .map(|(n, a)| (n.clone(), rows(a, 0..count)))
            .collect();
        let labels = self.labels.as_ref().map(|l| l[..count].to_vec());
        Self {
            arrays,
            labels,
            samples: count,
        }
    }
}

/// A range of an array's first axis.
pub(crate) fn rows(array: &NpyArray, range: Range<usize>) -> NpyArray {
    let of = Slice::from(range);
    changed(array, Rows::Range(of))
}

/// Which of an array's first axis.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Range(Slice),
    Each(&'a [usize]),
}

fn changed(array: &NpyArray, rows: Rows<'_>) -> NpyArray {
    fn cut<T: Clone>(a: &ArrayD<T>, rows: Rows<'_>) -> ArrayD<T> {
        match rows {
            Rows::Range(range) => a
                .slice_axis(Axis(0), range)
                .as_standard_layout()
                .into_owned(),
            Rows::Each(each) => a.select(Axis(0), each),
        }
    }
    match array {
        NpyArray::F16(a) => NpyArray::F16(cut(a, rows)),
        NpyArray::F32(a) => NpyArray::F32(cut(a, rows)),
        NpyArray::F64(a) => NpyArray::F64(cut(a, rows)),
        NpyArray::I64(a) => NpyArray::I64(cut(a, rows)),
        NpyArray::I32(a) => NpyArray::I32(cut(a, rows)),
        NpyArray::I8(a) => NpyArray::I8(cut(a, rows)),
        NpyArray::U8(a) => NpyArray::U8(cut(a, rows)),
        NpyArray::Bool(a) => NpyArray::Bool(cut(a, rows)),
        // `NpyArray` may grow; what is not known here goes whole and is refused by the engine.
        other => other.clone(),
    }
}
