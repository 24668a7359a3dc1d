//! Codes narrower than a byte: stored as packed bit planes, unpacked by standard operators.
//!
//! A code of `b` bits is a sum of planes of 4, 2 and 1 bits, the widest in the low bits: 3 = 2 + 1, 7 = 4 + 2 + 1. In a
//! plane of width `w` a byte holds `D = 8 / w` digits, and element `i` of `n` is digit `i / L` of byte `i mod L`, with
//! `L = ceil(n / D)`. Unpacking is then, for all digits at once,
//! `floor(x 2^(-w d)) - 2^w floor(x 2^(-w (d + 1)))` over a column of digits `d`, exact in f32, and a reshape.

use quant_core::Bits;

use super::Emitter;
use crate::proto::{DataType, raw_tensor};
use crate::tensor;

/// The widths of the planes of a code, lowest first.
fn planes(bits: Bits) -> &'static [usize] {
    match bits.get() {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        7 => &[4, 2, 1],
        _ => &[8],
    }
}

/// The bytes that `len` codes of a width take in the file.
pub(crate) fn packed_bytes(len: usize, bits: Bits) -> usize {
    planes(bits).iter().map(|w| len.div_ceil(8 / w)).sum()
}

/// One plane of `codes`, packed.
fn pack_plane(codes: &[u8], shift: usize, width: usize) -> Vec<u8> {
    let digits = 8 / width;
    let length = codes.len().div_ceil(digits);
    let mask = (1u16 << width) - 1;
    let mut packed = vec![0u8; length];
    for (d, chunk) in codes.chunks(length.max(1)).enumerate() {
        for (byte, code) in packed.iter_mut().zip(chunk) {
            *byte |= (((u16::from(*code) >> shift) & mask) << (d * width)) as u8;
        }
    }
    packed
}

impl Emitter {
    /// Stores codes, one to a byte, and makes their values, as `f32`, in a shape. Codes below 8 bits are unsigned.
    pub(super) fn codes(
        &mut self,
        name: &str,
        codes: &[u8],
        (bits, stored_as): (Bits, DataType),
        shape: &[usize],
    ) -> String {
        let dims: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        if bits == Bits::B8 {
            let stored =
                self.initializer(name, |n| raw_tensor(n, stored_as, shape, codes.to_vec()));
            return self.cast_to_f32(&format!("{name}/cast"), &stored);
        }
        let mut sum: Option<String> = None;
        let mut shift = 0;
        for &width in planes(bits) {
            let plane = if planes(bits).len() == 1 {
                name.to_string()
            } else {
                format!("{name}/bits{shift}")
            };
            let digits = self.plane(&plane, codes, shift, width);
            sum = Some(match sum {
                None => digits,
                Some(low) => {
                    let factor = self.scalar((1u32 << shift) as f32);
                    let high = self.node(
                        "Mul",
                        &format!("{plane}/shift"),
                        &[&digits, &factor],
                        Vec::new(),
                    );
                    self.node("Add", &format!("{plane}/join"), &[&low, &high], Vec::new())
                }
            });
            shift += width;
        }
        self.reshape(&format!("{name}/shape"), &sum.unwrap_or_default(), &dims)
    }

    /// Stores one plane and makes its digits: a vector of `codes.len()` elements.
    fn plane(&mut self, name: &str, codes: &[u8], shift: usize, width: usize) -> String {
        let packed = pack_plane(codes, shift, width);
        let digits = 8 / width;
        let column = |exponent: usize| -> Vec<f32> {
            (0..digits)
                .map(|d| 2f32.powi(-((width * (d + exponent)) as i32)))
                .collect()
        };
        let length = packed.len();
        let stored = self.initializer(name, |n| {
            raw_tensor(n, DataType::Uint8, &[1, length], packed)
        });
        let bytes = self.cast_to_f32(&format!("{name}/cast"), &stored);
        let keys = [0, 1].map(|exponent| {
            let key = format!("unpack{width}/{}", ["from", "above"][exponent]);
            self.shared(&key, |n| {
                tensor::from_f32(n, &[digits, 1], &column(exponent))
            })
        });
        let [from, above] = [0, 1].map(|i| {
            let step = ["from", "above"][i];
            let scaled = self.node(
                "Mul",
                &format!("{name}/{step}"),
                &[&bytes, &keys[i]],
                Vec::new(),
            );
            self.node(
                "Floor",
                &format!("{name}/{step}/floor"),
                &[&scaled],
                Vec::new(),
            )
        });
        let base = self.scalar((1u32 << width) as f32);
        let above = self.node(
            "Mul",
            &format!("{name}/carry"),
            &[&above, &base],
            Vec::new(),
        );
        let grid = self.node(
            "Sub",
            &format!("{name}/digits"),
            &[&from, &above],
            Vec::new(),
        );
        let flat = self.reshape(&format!("{name}/flat"), &grid, &[-1]);
        if length * digits == codes.len() {
            return flat;
        }
        self.slice(&format!("{name}/cut"), &flat, 0, [0, codes.len() as i64])
    }
}
