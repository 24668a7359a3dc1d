//! Tables of few levels: only the rows that are asked for are unpacked.

use super::Emitter;
use super::blocks;
use crate::blocks::BlockMatrix;
use crate::proto::{self, raw_tensor};
use crate::skip::SkipReason;
use crate::view::GraphView;

/// A table whose rows stand packed in the graph.
#[derive(Debug, Clone)]
pub(crate) struct PlacedTable {
    words: String,
    steps: String,
    matrix: BlockMatrix,
    /// `R [r, columns]`, for a table `L R` of low rank.
    right: Option<(String, usize)>,
}

/// Stores a table, each row packed by itself; with `right`, the table is `left` times it.
pub(crate) fn place_table(
    e: &mut Emitter,
    name: &str,
    left: &BlockMatrix,
    right: Option<&BlockMatrix>,
) -> Result<PlacedTable, SkipReason> {
    blocks::check(e, left)?;
    let [rows, cols] = left.shape();
    let format = left.format();
    let (word, _) = format.levels.packing();
    let words = format.levels.words(cols);
    let packed: Vec<u8> = left
        .codes()
        .chunks(cols.max(1))
        .flat_map(|row| format.levels.pack(row))
        .collect();
    let stored = e.initializer(name, |n| {
        raw_tensor(n, blocks::element(word), &[rows, 1, words], packed)
    });
    let steps = [rows, format.blocks(cols), 1];
    let steps = e.initializer(&format!("{name}/p"), |n| {
        raw_tensor(n, proto::DataType::Uint8, &steps, left.steps().to_vec())
    });
    let right = match right {
        Some(right) => Some((
            blocks::straight(e, &format!("{name}/r"), right)?,
            right.shape()[1],
        )),
        None => None,
    };
    // The codes themselves are stored by now; what is needed further is how they are stored.
    Ok(PlacedTable {
        words: stored,
        steps,
        matrix: left.row_range(0, 0),
        right,
    })
}

/// Emits what takes the place of one Gather of rows; the last node makes the Gather's own output.
pub(crate) fn emit_lookup(
    e: &mut Emitter,
    view: &GraphView<'_>,
    node: usize,
    prefix: &str,
    table: &PlacedTable,
) {
    let gather = view.node(node);
    let (indices, output) = (&gather.input[1], gather.output[0].clone());
    let cols = table.matrix.shape()[1];
    let format = table.matrix.format();
    let flat = e.reshape(&format!("{prefix}/x"), indices, &[-1]);
    let words = e.node(
        "Gather",
        &format!("{prefix}/a"),
        &[&table.words, &flat],
        Vec::new(),
    );
    let steps = e.node(
        "Gather",
        &format!("{prefix}/b"),
        &[&table.steps, &flat],
        Vec::new(),
    );
    let mut codes = blocks::digits(e, prefix, &words, format.levels);
    let (_, places) = format.levels.packing();
    let unpacked = places * format.levels.words(cols);
    if unpacked != cols {
        codes = e.reshape(&format!("{prefix}/f"), &codes, &[-1, unpacked as i64]);
        codes = e.slice(&format!("{prefix}/c"), &codes, 1, [0, cols as i64]);
    }
    let grid = [-1, format.blocks(cols) as i64, format.block as i64];
    let codes = e.reshape(&format!("{prefix}/g"), &codes, &grid);
    let mut rows = blocks::scale(e, prefix, &codes, &steps, &table.matrix);
    let mut width = cols;
    if let Some((right, outer)) = &table.right {
        let left = e.reshape(&format!("{prefix}/l"), &rows, &[-1, cols as i64]);
        rows = e.node(
            "MatMul",
            &format!("{prefix}/m"),
            &[&left, right],
            Vec::new(),
        );
        width = *outer;
    }
    like_indices(e, prefix, &rows, (indices, width), output);
}

/// Gives looked-up rows the axes of their indices; the last node makes `output`.
pub(super) fn like_indices(
    e: &mut Emitter,
    prefix: &str,
    rows: &str,
    (indices, width): (&str, usize),
    output: String,
) {
    let leading = e.node("Shape", &format!("{prefix}/s"), &[indices], Vec::new());
    let last = e.shape(&[width as i64]);
    let shape = e.concat(&format!("{prefix}/t"), &[leading, last], 0);
    e.reshape_to(&format!("{prefix}/y"), rows, &shape);
    if let Some(made) = e.nodes.last_mut() {
        made.output = vec![output];
    }
}
