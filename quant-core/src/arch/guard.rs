//! Every kernel on buffers that end, or begin, at a page that may not be touched: an access beyond a slice ends the test
//! run with a segmentation fault. This covers the instruction sets Miri does not know.

use super::Isa;
use crate::affine::AffineMap;
use crate::matmul::{MatrixLayout, PackedMatrix};
use crate::pack::packed_len;
use crate::scheme::{Bits, QuantScheme, Signedness};

/// Which end of the buffer touches a forbidden page.
#[derive(Clone, Copy)]
enum Side {
    First,
    Last,
}

/// Readable and writable pages between two forbidden ones.
struct Guarded<T> {
    pages: *mut u8,
    size: usize,
    first: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], side: Side) -> Self {
        // SAFETY: a fresh private mapping, whose inner pages are then made accessible; the values fit them, at an
        // address aligned for T, as pages are and as a page's end less a multiple of T's size is.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let bytes = size_of_val(values);
            let inner = bytes.next_multiple_of(page).max(page);
            let size = inner + 2 * page;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let pages = libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            let pages = pages.cast::<u8>();
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(pages.add(page).cast(), inner, access), 0);
            let offset = match side {
                Side::First => 0,
                Side::Last => inner - bytes,
            };
            let first = pages.add(page + offset).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), first, values.len());
            Self {
                pages,
                size,
                first,
                len: values.len(),
            }
        }
    }

    fn slice(&mut self) -> &mut [T] {
        // SAFETY: `new` filled `len` values at `first`, and they are borrowed through `self` only.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.pages.cast(), self.size) };
    }
}

fn for_all(lengths: impl Iterator<Item = usize> + Clone, mut check: impl FnMut(Isa, usize, Side)) {
    for isa in Isa::available() {
        for len in lengths.clone() {
            check(isa, len, Side::First);
            check(isa, len, Side::Last);
        }
    }
}

/// Both ways through the fast path and the fallback: values next to a half step, and others.
fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| {
            if i % 97 == 0 {
                i as f32 / 2.0
            } else {
                (i as f32).sin() * 40.0
            }
        })
        .collect()
}

#[test]
fn elementwise_kernels_stay_within_their_slices() {
    for_all(0..280, |isa, len, side| {
        for scale in [0.37, 1e-35] {
            let map = AffineMap::new(scale, 3, &QuantScheme::affine(Bits::B8)).unwrap();
            let mut x = Guarded::new(&values(len), side);
            let mut codes = Guarded::new(&vec![7u8; len], side);
            let mut out = Guarded::new(&vec![0f32; len], side);
            isa.quantize(x.slice(), map, codes.slice()).unwrap();
            isa.dequantize(codes.slice(), Signedness::Signed, map, out.slice())
                .unwrap();
            isa.fake_quantize(x.slice(), map, out.slice()).unwrap();
        }
    });
}

#[test]
fn packing_stays_within_its_slices() {
    for_all(0..280, |isa, len, side| {
        for bits in Bits::ALL {
            let mut codes = Guarded::new(&vec![0x5a; len], side);
            let mut packed = Guarded::new(&vec![0u8; packed_len(len, bits)], side);
            isa.pack(codes.slice(), bits, packed.slice()).unwrap();
            isa.unpack(packed.slice(), bits, Signedness::Signed, codes.slice())
                .unwrap();
        }
    });
}

#[test]
fn dot_stays_within_its_slices() {
    for_all(0..600, |isa, len, side| {
        let mut a = Guarded::new(&vec![-3i8; len], side);
        let mut b = Guarded::new(&vec![5i8; len], side);
        assert_eq!(isa.dot(a.slice(), b.slice()).unwrap(), -15 * len as i32);
    });
}

#[test]
fn products_stay_within_their_slices() {
    for_all(1..70, |isa, n, side| {
        for (m, k) in [(1, n), (2, 5), (5, 9), (13, 4), (24, 1)] {
            let codes = vec![2u8; n * k];
            let w = PackedMatrix::new(
                &codes,
                [n, k],
                MatrixLayout::OutByIn,
                Signedness::Signed,
                &[1],
            );
            let w = w.unwrap();
            let mut a = Guarded::new(&vec![3u8; m * k], side);
            let mut out = Guarded::new(&vec![0i32; m * n], side);
            w.matmul_on(isa, a.slice(), Signedness::Unsigned, &[1], out.slice())
                .unwrap();
            assert!(out.slice().iter().all(|&y| y == 2 * k as i32));
            let mut x = Guarded::new(&vec![0.5f32; m * k], side);
            let mut out = Guarded::new(&vec![0f32; m * n], side);
            w.matmul_f32_on(isa, x.slice(), &[2.0], out.slice())
                .unwrap();
            assert!(out.slice().iter().all(|&y| y == k as f32));
        }
    });
}
