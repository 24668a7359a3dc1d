//! `.npy` arrays and `.npz` archives, from and to anything that reads and writes.
//!
//! Reading is bounded: an array's size is checked against the bytes that are there before memory is asked for.

mod array;
mod header;
mod npz;

pub use array::{NpyArray, read_npy, write_npy};
pub use npz::{Npz, write_npz};
