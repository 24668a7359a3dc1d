//! Which elements of a row-major tensor share a scale.

use crate::error::{QuantError, Result};
use crate::scheme::Granularity;

/// The number of elements of a shape (1 for a scalar's empty shape).
pub(crate) fn element_count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize)
        .ok_or_else(|| QuantError::ShapeOverflow {
            shape: shape.to_vec(),
        })
}

/// A contiguous stretch of elements and the groups they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Elements `start..start + len` all belong to `group`.
    Shared {
        /// The first element.
        start: usize,
        /// How many elements.
        len: usize,
        /// Their group.
        group: usize,
    },
    /// Element `start + i` belongs to group `group + i`.
    Each {
        /// The first element.
        start: usize,
        /// How many elements, and groups.
        len: usize,
        /// The first element's group.
        group: usize,
    },
}

/// Which elements of a row-major tensor share a scale: the shape as `[outer, axis, inner]`, the axis in blocks.
///
/// Groups are numbered in the order in which [`crate::QuantParams`] keeps their scales, that of [`scale_shape`].
///
/// ```
/// use quant_core::{Granularity, Groups, Run};
/// // Two rows of five, in blocks of up to three along the row.
/// let groups = Groups::new(&[2, 5], Granularity::per_block(1, 3)?)?;
/// assert_eq!((groups.count(), groups.len()), (4, 10));
/// let mut runs = Vec::new();
/// groups.for_each(|run| runs.push(run));
/// assert_eq!(runs[1], Run::Shared { start: 3, len: 2, group: 1 });
/// let mut sums = vec![0; groups.count()];
/// groups.for_each_element(|element, group| sums[group] += element);
/// assert_eq!(sums, [0 + 1 + 2, 3 + 4, 5 + 6 + 7, 8 + 9]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    outer: usize,
    axis: usize,
    inner: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tensor,
    Axis,
    Block(usize),
}

impl Groups {
    /// The groups of a tensor of this shape.
    ///
    /// # Errors
    /// [`QuantError::Axis`] if the shape lacks the granularity's axis, [`QuantError::ShapeOverflow`] if its elements cannot be
    /// counted.
    pub fn new(shape: &[usize], granularity: Granularity) -> Result<Self> {
        let len = element_count(shape)?;
        let (axis, kind) = match granularity {
            Granularity::PerTensor => {
                return Ok(Self {
                    outer: 1,
                    axis: len,
                    inner: 1,
                    kind: Kind::Tensor,
                });
            }
            Granularity::PerAxis { axis } => (axis, Kind::Axis),
            Granularity::PerBlock { axis, block_size } => (axis, Kind::Block(block_size.get())),
        };
        let dim = *shape.get(axis).ok_or(QuantError::Axis {
            axis,
            rank: shape.len(),
        })?;
        let outer = element_count(&shape[..axis])?;
        let inner = element_count(&shape[axis + 1..])?;
        Ok(Self {
            outer,
            axis: dim,
            inner,
            kind,
        })
    }

    /// How many scales there are.
    pub fn count(&self) -> usize {
        match self.kind {
            Kind::Tensor => 1,
            Kind::Axis => self.axis,
            Kind::Block(size) => self.outer * self.axis.div_ceil(size) * self.inner,
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.outer * self.axis * self.inner
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many elements a group has; of blocks, a full one.
    pub fn group_len(&self) -> usize {
        match self.kind {
            Kind::Tensor => self.axis,
            Kind::Axis => self.outer * self.inner,
            Kind::Block(size) => size.min(self.axis),
        }
    }

    /// Calls `f` with the runs that cover all elements in order.
    pub fn for_each(&self, mut f: impl FnMut(Run)) {
        let (dim, inner) = (self.axis, self.inner);
        if self.is_empty() {
            return;
        }
        for outer in 0..self.outer {
            let base = outer * dim * inner;
            match self.kind {
                Kind::Tensor => f(Run::Shared {
                    start: 0,
                    len: dim,
                    group: 0,
                }),
                Kind::Axis if inner == 1 => f(Run::Each {
                    start: base,
                    len: dim,
                    group: 0,
                }),
                Kind::Axis => {
                    (0..dim).for_each(|a| {
                        f(Run::Shared {
                            start: base + a * inner,
                            len: inner,
                            group: a,
                        })
                    });
                }
                Kind::Block(size) => {
                    let blocks = dim.div_ceil(size);
                    if inner == 1 {
                        for b in 0..blocks {
                            let len = size.min(dim - b * size);
                            f(Run::Shared {
                                start: base + b * size,
                                len,
                                group: outer * blocks + b,
                            });
                        }
                    } else {
                        for a in 0..dim {
                            let group = (outer * blocks + a / size) * inner;
                            f(Run::Each {
                                start: base + a * inner,
                                len: inner,
                                group,
                            });
                        }
                    }
                }
            }
        }
    }

    /// Calls `f(element, its group)` for all elements in order.
    pub fn for_each_element(&self, mut f: impl FnMut(usize, usize)) {
        self.for_each(|run| match run {
            Run::Shared { start, len, group } => (start..start + len).for_each(|i| f(i, group)),
            Run::Each { start, len, group } => (0..len).for_each(|i| f(start + i, group + i)),
        });
    }
}

/// The shape that one group's elements share with the scales' layout: `shape` with the quantized axis divided.
///
/// # Shapes
/// `[]` per tensor, `[shape[axis]]` per axis, `shape` with `ceil(shape[axis] / block_size)` per block.
///
/// # Errors
/// [`QuantError::Axis`] if the shape lacks the granularity's axis.
pub fn scale_shape(shape: &[usize], granularity: Granularity) -> Result<Vec<usize>> {
    let dim = |axis: usize| {
        shape.get(axis).copied().ok_or(QuantError::Axis {
            axis,
            rank: shape.len(),
        })
    };
    Ok(match granularity {
        Granularity::PerTensor => Vec::new(),
        Granularity::PerAxis { axis } => vec![dim(axis)?],
        Granularity::PerBlock { axis, block_size } => {
            let blocks = dim(axis)?.div_ceil(block_size.get());
            let mut scales = shape.to_vec();
            scales[axis] = blocks;
            scales
        }
    })
}
