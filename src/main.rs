//! The `rcompose` binary: chooses a role before any thread exists.
fn main() {}
