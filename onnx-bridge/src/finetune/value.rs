//! What flows along the edges of a graph while it is interpreted.
//!
//! Float tensors live in candle and may carry a gradient. Integers and booleans are host arrays, which never do: shape
//! arithmetic then costs nothing and leaves no tape.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::ops::OpError;
use crate::axes::{strided, strides};

/// The product of a shape.
pub(crate) fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A row-major array on the host; cloning shares the data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostArray<T> {
    shape: Vec<usize>,
    data: Arc<Vec<T>>,
}

impl<T: Clone> HostArray<T> {
    /// An array of `shape`; the data must fill it exactly.
    pub(crate) fn new(shape: Vec<usize>, data: Vec<T>) -> Result<Self, OpError> {
        if volume(&shape) != data.len() {
            return Err(OpError::new(format!(
                "expected {} elements for shape {shape:?}, found {}",
                volume(&shape),
                data.len()
            )));
        }
        Ok(Self {
            shape,
            data: Arc::new(data),
        })
    }

    /// A list.
    pub(crate) fn list(data: Vec<T>) -> Self {
        Self {
            shape: vec![data.len()],
            data: Arc::new(data),
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn data(&self) -> &[T] {
        &self.data
    }

    /// The same elements in another shape of the same volume.
    pub(crate) fn reshaped(&self, shape: Vec<usize>) -> Result<Self, OpError> {
        if volume(&shape) != self.data.len() {
            return Err(OpError::new(format!(
                "expected a shape of {} elements, found {shape:?}",
                self.data.len()
            )));
        }
        Ok(Self {
            shape,
            data: Arc::clone(&self.data),
        })
    }

    /// Every element through `f`.
    pub(crate) fn map<U>(&self, f: impl FnMut(&T) -> U) -> HostArray<U> {
        HostArray {
            shape: self.shape.clone(),
            data: Arc::new(self.data.iter().map(f).collect()),
        }
    }

    /// The array of `shape` whose element at `i` is the one of `self` at `source(i)`, both flat.
    pub(crate) fn indexed(
        &self,
        shape: Vec<usize>,
        source: impl IntoIterator<Item = usize>,
    ) -> Result<Self, OpError> {
        Self::new(
            shape,
            source.into_iter().map(|i| self.data[i].clone()).collect(),
        )
    }

    /// Two arrays combined element by element under NumPy's broadcasting.
    pub(crate) fn zip<U: Clone, V: Clone>(
        &self,
        other: &HostArray<U>,
        mut f: impl FnMut(&T, &U) -> Result<V, OpError>,
    ) -> Result<HostArray<V>, OpError> {
        let shape = broadcast_shape(&self.shape, &other.shape)?;
        let mut data = Vec::with_capacity(volume(&shape));
        for (i, j) in
            broadcast_indices(&self.shape, &shape).zip(broadcast_indices(&other.shape, &shape))
        {
            data.push(f(&self.data[i], &other.data[j])?);
        }
        HostArray::new(shape, data)
    }
}

/// The width of an integer array: what a cast wraps to and a shift drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntKind {
    bits: u32,
    signed: bool,
}

impl IntKind {
    pub(crate) const I64: Self = Self {
        bits: 64,
        signed: true,
    };

    /// `bits` is 1 to 64.
    pub(crate) const fn signed(bits: u32) -> Self {
        Self { bits, signed: true }
    }

    /// `bits` is 1 to 64; values of `u64` above `i64::MAX` wrap.
    pub(crate) const fn unsigned(bits: u32) -> Self {
        Self {
            bits,
            signed: false,
        }
    }

    /// The value that storing `v` in this width leaves.
    pub(crate) fn wrap(self, v: i64) -> i64 {
        if self.bits >= 64 {
            return v;
        }
        let kept = v << (64 - self.bits);
        if self.signed {
            kept >> (64 - self.bits)
        } else {
            ((kept as u64) >> (64 - self.bits)) as i64
        }
    }

    /// The least and the greatest value.
    pub(crate) fn range(self) -> (i64, i64) {
        match (self.bits, self.signed) {
            (64.., true) => (i64::MIN, i64::MAX),
            (64.., false) => (0, i64::MAX),
            (bits, true) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            (bits, false) => (0, (1 << bits) - 1),
        }
    }
}

/// An integer array and its width.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IntArray {
    pub(crate) array: HostArray<i64>,
    pub(crate) kind: IntKind,
}

/// A value of the graph.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Floats of any ONNX width, as f32; may carry a gradient.
    Float(Tensor),
    /// Integers.
    Int(IntArray),
    /// Booleans.
    Bool(HostArray<bool>),
}

impl Value {
    /// A float tensor from the host.
    pub(crate) fn float(shape: &[usize], data: Vec<f32>) -> Result<Self, OpError> {
        if volume(shape) != data.len() {
            return Err(OpError::new(format!(
                "expected {} elements for shape {shape:?}, found {}",
                volume(shape),
                data.len()
            )));
        }
        Ok(Self::Float(Tensor::from_vec(data, shape, &Device::Cpu)?))
    }

    /// 64-bit integers.
    pub(crate) fn int64(array: HostArray<i64>) -> Self {
        Self::Int(IntArray {
            array,
            kind: IntKind::I64,
        })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Float(t) => t.dims(),
            Self::Int(a) => a.array.shape(),
            Self::Bool(a) => a.shape(),
        }
    }

    /// What kind of value this is, for messages.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self {
            Self::Float(_) => "floats",
            Self::Int(_) => "integers",
            Self::Bool(_) => "booleans",
        }
    }
}

/// The elements of a float tensor, row-major.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, OpError> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
}

/// NumPy's broadcast of two shapes.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, OpError> {
    let order = a.len().max(b.len());
    let at = |s: &[usize], k: usize| {
        if k + s.len() < order {
            1
        } else {
            s[k + s.len() - order]
        }
    };
    (0..order)
        .map(|k| match (at(a, k), at(b, k)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(OpError::new(format!(
                "expected shapes that broadcast, found {a:?} and {b:?}"
            ))),
        })
        .collect()
}

/// Flat positions in an array of `source` for every position of `target`, to which it broadcasts, in row-major order.
pub(crate) fn broadcast_indices(
    source: &[usize],
    target: &[usize],
) -> impl Iterator<Item = usize> + use<> {
    let offset = target.len() - source.len();
    let own = strides(source);
    let steps: Vec<usize> = (0..target.len())
        .map(|k| {
            if k < offset || source[k - offset] == 1 {
                0
            } else {
                own[k - offset]
            }
        })
        .collect();
    strided(target.to_vec(), steps, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_to_their_width() {
        for (kind, value, expected) in [
            (IntKind::unsigned(8), 300, 44),
            (IntKind::unsigned(8), -1, 255),
            (IntKind::signed(8), 200, -56),
            (IntKind::signed(4), 9, -7),
            (IntKind::I64, i64::MIN, i64::MIN),
        ] {
            assert_eq!(kind.wrap(value), expected, "{kind:?} {value}");
        }
    }

    #[test]
    fn arrays_broadcast_as_numpy_does() {
        let a = HostArray::new(vec![2, 1], vec![10, 20]).unwrap();
        let b = HostArray::list(vec![1, 2, 3]);
        let sum = a.zip(&b, |x, y| Ok(x + y)).unwrap();
        assert_eq!(sum.shape(), [2, 3]);
        assert_eq!(sum.data(), [11, 12, 13, 21, 22, 23]);
        assert!(
            a.zip(&HostArray::new(vec![3, 2], vec![0; 6]).unwrap(), |x, y| Ok(
                x + y
            ))
            .is_err()
        );
    }
}
