//! Every kernel of every instruction set against the scalar one, at every length around its lanes.

use proptest::prelude::*;
use quant_core::kernels::{AffineMap, Isa};
use quant_core::{Bits, MatrixLayout, PackedMatrix, QuantScheme, Signedness, SymmetricRange};

/// 0, 1, every lane count and group of lanes, each with its neighbours, and some in between.
fn lengths() -> Vec<usize> {
    let lanes = [8, 16, 32, 64, 128, 256, 512];
    let near = lanes.iter().flat_map(|&n: &usize| [n - 1, n, n + 1]);
    [0, 1, 2, 3, 5, 13, 27, 45, 100, 333]
        .into_iter()
        .chain(near)
        .collect()
}

fn pseudo_random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    }
}

/// Numbers of every kind: in and out of range, exact halves, their neighbours, and what is not a number at all.
fn floats(len: usize, scale: f32) -> Vec<f32> {
    let odd = [
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
        f32::MAX,
        f32::MIN,
    ];
    let mut next = pseudo_random(len as u64 + 1);
    (0..len)
        .map(|i| match (i + len) % 4 {
            0 => odd[next() as usize % odd.len()],
            1 => (next() % 600) as f32 * 0.5 * scale - 150.0 * scale,
            2 => {
                let half = ((next() % 300) as f32 - 150.5) * scale;
                f32::from_bits(half.to_bits().wrapping_add(next() % 5).wrapping_sub(2))
            }
            _ => ((next() % 20_000) as f32 / 70.0 - 143.0) * scale,
        })
        .collect()
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut next = pseudo_random(seed);
    (0..len)
        .map(|_| [next() as u8, next() as u8, 0x80, 0x7f, 0xff][next() as usize % 5])
        .collect()
}

fn simd() -> Vec<Isa> {
    Isa::available()
        .into_iter()
        .filter(|&isa| isa != Isa::SCALAR)
        .collect()
}

/// The maps of all widths, with zero points in the middle and at the ends.
fn maps() -> Vec<(AffineMap, Signedness)> {
    let mut all = Vec::new();
    for bits in Bits::ALL {
        for signedness in [Signedness::Signed, Signedness::Unsigned] {
            let symmetric = QuantScheme::symmetric(bits).with_signedness(signedness);
            let affine = QuantScheme::affine(bits).with_signedness(signedness);
            for scheme in [symmetric, symmetric.with_range(SymmetricRange::Full)] {
                let zero_point = scheme.symmetric_zero_point().unwrap();
                all.push((
                    AffineMap::new(0.37, zero_point, &scheme).unwrap(),
                    signedness,
                ));
            }
            for zero_point in [affine.min_code(), affine.max_code(), affine.max_code() / 2] {
                for scale in [1.0, 0.1, f32::MIN_POSITIVE, 1e-40, 1e30, 3e38] {
                    all.push((
                        AffineMap::new(scale, zero_point, &affine).unwrap(),
                        signedness,
                    ));
                }
            }
        }
    }
    all
}

fn check_elementwise(isa: Isa, map: AffineMap, signedness: Signedness, x: &[f32]) {
    let (mut want, mut got) = (vec![1u8; x.len()], vec![2u8; x.len()]);
    Isa::SCALAR.quantize(x, map, &mut want).unwrap();
    isa.quantize(x, map, &mut got).unwrap();
    assert_eq!(got, want, "quantize, {}, {map:?}, {x:?}", isa.name());
    for (&x, &code) in x.iter().zip(&want) {
        assert_eq!(map.code(x) as u8, code);
    }
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let (mut want_f, mut got_f) = (vec![1.0; x.len()], vec![2.0; x.len()]);
    Isa::SCALAR
        .dequantize(&want, signedness, map, &mut want_f)
        .unwrap();
    isa.dequantize(&want, signedness, map, &mut got_f).unwrap();
    assert_eq!(
        bits(&got_f),
        bits(&want_f),
        "dequantize, {}, {map:?}",
        isa.name()
    );
    got_f.fill(3.0);
    isa.fake_quantize(x, map, &mut got_f).unwrap();
    assert_eq!(
        bits(&got_f),
        bits(&want_f),
        "fake_quantize, {}, {map:?}, {x:?}",
        isa.name()
    );
}

