//! The `unmist` binary.
fn main() {}
