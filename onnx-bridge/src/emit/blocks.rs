//! Matrices of few levels in blocks as initializers, and the operators that unpack them.
//!
//! Codes stand in words of radix `L`, see [`crate::blocks`]: digit `d` of a word `w` is
//! `floor((w + 1/2) L^-d) mod L`, exact in f32, because the half keeps the product away from whole numbers. The digits of
//! one place stand side by side, so unpacking is one product with a column, one Floor, one Mod and a Reshape.

use super::Emitter;
#[cfg(feature = "tract")]
use super::{FOLDED_ELEMENTS, Placed, operand::Columns, train::PlacedTrain};
use crate::blocks::{BlockMatrix, Levels, Word};
use crate::proto::{self, DataType, raw_tensor};
use crate::skip::SkipReason;
use crate::tensor;

/// Mod came with opset 10.
const OLDEST_OPSET: i64 = 10;

/// Codes and steps in the order of an operand, and how they lie there.
struct Laid<'a> {
    matrix: &'a BlockMatrix,
    codes: Vec<u8>,
    steps: Vec<u8>,
    /// Blocks and elements of a block are axes of their own.
    grid: Vec<i64>,
    scales: Vec<usize>,
    shape: Vec<i64>,
}

impl<'a> Laid<'a> {
    /// `[K, M]`, for `x @ Wᵀ`.
    #[cfg(feature = "tract")]
    fn turned(matrix: &'a BlockMatrix) -> Self {
        let [m, k] = matrix.shape();
        let (codes, steps) = matrix.transposed();
        let (block, blocks) = (matrix.format().block, matrix.format().blocks(k));
        Self {
            matrix,
            codes,
            steps,
            grid: [blocks, block, m].map(|n| n as i64).to_vec(),
            scales: vec![blocks, 1, m],
            shape: [k, m].map(|n| n as i64).to_vec(),
        }
    }

    /// `[M, K]` as it stands.
    fn straight(matrix: &'a BlockMatrix) -> Self {
        let [m, k] = matrix.shape();
        let (block, blocks) = (matrix.format().block, matrix.format().blocks(k));
        Self {
            matrix,
            codes: matrix.codes().to_vec(),
            steps: matrix.steps().to_vec(),
            grid: [m, blocks, block].map(|n| n as i64).to_vec(),
            scales: vec![m, blocks, 1],
            shape: [m, k].map(|n| n as i64).to_vec(),
        }
    }
}

/// Refuses what has no operators here.
pub(super) fn check(e: &Emitter, matrix: &BlockMatrix) -> Result<(), SkipReason> {
    if e.opset < OLDEST_OPSET {
        return Err(SkipReason::Opset {
            needed: OLDEST_OPSET,
            found: e.opset,
        });
    }
    let (block, cols) = (matrix.format().block, matrix.shape()[1]);
    if cols % block != 0 {
        let problem =
            format!("expected blocks that divide {cols} columns, found blocks of {block}");
        return Err(SkipReason::Misfit { problem });
    }
    Ok(())
}

/// Stores `W [M, K]` as the operand `[K, M]` of `x @ Wᵀ`.
#[cfg(feature = "tract")]
pub(crate) fn place_dense(
    e: &mut Emitter,
    name: &str,
    matrix: &BlockMatrix,
) -> Result<Placed, SkipReason> {
    Ok(Placed::Product(vec![columns(e, name, matrix)?]))
}

/// Stores `L [M, r]`, `R [r, K]` as the two operands of `x @ Rᵀ @ Lᵀ`.
#[cfg(feature = "tract")]
pub(crate) fn place_low_rank(
    e: &mut Emitter,
    name: &str,
    left: &BlockMatrix,
    right: &BlockMatrix,
) -> Result<Placed, SkipReason> {
    Ok(Placed::Product(vec![
        columns(e, &format!("{name}/r"), right)?,
        columns(e, &format!("{name}/l"), left)?,
    ]))
}

