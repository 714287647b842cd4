//! The kybern binary.
fn main() {}
