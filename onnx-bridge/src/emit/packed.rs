//! Matrices of few levels for operators that keep them packed while they run: `MatMulNBits` of ONNX Runtime's own domain,
//! which tract knows too, and `DequantizeLinear` over blocks of opset 21.
//!
//! Both stand for `(q - z) s` with `z` in the middle of the codes, and the grids here are symmetric about zero. One with an
//! odd number of levels is that with its codes shifted. One with an even number has its zero between two codes, so half a
//! step is missing, `W x = (q - z) s x + s/2 sum_block x`: it is added from the sums of each block's inputs, for a product as
//! wide as a row has blocks and no bytes in the file. The codes are exact either way.

use serde::{Deserialize, Serialize};

use super::Emitter;
use crate::blocks::{BlockFormat, BlockMatrix, Levels};
use crate::proto::{self, DataType, raw_tensor};
use crate::skip::SkipReason;
use crate::tensor;

/// Which engines a written model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunsOn {
    /// Every engine: standard operators alone.
    #[default]
    Portable,
    /// tract, which keeps 4 bits in blocks of 32 and 2 bits packed in memory. ONNX Runtime takes such a model too.
    Tract,
    /// ONNX Runtime, which keeps 2, 4 and 8 bits packed: `DequantizeLinear` over blocks for 4 bits from opset 21 on, else
    /// `MatMulNBits`.
    Ort,
}

/// The domain of `MatMulNBits`.
const MICROSOFT: &str = "com.microsoft";

/// Expand came with opset 8.
const OLDEST_OPSET: i64 = 8;

/// `DequantizeLinear` has blocks from this opset on.
const BLOCKS_OPSET: i64 = 21;

impl RunsOn {
    /// The bits of a matrix of `cols` columns in a format that the engine keeps packed; `None` where it does not.
    pub fn packed_bits(self, format: BlockFormat, cols: usize) -> Option<u8> {
        let bits = match format.levels {
            Levels::L3 | Levels::L4 => 2,
            Levels::L16 => 4,
            Levels::L256 => 8,
            _ => return None,
        };
        let block = format.block;
        let fits = match self {
            Self::Portable => false,
            Self::Tract => {
                (bits == 4 && block == 32) || (bits == 2 && block > 0 && block.is_multiple_of(32))
            }
            Self::Ort => block >= 16 && block.is_power_of_two(),
        };
        (fits && cols.is_multiple_of(block)).then_some(bits)
    }

    /// Bytes of a matrix that the engine keeps packed, its codes and a scale of 4 bytes for each block; `None` where it does
    /// not.
    pub(crate) fn packed_bytes(self, format: BlockFormat, [m, k]: [usize; 2]) -> Option<u64> {
        let bits = usize::from(self.packed_bits(format, k)?);
        Some((m * (k * bits / 8 + 4 * (k / format.block))) as u64)
    }
}

/// A matrix `[M, K]` that stands packed in the graph.
#[derive(Debug, Clone)]
pub(crate) struct PlacedPacked {
    /// The packed codes of MatMulNBits, or the matrix `[K, M]` that DequantizeLinear makes.
    words: String,
    /// Bits of MatMulNBits; nothing for DequantizeLinear.
    bits: Option<u8>,
    /// `[M, blocks]` or, for DequantizeLinear, `[blocks, M]`.
    scales: String,
    shape: [usize; 2],
    block: usize,
    /// Whether half a step is to be added back.
    halves: bool,
}

/// Stores a matrix for the operators of an engine that keep it packed; `None` where it has none for this format.
pub(crate) fn place_packed(
    e: &mut Emitter,
    name: &str,
    matrix: &BlockMatrix,
    runs_on: RunsOn,
) -> Result<Option<PlacedPacked>, SkipReason> {
    let ([m, k], format) = (matrix.shape(), matrix.format());
    let Some(bits) = runs_on.packed_bits(format, k) else {
        return Ok(None);
    };
    if e.opset < OLDEST_OPSET {
        return Err(SkipReason::Opset {
            needed: OLDEST_OPSET,
            found: e.opset,
        });
    }
    let blocks = format.blocks(k);
    let zero = format.levels.zero();
    let middle = 1_u8 << (bits - 1);
    let halves = zero.fract() != 0.0;
    // `c - zero` is `q - middle`, and half a step more where `zero` lies between two codes.
    let shift = middle - zero.ceil() as u8;
    let scales: Vec<f32> = matrix.steps().iter().map(|&s| matrix.scale(s)).collect();
    if runs_on == RunsOn::Ort && bits == 4 && e.opset >= BLOCKS_OPSET {
        let (codes, _) = matrix.transposed();
        let signed: Vec<u8> = codes
            .iter()
            .map(|c| c.wrapping_add(shift).wrapping_sub(middle))
            .collect();
        let packed = pack(&signed, bits);
        let stored = e.initializer(name, |n| raw_tensor(n, DataType::Int4, &[k, m], packed));
        let turned: Vec<f32> = (0..blocks)
            .flat_map(|b| (0..m).map(move |row| row * blocks + b))
            .map(|at| scales[at])
            .collect();
        let scales = e.initializer(&format!("{name}/s"), |n| {
            tensor::from_f32(n, &[blocks, m], &turned)
        });
        let attributes = vec![
            proto::int_attribute("axis", 0),
            proto::int_attribute("block_size", format.block as i64),
        ];
        let words = e.node(
            "DequantizeLinear",
            &format!("{name}/w"),
            &[&stored, &scales],
            attributes,
        );
        return Ok(Some(PlacedPacked {
            words,
            bits: None,
            scales,
            shape: [m, k],
            block: format.block,
            halves,
        }));
    }
    let codes: Vec<u8> = matrix.codes().iter().map(|c| c + shift).collect();
    let packed = pack(&codes, bits);
    let dims = [m, blocks, format.block * usize::from(bits) / 8];
    let words = e.initializer(name, |n| raw_tensor(n, DataType::Uint8, &dims, packed));
    let scales = e.initializer(&format!("{name}/s"), |n| {
        tensor::from_f32(n, &[m * blocks], &scales)
    });
    e.use_domain(MICROSOFT, 1);
    Ok(Some(PlacedPacked {
        words,
        bits: Some(bits),
        scales,
        shape: [m, k],
        block: format.block,
        halves,
    }))
}

