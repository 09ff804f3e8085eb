//! The compiled kernel objects in the repository, and the record beside each that says what it
//! was made from and with.
//!
//! The record lets three questions be answered without a BPF toolchain: is the object the one that
//! was built, was it built from the present sources, and would a rebuild here give the same bytes.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{run, sources};

/// Tool name to version; two builds with equal maps must give equal bytes.
pub(crate) type Versions = BTreeMap<String, String>;

/// One program binary of `hb-ebpf` and where its compiled form is kept.
pub(crate) struct Object {
    /// The binary target.
    pub(crate) binary: &'static str,
    /// The file, relative to the root of the workspace.
    pub(crate) path: &'static str,
    /// The variable that names another file in its place: those of `hb` while it is compiled with its
    /// feature `other-objects`, that of the lab when it runs.
    pub(crate) variable: &'static str,
}

/// Every object that is kept.
pub(crate) const OBJECTS: [Object; 3] = [
    Object {
        binary: "hb-node",
        path: "hb-user/kernel/hb-node.bpf.o",
        variable: "HB_KERNEL_OBJECT",
    },
    Object {
        binary: "hb-witness",
        path: "hb-user/kernel/hb-witness.bpf.o",
        variable: "HB_WITNESS_OBJECT",
    },
    Object {
        binary: "hb-switch",
        path: "tests/kernel/hb-switch.bpf.o",
        variable: "HB_SWITCH_OBJECT",
    },
];

impl Object {
    /// The record of the object: the same name, ending in `.txt`.
    pub(crate) fn record_path(&self) -> PathBuf {
        Path::new(self.path).with_extension("txt")
    }

    /// Reads the object and its record, and checks that they belong together.
    ///
    /// # Errors
    ///
    /// When either is missing or unreadable, or the object is not the one recorded.
    pub(crate) fn load(&self, root: &Path) -> Result<(Vec<u8>, Record)> {
        let path = root.join(self.path);
        let object = fs::read(&path)
            .with_context(|| format!("cannot read {}: run `cargo xtask build-ebpf`", self.path))?;
        let record_path = self.record_path();
        let text = fs::read_to_string(root.join(&record_path))
            .with_context(|| format!("cannot read {}", record_path.display()))?;
        let record = Record::parse(&text)
            .with_context(|| format!("cannot use {}", record_path.display()))?;
        let found = hash(&object);
        if found != record.sha256 {
            bail!(
                "{} has SHA-256 {found}, its record says {}: run `cargo xtask build-ebpf`",
                self.path,
                record.sha256
            );
        }
        Ok((object, record))
    }
}

/// What is written beside an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// SHA-256 of the object.
    pub(crate) sha256: String,
    /// [`sources::fingerprint`] of what it was built from.
    pub(crate) sources: String,
    /// The tools that made it.
    pub(crate) versions: Versions,
}

impl Record {
    /// The text of the file: a comment, then one `name: value` a line.
    pub(crate) fn text(&self) -> String {
        let mut text = "# Written by `cargo xtask build-ebpf`.\n".to_owned();
        let fixed = [("sha256", &self.sha256), ("sources", &self.sources)];
        let versions = self.versions.iter().map(|(name, version)| (name.as_str(), version));
        for (name, value) in fixed.into_iter().chain(versions) {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text
    }

    /// The inverse of [`Record::text`].
    ///
    /// # Errors
    ///
    /// When a line has no colon, or a hash is missing.
    pub(crate) fn parse(text: &str) -> Result<Record> {
        let mut versions = Versions::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line
                .split_once(": ")
                .with_context(|| format!("line {line:?} is not of the form `name: value`"))?;
            versions.insert(name.to_owned(), value.to_owned());
        }
        let mut take =
            |name: &str| versions.remove(name).with_context(|| format!("no line `{name}: `"));
        Ok(Record { sha256: take("sha256")?, sources: take("sources")?, versions })
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks, without a BPF toolchain, that every object is as recorded and was built from the
/// present sources.
///
/// # Errors
///
/// When one is not, with the command that mends it.
pub(crate) fn check_fresh() -> Result<()> {
    let root = run::workspace();
    let sources = sources::fingerprint(root)?;
    for object in &OBJECTS {
        let (_, record) = object.load(root)?;
        if record.sources != sources {
            bail!(
                "{} was built from sources with SHA-256 {}, they now have {sources}: \
                 run `cargo xtask build-ebpf`",
                object.path,
                record.sources
            );
        }
    }
    Ok(())
}

/// The variables that make the tests load the objects in `directory` instead of the kept ones.
pub(crate) fn variables(directory: &Path) -> Vec<(&'static str, PathBuf)> {
    OBJECTS.iter().map(|object| (object.variable, rebuilt(directory, object))).collect()
}

/// Where a rebuild into `directory` puts an object.
pub(crate) fn rebuilt(directory: &Path, object: &Object) -> PathBuf {
    directory.join(object.binary).with_extension("bpf.o")
}

/// Whether the caller has already chosen other objects for the tests.
pub(crate) fn is_overridden() -> bool {
    OBJECTS.iter().any(|object| env::var_os(object.variable).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_objects_are_built_from_the_present_sources() {
        if let Err(error) = check_fresh() {
            panic!("{error:#}");
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let record = Record {
            sha256: hash(b"object"),
            sources: hash(b"sources"),
            versions: Versions::from([
                ("rustc".to_owned(), "rustc 1.96.0 (ac68faa20 2026-05-25): built".to_owned()),
                ("linker".to_owned(), "bpf-linker 0.13.0".to_owned()),
            ]),
        };
        assert_eq!(Record::parse(&record.text()).unwrap(), record);
    }

    #[test]
    fn a_record_without_a_hash_is_refused() {
        let error = Record::parse("sha256: ab\nrustc: 1\n").unwrap_err().to_string();
        assert!(error.contains("sources"), "{error}");
        assert!(Record::parse("sha256\n").is_err());
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn an_object_that_is_not_the_recorded_one_is_refused() {
        let copy = tempfile::tempdir().unwrap();
        let object = &OBJECTS[0];
        let path = copy.path().join(object.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let record =
            Record { sha256: hash(b"one"), sources: String::from("s"), versions: Versions::new() };
        fs::write(copy.path().join(object.record_path()), record.text()).unwrap();
        fs::write(&path, b"one").unwrap();
        assert_eq!(object.load(copy.path()).unwrap().1, record);
        fs::write(&path, b"two").unwrap();
        let error = object.load(copy.path()).unwrap_err().to_string();
        assert!(error.contains(&hash(b"one")) && error.contains(&hash(b"two")), "{error}");
    }
}
