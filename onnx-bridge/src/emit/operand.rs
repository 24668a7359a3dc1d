//! A quantized array laid out as the right operand of a MatMul.

use quant_core::{Bits, Granularity, QuantizedTensor, Signedness};

use super::{Emitter, FOLDED_ELEMENTS};
use crate::axes::permuted;
use crate::proto::{DataType, raw_tensor};
use crate::skip::SkipReason;
use crate::tensor;

/// A quantized array whose axes are permuted into `[rows.., columns..]`: the matrix `[K, C]` of `x @ B`.
///
/// Codes of 8 bits keep their type; narrower signed ones are made unsigned, the offset taken into the zero points. An axis that is quantized in blocks
/// is kept as two axes, blocks and elements of a block, and padded to full blocks.
#[derive(Debug, Clone)]
pub(crate) struct Operand {
    bits: Bits,
    stored_as: DataType,
    codes: Vec<u8>,
    shape: Vec<usize>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    scale_shape: Vec<usize>,
    /// The axis of blocks, and the true length of it and the next one together.
    blocks: Option<(usize, usize)>,
    row_axes: usize,
    matrix: [usize; 2],
}

impl Operand {
    /// Lays out an array: `perm` orders its axes, of which the first `rows` are the contracted ones.
    pub(crate) fn new(array: &QuantizedTensor, perm: &[usize], rows: usize) -> Self {
        let scheme = array.scheme();
        let bits = scheme.bits();
        let (offset, stored_as) = match scheme.signedness() {
            Signedness::Signed if bits == Bits::B8 => (0, DataType::Int8),
            Signedness::Signed => (1i32 << (bits.get() - 1), DataType::Uint8),
            Signedness::Unsigned => (0, DataType::Uint8),
        };
        let codes: Vec<u8> = array.codes().iter().map(|c| (c + offset) as u8).collect();
        let zero_points: Vec<u8> = array
            .params()
            .zero_points()
            .iter()
            .map(|z| (z + offset) as u8)
            .collect();
        let scales = array.params().scales();
        let target: Vec<usize> = perm.iter().map(|&p| array.shape()[p]).collect();
        let matrix = [
            target[..rows].iter().product(),
            target[rows..].iter().product(),
        ];
        match scheme.granularity() {
            Granularity::PerTensor => Self {
                bits,
                stored_as,
                codes: permuted(&codes, array.shape(), perm),
                shape: target,
                scales: scales.to_vec(),
                zero_points,
                scale_shape: vec![1; perm.len()],
                blocks: None,
                row_axes: rows,
                matrix,
            },
            Granularity::PerAxis { axis } => Self {
                bits,
                stored_as,
                codes: permuted(&codes, array.shape(), perm),
                scale_shape: perm
                    .iter()
                    .map(|&p| if p == axis { array.shape()[axis] } else { 1 })
                    .collect(),
                shape: target,
                scales: scales.to_vec(),
                zero_points,
                blocks: None,
                row_axes: rows,
                matrix,
            },
            Granularity::PerBlock { axis, block_size } => {
                let size = block_size.get().min(array.shape()[axis].max(1));
                let count = array.shape()[axis].div_ceil(size);
                let padded = pad_axis(&codes, array.shape(), axis, count * size);
                // Axis `axis` becomes `axis` (blocks) and `axis + 1` (elements); later axes move up by one.
                let mut split = array.shape().to_vec();
                split[axis] = count;
                split.insert(axis + 1, size);
                let mut scale_split = split.clone();
                scale_split[axis + 1] = 1;
                let split_perm: Vec<usize> = perm
                    .iter()
                    .flat_map(|&p| match p.cmp(&axis) {
                        std::cmp::Ordering::Less => vec![p],
                        std::cmp::Ordering::Equal => vec![axis, axis + 1],
                        std::cmp::Ordering::Greater => vec![p + 1],
                    })
                    .collect();
                let place = perm.iter().position(|&p| p == axis).unwrap_or(0);
                Self {
                    bits,
                    stored_as,
                    codes: permuted(&padded, &split, &split_perm),
                    shape: split_perm.iter().map(|&p| split[p]).collect(),
                    scales: permuted(scales, &scale_split, &split_perm),
                    zero_points: permuted(&zero_points, &scale_split, &split_perm),
                    scale_shape: split_perm.iter().map(|&p| scale_split[p]).collect(),
                    blocks: Some((place, array.shape()[axis])),
                    row_axes: rows + usize::from(place < rows),
                    matrix,
                }
            }
        }
    }

    /// `[K, C]`.
    pub(crate) fn matrix(&self) -> [usize; 2] {
        self.matrix
    }

