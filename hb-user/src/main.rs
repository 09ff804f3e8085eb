//! `hb`: keeps service addresses on exactly one healthy node.

fn main() {}
