//! Stored matrices as the factors of fused products.

use quant_core::{Groups, LowBitMatrix, LowBitParts, PanelMatrix};

use super::find::Finder;
use super::form::Factor;
use crate::axes::turned;
use crate::blocks::scale_of;
use crate::proto::NodeProto;
use crate::recognise::{StoredArray, StoredBlocks};
use crate::tensor;

/// Scales that change along k more often than this make a matrix that is kept as `f32`.
const SHORTEST_BLOCK: usize = 8;

/// Codes of a matrix `[n, k]`, out by in: `(code - zero) scale`, zeros and scales `[n, k / block]`.
#[derive(Debug, Clone)]
struct Codes {
    shape: [usize; 2],
    codes: Vec<i32>,
    zeros: Vec<f32>,
    scales: Vec<f32>,
    block: usize,
}

impl Codes {
    /// Matrices below each other, where they have the same columns and blocks.
    fn stacked(mut parts: Vec<Self>) -> Option<Self> {
        let rest = parts.split_off(1.min(parts.len()));
        let mut all = parts.pop()?;
        for part in rest {
            if part.shape[1] != all.shape[1] || part.block != all.block {
                return None;
            }
            all.shape[0] += part.shape[0];
            all.codes.extend(part.codes);
            all.zeros.extend(part.zeros);
            all.scales.extend(part.scales);
        }
        Some(all)
    }

    fn packed(&self) -> Option<LowBitMatrix> {
        let lowest = self.codes.iter().copied().min().unwrap_or(0);
        let highest = self.codes.iter().copied().max().unwrap_or(0);
        let unsigned: Vec<u8> = self
            .codes
            .iter()
            .map(|c| u8::try_from(c - lowest))
            .collect::<Result<_, _>>()
            .ok()?;
        let zero = self.zeros.first().copied().unwrap_or(0.0);
        let offsets: Vec<f32> = self.zeros.iter().map(|z| z - zero).collect();
        let parts = LowBitParts {
            shape: self.shape,
            codes: &unsigned,
            levels: usize::try_from(highest - lowest).ok()? + 1,
            zero: zero - lowest as f32,
            block: self.block,
            scales: &self.scales,
            offsets: &offsets,
        };
        LowBitMatrix::new(parts).ok()
    }
}