    /// The bytes of its initializers in the file.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let zero_points = if self.single_zero_point().is_some() {
            0
        } else {
            self.zero_points.len()
        };
        (super::unpack::packed_bytes(self.codes.len(), self.bits)
            + 4 * self.scales.len()
            + zero_points) as u64
    }

    fn single_zero_point(&self) -> Option<f32> {
        let first = *self.zero_points.first()?;
        let value = if self.stored_as == DataType::Int8 {
            f32::from(first as i8)
        } else {
            f32::from(first)
        };
        self.zero_points
            .iter()
            .all(|z| *z == first)
            .then_some(value)
    }

    /// Cuts the columns so that no part has more than [`FOLDED_ELEMENTS`].
    fn parts(&self) -> Result<Vec<Self>, SkipReason> {
        let axis = self.row_axes;
        let whole: usize = self.shape.iter().product();
        if whole <= FOLDED_ELEMENTS {
            return Ok(vec![self.clone()]);
        }
        let length = self.shape.get(axis).copied().unwrap_or(1);
        let per_index = whole / length;
        let most = FOLDED_ELEMENTS / per_index;
        if most == 0 {
            return Err(SkipReason::Misfit {
                problem: format!(
                    "expected arrays that can be cut to {FOLDED_ELEMENTS} elements, found {:?}",
                    self.shape
                ),
            });
        }
        let count = length.div_ceil(most);
        let step = length.div_ceil(count);
        Ok((0..length)
            .step_by(step)
            .map(|from| self.cut(axis, from, (from + step).min(length)))
            .collect())
    }

    fn cut(&self, axis: usize, from: usize, to: usize) -> Self {
        let mut part = self.clone();
        part.codes = cut_axis(&self.codes, &self.shape, axis, from, to);
        part.shape[axis] = to - from;
        if self.scale_shape[axis] != 1 {
            part.scales = cut_axis(&self.scales, &self.scale_shape, axis, from, to);
            part.zero_points = cut_axis(&self.zero_points, &self.scale_shape, axis, from, to);
            part.scale_shape[axis] = to - from;
        }
        let mut columns: usize = part.shape[axis..].iter().product();
        if let Some((place, length)) = self.blocks.filter(|b| b.0 == axis) {
            let size = self.shape[axis + 1];
            let kept = (to * size).min(length) - from * size;
            columns = columns / (part.shape[axis] * size) * kept;
            part.blocks = Some((place, kept));
        } else if let Some((place, length)) = self.blocks.filter(|b| b.0 > axis) {
            columns = columns / (self.shape[place] * self.shape[place + 1]) * length;
        }
        part.matrix[1] = columns;
        part
    }

    /// Stores the array and makes the matrix `[K, C]`, cut into columns where it is too large to be folded.
    pub(super) fn place(&self, e: &mut Emitter, name: &str) -> Result<Columns, SkipReason> {
        let parts = self.parts()?;
        if let [only] = parts.as_slice() {
            return Ok(Columns {
                values: vec![only.value(e, name, &only.matrix)],
            });
        }
        let parts = parts.iter().enumerate();
        Ok(Columns {
            values: parts
                .map(|(i, part)| part.value(e, &format!("{name}/part{i}"), &part.matrix))
                .collect(),
        })
    }

    /// Stores the array and makes it in a shape of as many elements; columns that were cut are joined, for engines fold a
    /// result that is no larger than its inputs.
    pub(super) fn place_as(
        &self,
        e: &mut Emitter,
        name: &str,
        dims: &[usize],
    ) -> Result<String, SkipReason> {
        if let [only] = self.parts()?.as_slice() {
            return Ok(only.value(e, name, dims));
        }
        let columns = self.place(e, name)?;
        let whole = e.concat(&format!("{name}/whole"), &columns.values, -1);
        let dims: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
        Ok(e.reshape(&format!("{name}/shape"), &whole, &dims))
    }

    /// Stores the array and makes it in a shape: the matrix `[K, C]`, or one that goes on from there.
    fn value(&self, e: &mut Emitter, name: &str, dims: &[usize]) -> String {
        let one_scale = self.scales.len() == 1;
        let by_rows =
            dims.first() == self.shape.first() && self.scale_shape[1..].iter().all(|&n| n == 1);
        let is_matrix = self.shape.len() == 2 && (dims == self.matrix || by_rows);
        let direct = self.blocks.is_none() && (one_scale || is_matrix);
        let shape = if direct {
            dims.to_vec()
        } else {
            self.shape.clone()
        };
        let scale_shape = if one_scale {
            Vec::new()
        } else {
            let axes = self
                .scale_shape
                .len()
                .max(if direct { dims.len() } else { 0 });
            let mut scale_shape = self.scale_shape.clone();
            scale_shape.resize(axes, 1);
            scale_shape
        };
        let mut value = e.codes(name, &self.codes, (self.bits, self.stored_as), &shape);
        match self.single_zero_point() {
            Some(0.0) => {}
            Some(z) => {
                let zero_point = e.scalar(z);
                value = e.node(
                    "Sub",
                    &format!("{name}/zero"),
                    &[&value, &zero_point],
                    Vec::new(),
                );
            }
            None => {
                let bytes = self.zero_points.clone();
                let wanted = format!("{name}/zero_point");
                let stored = e.initializer(&wanted, |n| {
                    raw_tensor(n, self.stored_as, &scale_shape, bytes)
                });
                let zero_point = e.cast_to_f32(&format!("{wanted}/cast"), &stored);
                value = e.node(
                    "Sub",
                    &format!("{name}/zero"),
                    &[&value, &zero_point],
                    Vec::new(),
                );
            }
        }
        let scales = e.initializer(&format!("{name}/scale"), |n| {
            tensor::from_f32(n, &scale_shape, &self.scales)
        });
        value = e.node(
            "Mul",
            &format!("{name}/value"),
            &[&value, &scales],
            Vec::new(),
        );
        if let Some((place, length)) = self.blocks {
            let mut joined: Vec<i64> = self.shape.iter().map(|&n| n as i64).collect();
            let size = joined.remove(place + 1);
            joined[place] *= size;
            if joined[place] != length as i64 {
                value = e.reshape(&format!("{name}/blocks"), &value, &joined);
                value = e.slice(
                    &format!("{name}/unpad"),
                    &value,
                    place as i64,
                    [0, length as i64],
                );
            }
        }
        if direct {
            value
        } else {
            let dims: Vec<i64> = dims.iter().map(|&n| n as i64).collect();
            e.reshape(&format!("{name}/matrix"), &value, &dims)
        }
    }
}

