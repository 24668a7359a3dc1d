//! Rows of a table that is a train: one slice of each core for every row that is asked for, multiplied together.

use super::embedding::like_indices;
use super::operand::Columns;
use super::{Emitter, Operand};
use crate::proto::DataType;
use crate::skip::SkipReason;
use crate::table_train::TableTrain;
use crate::view::GraphView;

/// Mod came with opset 10.
const OLDEST_OPSET: i64 = 10;

/// A table whose cores stand in the graph.
#[derive(Debug, Clone)]
pub(crate) struct PlacedTableTrain {
    cores: Vec<PlacedCore>,
    rows: i64,
    columns: usize,
}

/// A core `[r, m, n, r']` as the matrix `[m, (r n r')]`.
#[derive(Debug, Clone)]
struct PlacedCore {
    matrix: Columns,
    shape: [i64; 4],
    /// The place of its row mode among all, where it has one.
    row_mode: Option<usize>,
}

/// The place of a core's row mode among all: a split train has them in its later cores.
fn row_mode(table: &TableTrain, core: usize) -> Option<usize> {
    let train = table.train();
    let before = train.cores().len() - train.modes().row_modes().len();
    core.checked_sub(before)
}

fn operand(core: &quant_core::QuantizedTensor) -> Operand {
    Operand::new(core, &[1, 0, 2, 3], 1)
}

/// The bytes of the initializers that [`place_table_train`] makes, but for those that all layers share.
pub(crate) fn table_train_bytes(table: &TableTrain) -> u64 {
    let cores = table.train().cores().iter();
    cores.map(|core| operand(core).stored_bytes()).sum()
}

/// Stores the cores of a table.
pub(crate) fn place_table_train(
    e: &mut Emitter,
    prefix: &str,
    table: &TableTrain,
) -> Result<PlacedTableTrain, SkipReason> {
    if e.opset < OLDEST_OPSET {
        return Err(SkipReason::Opset {
            needed: OLDEST_OPSET,
            found: e.opset,
        });
    }
    let cores = table.train().cores().iter().enumerate();
    let cores = cores.map(|(k, core)| {
        Ok(PlacedCore {
            matrix: operand(core).place(e, &format!("{prefix}/core{k}"))?,
            shape: std::array::from_fn(|axis| core.shape()[axis] as i64),
            row_mode: row_mode(table, k),
        })
    });
    let [rows, columns] = table.shape();
    Ok(PlacedTableTrain {
        cores: cores.collect::<Result<_, SkipReason>>()?,
        rows: rows as i64,
        columns,
    })
}

/// Emits what takes the place of one Gather of rows; the last node makes the Gather's own output.
///
/// The state after core k is `[B, n_1 .. n_k, r_k]` for `B` rows, its middle axes as one; without the leading `B` that is
/// `[1, ..]` as long as no core has had a row mode.
pub(crate) fn emit_train_lookup(
    e: &mut Emitter,
    view: &GraphView<'_>,
    node: usize,
    prefix: &str,
    table: &PlacedTableTrain,
) {
    let gather = view.node(node);
    let (indices, output) = (&gather.input[1], gather.output[0].clone());
    let at = table.checked_indices(e, prefix, indices);
    let mut state: Option<String> = None;
    let mut width = 1;
    for (k, core) in table.cores.iter().enumerate() {
        let name = format!("{prefix}/core{k}");
        let slices = match core.row_mode {
            None => core.matrix.join(e, &format!("{name}/whole")),
            Some(mode) => {
                let index = table.mode_index(e, &name, &at, mode);
                core.matrix.gather(e, &format!("{name}/slices"), &index)
            }
        };
        let [rank, _, columns, next] = core.shape;
        state = Some(match state {
            None => e.reshape(&format!("{name}/first"), &slices, &[-1, columns, next]),
            Some(state) => {
                let slices = e.reshape(
                    &format!("{name}/matrices"),
                    &slices,
                    &[-1, rank, columns * next],
                );
                let product = e.node(
                    "MatMul",
                    &format!("{name}/product"),
                    &[&state, &slices],
                    Vec::new(),
                );
                e.reshape(
                    &format!("{name}/state"),
                    &product,
                    &[-1, width * columns, next],
                )
            }
        });
        width *= columns;
    }
    like_indices(
        e,
        prefix,
        &state.unwrap_or_default(),
        (indices, table.columns),
        output,
    );
}

impl PlacedTableTrain {
    /// The indices as a list in `0..rows`. One that is no row of the table becomes one that the first row mode has no slice
    /// for, so that an engine refuses it as it would have in the table.
    fn checked_indices(&self, e: &mut Emitter, prefix: &str, indices: &str) -> String {
        let (rows, zero, minus_one) = (e.shape(&[self.rows]), e.shape(&[0]), e.shape(&[-1]));
        let padded: i64 = self
            .cores
            .iter()
            .filter(|c| c.row_mode.is_some())
            .map(|c| c.shape[1])
            .product();
        let beyond = e.shape(&[padded]);
        let flat = e.reshape(&format!("{prefix}/x"), indices, &[-1]);
        let flat = e.cast(&format!("{prefix}/i"), &flat, DataType::Int64);
        let mut node = |op: &str, name: &str, inputs: &[&str]| {
            e.node(op, &format!("{prefix}/{name}"), inputs, Vec::new())
        };
        let negative = node("Less", "negative", &[&flat, &zero]);
        let from_end = node("Add", "from_end", &[&flat, &rows]);
        let row = node("Where", "row", &[&negative, &from_end, &flat]);
        let above = node("Less", "above", &[&minus_one, &row]);
        let below = node("Less", "below", &[&row, &rows]);
        let inside = node("And", "inside", &[&above, &below]);
        node("Where", "checked", &[&inside, &row, &beyond])
    }

    /// The index into one row mode: a digit of the row, the first one unbounded.
    fn mode_index(&self, e: &mut Emitter, name: &str, row: &str, mode: usize) -> String {
        let modes = self.cores.iter().filter(|c| c.row_mode.is_some());
        let modes: Vec<i64> = modes.map(|c| c.shape[1]).collect();
        let stride: i64 = modes[mode + 1..].iter().product();
        let mut index = row.to_string();
        if stride > 1 {
            let stride = e.shape(&[stride]);
            index = e.node(
                "Div",
                &format!("{name}/div"),
                &[&index, &stride],
                Vec::new(),
            );
        }
        if mode > 0 {
            let size = e.shape(&[modes[mode]]);
            index = e.node(
                "Mod",
                &format!("{name}/index"),
                &[&index, &size],
                Vec::new(),
            );
        }
        index
    }
}