/// Codes side by side in bytes, the first in the lowest bits.
fn pack(codes: &[u8], bits: u8) -> Vec<u8> {
    let mask = ((1_u16 << bits) - 1) as u8;
    let join =
        |word: u8, (place, code): (usize, &u8)| word | (code & mask) << (place * usize::from(bits));
    codes
        .chunks(usize::from(8 / bits))
        .map(|some| some.iter().enumerate().fold(0, join))
        .collect()
}

impl PlacedPacked {
    /// `x @ Wᵀ` for an `x` whose last axis has `K` elements.
    pub(super) fn multiply(&self, e: &mut Emitter, prefix: &str, x: &str) -> String {
        let [m, k] = self.shape;
        let product = if self.halves {
            format!("{prefix}/codes")
        } else {
            format!("{prefix}/output")
        };
        let y = match self.bits {
            None => e.node("MatMul", &product, &[x, &self.words], Vec::new()),
            Some(bits) => {
                let number = |name: &str, value: usize| proto::int_attribute(name, value as i64);
                let attributes = vec![
                    number("K", k),
                    number("N", m),
                    number("bits", usize::from(bits)),
                    number("block_size", self.block),
                ];
                let inputs = [x, &self.words, &self.scales];
                let y = e.node("MatMulNBits", &product, &inputs, attributes);
                if let Some(node) = e.nodes.last_mut() {
                    node.domain = Some(MICROSOFT.to_string());
                }
                y
            }
        };
        if !self.halves {
            return y;
        }
        let sums = self.block_sums(e, prefix, x);
        let steps = self.half_steps(e, prefix);
        let half = e.node(
            "MatMul",
            &format!("{prefix}/half"),
            &[&sums, &steps],
            Vec::new(),
        );
        e.node("Add", &format!("{prefix}/output"), &[&y, &half], Vec::new())
    }

    /// The sums of `x` over each block: a product with the unit matrix, each of its rows repeated.
    fn block_sums(&self, e: &mut Emitter, prefix: &str, x: &str) -> String {
        let [_, k] = self.shape;
        let blocks = k / self.block;
        let unit = e.shared(&format!("unit{blocks}"), |n| {
            let mut ones = vec![0_u8; blocks * blocks];
            ones.iter_mut().step_by(blocks + 1).for_each(|one| *one = 1);
            raw_tensor(n, DataType::Uint8, &[blocks, 1, blocks], ones)
        });
        let unit = e.cast_to_f32(&format!("{prefix}/unit"), &unit);
        let wide = e.shape(&[blocks, self.block, blocks].map(|n| n as i64));
        let repeated = e.node(
            "Expand",
            &format!("{prefix}/rows"),
            &[&unit, &wide],
            Vec::new(),
        );
        let columns = [k, blocks].map(|n| n as i64);
        let columns = e.reshape(&format!("{prefix}/blocks"), &repeated, &columns);
        e.node(
            "MatMul",
            &format!("{prefix}/sums"),
            &[x, &columns],
            Vec::new(),
        )
    }

