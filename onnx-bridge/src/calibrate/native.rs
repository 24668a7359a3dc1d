//! The weights' own operators, run here rather than in the engine: a product with a matrix, rows of a table. So a segment
//! that the engine loads holds no weight, and a weight is in memory only while its stage runs.

use ndarray::{Array2, ArrayD, ArrayView2, Axis, CowArray, Ix2, IxDyn};
use tn_formats::linalg;
use tn_formats::npy::NpyArray;

use super::batches::Values;
use super::lookups::integers;
use super::segment::Overrides;
use super::target::{Target, TargetKind};
use super::windows::Windows;
use crate::axes::place;
use crate::blocks::BlockMatrix;
use crate::constant::Constant;
use crate::dense_layer::DenseLayer;
use crate::error::{Error, Result};
use crate::proto::TensorProto;
use crate::tensor;
use crate::view::GraphView;

/// What stands in a weight's place while a network runs.
#[derive(Debug)]
pub(crate) enum Operand<'a> {
    /// `W [M, K]`.
    Matrix(CowArray<'a, f32, Ix2>),
    /// `W = L R`, `L [M, r]`, `R [r, K]`.
    Factors(Array2<f32>, Array2<f32>),
    /// A table as the file stores it.
    Stored(&'a TensorProto),
    /// A table on few levels, `[rows, columns]`; with a factor `R [r, columns]` it is `[rows, r]` times that.
    Coded(&'a BlockMatrix, Option<Array2<f32>>),
}

impl<'a> Operand<'a> {
    /// A weight as it is.
    pub(crate) fn original(view: &GraphView<'a>, target: &Target) -> Result<Self> {
        if matches!(target.kind(), TargetKind::Table(_))
            && let Some(stored) = view.initializer(target.name())
        {
            return Ok(Self::Stored(stored));
        }
        let failed = |problem: String| Error::Plan {
            weight: target.name().to_string(),
            problem,
        };
        let matrix = target.matrix(view).map_err(|r| failed(r.to_string()))?;
        Ok(Self::Matrix(matrix.into()))
    }

    /// The whole matrix, as the operand that the graph's own operator reads; `None` where that is the stored one.
    pub(crate) fn whole(&self, target: &Target) -> Option<TensorProto> {
        let matrix = match self {
            Self::Matrix(matrix) => matrix.view().into(),
            Self::Factors(left, right) => {
                CowArray::from(linalg::matmul(left.view(), right.view()).ok()?)
            }
            Self::Stored(_) => return None,
            Self::Coded(..) => self
                .rows(&(0..target.shape()[0]).collect::<Vec<_>>())?
                .into(),
        };
        let (data, shape) = target.operand(matrix.view());
        Some(tensor::from_f32(target.value(), &shape, &data))
    }

    /// Rows of a table; `None` where the table is no table of floats.
    pub(crate) fn rows(&self, rows: &[usize]) -> Option<Array2<f32>> {
        match self {
            Self::Matrix(matrix) => Some(matrix.select(Axis(0), rows)),
            Self::Factors(left, right) => {
                linalg::matmul(left.select(Axis(0), rows).view(), right.view()).ok()
            }
            Self::Stored(stored) => {
                let cols = *stored.dims.get(1)? as usize;
                let mut values = Vec::with_capacity(rows.len() * cols);
                for &row in rows {
                    values.extend(tensor::f32_range(stored, row * cols..(row + 1) * cols)?);
                }
                Array2::from_shape_vec((rows.len(), cols), values).ok()
            }
            Self::Coded(matrix, right) => {
                let mut values = Vec::with_capacity(rows.len() * matrix.shape()[1]);
                rows.iter()
                    .for_each(|&row| matrix.dequantize_row(row, &mut values));
                let left = Array2::from_shape_vec((rows.len(), matrix.shape()[1]), values).ok()?;
                match right {
                    Some(right) => linalg::matmul(left.view(), right.view()).ok(),
                    None => Some(left),
                }
            }
        }
    }

    /// `X Wᵀ` for `X [rows, K]`.
    pub(crate) fn multiply(&self, x: ArrayView2<'_, f32>) -> Option<Array2<f32>> {
        match self {
            Self::Matrix(w) => times(x, w.t()),
            Self::Factors(left, right) => times(times(x, right.t())?.view(), left.t()),
            Self::Stored(_) | Self::Coded(..) => None,
        }
    }
}

/// `a b` on this thread: batches run beside each other.
fn times(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Option<Array2<f32>> {
    let mut product = Array2::zeros((a.nrows(), b.ncols()));
    let one = linalg::Threads::One;
    linalg::gemm_with(one, 1.0, a, b, 0.0, product.view_mut()).ok()?;
    Some(product)
}

/// One use of a weight: what the `nth` of its operators makes of the values at hand, or `None` where it reads what is not
/// run here, and the engine has to.
pub(crate) fn run(
    view: &GraphView<'_>,
    target: &Target,
    nth: usize,
    operand: &Operand<'_>,
    overrides: &Overrides,
    values: &Values,
) -> Option<ArrayD<f32>> {
    match target.kind() {
        TargetKind::Dense(layers) => product(view, layers.get(nth)?, operand, overrides, values),
        TargetKind::Conv(layers) => {
            let layer = layers.get(nth)?;
            let NpyArray::F32(x) = values.get(layer.input())? else {
                return None;
            };
            let windows = Windows::over(view, layer, x.shape())?;
            let mut y = windows.convolve(x.view(), |rows| operand.multiply(rows.view()))?;
            if let Some(bias) = layer.bias() {
                let added = floats_of(view, bias, overrides, values)?;
                add_to_channels(&mut y, added.as_slice()?, 1.0);
            }
            Some(y)
        }
        TargetKind::Table(nodes) => {
            let (rows, shape) = looked_up(view, target, *nodes.get(nth)?, values)?;
            let found = operand.rows(&rows)?;
            let mut wanted = shape;
            wanted.push(found.ncols());
            found.into_shape_with_order(IxDyn(&wanted)).ok()
        }
    }
}

/// Adds a number to every channel of `[samples, channels, ..]`.
pub(crate) fn add_to_channels(y: &mut ArrayD<f32>, added: &[f32], factor: f32) {
    for mut sample in y.outer_iter_mut() {
        for (mut channel, add) in sample.outer_iter_mut().zip(added) {
            channel += factor * *add;
        }
    }
}

fn product(
    view: &GraphView<'_>,
    layer: &DenseLayer,
    operand: &Operand<'_>,
    overrides: &Overrides,
    values: &Values,
) -> Option<ArrayD<f32>> {
    let NpyArray::F32(x) = values.get(layer.input())? else {
        return None;
    };
    let x = if layer.is_input_transposed() {
        x.t()
    } else {
        x.view()
    };
    let (leading, k) = (&x.shape()[..x.ndim().checked_sub(1)?], *x.shape().last()?);
    if k != layer.inputs() {
        return None;
    }
    let mut shape = leading.to_vec();
    shape.push(layer.outputs());
    let standard = x.as_standard_layout();
    let rows = ArrayView2::from_shape((x.len() / k.max(1), k), standard.as_slice()?).ok()?;
    let mut y = operand
        .multiply(rows)?
        .into_shape_with_order(IxDyn(&shape))
        .ok()?;
    if let Some(bias) = layer.bias().filter(|b| b.add_node().is_none()) {
        let added = floats_of(view, bias.value(), overrides, values)?;
        y.scaled_add(bias.beta(), &added.broadcast(IxDyn(&shape))?);
    }
    Some(y)
}

/// A value as floats, wherever it stands.
fn floats_of(
    view: &GraphView<'_>,
    name: &str,
    overrides: &Overrides,
    values: &Values,
) -> Option<ArrayD<f32>> {
    if let Some(stored) = overrides.get(name) {
        let shape = tensor::shape(stored).ok()?;
        return ArrayD::from_shape_vec(shape, tensor::to_f32(stored)?).ok();
    }
    if let Some(NpyArray::F32(array)) = values.get(name) {
        return Some(array.clone());
    }
    let constant = Constant::find(view, name)?;
    ArrayD::from_shape_vec(constant.shape().to_vec(), constant.to_f32()?).ok()
}

/// The rows that a Gather asks for, and the shape of its indices; `None` where the indices are not at hand or no rows.
pub(crate) fn looked_up(
    view: &GraphView<'_>,
    target: &Target,
    node: usize,
    values: &Values,
) -> Option<(Vec<usize>, Vec<usize>)> {
    let name = view.node(node).input.get(1)?;
    let (indices, shape) = match values.get(name) {
        Some(array) => (integers(array)?, array.shape().to_vec()),
        None => {
            let constant = Constant::find(view, name).filter(Constant::is_direct)?;
            (
                tensor::to_i64(constant.tensor())?,
                constant.shape().to_vec(),
            )
        }
    };
    let row = |index| place(index, target.shape()[0]);
    let rows: Option<Vec<usize>> = indices.into_iter().map(row).collect();
    Some((rows?, shape))
}
