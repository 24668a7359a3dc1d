//! Bits per core, or part of a network, under a byte budget.

use ndarray::Array3;
use quant_core::{Bits, QuantScheme};

use crate::compensate::restore;
use crate::error::Result;
use crate::fold::CoreWeight;
use crate::gauge::{Rotation, rotate, symmetric};
use crate::linalg::mm;
use crate::quantizer::quantize_values;
use crate::strategy::{Strategy, environments};
use crate::train::TensorTrain;

/// Schemes worth trying: the greedy choice per core, and the widest that fits all cores alike.
///
/// The gain of a bit is the first-order error of the tensor, `<E, L E R>` with the core's own rounding error E and the Gram
/// matrices L and R of its neighbours, in the gauge that will be quantized.
pub(crate) fn schemes_within(
    train: &TensorTrain<f64>,
    shapes: &dyn Fn(&TensorTrain<f64>) -> Vec<Vec<usize>>,
    scheme: QuantScheme,
    strategy: Strategy,
    bytes: usize,
) -> Result<Vec<Vec<QuantScheme>>> {
    let start = match strategy {
        Strategy::Independent => train.clone(),
        Strategy::Gauge(gauge) => train.gauge(gauge)?,
        Strategy::Compensated { seed, .. } => {
            rotate(symmetric(train)?, Rotation::Hadamard { seed })
        }
    };
    Ok(choices(
        &costs(&start, &shapes(&start), scheme)?,
        scheme,
        bytes,
    ))
}

/// Squared error and bytes of one part at one width.
pub(crate) type Cost = (f64, usize);

/// The greedy choice per part, and the widest that fits all alike; `table` has each part's costs in the order of [`Bits::ALL`].
pub(crate) fn choices(
    table: &[Vec<Cost>],
    scheme: QuantScheme,
    bytes: usize,
) -> Vec<Vec<QuantScheme>> {
    let size = |levels: &[usize]| {
        levels
            .iter()
            .zip(table)
            .map(|(&l, t)| t[l].1)
            .sum::<usize>()
    };
    let mut levels = vec![0; table.len()];
    loop {
        let spent = size(&levels);
        let step = |k: usize| Some((table[k][levels[k]], *table[k].get(levels[k] + 1)?));
        let gain =
            |k: usize| step(k).map(|(now, next)| (now.0 - next.0) / (next.1 - now.1).max(1) as f64);
        let fits = |k: &usize| step(*k).is_some_and(|(now, next)| spent + next.1 - now.1 <= bytes);
        let best = (0..table.len()).filter(fits).max_by(|&a, &b| {
            gain(a)
                .partial_cmp(&gain(b))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let Some(k) = best else { break };
        levels[k] += 1;
    }
    let uniform = (0..Bits::ALL.len())
        .rev()
        .find(|&l| size(&vec![l; table.len()]) <= bytes)
        .unwrap_or(0);
    let schemes = |levels: &[usize]| {
        levels
            .iter()
            .map(|&l| scheme.with_bits(Bits::ALL[l]))
            .collect::<Vec<_>>()
    };
    vec![schemes(&levels), schemes(&vec![uniform; table.len()])]
}

/// Squared error and bytes of every core at every width.
fn costs(
    train: &TensorTrain<f64>,
    shapes: &[Vec<usize>],
    scheme: QuantScheme,
) -> Result<Vec<Vec<Cost>>> {
    let white: Vec<_> = (train.cores().iter())
        .map(|c| CoreWeight::none(c.mode()))
        .collect();
    let cores = (train.cores().iter().zip(shapes)).zip(environments(train, &white));
    cores
        .map(|((core, shape), (left, right))| {
            let cost = |&bits: &Bits| {
                let quantized = quantize_values(core.as_slice(), shape, &scheme.with_bits(bits))?;
                let (r, n, e) = core.view().dim();
                let error: Array3<f64> = restore(&quantized, (r, n, e)) - core.view();
                let wide = error
                    .view()
                    .into_shape_with_order((r, n * e))
                    .expect("same number of elements");
                let tall = mm(left.view(), wide)
                    .into_shape_with_order((r * n, e))
                    .expect("same number of elements");
                let weighted = mm(tall.view(), right.view()).into_shape_with_order((r, n, e));
                let weighted = weighted.expect("same number of elements");
                Ok(((&error * &weighted).sum(), quantized.byte_len()))
            };
            Bits::ALL.iter().map(cost).collect()
        })
        .collect()
}
