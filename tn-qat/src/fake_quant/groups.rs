//! Which elements of a row-major tensor share a step: the layout of `quant_core::QuantParams`.

use quant_core::Granularity;

use crate::error::{QatError, Result};

/// A shape seen as `[outer, axis, inner]`, the axis cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Groups {
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

/// A stretch of neighbouring elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// All belong to one group.
    Shared {
        start: usize,
        len: usize,
        group: usize,
    },
    /// Element i belongs to group `group + i`.
    Each {
        start: usize,
        len: usize,
        group: usize,
    },
}

impl Groups {
    pub(crate) fn new(shape: &[usize], granularity: Granularity) -> Result<Self> {
        let (axis, kind) = match granularity {
            Granularity::PerTensor => {
                return Ok(Self {
                    outer: 1,
                    axis: shape.iter().product(),
                    inner: 1,
                    kind: Kind::Tensor,
                });
            }
            Granularity::PerAxis { axis } => (axis, Kind::Axis),
            Granularity::PerBlock { axis, block_size } => (axis, Kind::Block(block_size.get())),
        };
        let &dim = shape.get(axis).ok_or_else(|| QatError::Parameter {
            what: "quantization axis",
            expected: "an axis of the weight",
            found: format!("axis {axis} of shape {shape:?}"),
        })?;
        Ok(Self {
            outer: shape[..axis].iter().product(),
            axis: dim,
            inner: shape[axis + 1..].iter().product(),
            kind,
        })
    }

    /// Number of groups.
    pub(crate) fn count(&self) -> usize {
        match self.kind {
            Kind::Tensor => 1,
            Kind::Axis => self.axis,
            Kind::Block(size) => self.outer * self.axis.div_ceil(size) * self.inner,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.outer * self.axis * self.inner
    }

    /// Number of elements of the full-sized groups.
    pub(crate) fn group_len(&self) -> usize {
        match self.kind {
            Kind::Tensor => self.axis,
            Kind::Axis => self.outer * self.inner,
            Kind::Block(size) => size.min(self.axis),
        }
    }

    /// Calls `f` with the runs that cover all elements in order.
    pub(crate) fn for_each(&self, mut f: impl FnMut(Run)) {
        let (dim, inner) = (self.axis, self.inner);
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
                            let (start, len) = (base + b * size, size.min(dim - b * size));
                            f(Run::Shared {
                                start,
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
}
