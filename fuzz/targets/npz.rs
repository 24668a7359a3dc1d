//! Archives of arrays, and arrays alone.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tn_formats::npy::{Npz, read_npy};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut npz) = Npz::open(Cursor::new(bytes)) {
        let _ = npz.read_all();
    }
    let _ = read_npy(&mut Cursor::new(bytes));
});
