use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;

const PATH: &str = "hb.toml";

#[test]
fn shipped_file_is_accepted() {
    let c = Config::parse(DEFAULT_FILE, Path::new(PATH)).unwrap_or_else(|e| panic!("{e}"));
    println!("{c:#?}");
}