#[test]
fn elementwise_kernels_equal_the_scalar_ones() {
    for isa in simd() {
        for (map, signedness) in maps() {
            for len in lengths() {
                check_elementwise(
                    isa,
                    map,
                    signedness,
                    &floats(len, map.value(1) - map.value(0)),
                );
            }
        }
    }
}

/// Quantizing without division must notice every value whose rounding it cannot decide: whole blocks at one distance
/// from half steps over all codes, among them NaN and infinities, and blocks of what is far out of range, for many scales.
#[test]
fn values_near_half_steps_quantize_alike() {
    let mut next = pseudo_random(12);
    for round in 0..400 {
        let scale = 2f32.powi((next() % 120) as i32 - 60) * (1.0 + next() as f32 / u32::MAX as f32);
        let signedness = [Signedness::Signed, Signedness::Unsigned][round / 2 % 2];
        let scheme = QuantScheme::affine(Bits::B8).with_signedness(signedness);
        let zero_point = scheme.min_code() + [0, 255, (next() % 256) as i32][round / 4 % 3];
        let map = AffineMap::new(scale, zero_point, &scheme).unwrap();
        let mut x = Vec::new();
        for distance in 0..40 {
            let side = if round % 2 == 0 { 1.0 } else { -1.0 };
            let from_half = side * f64::from(distance) / 65536.0 * 0.75;
            let steps = |i: i32| {
                let code = scheme.min_code() + i * 4 + (next() % 4) as i32;
                f64::from(code - zero_point) + 0.5 + from_half
            };
            x.extend((0..64).map(steps).map(|s| (s * f64::from(scale)) as f32));
        }
        for power in 8..40 {
            let steps = 2f64.powi(power) * if power % 2 == 0 { 1.0 } else { -1.0 };
            let far = |i: i32| (steps * (1.0 + f64::from(i) / 64.0) * f64::from(scale)) as f32;
            x.extend((0..64).map(far));
        }
        for odd in [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            -0.0,
            1e-45,
        ] {
            let at = next() as usize % x.len();
            x[at] = odd;
        }
        for isa in simd() {
            check_elementwise(isa, map, signedness, &x);
        }
    }
}

#[test]
fn odd_numbers_have_documented_codes() {
    let map = AffineMap::new(2.0, 10, &QuantScheme::affine(Bits::B8)).unwrap();
    let cases = [
        (f32::NAN, 10),
        (f32::INFINITY, 255),
        (f32::NEG_INFINITY, 0),
        (f32::MAX, 255),
        (f32::MIN, 0),
        (1e-45, 10),
        (-0.0, 10),
        (1.0, 10),
        (3.0, 12),
        (5.0, 12),
        (-1.0, 10),
        (-3.0, 8),
        (489.0, 254),
        (491.0, 255),
        (1e6, 255),
    ];
    for isa in Isa::available() {
        for (x, code) in cases {
            let mut codes = [0; 40];
            isa.quantize(&[x; 40], map, &mut codes).unwrap();
            assert_eq!(codes, [code; 40], "{x} on {}", isa.name());
        }
    }
}

#[test]
fn packing_equals_the_scalar_one_and_round_trips() {
    for isa in Isa::available() {
        for bits in Bits::ALL {
            for len in lengths() {
                let codes = bytes(len, len as u64);
                let packed_len = quant_core::packed_len(len, bits);
                let (mut want, mut got) = (vec![1; packed_len], vec![2; packed_len]);
                Isa::SCALAR.pack(&codes, bits, &mut want).unwrap();
                isa.pack(&codes, bits, &mut got).unwrap();
                assert_eq!(got, want, "pack, {}, {bits} bits, {len}", isa.name());
                for signedness in [Signedness::Signed, Signedness::Unsigned] {
                    let spare = 8 - bits.get();
                    let narrow = |c: &u8| match signedness {
                        Signedness::Signed => (((c << spare) as i8) >> spare) as u8,
                        Signedness::Unsigned => (c << spare) >> spare,
                    };
                    let mut back = vec![3; len];
                    isa.unpack(&want, bits, signedness, &mut back).unwrap();
                    let want: Vec<u8> = codes.iter().map(narrow).collect();
                    assert_eq!(back, want, "unpack, {}, {bits} bits, {len}", isa.name());
                }
            }
        }
    }
}