impl Finder<'_> {
    /// Values side by side as the right operand `[K, N]` of one MatMul; none for weights that were never rewritten.
    pub(super) fn factor(&self, values: &[&str]) -> Option<Factor> {
        if values.iter().all(|v| self.initializers.contains_key(*v)) {
            return None;
        }
        let codes: Option<Vec<Codes>> = values.iter().map(|v| self.codes(v)).collect();
        if let Some(packed) = codes.and_then(Codes::stacked).and_then(|c| c.packed()) {
            return Some(Factor::LowBit(packed));
        }
        if let [only] = values
            && let Some(sum) = self.corrected(only)
        {
            return Some(sum);
        }
        let ([k, n], values) = self.matrix(values)?;
        Some(Factor::Dense(
            PanelMatrix::new(&turned(&values, n), [n, k]).ok()?,
        ))
    }

    /// Constant values side by side as one `[K, N]`, row-major.
    pub(super) fn matrix(&self, values: &[&str]) -> Option<([usize; 2], Vec<f32>)> {
        let mut parts = values.iter().map(|v| self.constant(v));
        let (shape, values) = join_columns(parts.by_ref().collect::<Option<_>>()?)?;
        let &[k, n] = shape.as_slice() else {
            return None;
        };
        Some(([k, n], values))
    }

    /// `Q + R L`: few levels and a correction of low rank.
    fn corrected(&self, value: &str) -> Option<Factor> {
        let add = self.made_by(value, "Add")?;
        let pair = self.made_by(add.input.get(1)?, "MatMul")?;
        let packed = |v: &str| self.codes(v)?.packed();
        let base = packed(add.input.first()?)?;
        let inner = packed(pair.input.first()?)?;
        let outer = packed(pair.input.get(1)?)?;
        let fits = inner.k() == base.k() && inner.n() == outer.k() && outer.n() == base.n();
        let pair = Box::new([inner, outer]);
        fits.then_some(Factor::Corrected { base, pair })
    }

    /// A stored `[K, N]` by its codes.
    fn codes(&self, value: &str) -> Option<Codes> {
        let (inner, shape) = match self.made_by(value, "Reshape") {
            Some(reshape) => (reshape.input.first()?.as_str(), self.dims(reshape)?),
            None => (value, self.arrays.get(value)?.shape().to_vec()),
        };
        let shape: Option<Vec<usize>> = shape.iter().copied().map(Some).collect();
        let &[k, n] = shape?.as_slice() else {
            return None;
        };
        match self.blocks.get(inner).filter(|b| b.lookups().is_empty()) {
            Some(blocks) => block_codes(blocks, [k, n]),
            None => array_codes(self.arrays.get(inner)?, [k, n]),
        }
    }

    /// The sizes that a Reshape gives, none of them open.
    fn dims(&self, reshape: &NodeProto) -> Option<Vec<usize>> {
        let dims = tensor::to_i64(self.initializers.get(reshape.input.get(1)?.as_str())?)?;
        dims.iter().map(|d| usize::try_from(*d).ok()).collect()
    }

    /// A value that depends on no input, where the operators before it are those that join stored arrays.
    fn constant(&self, value: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        if let Some(initializer) = self.initializers.get(value) {
            return Some((
                tensor::shape(initializer).ok()?,
                tensor::to_f32(initializer)?,
            ));
        }
        if let Some(array) = self.arrays.get(value) {
            return Some((array.shape().to_vec(), array.tensor().dequantize()));
        }
        if let Some(blocks) = self.blocks.get(value).filter(|b| b.lookups().is_empty()) {
            return Some((blocks.shape().to_vec(), blocks.dequantize()));
        }
        let node = self.producer(value)?;
        let input = |i: usize| self.constant(node.input.get(i)?);
        match node.op_type() {
            "Reshape" => {
                let (_, values) = input(0)?;
                let dims = tensor::to_i64(self.initializers.get(node.input.get(1)?.as_str())?)?;
                Some((open_filled(&dims, values.len())?, values))
            }
            "MatMul" => {
                let ((left, a), (right, b)) = (input(0)?, input(1)?);
                let (&[m, k], &[inner, n]) = (left.as_slice(), right.as_slice()) else {
                    return None;
                };
                (k == inner).then_some(())?;
                let mut product = vec![0.0; m * n];
                PanelMatrix::new(&turned(&b, n), [n, k])
                    .ok()?
                    .matmul(&a, &mut product, &mut quant_core::ProductScratch::default())
                    .ok()?;
                Some((vec![m, n], product))
            }
            "Concat" => {
                let parts: Option<Vec<_>> = node.input.iter().map(|v| self.constant(v)).collect();
                let axis = crate::proto::int_or(node, "axis", 0);
                matches!(axis, -1 | 1).then(|| join_columns(parts?))?
            }
            "Slice" => {
                let one = |i: usize| {
                    let stored = self.initializers.get(node.input.get(i)?.as_str())?;
                    match tensor::to_i64(stored)?.as_slice() {
                        [one] => usize::try_from(*one).ok(),
                        _ => None,
                    }
                };
                let (shape, values) = input(0)?;
                cut(shape, &values, one(3)?, one(1)?..one(2)?)
            }
            _ => None,
        }
    }
}

