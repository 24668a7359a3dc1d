//! Finds the quantized arrays of a compressed file again: the reverse of what emission stores.
//!
//! Nothing but the graph is needed. An array is a chain `codes [- zero point] * scale` of standard operators, where the
//! codes are an 8-bit initializer behind a `Cast`, or bit planes packed into bytes and unpacked by `Mul`, `Floor`, `Sub`.

mod blocks;

use std::collections::{HashMap, HashSet};

pub use blocks::{BlockExtent, BlockValues, Lookup, StoredBlocks, stored_blocks};

use bytes::Bytes;
use quant_core::{
    Bits, Granularity, Mapping, QuantParams, QuantScheme, QuantizedTensor, Signedness,
    SymmetricRange,
};

use crate::proto::{DataType, GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// Where some bits of every code stand: digit `i / L` of byte `i mod L` holds those of element `i`, `L` bytes in all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plane {
    initializer: String,
    shift: u32,
    width: u32,
}

/// A quantized array of a compressed file, and where its integers and scales stand.
#[derive(Debug, Clone)]
pub struct StoredArray {
    value: String,
    shape: Vec<usize>,
    tensor: QuantizedTensor,
    /// What was added to codes in the file.
    offset: i32,
    planes: Vec<Plane>,
    scale: String,
}

impl StoredArray {
    /// The graph's value that holds the decoded array.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The shape of that value.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The integers and their scales. Its shape is [`StoredArray::shape`], but for an axis of blocks and the one inside a
    /// block, which are one axis here.
    pub fn tensor(&self) -> &QuantizedTensor {
        &self.tensor
    }

    /// The initializers it consists of: codes first, the scales last.
    pub fn initializers(&self) -> impl Iterator<Item = &str> {
        self.planes
            .iter()
            .map(|p| p.initializer.as_str())
            .chain([self.scale.as_str()])
    }

    /// Writes other integers and scales into the same initializers.
    ///
    /// `tensor` has the shape, the scheme and the zero points of [`StoredArray::tensor`]; [`Stored::Misfit`], and nothing changed,
    /// where it has not or an initializer is gone.
    #[must_use]
    pub fn store(&self, graph: &mut GraphProto, tensor: &QuantizedTensor) -> Stored {
        let fits = tensor.shape() == self.tensor.shape()
            && tensor.scheme() == self.tensor.scheme()
            && tensor.params().zero_points() == self.tensor.params().zero_points();
        let place = |name: &str| graph.initializer.iter().position(|t| t.name() == name);
        let places: Option<Vec<usize>> = self.initializers().map(place).collect();
        let (Some(places), true) = (places, fits) else {
            return Stored::Misfit;
        };
        let codes: Vec<u8> = tensor
            .codes()
            .iter()
            .map(|c| (c + self.offset) as u8)
            .collect();
        for (plane, &at) in self.planes.iter().zip(&places) {
            graph.initializer[at].raw_data = Some(Bytes::from(pack_plane(&codes, plane)));
            graph.initializer[at].int32_data.clear();
        }
        if let Some(&at) = places.last() {
            let scale = &mut graph.initializer[at];
            scale.raw_data = Some(
                tensor
                    .params()
                    .scales()
                    .iter()
                    .flat_map(|s| s.to_le_bytes())
                    .collect(),
            );
            scale.float_data.clear();
        }
        Stored::Written
    }
}

/// What became of [`StoredArray::store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The initializers hold the new integers and scales.
    Written,
    /// The array has another shape, scheme or zero points, or the graph lacks an initializer.
    Misfit,
}

/// The bytes of one plane.
fn pack_plane(codes: &[u8], plane: &Plane) -> Vec<u8> {
    if plane.width == 8 {
        return codes.to_vec();
    }
    let length = codes.len().div_ceil(8 / plane.width as usize);
    let mask = (1u8 << plane.width) - 1;
    let mut packed = vec![0u8; length];
    for (digit, chunk) in codes.chunks(length.max(1)).enumerate() {
        for (byte, code) in packed.iter_mut().zip(chunk) {
            *byte |= ((code >> plane.shift) & mask) << (digit as u32 * plane.width);
        }
    }
    packed
}

/// Adds the bits of one plane to the codes.
fn unpack_plane(packed: &[u8], plane: &Plane, codes: &mut [u8]) {
    if plane.width == 8 {
        codes.copy_from_slice(&packed[..codes.len()]);
        return;
    }
    let mask = (1u8 << plane.width) - 1;
    for (i, code) in codes.iter_mut().enumerate() {
        let digit = (i / packed.len()) as u32;
        *code |= ((packed[i % packed.len()] >> (digit * plane.width)) & mask) << plane.shift;
    }
}

