//! The constant side of a network: its arrays as matrices of the graph, once for all layers that use them.

use quant_core::QuantizedTensor;
use tn_formats::{Layout, QuantizedTtMatrix, QuantizedTucker};

use super::operand::Columns;
#[cfg(feature = "tract")]
use super::packed::PlacedPacked;
use super::train::{Direction, PlacedTrain};
use super::{Emitter, FOLDED_ELEMENTS, Operand};
use crate::in_place::InPlace;
use crate::network::Network;
use crate::proto::DataType;
use crate::skip::SkipReason;

/// A network whose arrays stand in the graph.
#[derive(Debug, Clone)]
pub(crate) enum Placed {
    /// `x @ B_1 @ B_2 @ ..`, for any number of leading axes of `x`.
    Product(Vec<Columns>),
    /// A train that runs core by core.
    Train(PlacedTrain),
    /// A matrix that the engine keeps packed.
    #[cfg(feature = "tract")]
    Packed(PlacedPacked),
}

/// Stores the arrays of a network under names that start with `prefix`.
pub(crate) fn place(
    e: &mut Emitter,
    prefix: &str,
    network: &Network,
) -> Result<Placed, SkipReason> {
    match network {
        Network::Table(_) | Network::TableTrain(_) => Err(table_of_a_matrix()),
        Network::Dense(matrix) => Ok(Placed::Product(vec![
            dense_operand(matrix).place(e, &format!("{prefix}/weight"))?,
        ])),
        Network::Tucker(tucker) => {
            let parts = tucker_operands(tucker)?;
            let placed = parts
                .iter()
                .map(|(name, operand)| operand.place(e, &format!("{prefix}/{name}")));
            Ok(Placed::Product(placed.collect::<Result<_, _>>()?))
        }
        Network::Tt(train) => match plan(train) {
            Plan::Merge => merged(e, prefix, train).map(Placed::Product),
            Plan::Run(direction) => {
                PlacedTrain::new(e, prefix, train, direction).map(Placed::Train)
            }
        },
    }
}

/// Makes a stored tensor again from the codes of its matrix; the last node makes the value itself, under the weight's name.
pub(crate) fn place_stored(
    e: &mut Emitter,
    prefix: &str,
    matrix: &QuantizedTensor,
    weight: (&str, &InPlace),
) -> Result<(), SkipReason> {
    let (name, stored) = weight;
    let perm = if stored.is_transposed() {
        [1, 0]
    } else {
        [0, 1]
    };
    let columns = Operand::new(matrix, &perm, 1).place(e, &format!("{prefix}/weight"))?;
    let mut value = columns.join(e, &format!("{prefix}/columns"));
    if stored.shape().len() != 2 {
        let dims: Vec<i64> = stored.shape().iter().map(|&n| n as i64).collect();
        value = e.reshape(&format!("{prefix}/shape"), &value, &dims);
    }
    if stored.element() != DataType::Float {
        value = e.cast(&format!("{prefix}/cast"), &value, stored.element());
    }
    debug_assert!(
        e.nodes.last().is_some_and(|n| n.output == [value]),
        "the last node makes the value"
    );
    if let Some(node) = e.nodes.last_mut() {
        node.output = vec![name.to_string()];
    }
    Ok(())
}

/// The bytes of the initializers that [`place`] makes for a network, but for those that all layers share.
pub(crate) fn stored_bytes(network: &Network) -> Result<u64, SkipReason> {
    Ok(match network {
        Network::Table(_) | Network::TableTrain(_) => return Err(table_of_a_matrix()),
        Network::Dense(matrix) => dense_operand(matrix).stored_bytes(),
        Network::Tucker(tucker) => tucker_operands(tucker)?
            .iter()
            .map(|(_, o)| o.stored_bytes())
            .sum(),
        Network::Tt(train) => match plan(train) {
            Plan::Merge => halves(train)
                .into_iter()
                .flatten()
                .map(|o| o.stored_bytes())
                .sum(),
            Plan::Run(direction) => train
                .cores()
                .iter()
                .map(|c| direction.operand(c).stored_bytes())
                .sum(),
        },
    })
}

fn table_of_a_matrix() -> SkipReason {
    SkipReason::Misfit {
        problem: "expected a network of a matrix, found the codes of a table".into(),
    }
}