#[test]
fn dot_equals_the_scalar_one() {
    for isa in Isa::available() {
        for len in lengths() {
            let signed = |seed| {
                bytes(len, seed)
                    .into_iter()
                    .map(|b| b as i8)
                    .collect::<Vec<_>>()
            };
            let (a, b) = (signed(1), signed(2));
            let want: i32 = a
                .iter()
                .zip(&b)
                .map(|(&a, &b)| i32::from(a) * i32::from(b))
                .sum();
            assert_eq!(isa.dot(&a, &b).unwrap(), want, "{}, {len}", isa.name());
            let (low, high) = (vec![-128i8; len], vec![127i8; len]);
            assert_eq!(
                isa.dot(&low, &low).unwrap(),
                16_384 * len as i32,
                "{}",
                isa.name()
            );
            assert_eq!(
                isa.dot(&low, &high).unwrap(),
                -16_256 * len as i32,
                "{}",
                isa.name()
            );
        }
    }
}

struct Product {
    m: usize,
    k: usize,
    n: usize,
    a: Vec<u8>,
    w: Vec<u8>,
    a_signedness: Signedness,
    w_signedness: Signedness,
    a_zero_points: Vec<i32>,
    w_zero_points: Vec<i32>,
}

fn widen(code: u8, signedness: Signedness) -> i64 {
    match signedness {
        Signedness::Signed => i64::from(code as i8),
        Signedness::Unsigned => i64::from(code),
    }
}

impl Product {
    fn new(m: usize, k: usize, n: usize, variant: usize) -> Self {
        let pick = |bit: usize| {
            if variant >> bit & 1 == 0 {
                Signedness::Signed
            } else {
                Signedness::Unsigned
            }
        };
        let zero_points = |signedness, count: usize, salt: usize| {
            let first: i32 = if signedness == Signedness::Signed {
                -128
            } else {
                0
            };
            (0..count)
                .map(|i| first + ((i * 83 + salt) % 256) as i32)
                .collect::<Vec<_>>()
        };
        let (a_signedness, w_signedness) = (pick(0), pick(1));
        Self {
            m,
            k,
            n,
            a: bytes(m * k, 3),
            w: bytes(n * k, 4),
            a_signedness,
            w_signedness,
            a_zero_points: zero_points(a_signedness, if variant & 4 == 0 { 1 } else { m }, 128),
            w_zero_points: zero_points(w_signedness, if variant & 8 == 0 { 1 } else { n }, 255),
        }
    }

    fn want(&self) -> Vec<i32> {
        let at = |z: &[i32], i: usize| i64::from(z[if z.len() == 1 { 0 } else { i }]);
        let mut out = Vec::new();
        for i in 0..self.m {
            for j in 0..self.n {
                let term = |k: usize| {
                    let a = widen(self.a[i * self.k + k], self.a_signedness);
                    let w = widen(self.w[j * self.k + k], self.w_signedness);
                    (a - at(&self.a_zero_points, i)) * (w - at(&self.w_zero_points, j))
                };
                out.push((0..self.k).map(term).sum::<i64>() as i32);
            }
        }
        out
    }

    fn packed(&self, layout: MatrixLayout) -> PackedMatrix {
        let (codes, shape) = match layout {
            MatrixLayout::OutByIn => (self.w.clone(), [self.n, self.k]),
            MatrixLayout::InByOut => {
                let column = |k: usize| (0..self.n).map(move |j| self.w[j * self.k + k]);
                ((0..self.k).flat_map(column).collect(), [self.k, self.n])
            }
        };
        PackedMatrix::new(
            &codes,
            shape,
            layout,
            self.w_signedness,
            &self.w_zero_points,
        )
        .unwrap()
    }