/// Every quantized array of a graph, in the order in which the graph decodes them.
pub fn stored_arrays(graph: &GraphProto) -> Vec<StoredArray> {
    let reader = Reader::new(graph);
    // The steps of a matrix of few levels are bytes times a unit, but no array of their own.
    let blocks = stored_blocks(graph);
    let taken: HashSet<&str> = blocks.iter().flat_map(StoredBlocks::initializers).collect();
    graph
        .node
        .iter()
        .filter(|n| n.op_type() == "Mul")
        .filter_map(|n| reader.array(n))
        .filter(|a| !a.initializers().any(|i| taken.contains(i)))
        .collect()
}

struct Reader<'a> {
    initializers: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let initializers = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let outputs = graph
            .node
            .iter()
            .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)));
        Self {
            initializers,
            producers: outputs.collect(),
        }
    }

    fn producer(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        self.producers
            .get(value)
            .copied()
            .filter(|n| n.op_type() == op)
    }

    fn floats(&self, value: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let proto = self.initializers.get(value)?;
        Some((tensor::shape(proto).ok()?, tensor::to_f32(proto)?))
    }

    /// One of the two exact scalars that unpacking uses: a power of two.
    fn exponent(&self, value: &str) -> Option<u32> {
        match self.floats(value)?.1.as_slice() {
            [v] if v.log2().fract() == 0.0 && *v >= 1.0 => Some(v.log2() as u32),
            _ => None,
        }
    }

    fn array(&self, node: &'a NodeProto) -> Option<StoredArray> {
        let [codes, scale] = node.input.as_slice() else {
            return None;
        };
        let (scale_shape, scales) = self.floats(scale)?;
        let (codes, zero) = match self.producer(codes, "Sub") {
            Some(sub) if self.zero_point(sub.input.get(1)?).is_some() => {
                (sub.input.first()?, self.zero_point(sub.input.get(1)?))
            }
            _ => (codes, None),
        };
        let (shape, planes) = self.codes(codes)?;
        let bits = planes.iter().map(|p| p.shift + p.width).max()?;
        let bits = Bits::new(u8::try_from(bits).ok()?).ok()?;
        let count: usize = shape.iter().product();
        let mut unsigned = vec![0u8; count];
        let mut signed_bytes = false;
        for plane in &planes {
            let proto = self.initializers.get(plane.initializer.as_str())?;
            signed_bytes |= proto.data_type() == DataType::Int8 as i32;
            let raw = bytes_of(proto)?;
            if raw.len() != count.div_ceil(8 / plane.width as usize) {
                return None;
            }
            unpack_plane(&raw, plane, &mut unsigned);
        }
        let stored: Vec<i32> = unsigned
            .iter()
            .map(|&c| {
                if signed_bytes {
                    i32::from(c as i8)
                } else {
                    i32::from(c)
                }
            })
            .collect();
        let half = bits.levels() / 2;
        let zero = zero.unwrap_or_else(|| vec![0]);
        let middle = if signed_bytes { 0 } else { half };
        let symmetric = zero.iter().all(|&z| z == middle);
        let (granularity, merged) = granularity(&shape, &scale_shape, scales.len())?;
        let (mapping, signedness, offset) = if symmetric {
            (
                Mapping::Symmetric(SymmetricRange::Full),
                Signedness::Signed,
                middle,
            )
        } else {
            (
                Mapping::Affine,
                if signed_bytes {
                    Signedness::Signed
                } else {
                    Signedness::Unsigned
                },
                0,
            )
        };
        let scheme = QuantScheme::new(bits, mapping, signedness, granularity);
        let codes: Vec<i32> = stored.iter().map(|c| c - offset).collect();
        let params = if symmetric {
            QuantParams::from_scales(scheme, scales).ok()?
        } else {
            let zero = if zero.len() == scales.len() {
                zero
            } else {
                vec![*zero.first()?; scales.len()]
            };
            QuantParams::new(scheme, scales, zero).ok()?
        };
        let tensor = QuantizedTensor::from_codes(&merged, params, &codes).ok()?;
        Some(StoredArray {
            value: node.output.first()?.clone(),
            shape,
            tensor,
            offset,
            planes,
            scale: scale.clone(),
        })
    }

    /// Zero points: a shared scalar, or stored bytes behind a `Cast`.
    fn zero_point(&self, value: &str) -> Option<Vec<i32>> {
        if let Some((_, values)) = self.floats(value) {
            return (values.len() == 1 && values[0].fract() == 0.0).then(|| vec![values[0] as i32]);
        }
        let proto = self
            .initializers
            .get(self.producer(value, "Cast")?.input.first()?.as_str())?;
        let signed = proto.data_type() == DataType::Int8 as i32;
        Some(
            bytes_of(proto)?
                .iter()
                .map(|&b| {
                    if signed {
                        i32::from(b as i8)
                    } else {
                        i32::from(b)
                    }
                })
                .collect(),
        )
    }

    /// The shape of the codes and the planes they are in.
    fn codes(&self, value: &str) -> Option<(Vec<usize>, Vec<Plane>)> {
        if let Some((initializer, proto)) = self.bytes(value) {
            let plane = Plane {
                initializer: initializer.to_string(),
                shift: 0,
                width: 8,
            };
            return Some((tensor::shape(proto).ok()?, vec![plane]));
        }
        let reshape = self.producer(value, "Reshape")?;
        let dims = tensor::to_i64(self.initializers.get(reshape.input.get(1)?.as_str())?)?;
        let shape = dims
            .iter()
            .map(|&d| usize::try_from(d))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        let mut planes = Vec::new();
        self.planes(reshape.input.first()?, 0, &mut planes)?;
        Some((shape, planes))
    }

    /// An 8-bit initializer behind a `Cast`.
    fn bytes(&self, value: &str) -> Option<(&'a str, &'a TensorProto)> {
        let name = self.producer(value, "Cast")?.input.first()?;
        let proto = self.initializers.get(name.as_str())?;
        let eight = [DataType::Int8 as i32, DataType::Uint8 as i32].contains(&proto.data_type());
        eight.then_some((name.as_str(), *proto))
    }

    /// `low + high * 2^shift`, down to single planes.
    fn planes(&self, value: &str, shift: u32, planes: &mut Vec<Plane>) -> Option<()> {
        if let Some(add) = self.producer(value, "Add") {
            self.planes(add.input.first()?, shift, planes)?;
            let high = self.producer(add.input.get(1)?, "Mul")?;
            return self.planes(
                high.input.first()?,
                self.exponent(high.input.get(1)?)?,
                planes,
            );
        }
        let flat = match self.producer(value, "Slice") {
            Some(slice) => slice.input.first()?,
            None => value,
        };
        let grid = self.producer(self.producer(flat, "Reshape")?.input.first()?, "Sub")?;
        let width = self.exponent(self.producer(grid.input.get(1)?, "Mul")?.input.get(1)?)?;
        let scaled = self.producer(
            self.producer(grid.input.first()?, "Floor")?.input.first()?,
            "Mul",
        )?;
        let (initializer, _) = self.bytes(scaled.input.first()?)?;
        planes.push(Plane {
            initializer: initializer.to_string(),
            shift,
            width: [1, 2, 4].contains(&width).then_some(width)?,
        });
        Some(())
    }
}