/// `W [M, N]` as the operand `[N, M]`.
fn dense_operand(matrix: &QuantizedTensor) -> Operand {
    Operand::new(matrix, &[1, 0], 1)
}

/// `W = U_1 C U_2ᵀ`, run as `x @ U_2 @ Cᵀ @ U_1ᵀ`.
fn tucker_operands(tucker: &QuantizedTucker) -> Result<[(&'static str, Operand); 3], SkipReason> {
    match tucker.factors() {
        [rows, cols] => Ok([
            ("factor1", Operand::new(cols, &[0, 1], 1)),
            ("core", Operand::new(tucker.core(), &[1, 0], 1)),
            ("factor0", Operand::new(rows, &[1, 0], 1)),
        ]),
        factors => Err(SkipReason::Misfit {
            problem: format!("expected 2 factors, found {}", factors.len()),
        }),
    }
}

enum Plan {
    /// A split train whose halves become two matrices when the engine folds constants: stored deep, run shallow.
    Merge,
    /// Core by core.
    Run(Direction),
}

fn plan(train: &QuantizedTtMatrix) -> Plan {
    let modes = train.modes();
    if modes.layout() == Layout::Split {
        let middle = train.ranks()[modes.col_modes().len()];
        if middle * modes.rows().max(modes.cols()) <= FOLDED_ELEMENTS || train.cores().len() == 2 {
            return Plan::Merge;
        }
    }
    Plan::Run(Direction::cheaper(train))
}

/// The cores of each half of a split train, as operands that merge from the left.
fn halves(train: &QuantizedTtMatrix) -> [Vec<Operand>; 2] {
    let inputs = train.modes().col_modes().len();
    let (left, right) = train.cores().split_at(inputs);
    // Input cores `[r, 1, n, r']`: the first is `[n, r']`, a later one `[r, (n r')]`.
    let left = left
        .iter()
        .enumerate()
        .map(|(k, c)| Operand::new(c, &[0, 1, 2, 3], if k == 0 { 3 } else { 1 }));
    // Output cores `[r, m, 1, r']`: a last one `[r, m]`, the first of several `[(r m), r']`, a later one `[r, (m r')]`.
    let several = right.len() > 1;
    let right = right
        .iter()
        .enumerate()
        .map(|(k, c)| Operand::new(c, &[0, 1, 2, 3], if several && k == 0 { 3 } else { 1 }));
    [left.collect(), right.collect()]
}

fn merged(
    e: &mut Emitter,
    prefix: &str,
    train: &QuantizedTtMatrix,
) -> Result<Vec<Columns>, SkipReason> {
    let modes = train.modes();
    let ranks = train.ranks();
    let middle = ranks[modes.col_modes().len()];
    let matrices = [[modes.cols(), middle], [middle, modes.rows()]];
    let mut core = 0;
    let mut placed = Vec::with_capacity(2);
    for (half, ([k, c], name)) in halves(train)
        .into_iter()
        .zip(matrices.into_iter().zip(["in", "out"]))
    {
        if let [only] = half.as_slice() {
            placed.push(only.place(e, &format!("{prefix}/core{core}"))?);
            core += 1;
            continue;
        }
        let mut product: Option<String> = None;
        for operand in &half {
            let columns = operand.place(e, &format!("{prefix}/core{core}"))?;
            core += 1;
            let next_rank = ranks[core] as i64;
            product = Some(match product {
                None => columns
                    .single()
                    .map(str::to_string)
                    .ok_or_else(|| too_large(operand))?,
                Some(left) => {
                    let joined =
                        columns.multiply(e, &format!("{prefix}/{name}/merge{}", core - 1), &left);
                    e.reshape(
                        &format!("{prefix}/{name}/merge{}/rows", core - 1),
                        &joined,
                        &[-1, next_rank],
                    )
                }
            });
        }
        let whole = e.reshape(
            &format!("{prefix}/{name}"),
            &product.unwrap_or_default(),
            &[k as i64, c as i64],
        );
        placed.push(Columns::whole(whole));
    }
    Ok(placed)
}

fn too_large(operand: &Operand) -> SkipReason {
    SkipReason::Misfit {
        problem: format!(
            "expected a first core of at most {FOLDED_ELEMENTS} elements, found {:?}",
            operand.matrix()
        ),
    }
}
