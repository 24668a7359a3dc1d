//! Finds matrices of few levels in blocks, and tables of them that rows are looked up in.
//!
//! A matrix is the chain `(digits - zero) * (steps * unit)^2`: its decoded value stands in the graph whole. A table has the
//! same chain behind two `Gather`s, so that only rows are ever decoded; the value of the whole table has no name then.

use bytes::Bytes;

use super::{Reader, Stored, bytes_of};
use crate::blocks::{Levels, Word, scale_of};
use crate::proto::{DataType, GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// The codes and steps of a matrix: what training changes and the file stores.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockValues {
    /// One code to a byte, in the order of the array.
    pub codes: Vec<u8>,
    /// One step for every block, in the order of the array without the axis inside a block.
    pub steps: Vec<u8>,
    /// What a step is multiplied by before it is squared.
    pub unit: f32,
}

/// How elements and blocks lie: `[outer, block, inner]`, with one step for every pair of an outer and an inner index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockExtent {
    /// Rows, or rows and blocks of a row.
    pub outer: usize,
    /// Elements of a block.
    pub block: usize,
    /// Columns, where blocks run down them; else 1.
    pub inner: usize,
}

impl BlockExtent {
    /// All elements.
    pub fn elements(&self) -> usize {
        self.outer * self.block * self.inner
    }

    /// All blocks.
    pub fn blocks(&self) -> usize {
        self.outer * self.inner
    }
}

/// One place where rows of a table are decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The value that holds the rows `[n, blocks, block]`.
    pub value: String,
    /// The indices `[n]`.
    pub indices: String,
}

/// A matrix of few levels of a compressed file, and where its codes, steps and units stand.
#[derive(Debug, Clone)]
pub struct StoredBlocks {
    value: String,
    shape: Vec<usize>,
    extent: BlockExtent,
    levels: Levels,
    values: BlockValues,
    lookups: Vec<Lookup>,
    words: String,
    steps: String,
    units: Vec<String>,
}

impl StoredBlocks {
    /// The graph's value that holds the decoded array; for a table, a name after that of its codes.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The shape of the decoded array; for a table `[rows, blocks, block]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How elements and blocks lie.
    pub fn extent(&self) -> BlockExtent {
        self.extent
    }

    /// The grid.
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// Codes and steps as they stand in the file.
    pub fn values(&self) -> &BlockValues {
        &self.values
    }

    /// Where rows are looked up; empty for a matrix that stands in the graph whole.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// The initializers it consists of: codes, steps, units.
    pub fn initializers(&self) -> impl Iterator<Item = &str> {
        [self.words.as_str(), self.steps.as_str()]
            .into_iter()
            .chain(self.units.iter().map(String::as_str))
    }

    /// The array as the emitted operators compute it, to the bit.
    pub fn dequantize(&self) -> Vec<f32> {
        let (zero, e) = (self.levels.zero(), self.extent);
        let mut out = vec![0.0; self.values.codes.len()];
        let rows = e.block * e.inner;
        for (o, (out, codes)) in out
            .chunks_mut(rows.max(1))
            .zip(self.values.codes.chunks(rows.max(1)))
            .enumerate()
        {
            for (i, (out, &code)) in out.iter_mut().zip(codes).enumerate() {
                let step = self.values.steps[o * e.inner + i % e.inner];
                *out = (f32::from(code) - zero) * scale_of(step, self.values.unit);
            }
        }
        out
    }

    /// Writes other codes and steps into the same initializers.
    ///
    /// [`Stored::Misfit`], and nothing changed, where `values` has other extents or an initializer is gone.
    #[must_use]
    pub fn store(&self, graph: &mut GraphProto, values: &BlockValues) -> Stored {
        let fits = values.codes.len() == self.values.codes.len()
            && values.steps.len() == self.values.steps.len();
        let place = |name: &str| graph.initializer.iter().position(|t| t.name() == name);
        let places: Option<Vec<usize>> = self.initializers().map(place).collect();
        let (Some(places), true) = (places, fits) else {
            return Stored::Misfit;
        };
        let packed = match self.lookups.is_empty() {
            true => self.levels.pack(&values.codes),
            false => values
                .codes
                .chunks(self.row().max(1))
                .flat_map(|row| self.levels.pack(row))
                .collect(),
        };
        let set = |t: &mut TensorProto, data: Vec<u8>| {
            t.raw_data = Some(Bytes::from(data));
            t.int32_data.clear();
            t.float_data.clear();
        };
        set(&mut graph.initializer[places[0]], packed);
        set(&mut graph.initializer[places[1]], values.steps.clone());
        for &at in &places[2..] {
            set(
                &mut graph.initializer[at],
                values.unit.to_le_bytes().to_vec(),
            );
        }
        Stored::Written
    }

