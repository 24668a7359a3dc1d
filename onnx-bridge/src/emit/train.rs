//! An interleaved train, run core by core: one Transpose and one MatMul of two axes for each.

use quant_core::QuantizedTensor;
use tn_formats::QuantizedTtMatrix;

use super::operand::Columns;
use super::{Emitter, Operand};
use crate::skip::SkipReason;

/// Which core is contracted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the first to the last.
    Forward,
    /// From the last to the first.
    Backward,
}

impl Direction {
    /// The direction with fewer multiply-adds; forward where they are equal.
    pub(crate) fn cheaper(train: &QuantizedTtMatrix) -> Self {
        let shapes: Vec<&[usize]> = train.cores().iter().map(QuantizedTensor::shape).collect();
        let cost = |left: usize, right: usize| -> f64 {
            let product = |from: &[&[usize]], axis: usize| {
                from.iter().map(|s| s[axis] as f64).product::<f64>()
            };
            (0..shapes.len())
                .map(|k| {
                    let core: f64 = shapes[k].iter().map(|&n| n as f64).product();
                    product(&shapes[..k], left) * product(&shapes[k + 1..], right) * core
                })
                .sum()
        };
        // Forward: what lies to the left is contracted already and has its row modes (axis 1).
        if cost(1, 2) <= cost(2, 1) {
            Self::Forward
        } else {
            Self::Backward
        }
    }

    /// A core `[r, m, n, r']` as the operand of its step: `[(r n), (r' m)]` forward, `[(n r'), (m r)]` backward.
    pub(crate) fn operand(self, core: &QuantizedTensor) -> Operand {
        match self {
            Self::Forward => Operand::new(core, &[0, 2, 3, 1], 2),
            Self::Backward => Operand::new(core, &[2, 3, 1, 0], 2),
        }
    }
}

/// A train whose cores stand in the graph.
#[derive(Debug, Clone)]
pub(crate) struct PlacedTrain {
    cores: Vec<Columns>,
    shapes: Vec<[i64; 4]>,
    direction: Direction,
}

impl PlacedTrain {
    pub(super) fn new(
        e: &mut Emitter,
        prefix: &str,
        train: &QuantizedTtMatrix,
        direction: Direction,
    ) -> Result<Self, SkipReason> {
        let cores = train.cores().iter().enumerate();
        let cores = cores.map(|(k, core)| {
            direction
                .operand(core)
                .place(e, &format!("{prefix}/core{k}"))
        });
        let shapes = train
            .cores()
            .iter()
            .map(|c| std::array::from_fn(|axis| c.shape()[axis] as i64))
            .collect();
        Ok(Self {
            cores: cores.collect::<Result<_, _>>()?,
            shapes,
            direction,
        })
    }

    /// A train of cores `[r, m, n, r']` that stand in the graph as `[(r n), (r' m)]`, run from the first to the last.
    #[cfg(feature = "tract")]
    pub(super) fn forward_cores(cores: Vec<Columns>, shapes: Vec<[i64; 4]>) -> Self {
        Self {
            cores,
            shapes,
            direction: Direction::Forward,
        }
    }

    /// `x [.., N]` through the train: a value that is `[B, M]` once reshaped, row-major.
    pub(super) fn run(&self, e: &mut Emitter, prefix: &str, x: &str) -> String {
        match self.direction {
            Direction::Forward => self.forward(e, prefix, x),
            Direction::Backward => self.backward(e, prefix, x),
        }
    }

    /// The state before step k is `[B, n_k, rest, r_k, m_(k-1)]`, `rest` being the later column modes and the earlier
    /// row modes; the step moves `(r_k, n_k)` to the end and contracts them.
    fn forward(&self, e: &mut Emitter, prefix: &str, x: &str) -> String {
        let columns: i64 = self.shapes.iter().map(|s| s[2]).product();
        let mut state = x.to_string();
        let mut rest = columns;
        let mut last_row = 1;
        for (k, (core, &[r, m, n, _])) in self.cores.iter().zip(&self.shapes).enumerate() {
            let step = format!("{prefix}/step{k}");
            rest /= n;
            if k == 0 {
                if rest > 1 && n > 1 {
                    state = e.reshape(&format!("{step}/split"), &state, &[-1, n, rest]);
                    state = e.transpose(&format!("{step}/turn"), &state, &[0, 2, 1]);
                }
            } else {
                state = e.reshape(
                    &format!("{step}/split"),
                    &state,
                    &[-1, n, rest, r, last_row],
                );
                state = e.transpose(&format!("{step}/turn"), &state, &[0, 2, 4, 3, 1]);
                rest *= last_row;
            }
            state = e.reshape(&format!("{step}/rows"), &state, &[-1, r * n]);
            state = core.multiply(e, &step, &state);
            last_row = m;
        }
        state
    }

    /// The state before step k is `[B, m_(k+1), rest, n_k, r_(k+1)]` with `(n_k, r_(k+1))` contracted; what comes out,
    /// `[B, rest, n_(k-1), m_k, r_k]`, has its row mode moved to the front.
    fn backward(&self, e: &mut Emitter, prefix: &str, x: &str) -> String {
        let mut rest: i64 = self.shapes.iter().map(|s| s[2]).product();
        let mut state = x.to_string();
        for (k, (core, &[r, m, n, next])) in self.cores.iter().zip(&self.shapes).enumerate().rev() {
            let step = format!("{prefix}/step{k}");
            rest /= n;
            state = e.reshape(&format!("{step}/rows"), &state, &[-1, n * next]);
            state = core.multiply(e, &step, &state);
            if rest > 1 && m > 1 {
                state = e.reshape(&format!("{step}/split"), &state, &[-1, rest, m, r]);
                state = e.transpose(&format!("{step}/turn"), &state, &[0, 2, 1, 3]);
            }
            rest *= m;
        }
        state
    }
}