/// A matrix of the graph, in one piece or in several side by side.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    values: Vec<String>,
}

impl Columns {
    /// A matrix in one piece.
    pub(super) fn whole(value: String) -> Self {
        Self {
            values: vec![value],
        }
    }

    /// A matrix cut into columns.
    #[cfg(feature = "tract")]
    pub(super) fn pieces(values: Vec<String>) -> Self {
        Self { values }
    }

    /// The one piece, where it is one.
    pub(super) fn single(&self) -> Option<&str> {
        match self.values.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The matrix in one piece.
    pub(super) fn join(&self, e: &mut Emitter, name: &str) -> String {
        match self.single() {
            Some(only) => only.to_string(),
            None => e.concat(name, &self.values, 1),
        }
    }

    /// The rows of the matrix that a list of indices names.
    pub(super) fn gather(&self, e: &mut Emitter, name: &str, indices: &str) -> String {
        let rows = |e: &mut Emitter, name: &str, value: &str| {
            e.node("Gather", name, &[value, indices], Vec::new())
        };
        if let Some(only) = self.single() {
            return rows(e, name, only);
        }
        let parts = self.values.iter().enumerate();
        let parts: Vec<String> = parts
            .map(|(i, value)| rows(e, &format!("{name}/part{i}"), value))
            .collect();
        e.concat(name, &parts, 1)
    }

    /// `x @ B` for an `x` whose last axis has `K` elements.
    pub(super) fn multiply(&self, e: &mut Emitter, product: &str, x: &str) -> String {
        if let Some(b) = self.single() {
            return e.node("MatMul", product, &[x, b], Vec::new());
        }
        let parts = self.values.iter().enumerate();
        let parts: Vec<String> = parts
            .map(|(i, b)| e.node("MatMul", &format!("{product}/part{i}"), &[x, b], Vec::new()))
            .collect();
        e.concat(product, &parts, -1)
    }
}

/// Lengthens an axis with zeros.
fn pad_axis(data: &[u8], shape: &[usize], axis: usize, length: usize) -> Vec<u8> {
    if shape[axis] == length {
        return data.to_vec();
    }
    let inner: usize = shape[axis + 1..].iter().product();
    let mut padded = Vec::new();
    for row in data.chunks((shape[axis] * inner).max(1)) {
        padded.extend_from_slice(row);
        padded.resize(padded.len() + (length - shape[axis]) * inner, 0);
    }
    padded
}

/// The range `from..to` of an axis.
fn cut_axis<T: Copy>(data: &[T], shape: &[usize], axis: usize, from: usize, to: usize) -> Vec<T> {
    let inner: usize = shape[axis + 1..].iter().product();
    data.chunks((shape[axis] * inner).max(1))
        .flat_map(|row| &row[from * inner..to * inner])
        .copied()
        .collect()
}
