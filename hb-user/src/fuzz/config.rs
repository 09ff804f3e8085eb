//! Files of a configuration, as somebody may write them.

use std::path::Path;

use super::{finds, holds};
use crate::config::Config;

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shipped =
        std::fs::read_to_string(root.join("packaging/hb.toml")).expect("the shipped file");
    // What is shipped is mostly comments, which would take most of the changes.
    let plain: Vec<_> =
        shipped.lines().map(|line| line.split('#').next().unwrap_or(line)).collect();
    vec![plain.join("\n").into_bytes()]
}

/// Reads a file; returns its fingerprint if it is taken.
fn read(bytes: &[u8]) -> Option<u64> {
    let config = Config::parse(&String::from_utf8_lossy(bytes), Path::new("fuzz.toml"));
    match config {
        Ok(config) => {
            for node in &config.nodes {
                let _ = config.identify(Some(node.name.as_str()), "elsewhere");
            }
            Some(config.fingerprint())
        }
        Err(errors) => {
            assert!(!errors.to_string().is_empty(), "refused without a reason");
            None
        }
    }
}

#[test]
fn any_configuration_is_judged() {
    assert!(read(&seeds()[0]).is_some());
    holds(2_000, &seeds(), read);
}

#[test]
fn a_panic_behind_all_checks_of_a_configuration_is_found() {
    let shipped = read(&seeds()[0]);
    finds(2_000, &seeds(), |file| {
        let found = read(file);
        assert!(found.is_none() || found == shipped);
    });
}