    /// Half of the scales, `[blocks, M]`.
    fn half_steps(&self, e: &mut Emitter, prefix: &str) -> String {
        let [m, k] = self.shape;
        let mut scales = self.scales.clone();
        if self.bits.is_some() {
            let rows = [m, k / self.block].map(|n| n as i64);
            scales = e.reshape(&format!("{prefix}/scales"), &scales, &rows);
            scales = e.transpose(&format!("{prefix}/turned"), &scales, &[1, 0]);
        }
        let half = e.scalar(0.5);
        e.node(
            "Mul",
            &format!("{prefix}/steps"),
            &[&scales, &half],
            Vec::new(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ndarray::{Array2, ArrayD, IxDyn};
    use tn_formats::npy::NpyArray;

    use super::*;
    use crate::proto::{GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto, value_info};
    use crate::{Engine, Model};

    /// Codes that use the whole grid, and scales that differ.
    fn matrix([m, k]: [usize; 2], levels: Levels, block: usize) -> BlockMatrix {
        let format = BlockFormat { levels, block };
        let count = usize::from(levels.count());
        let codes = (0..m * k).map(|i| (i * 7919 % count) as u8).collect();
        let steps = (0..m * format.blocks(k))
            .map(|i| 100 + (i * 37 % 156) as u8)
            .collect();
        BlockMatrix::new([m, k], format, codes, steps, 1.0 / 255.0).unwrap()
    }

    fn emitted(matrix: &BlockMatrix, runs_on: RunsOn, opset: i64) -> (Emitter, PlacedPacked) {
        let mut e = Emitter::new(HashSet::from(["x".to_string()]), opset).unwrap();
        let placed = place_packed(&mut e, "w", matrix, runs_on).unwrap().unwrap();
        (e, placed)
    }

    #[test]
    fn tract_computes_what_the_codes_say() {
        for (levels, block, k) in [
            (Levels::L16, 32, 96),
            (Levels::L4, 32, 64),
            (Levels::L4, 64, 128),
            (Levels::L3, 32, 64),
        ] {
            let matrix = matrix([6, k], levels, block);
            let (mut e, placed) = emitted(&matrix, RunsOn::Tract, 17);
            let y = placed.multiply(&mut e, "y", "x");
            let info = |name: &str, dims: &[usize]| {
                value_info(&raw_tensor(name, DataType::Float, dims, Vec::new()))
            };
            let graph = GraphProto {
                name: Some("g".into()),
                node: e.take_nodes(),
                initializer: e.initializers.clone(),
                input: vec![info("x", &[3, k])],
                output: vec![ValueInfoProto {
                    name: Some(y),
                    ..Default::default()
                }],
                ..Default::default()
            };
            let import = |domain: &str, version| OperatorSetIdProto {
                domain: Some(domain.into()),
                version: Some(version),
            };
            let domains = e.domains().iter().map(|(d, v)| import(d, *v));
            let model = Model::from_proto(ModelProto {
                ir_version: Some(8),
                opset_import: std::iter::once(import("", 17)).chain(domains).collect(),
                graph: Some(graph),
                ..Default::default()
            });
            let x = Array2::from_shape_fn((3, k), |(i, j)| {
                ((i * 31 + j * 17) % 23) as f32 / 11.0 - 1.0
            });
            let weight = Array2::from_shape_vec((6, k), matrix.dequantize()).unwrap();
            let wanted = x.dot(&weight.t());
            let engine = Engine::load(&model.unwrap()).unwrap();
            let input = ArrayD::from_shape_vec(IxDyn(&[3, k]), x.iter().copied().collect());
            let found = engine.run(&[NpyArray::F32(input.unwrap())]).unwrap();
            let largest = wanted.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            for (a, b) in found[0].to_f32().iter().zip(&wanted) {
                // tract rounds the scales to half precision: 2^-11 of each.
                assert!((a - b).abs() < 2e-3 * largest, "{levels:?}: {a} for {b}");
            }
        }
    }

    #[test]
    fn bytes_are_those_of_the_initializers() {
        for (levels, bits) in [
            (Levels::L3, 2),
            (Levels::L4, 2),
            (Levels::L16, 4),
            (Levels::L256, 8),
        ] {
            for opset in [17, 21] {
                let matrix = matrix([5, 64], levels, 32);
                let (e, placed) = emitted(&matrix, RunsOn::Ort, opset);
                let stored = e.initializers.iter().map(|t| t.raw_data().len() as u64);
                let said = RunsOn::Ort.packed_bytes(matrix.format(), [5, 64]);
                assert_eq!(Some(stored.sum::<u64>()), said, "{levels:?}");
                assert_eq!(placed.bits.is_none(), opset == 21 && bits == 4);
                assert_eq!(RunsOn::Ort.packed_bits(matrix.format(), 64), Some(bits));
            }
        }
    }

    #[test]
    fn formats_that_an_engine_unpacks_are_none_of_its_own() {
        let format = |levels, block| BlockFormat { levels, block };
        for (runs_on, levels, block, cols) in [
            (RunsOn::Portable, Levels::L16, 32, 64),
            (RunsOn::Tract, Levels::L16, 64, 64),
            (RunsOn::Tract, Levels::L256, 32, 64),
            (RunsOn::Ort, Levels::L6, 32, 64),
            (RunsOn::Ort, Levels::L16, 48, 96),
            (RunsOn::Ort, Levels::L16, 32, 80),
        ] {
            assert_eq!(
                runs_on.packed_bits(format(levels, block), cols),
                None,
                "{levels:?} {block}"
            );
        }
    }
}