fn bytes_of(proto: &TensorProto) -> Option<Vec<u8>> {
    match &proto.raw_data {
        Some(raw) => Some(raw.to_vec()),
        None => proto
            .int32_data
            .iter()
            .map(|&v| Some((v & 255) as u8))
            .collect(),
    }
}

/// Which elements share a scale, and the shape over which that holds.
fn granularity(
    shape: &[usize],
    scale: &[usize],
    count: usize,
) -> Option<(Granularity, Vec<usize>)> {
    if count == 1 {
        return Some((Granularity::PerTensor, shape.to_vec()));
    }
    let offset = shape.len().checked_sub(scale.len())?;
    let scale: Vec<usize> = std::iter::repeat_n(1, offset)
        .chain(scale.iter().copied())
        .collect();
    let wide: Vec<usize> = (0..shape.len()).filter(|&k| scale[k] != 1).collect();
    if let [axis] = wide.as_slice() {
        return (scale[*axis] == shape[*axis])
            .then(|| (Granularity::per_axis(*axis), shape.to_vec()));
    }
    let inner = (1..shape.len()).find(|&k| scale[k] == 1 && shape[k] > 1)?;
    if (0..shape.len()).any(|k| k != inner && scale[k] != shape[k]) {
        return None;
    }
    let mut merged = shape.to_vec();
    let size = merged.remove(inner);
    merged[inner - 1] *= size;
    Some((Granularity::per_block(inner - 1, size).ok()?, merged))
}