/// Stores `L [M, r]`, `C [r, r]`, `R [r, K]` as the three operands of `x @ Rᵀ @ Cᵀ @ Lᵀ`.
#[cfg(feature = "tract")]
pub(crate) fn place_tucker(
    e: &mut Emitter,
    name: &str,
    [left, core, right]: [&BlockMatrix; 3],
) -> Result<Placed, SkipReason> {
    Ok(Placed::Product(vec![
        columns(e, &format!("{name}/r"), right)?,
        columns(e, &format!("{name}/k"), core)?,
        columns(e, &format!("{name}/l"), left)?,
    ]))
}

/// Stores the cores `[(r m1), n1]` and `[m2, (r n2)]` of an interleaved train, run from the first to the last.
#[cfg(feature = "tract")]
pub(crate) fn place_train(
    e: &mut Emitter,
    name: &str,
    [first, second]: [&BlockMatrix; 2],
    [[m1, m2], [n1, n2]]: [[usize; 2]; 2],
) -> Result<Placed, SkipReason> {
    let rank = first.shape()[0] / m1.max(1);
    let cores = vec![
        columns(e, &format!("{name}/a"), first)?,
        columns(e, &format!("{name}/b"), second)?,
    ];
    let shapes = [[1, m1, n1, rank], [rank, m2, n2, 1]].map(|s| s.map(|n| n as i64));
    Ok(Placed::Train(PlacedTrain::forward_cores(
        cores,
        shapes.to_vec(),
    )))
}

/// Stores `Q + L R` as one operand, which engines compute when they load.
#[cfg(feature = "tract")]
pub(crate) fn place_corrected(
    e: &mut Emitter,
    name: &str,
    base: &BlockMatrix,
    [left, right]: [&BlockMatrix; 2],
) -> Result<Placed, SkipReason> {
    let mut single = |name: &str, matrix: &BlockMatrix| {
        let too_large = || SkipReason::Misfit {
            problem: format!(
                "expected at most {FOLDED_ELEMENTS} elements, found {:?}",
                matrix.shape()
            ),
        };
        columns(e, name, matrix)?
            .single()
            .map(str::to_string)
            .ok_or_else(too_large)
    };
    let base = single(name, base)?;
    let [right, left] = [
        single(&format!("{name}/r"), right)?,
        single(&format!("{name}/l"), left)?,
    ];
    let train = e.node("MatMul", &format!("{name}/t"), &[&right, &left], Vec::new());
    let sum = e.node("Add", &format!("{name}/s"), &[&base, &train], Vec::new());
    Ok(Placed::Product(vec![Columns::whole(sum)]))
}

#[cfg(feature = "tract")]
fn columns(e: &mut Emitter, name: &str, matrix: &BlockMatrix) -> Result<Columns, SkipReason> {
    check(e, matrix)?;
    let [m, k] = matrix.shape();
    let most = (FOLDED_ELEMENTS / k.max(1)).max(1);
    if m <= most {
        return Ok(Columns::whole(value(e, name, &Laid::turned(matrix))));
    }
    let step = m.div_ceil(m.div_ceil(most));
    let parts = (0..m).step_by(step).enumerate().map(|(i, from)| {
        let part = matrix.row_range(from, (from + step).min(m));
        value(e, &format!("{name}/{i}"), &Laid::turned(&part))
    });
    Ok(Columns::pieces(parts.collect()))
}

/// Stores a matrix and makes it, as it stands.
pub(super) fn straight(
    e: &mut Emitter,
    name: &str,
    matrix: &BlockMatrix,
) -> Result<String, SkipReason> {
    check(e, matrix)?;
    Ok(value(e, name, &Laid::straight(matrix)))
}

/// Stores a matrix and makes it as it stands; rows that were cut are joined, for engines fold a result that is no larger
/// than its inputs.
#[cfg(feature = "tract")]
pub(super) fn joined(
    e: &mut Emitter,
    name: &str,
    matrix: &BlockMatrix,
) -> Result<String, SkipReason> {
    let [m, k] = matrix.shape();
    let most = (FOLDED_ELEMENTS / k.max(1)).max(1);
    if m <= most {
        return straight(e, name, matrix);
    }
    let step = m.div_ceil(m.div_ceil(most));
    let parts = (0..m).step_by(step).enumerate().map(|(i, from)| {
        let part = matrix.row_range(from, (from + step).min(m));
        straight(e, &format!("{name}/{i}"), &part)
    });
    let parts: Vec<String> = parts.collect::<Result<_, _>>()?;
    Ok(e.concat(&format!("{name}/j"), &parts, 0))
}

