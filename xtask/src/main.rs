//! Builds, demonstrates, tests and measures hb.
fn main() {}
