//! The `dcff` program.
fn main() {}