fn value(e: &mut Emitter, name: &str, laid: &Laid<'_>) -> String {
    let levels = laid.matrix.format().levels;
    let count = laid.codes.len();
    let (word, places) = levels.packing();
    let dims: Vec<usize> = if places == 1 {
        laid.grid.iter().map(|&n| n as usize).collect()
    } else {
        vec![1, levels.words(count)]
    };
    let packed = levels.pack(&laid.codes);
    let stored = e.initializer(name, |n| raw_tensor(n, element(word), &dims, packed));
    let mut codes = digits(e, name, &stored, levels);
    if places > 1 {
        if levels.words(count) * places != count {
            codes = e.reshape(&format!("{name}/f"), &codes, &[-1]);
            codes = e.slice(&format!("{name}/c"), &codes, 0, [0, count as i64]);
        }
        codes = e.reshape(&format!("{name}/g"), &codes, &laid.grid);
    }
    let steps = e.initializer(&format!("{name}/p"), |n| {
        raw_tensor(n, DataType::Uint8, &laid.scales, laid.steps.clone())
    });
    let scaled = scale(e, name, &codes, &steps, laid.matrix);
    e.reshape(&format!("{name}/w"), &scaled, &laid.shape)
}

/// The digits of words `[.., 1, P]` as `f32` `[.., places, P]`; words of one digit keep their shape.
pub(super) fn digits(e: &mut Emitter, name: &str, words: &str, levels: Levels) -> String {
    let (_, places) = levels.packing();
    let radix = f32::from(levels.count());
    let wide = e.cast_to_f32(&format!("{name}/u"), words);
    if places == 1 {
        return wide;
    }
    let half = e.scalar(0.5);
    let shifted = e.node("Add", &format!("{name}/h"), &[&wide, &half], Vec::new());
    let powers: Vec<f32> = (0..places).map(|d| radix.powi(-(d as i32))).collect();
    let powers = e.shared(&format!("radix{}", levels.count()), |n| {
        tensor::from_f32(n, &[places, 1], &powers)
    });
    let quotients = e.node(
        "Mul",
        &format!("{name}/q"),
        &[&shifted, &powers],
        Vec::new(),
    );
    let whole = e.node("Floor", &format!("{name}/i"), &[&quotients], Vec::new());
    let radix = e.scalar(radix);
    e.node(
        "Mod",
        &format!("{name}/d"),
        &[&whole, &radix],
        vec![proto::int_attribute("fmod", 1)],
    )
}

/// `(codes - zero) * (steps * unit)^2`.
pub(super) fn scale(
    e: &mut Emitter,
    name: &str,
    codes: &str,
    steps: &str,
    matrix: &BlockMatrix,
) -> String {
    let zero = e.scalar(matrix.format().levels.zero());
    let centred = e.node("Sub", &format!("{name}/z"), &[codes, &zero], Vec::new());
    let wide = e.cast_to_f32(&format!("{name}/pu"), steps);
    let unit = e.initializer(&format!("{name}/o"), |n| {
        tensor::from_f32(n, &[], &[matrix.unit()])
    });
    let root = e.node("Mul", &format!("{name}/po"), &[&wide, &unit], Vec::new());
    let scales = e.node("Mul", &format!("{name}/ps"), &[&root, &root], Vec::new());
    e.node(
        "Mul",
        &format!("{name}/v"),
        &[&centred, &scales],
        Vec::new(),
    )
}

pub(super) fn element(word: Word) -> DataType {
    match word {
        Word::U8 => DataType::Uint8,
        Word::U16 => DataType::Uint16,
    }
}
