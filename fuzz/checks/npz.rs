//! Archives of arrays, and arrays alone.

use std::io::Cursor;

use tn_formats::npy::{Npz, read_npy};

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(mut npz) = Npz::open(Cursor::new(bytes)) {
        let _ = npz.read_all();
    }
    let _ = read_npy(&mut Cursor::new(bytes));
}
