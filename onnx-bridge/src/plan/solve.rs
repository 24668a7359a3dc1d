//! One job: one weight, one candidate, one norm.

use ndarray::ArrayView2;

use super::apply::{OutputLoss, Solved};
use super::feedback::{Effort, quantize};
use super::form::{Candidate, Form};
use super::kernel::solve_kernel;
use super::low_rank::Directions;
use super::metric::Metric;
use super::train::Kronecker;
use crate::blocks::{BlockFormat, BlockMatrix, Levels};

/// Makes a weight into what a candidate says, in the norm of its inputs.
///
/// # Shapes
/// `weight`: `[M, K]`, `metric` over `K`.
///
/// # Errors
/// A sentence, where the weight does not fit the norm or is not finite.
pub fn solve(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    candidate: &Candidate,
    effort: Effort,
) -> Result<Form, String> {
    Ok(match *candidate {
        Candidate::Keep => Form::Keep,
        Candidate::Dense { format } => Form::Dense(quantize(weight, metric, format, effort)?),
        Candidate::LowRank { rank, format } => {
            let [left, right] =
                Directions::new(weight, metric)?.quantize(weight, metric, rank, format, effort)?;
            Form::LowRank { left, right }
        }
        Candidate::Corrected { base, rank, format } => {
            let base = quantize(weight, metric, base, effort)?;
            let rest = &weight - &super::form::dense(&base);
            let [left, right] = Directions::new(rest.view(), metric)?.quantize(
                rest.view(),
                metric,
                rank,
                format,
                effort,
            )?;
            Form::Corrected { base, left, right }
        }
        Candidate::Train {
            rank,
            rows,
            cols,
            format,
        } => {
            let modes = [rows, cols];
            let [first, second] =
                Kronecker::new(weight, modes)?.quantize(weight, metric, rank, format, effort)?;
            Form::Train {
                first,
                second,
                modes,
            }
        }
        Candidate::Kernel {
            ranks,
            taps,
            format,
        } => {
            let [left, core, right] = solve_kernel(weight, metric, ranks, taps, format, effort)?;
            Form::Kernel {
                left,
                core,
                right,
                taps,
            }
        }
        Candidate::Tucker { rank, format } => {
            let directions = Directions::new(weight, metric)?;
            let [left, core, right] =
                directions.quantize_tucker(weight, metric, rank, format, effort)?;
            Form::Tucker { left, core, right }
        }
    })
}

/// Writes a result: choice and loss as JSON, the bias, and of each part of the form its shape, levels, block, unit, codes
/// and steps.
pub(crate) fn encode(solved: &Solved) -> Vec<u8> {
    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u64).to_le_bytes());
    let head = serde_json::to_vec(&(solved.choice, solved.loss)).unwrap_or_default();
    number(&mut bytes, head.len());
    bytes.extend(head);
    let bias = solved.bias.as_ref().map_or(Vec::new(), |b| {
        b.iter().flat_map(|v| v.to_le_bytes()).collect()
    });
    number(&mut bytes, bias.len());
    bytes.extend(bias);
    for part in solved.form.parts() {
        let [rows, cols] = part.shape();
        for n in [
            rows,
            cols,
            part.format().levels.count() as usize,
            part.format().block,
        ] {
            number(&mut bytes, n);
        }
        bytes.extend(part.unit().to_le_bytes());
        bytes.extend(part.codes());
        bytes.extend(part.steps());
    }
    bytes
}