    fn check(&self) {
        let want = self.want();
        let packed = self.packed(MatrixLayout::OutByIn);
        assert_eq!(packed, self.packed(MatrixLayout::InByOut));
        let place = |isa: Isa| format!("[{}, {}, {}] on {}", self.m, self.k, self.n, isa.name());
        let x: Vec<f32> = self.a.iter().map(|&b| f32::from(b) / 7.0 - 9.0).collect();
        let scales: Vec<f32> = (0..self.n).map(|j| 0.01 * (j + 1) as f32).collect();
        let mut want_f = vec![0.0; self.m * self.n];
        packed
            .matmul_f32_on(Isa::SCALAR, &x, &scales, &mut want_f)
            .unwrap();
        self.check_against_f64(&x, &scales, &want_f);
        for isa in Isa::available() {
            let mut got = vec![7; self.m * self.n];
            let (a, z) = (&self.a, &self.a_zero_points);
            packed
                .matmul_on(isa, a, self.a_signedness, z, &mut got)
                .unwrap();
            assert_eq!(got, want, "{}", place(isa));
            let mut got = vec![7.0; self.m * self.n];
            packed.matmul_f32_on(isa, &x, &scales, &mut got).unwrap();
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want_f), "{}", place(isa));
        }
    }

    fn check_against_f64(&self, x: &[f32], scales: &[f32], got: &[f32]) {
        for i in 0..self.m {
            for j in 0..self.n {
                let z = self.w_zero_points[if self.w_zero_points.len() == 1 { 0 } else { j }];
                let (mut sum, mut size) = (0.0, 0.0);
                for k in 0..self.k {
                    let w = widen(self.w[j * self.k + k], self.w_signedness) - i64::from(z);
                    let term = f64::from(x[i * self.k + k]) * w as f64 * f64::from(scales[j]);
                    sum += term;
                    size += term.abs();
                }
                let got = f64::from(got[i * self.n + j]);
                let bound = (self.k + 2) as f64 * f64::from(f32::EPSILON) * size;
                assert!((got - sum).abs() <= bound, "{got} for {sum} at [{i}, {j}]");
            }
        }
    }
}

#[test]
fn products_are_exact_at_every_edge() {
    for m in [0, 1, 2, 3, 5, 11, 12, 13, 25] {
        Product::new(m, 9, 17, m).check();
    }
    for k in [0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 130] {
        Product::new(3, k, 33, k).check();
    }
    for n in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
        Product::new(2, 12, n, n).check();
    }
    for variant in 0..16 {
        Product::new(14, 37, 41, variant).check();
        // Neither the activations nor the product tell m, only their zero points do.
        Product::new(2, 0, 0, variant).check();
    }
}

#[test]
fn the_largest_products_do_not_saturate() {
    let (m, k, n) = (2, 30_000, 3);
    for (a, w, z) in [
        (0x80, 0x80, [0, 0]),
        (0x7f, 0x80, [0, 0]),
        (0x80, 0x80, [127, 127]),
    ] {
        let mut product = Product::new(m, k, n, 0);
        product.a.fill(a);
        product.w.fill(w);
        product.a_zero_points = vec![z[0]];
        product.w_zero_points = vec![z[1]];
        product.check();
    }
}

proptest! {
    #[test]
    fn any_numbers_quantize_alike(
        x in prop::collection::vec(any::<f32>(), 0..80),
        near in prop::collection::vec(-300.0f32..300.0, 0..80),
        scale in 1e-38f32..1e38,
        zero_point in 0i32..256,
    ) {
        let map = AffineMap::new(scale, zero_point, &QuantScheme::affine(Bits::B8)).unwrap();
        let near: Vec<f32> = near.iter().map(|x| x * scale).collect();
        for isa in simd() {
            check_elementwise(isa, map, Signedness::Unsigned, &x);
            check_elementwise(isa, map, Signedness::Unsigned, &near);
        }
    }

    #[test]
    fn any_product_is_exact(m in 0usize..20, k in 0usize..70, n in 0usize..70, variant in 0usize..16) {
        Product::new(m, k, n, variant).check();
    }
}
