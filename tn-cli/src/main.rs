//! The `tnq` command.
fn main() {}