/// Reads what [`encode`] wrote; `None` for anything else, a cut file included.
pub(crate) fn decode(bytes: &[u8]) -> Option<Solved> {
    let mut rest = bytes;
    let mut take = |n: usize| -> Option<&[u8]> {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let number = |b: &[u8]| usize::try_from(u64::from_le_bytes(b.try_into().ok()?)).ok();
    let count = number(take(8)?)?;
    let (choice, loss): (Candidate, OutputLoss) = serde_json::from_slice(take(count)?).ok()?;
    let count = number(take(8)?)?;
    let bias: Vec<f32> = take(count)?
        .chunks_exact(4)
        .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        .collect();
    let expected = match choice {
        Candidate::Keep => 0,
        Candidate::Dense { .. } => 1,
        Candidate::LowRank { .. } => 2,
        Candidate::Train { .. } => 2,
        Candidate::Corrected { .. } | Candidate::Kernel { .. } | Candidate::Tucker { .. } => 3,
    };
    let mut parts = Vec::with_capacity(expected);
    for _ in 0..expected {
        let mut numbers = [0; 4];
        for n in &mut numbers {
            *n = number(take(8)?)?;
        }
        let [rows, cols, levels, block] = numbers;
        let format = BlockFormat {
            levels: Levels::try_from(u16::try_from(levels).ok()?).ok()?,
            block,
        };
        let unit = f32::from_le_bytes(take(4)?.try_into().ok()?);
        let codes = take(rows.checked_mul(cols)?)?.to_vec();
        let steps = take(rows.checked_mul(cols.div_ceil(block.max(1)))?)?.to_vec();
        parts.push(BlockMatrix::new([rows, cols], format, codes, steps, unit).ok()?);
    }
    let bias = (!bias.is_empty()).then_some(bias);
    rest.is_empty()
        .then(|| Form::from_parts(&choice, parts))
        .flatten()
        .map(|form| Solved {
            choice,
            form,
            bias,
            loss,
        })
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::sample;
    use super::*;

    fn some() -> [Candidate; 6] {
        let format = BlockFormat {
            levels: Levels::L16,
            block: 32,
        };
        let base = BlockFormat {
            levels: Levels::L3,
            block: 32,
        };
        [
            Candidate::Keep,
            Candidate::Dense { format },
            Candidate::LowRank { rank: 6, format },
            Candidate::Corrected {
                base,
                rank: 3,
                format,
            },
            Candidate::Train {
                rank: 2,
                rows: [4, 5],
                cols: [6, 8],
                format,
            },
            Candidate::Tucker { rank: 5, format },
        ]
    }

    #[test]
    fn results_survive_the_store_and_damage_is_noticed() {
        let (weight, moment) = sample(20, 48);
        let metric = Metric::new(moment.view(), 0.01).unwrap();
        for candidate in some() {
            let form = solve(weight.view(), &metric, &candidate, Effort::Feedback).unwrap();
            let solved = Solved {
                bias: Some(vec![1.0, 2.0]),
                loss: OutputLoss {
                    own: 0.1 + 0.2,
                    dense: Some(0.5),
                },
                ..Solved::new(candidate, form)
            };
            let bytes = encode(&solved);
            assert_eq!(decode(&bytes), Some(solved));
            for cut in (0..bytes.len()).step_by(7) {
                assert_eq!(decode(&bytes[..cut]), None, "{candidate:?} cut to {cut}");
            }
        }
    }

    #[test]
    fn a_correction_takes_error_away_and_full_rank_leaves_little() {
        let (weight, moment) = sample(40, 32);
        let metric = Metric::new(moment.view(), 0.01).unwrap();
        let error = |candidate: Candidate| {
            let form = solve(weight.view(), &metric, &candidate, Effort::Refined(1)).unwrap();
            metric.energy((&weight - &form.matrix().unwrap()).view()) / metric.energy(weight.view())
        };
        let base = BlockFormat {
            levels: Levels::L3,
            block: 32,
        };
        let format = BlockFormat {
            levels: Levels::L16,
            block: 32,
        };
        let alone = error(Candidate::Dense { format: base });
        assert!(
            error(Candidate::Corrected {
                base,
                rank: 8,
                format
            }) < 0.7 * alone
        );
        let fine = BlockFormat {
            levels: Levels::L256,
            block: 32,
        };
        assert!(
            error(Candidate::LowRank {
                rank: 32,
                format: fine
            }) < 1e-3
        );
        for rank in [2, 8, 16] {
            assert!(
                error(Candidate::LowRank {
                    rank: rank + 2,
                    format: fine
                }) < error(Candidate::LowRank { rank, format: fine })
            );
        }
    }
}