    /// Elements of one row of a table.
    fn row(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// Every matrix and table of few levels of a graph, in the order in which the graph decodes them.
pub fn stored_blocks(graph: &GraphProto) -> Vec<StoredBlocks> {
    let reader = Reader::new(graph);
    let mut found: Vec<StoredBlocks> = Vec::new();
    for blocks in graph
        .node
        .iter()
        .filter(|n| n.op_type() == "Mul")
        .filter_map(|n| reader.blocks(n))
    {
        // A table that is looked up in several places is one array.
        match found.iter_mut().find(|f| f.words == blocks.words) {
            Some(table) => {
                table.lookups.extend(blocks.lookups);
                table.units.extend(blocks.units);
            }
            None => found.push(blocks),
        }
    }
    found
}

/// Packed codes, and where they are looked up by.
struct Words<'a> {
    initializer: &'a str,
    proto: &'a TensorProto,
    /// The indices of a `Gather` of rows.
    indices: Option<&'a str>,
}

impl<'a> Reader<'a> {
    fn blocks(&self, node: &'a NodeProto) -> Option<StoredBlocks> {
        let [centred, scales] = node.input.as_slice() else {
            return None;
        };
        let square = self.producer(scales, "Mul")?;
        let [root, again] = square.input.as_slice() else {
            return None;
        };
        let root = (root == again).then(|| self.producer(root, "Mul"))??;
        let [steps, unit_name] = root.input.as_slice() else {
            return None;
        };
        let unit = match self.floats(unit_name)?.1.as_slice() {
            [unit] => *unit,
            _ => return None,
        };
        let steps = self.words(steps)?;
        let centre = self.producer(centred, "Sub")?;
        let zero = match self.floats(centre.input.get(1)?)?.1.as_slice() {
            [zero] => *zero,
            _ => return None,
        };
        let levels = Levels::try_from((2.0 * zero + 1.0) as u16).ok()?;
        if levels.zero() != zero {
            return None;
        }
        let (words, grid) = self.digits(centre.input.first()?)?;
        let (scale_shape, step_bytes) = (
            tensor::shape(steps.proto).ok()?,
            bytes_of(steps.proto)?.to_vec(),
        );
        if steps.indices != words.indices {
            return None;
        }
        let mut shape = grid.unwrap_or(tensor::shape(words.proto).ok()?);
        if words.indices.is_some() {
            // `[-1, blocks, block]` of the rows that are looked up: the table has as many rows as steps.
            *shape.first_mut()? = *scale_shape.first()?;
        }
        let extent = extent(&shape, &scale_shape)?;
        let packed = bytes_of(words.proto)?;
        let row: usize = shape.iter().skip(1).product();
        let codes: Vec<u8> = match words.indices {
            None => levels.unpack(&packed, extent.elements()),
            Some(_) => packed
                .chunks(levels.packed_bytes(row).max(1))
                .flat_map(|bytes| levels.unpack(bytes, row))
                .collect(),
        };
        let (word, _) = levels.packing();
        let wide = match word {
            Word::U8 => DataType::Uint8,
            Word::U16 => DataType::Uint16,
        };
        let fits = codes.len() == extent.elements()
            && step_bytes.len() == extent.blocks()
            && words.proto.data_type() == wide as i32
            && steps.proto.data_type() == DataType::Uint8 as i32;
        let value = node.output.first()?.clone();
        fits.then(|| StoredBlocks {
            value: match words.indices {
                None => value.clone(),
                Some(_) => format!("{}/table", words.initializer),
            },
            shape,
            extent,
            levels,
            values: BlockValues {
                codes,
                steps: step_bytes,
                unit,
            },
            lookups: words
                .indices
                .map(|indices| Lookup {
                    value,
                    indices: indices.to_string(),
                })
                .into_iter()
                .collect(),
            words: words.initializer.to_string(),
            steps: steps.initializer.to_string(),
            units: vec![unit_name.clone()],
        })
    }

    /// An integer initializer behind a `Cast`, or behind a `Cast` of looked-up rows.
    fn words(&self, value: &str) -> Option<Words<'a>> {
        let source = self.producer(value, "Cast")?.input.first()?;
        let (initializer, indices) = match self.producer(source, "Gather") {
            Some(gather) => (gather.input.first()?, Some(gather.input.get(1)?.as_str())),
            None => (source, None),
        };
        Some(Words {
            initializer,
            proto: self.initializers.get(initializer.as_str())?,
            indices,
        })
    }

    /// The words behind unpacked digits, and the shape that those are given: none where a word is a digit and lies as it
    /// is to.
    fn digits(&self, value: &str) -> Option<(Words<'a>, Option<Vec<usize>>)> {
        if let Some(words) = self.words(value) {
            return Some((words, None));
        }
        let grid = self.producer(value, "Reshape")?;
        let dims = tensor::to_i64(self.initializers.get(grid.input.get(1)?.as_str())?)?;
        let shape = dims
            .iter()
            .map(|&d| if d < 0 { 0 } else { d as usize })
            .collect();
        let mut digits = grid.input.first()?;
        if let Some(cut) = self.producer(digits, "Slice") {
            digits = self
                .producer(cut.input.first()?, "Reshape")?
                .input
                .first()?;
        }
        if let Some(words) = self.words(digits) {
            return Some((words, Some(shape)));
        }
        let mut at = digits;
        for op in ["Mod", "Floor", "Mul", "Add"] {
            at = self.producer(at, op)?.input.first()?;
        }
        Some((self.words(at)?, Some(shape)))
    }
}

/// The one axis along which elements share a step.
fn extent(shape: &[usize], steps: &[usize]) -> Option<BlockExtent> {
    if shape.len() != steps.len() {
        return None;
    }
    let axis = (0..shape.len())
        .rev()
        .find(|&k| steps[k] == 1 && shape[k] != 1)
        .or_else(|| (0..shape.len()).rev().find(|&k| steps[k] == 1))?;
    let others = (0..shape.len()).all(|k| k == axis || steps[k] == shape[k]);
    others.then(|| BlockExtent {
        outer: shape[..axis].iter().product(),
        block: shape[axis],
        inner: shape[axis + 1..].iter().product(),
    })
}
