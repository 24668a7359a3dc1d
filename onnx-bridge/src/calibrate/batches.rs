//! Calibration samples in batches that are cheap to run, and which of their positions count.

use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, Axis, Ix2, Slice};
use tn_formats::npy::NpyArray;

use crate::dataset::Dataset;
use crate::engine::model_inputs;
use crate::error::Result;
use crate::model::Model;

/// Samples that run at once where the model leaves the batch open, at most.
const BATCH: usize = 64;

/// The values of one batch, by name.
pub(crate) type Values = std::collections::BTreeMap<String, NpyArray>;

/// One batch: the model's inputs, and the positions that count, where the data says which do.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) inputs: Values,
    /// Which samples of the data it holds; what stands behind them only fills a batch of fixed size.
    pub(crate) samples: Vec<usize>,
    mask: Option<Array2<bool>>,
}

impl Batch {
    /// Cuts a data set into batches, at most `most` samples spread evenly over it.
    ///
    /// An integer input `[samples, positions]` of zeros and ones with "mask" in its name says which positions count. Such
    /// samples are sorted by length, and positions that no sample of a batch uses are cut off where the model allows.
    pub(crate) fn all(model: &Model, data: &Dataset, most: usize) -> Result<Vec<Self>> {
        let infos = model_inputs(model);
        let fixed = infos.iter().find_map(|i| i.dims.first().copied().flatten());
        let size = fixed.unwrap_or(BATCH.min(most)).max(1);
        let mut arrays = Vec::with_capacity(infos.len());
        for info in &infos {
            arrays.push((info, data.input(&info.name)?));
        }
        let count = data.len().min(most.max(size));
        let mut picked: Vec<usize> = (0..count).map(|i| i * data.len() / count).collect();
        let mask = arrays.iter().find_map(|(info, a)| mask_of(&info.name, a));
        if let Some(mask) = &mask {
            picked.sort_by_key(|&i| (used(mask.row(i)), i));
        }
        let mut batches = Vec::new();
        for rows in picked.chunks(size) {
            if fixed.is_some() && rows.len() < size && !batches.is_empty() {
                break;
            }
            let samples = rows.to_vec();
            let mut rows = rows.to_vec();
            while fixed.is_some() && rows.len() < size {
                rows.push(rows[rows.len() - 1]);
            }
            let width = mask.as_ref().map(|m| {
                rows.iter()
                    .map(|&i| used(m.row(i)))
                    .max()
                    .unwrap_or(0)
                    .max(1)
            });
            let positions = mask.as_ref().map(Array2::ncols);
            let open = |dims: &[Option<usize>]| matches!(dims, [_, None]);
            let can_cut = positions.is_some()
                && arrays
                    .iter()
                    .all(|(info, a)| a.shape().get(1).copied() != positions || open(&info.dims));
            let mut inputs = Values::new();
            for (info, array) in &arrays {
                let cut = width.filter(|_| {
                    can_cut
                        && array.shape().len() == 2
                        && array.shape().get(1).copied() == positions
                });
                inputs.insert(info.name.clone(), select(array, &rows, cut));
            }
            let mask = mask.as_ref().map(|m| {
                let kept = m.select(Axis(0), &rows);
                match width.filter(|_| can_cut) {
                    Some(w) => kept.slice_axis(Axis(1), Slice::from(0..w)).to_owned(),
                    None => kept,
                }
            });
            batches.push(Self {
                inputs,
                samples,
                mask,
            });
        }
        Ok(batches)
    }

    /// The positions that count, where the data says which do.
    pub(crate) fn mask(&self) -> Option<ArrayView2<'_, bool>> {
        self.mask.as_ref().map(|mask| mask.view())
    }

    /// The rows of a value that count, as a matrix over its last axis; a value with one axis is one row.
    pub(crate) fn rows(&self, value: ArrayViewD<'_, f32>) -> Array2<f32> {
        let columns = value.shape().last().copied().unwrap_or(1).max(1);
        let all = value.as_standard_layout();
        let matrix = ArrayView2::from_shape(
            (value.len() / columns, columns),
            all.as_slice().unwrap_or(&[]),
        );
        let Ok(matrix) = matrix else {
            return Array2::zeros((0, columns));
        };
        match &self.mask {
            Some(mask)
                if value.ndim() == 3 && value.shape()[..2] == [mask.nrows(), mask.ncols()] =>
            {
                let kept: Vec<usize> = mask
                    .iter()
                    .enumerate()
                    .filter(|(_, m)| **m)
                    .map(|(i, _)| i)
                    .collect();
                matrix.select(Axis(0), &kept)
            }
            _ => matrix.to_owned(),
        }
    }
}

/// The positions of every sample that count, where the data says which do.
pub(crate) fn mask(model: &Model, data: &Dataset) -> Option<Array2<bool>> {
    let inputs = model_inputs(model).into_iter();
    inputs
        .filter_map(|info| Some((data.input(&info.name).ok()?, info.name)))
        .find_map(|(array, name)| mask_of(&name, array))
}

fn mask_of(name: &str, array: &NpyArray) -> Option<Array2<bool>> {
    if !name.to_ascii_lowercase().contains("mask") {
        return None;
    }
    let mask = match array {
        NpyArray::I64(a) if a.iter().all(|v| (0..=1).contains(v)) => a.mapv(|v| v == 1),
        NpyArray::I32(a) if a.iter().all(|v| (0..=1).contains(v)) => a.mapv(|v| v == 1),
        NpyArray::Bool(a) => a.clone(),
        _ => return None,
    };
    mask.into_dimensionality::<Ix2>().ok()
}

/// The positions up to the last that counts.
fn used(mask: ndarray::ArrayView1<'_, bool>) -> usize {
    mask.iter().rposition(|m| *m).map_or(0, |i| i + 1)
}

fn select(array: &NpyArray, rows: &[usize], width: Option<usize>) -> NpyArray {
    fn cut<T: Copy>(a: &ArrayD<T>, rows: &[usize], width: Option<usize>) -> ArrayD<T> {
        let picked = a.select(Axis(0), rows);
        match width {
            Some(w) => picked
                .slice_axis(Axis(1), Slice::from(0..w))
                .as_standard_layout()
                .to_owned(),
            None => picked,
        }
    }
    match array {
        NpyArray::F16(a) => NpyArray::F16(cut(a, rows, width)),
        NpyArray::F32(a) => NpyArray::F32(cut(a, rows, width)),
        NpyArray::F64(a) => NpyArray::F64(cut(a, rows, width)),
        NpyArray::I64(a) => NpyArray::I64(cut(a, rows, width)),
        NpyArray::I32(a) => NpyArray::I32(cut(a, rows, width)),
        NpyArray::I8(a) => NpyArray::I8(cut(a, rows, width)),
        NpyArray::U8(a) => NpyArray::U8(cut(a, rows, width)),
        NpyArray::Bool(a) => NpyArray::Bool(cut(a, rows, width)),
        other => other.clone(),
    }
}
