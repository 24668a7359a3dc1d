//! Sixteen lanes as arrays: the oracle of the others, and what NEON runs.

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn each<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    a.map(f)
}

#[inline(always)]
fn pairs<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [u32; LANES];
    const VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        out.iter_mut().zip(v).for_each(|(o, v)| *o = v);
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        pairs(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        pairs(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        pairs(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        pairs(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        pairs(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn splat_int(self, x: u32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn load_int(self, x: &[u32; LANES]) -> Self::I {
        *x
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        pairs(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn shift_right(self, a: Self::I, n: u32) -> Self::I {
        each(a, |a| a >> n)
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        each(a, |a| a as i32 as f32)
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, unsigned: Self::I, signed: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let (u, s) = (unsigned[i].to_le_bytes(), signed[i].to_le_bytes());
            let product = |k: usize| i32::from(u[k]) * i32::from(s[k] as i8);
            let four = product(0) + product(1) + product(2) + product(3);
            (sum[i] as i32).wrapping_add(four) as u32
        })
    }
    #[inline(always)]
    fn small_code(
        self,
        word: Self::I,
        shift: u32,
        mask: u32,
        _table: Self::F,
        zero: Self::F,
    ) -> Self::F {
        pairs(word, zero, |w, z| ((w >> shift) & mask) as f32 - z)
    }
}
