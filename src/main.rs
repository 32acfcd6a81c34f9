//! `burn`.
fn main() {}