/// The shape that a Reshape to `dims` gives `count` elements.
fn open_filled(dims: &[i64], count: usize) -> Option<Vec<usize>> {
    let known: usize = dims
        .iter()
        .filter(|d| **d > 0)
        .map(|d| *d as usize)
        .product();
    let size = |d: &i64| match d {
        -1 => count.checked_div(known),
        d => usize::try_from(*d).ok(),
    };
    let shape: Vec<usize> = dims.iter().map(size).collect::<Option<_>>()?;
    (shape.iter().product::<usize>() == count).then_some(shape)
}

/// A range of one axis.
fn cut(
    mut shape: Vec<usize>,
    values: &[f32],
    axis: usize,
    range: std::ops::Range<usize>,
) -> Option<(Vec<usize>, Vec<f32>)> {
    let length = *shape.get(axis)?;
    let range = range.start.min(length)..range.end.min(length);
    let inner: usize = shape[axis + 1..].iter().product();
    let kept = values.chunks((length * inner).max(1));
    let kept = kept.flat_map(|row| {
        row.get(range.start * inner..range.end * inner)
            .unwrap_or(&[])
    });
    let kept = kept.copied().collect();
    shape[axis] = range.len();
    Some((shape, kept))
}

/// Matrices with equal rows, side by side.
fn join_columns(parts: Vec<(Vec<usize>, Vec<f32>)>) -> Option<(Vec<usize>, Vec<f32>)> {
    if let [_] = parts.as_slice() {
        return parts.into_iter().next();
    }
    let rows = *parts.first()?.0.first()?;
    let fits = parts
        .iter()
        .all(|(shape, _)| shape.len() == 2 && shape[0] == rows);
    let columns: usize = parts.iter().filter_map(|(shape, _)| shape.get(1)).sum();
    let row = |r: usize| {
        parts
            .iter()
            .flat_map(move |(shape, values)| &values[r * shape[1]..(r + 1) * shape[1]])
    };
    fits.then(|| {
        (
            vec![rows, columns],
            (0..rows).flat_map(row).copied().collect(),
        )
    })
}

/// `[K, N]` of few levels, blocks down the columns.
fn block_codes(blocks: &StoredBlocks, [k, n]: [usize; 2]) -> Option<Codes> {
    let extent = blocks.extent();
    if extent.elements() != k * n || extent.inner != n {
        return None;
    }
    let values = blocks.values();
    let steps = turned(&values.steps, n);
    Some(Codes {
        shape: [n, k],
        codes: turned(&values.codes, n)
            .into_iter()
            .map(i32::from)
            .collect(),
        zeros: vec![blocks.levels().zero(); steps.len()],
        scales: steps.iter().map(|&s| scale_of(s, values.unit)).collect(),
        block: extent.block,
    })
}

/// `[K, N]` with linear codes, where the scales change seldom enough along K.
fn array_codes(array: &StoredArray, [k, n]: [usize; 2]) -> Option<Codes> {
    let tensor = array.tensor();
    let (params, scheme) = (tensor.params(), tensor.scheme());
    if tensor.len() != k * n {
        return None;
    }
    let mut group = vec![0usize; k * n];
    let groups = Groups::new(tensor.shape(), scheme.granularity()).ok()?;
    groups.for_each_element(|element, g| group[element] = g);
    let changes = (1..k).filter(|&i| group[i * n..][..n] != group[(i - 1) * n..][..n]);
    let block = changes.fold(k, gcd).max(1);
    if block < SHORTEST_BLOCK.min(k) {
        return None;
    }
    let of_block = |f: &dyn Fn(usize) -> f32| -> Vec<f32> {
        let places = (0..n).flat_map(|j| (0..k / block).map(move |b| b * block * n + j));
        places.map(|place| f(group[place])).collect()
    };
    let zeros = params.zero_points();
    Some(Codes {
        shape: [n, k],
        codes: turned(&tensor.codes(), n),
        zeros: of_block(&|g| zeros.get(g).or(zeros.first()).map_or(0.0, |&z| z as f32)),
        scales: of_block(&|g| params.scales()[g]),
        block,
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
