//! Packing and unpacking 64 codes at a time.

use std::arch::x86_64::*;

use super::{load_bytes, load_bytes_part, store_bytes, store_bytes_part};
use crate::scheme::{Bits, Signedness};

/// What packing needs in registers.
#[derive(Clone, Copy)]
struct Packer {
    mask: __m512i,
    pair: __m512i,
    four: __m512i,
    half: __m128i,
    gather: __m512i,
}

impl Packer {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(bits: Bits) -> Self {
        let b = usize::from(bits.get());
        Self {
            mask: _mm512_set1_epi8(((1u16 << b) - 1) as i8),
            // Bytes 1, 2^b of unsigned weights; words 1, 2^2b.
            pair: _mm512_set1_epi16((1u16 << (8 + b) | 1) as i16),
            four: _mm512_set1_epi32((1 << (16 + 2 * b)) | 1),
            half: _mm_cvtsi32_si128(4 * b as i32),
            gather: load_bytes(&GATHER[b - 2]),
        }
    }

    /// Eight codes per 64-bit lane, from bytes to dense bits: pairs to 16 bits, pairs of those to 32, and of those to
    /// 64; then the dense bytes of the eight lanes side by side.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn pack(&self, codes: __m512i) -> __m512i {
        let v = _mm512_and_si512(codes, self.mask);
        let v = _mm512_madd_epi16(_mm512_maddubs_epi16(self.pair, v), self.four);
        let high = _mm512_sll_epi64(_mm512_srli_epi64::<32>(v), self.half);
        let low = _mm512_and_si512(v, _mm512_set1_epi64(0xffff_ffff));
        _mm512_permutexvar_epi8(self.gather, _mm512_or_si512(low, high))
    }

    /// The same for 128 codes of 4 bits, whose pairs are bytes already.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn pack_nibbles(&self, codes: [__m512i; 2], even: __m512i) -> __m512i {
        let [first, second] =
            codes.map(|c| _mm512_maddubs_epi16(self.pair, _mm512_and_si512(c, self.mask)));
        _mm512_permutex2var_epi8(first, even, second)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(in crate::arch) fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    let packer = Packer::new(bits);
    let (mut codes, mut out) = (codes, out);
    if bits == Bits::B4 {
        let even = load_bytes(&std::array::from_fn(|i| 2 * i as u8));
        let (blocks, codes_left) = codes.as_chunks::<128>();
        let (packed, out_left) = out.split_at_mut(64 * blocks.len());
        for (codes, out) in blocks.iter().zip(packed.as_chunks_mut::<64>().0) {
            let (codes, _) = codes.as_chunks::<64>();
            let halves = [load_bytes(&codes[0]), load_bytes(&codes[1])];
            store_bytes(out, packer.pack_nibbles(halves, even));
        }
        (codes, out) = (codes_left, out_left);
    }
    let step = 8 * usize::from(bits.get());
    let (blocks, codes_left) = codes.as_chunks::<64>();
    for codes in blocks {
        let v = packer.pack(load_bytes(codes));
        // What a whole store writes beyond the step, the next one overwrites.
        match out.first_chunk_mut() {
            Some(all) => store_bytes(all, v),
            None => store_bytes_part(&mut out[..step], v),
        }
        out = &mut out[step..];
    }
    store_bytes_part(out, packer.pack(load_bytes_part(codes_left)));
}

/// What unpacking needs in registers.
#[derive(Clone, Copy)]
struct Unpacker {
    scatter: __m512i,
    offsets: __m512i,
    values: __m512i,
    sign: __m512i,
}

impl Unpacker {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(bits: Bits, signedness: Signedness) -> Self {
        let b = usize::from(bits.get());
        let offsets = i64::from_le_bytes(std::array::from_fn(|i| (i * b) as u8));
        let sign = match signedness {
            Signedness::Signed => 1u8 << (b - 1),
            Signedness::Unsigned => 0,
        };
        // Of an index only 6 bits count: what stands above a narrower code falls away in the table.
        let value = |i: usize| ((i % (1 << b)) as u8 ^ sign).wrapping_sub(sign);
        Self {
            scatter: load_bytes(&SCATTER[b - 2]),
            offsets: _mm512_set1_epi64(offsets),
            values: load_bytes(&std::array::from_fn(value)),
            sign: _mm512_set1_epi8(sign as i8),
        }
    }

    /// The dense bytes of eight codes to each 64-bit lane, of which every byte takes the 8 bits at its code's offset.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn spread(&self, packed: __m512i, scatter: __m512i) -> __m512i {
        _mm512_multishift_epi64_epi8(self.offsets, _mm512_permutexvar_epi8(scatter, packed))
    }

    /// Codes of at most 6 bits, by a table of values.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn narrow(&self, packed: __m512i, scatter: __m512i) -> __m512i {
        _mm512_permutexvar_epi8(self.spread(packed, scatter), self.values)
    }

    /// Codes of 7 bits: `(c ^ s) - s` extends the sign bit s.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn wide(&self, packed: __m512i) -> __m512i {
        let codes = _mm512_and_si512(self.spread(packed, self.scatter), _mm512_set1_epi8(0x7f));
        _mm512_sub_epi8(_mm512_xor_si512(codes, self.sign), self.sign)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn unpack(&self, packed: __m512i, bits: Bits) -> __m512i {
        if bits == Bits::B7 {
            self.wide(packed)
        } else {
            self.narrow(packed, self.scatter)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(in crate::arch) fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    let unpacker = Unpacker::new(bits, signedness);
    let (mut packed, mut out) = (packed, out);
    if bits == Bits::B4 {
        let second = _mm512_add_epi8(unpacker.scatter, _mm512_set1_epi8(32));
        let (codes, out_left) = out.as_chunks_mut::<128>();
        let (blocks, packed_left) = packed.split_at(64 * codes.len());
        for (packed, out) in blocks.as_chunks::<64>().0.iter().zip(codes) {
            let v = load_bytes(packed);
            let (out, _) = out.as_chunks_mut::<64>();
            store_bytes(&mut out[0], unpacker.narrow(v, unpacker.scatter));
            store_bytes(&mut out[1], unpacker.narrow(v, second));
        }
        (packed, out) = (packed_left, out_left);
    }
    let step = 8 * usize::from(bits.get());
    let (blocks, out_left) = out.as_chunks_mut::<64>();
    for out in blocks {
        let v = match packed.first_chunk() {
            Some(all) => load_bytes(all),
            None => load_bytes_part(packed),
        };
        store_bytes(out, unpacker.unpack(v, bits));
        packed = &packed[step..];
    }
    store_bytes_part(out_left, unpacker.unpack(load_bytes_part(packed), bits));
}

/// For each width from 2: where byte `i` of the dense string stands among eight 64-bit lanes.
static GATHER: [[u8; 64]; 6] = {
    let mut table = [[0; 64]; 6];
    let mut b = 2;
    while b < 8 {
        let mut i = 0;
        while i < 8 * b {
            table[b - 2][i] = (i / b * 8 + i % b) as u8;
            i += 1;
        }
        b += 1;
    }
    table
};

/// For each width from 2: which byte of the dense string goes to byte `i` of the lanes.
static SCATTER: [[u8; 64]; 6] = {
    let mut table = [[0; 64]; 6];
    let mut b = 2;
    while b < 8 {
        let mut i = 0;
        while i < 64 {
            table[b - 2][i] = if i % 8 < b {
                (i / 8 * b + i % 8) as u8
            } else {
                0
            };
            i += 1;
        }
        b += 1;
    }
    table
};
