//! The compiled kernel objects in the repository, and the record beside each that says what it
//! was made from and with.
//!
//! The record lets three questions be answered without a BPF toolchain: is the object the one that
//! was built, was it built from the present sources, and would a rebuild here give the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{build_ebpf::FLAGS, run};

/// Tool name to version; two builds with equal maps must give equal bytes.
pub(crate) type Versions = BTreeMap<String, String>;

/// One program binary of `hb-ebpf` and where its compiled form is kept.
pub(crate) struct Object {
    /// The binary target.
    pub(crate) binary: &'static str,
    /// The file, relative to the root of the workspace.
    pub(crate) path: &'static str,
    /// The variable that makes the tests load another file in its place.
    pub(crate) variable: &'static str,
}

/// Every object that is kept.
pub(crate) const OBJECTS: [Object; 2] = [
    Object {
        binary: "hb-node",
        path: "hb-user/kernel/hb-node.bpf.o",
        variable: "HB_KERNEL_OBJECT",
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
    /// [`fingerprint`] of the sources it was built from.
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

/// One hash over everything in the repository that goes into the objects: the sources of
/// `hb-ebpf`, its manifest, the locked crates that it needs, the profile and the compiler flags.
///
/// # Errors
///
/// When a file cannot be read or a manifest does not parse.
pub(crate) fn fingerprint(root: &Path) -> Result<String> {
    let mut inputs = Vec::new();
    let crate_root = root.join("hb-ebpf");
    for file in files_under(&crate_root.join("src"))? {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        inputs.push((name, content));
    }
    let manifest = read_table(&crate_root.join("Cargo.toml"))?;
    let shared = read_table(&root.join("Cargo.toml"))?;
    let lock = read_table(&root.join("Cargo.lock"))?;
    for name in ["package", "features", "bin", "dependencies"] {
        inputs.push((format!("manifest.{name}"), show(manifest.get(name))));
    }
    inputs.push(("profile".to_owned(), show(shared.get("profile"))));
    let package = shared.get("workspace").and_then(|workspace| workspace.get("package"));
    inputs.push(("workspace.package".to_owned(), show(package)));
    inputs.push(("locked".to_owned(), locked_crates(&lock, &manifest)?.join("\n").into_bytes()));
    inputs.push(("flags".to_owned(), FLAGS.join("\n").into_bytes()));

    let mut digest = Sha256::new();
    for (name, content) in inputs {
        digest.update(format!("{name}\0{}\0", content.len()));
        digest.update(content);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn show(value: Option<&Value>) -> Vec<u8> {
    value.map(ToString::to_string).unwrap_or_default().into_bytes()
}

fn read_table(path: &Path) -> Result<Table> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("{} is not TOML", path.display()))
}

/// Every file below a directory, in the order of their names.
fn files_under(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path =
                entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The locked crates that `[dependencies]` of the manifest lead to, as `name version checksum`.
fn locked_crates(lock: &Table, manifest: &Table) -> Result<Vec<String>> {
    let packages =
        lock.get("package").and_then(Value::as_array).context("Cargo.lock has no packages")?;
    let text = |package: &Value, key: &str| -> String {
        package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut waiting: Vec<String> = manifest
        .get("dependencies")
        .and_then(Value::as_table)
        .context("hb-ebpf/Cargo.toml has no [dependencies]")?
        .keys()
        .cloned()
        .collect();
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    while let Some(wanted) = waiting.pop() {
        if !seen.insert(wanted.clone()) {
            continue;
        }
        // A lock file names a crate alone where one version is locked, else with its version.
        let (name, version) = wanted.split_once(' ').unwrap_or((&wanted, ""));
        let mut matches = packages.iter().filter(|package| {
            text(package, "name") == name
                && (version.is_empty() || text(package, "version") == version)
        });
        let package = matches
            .next()
            .with_context(|| format!("Cargo.lock has no crate {wanted:?}: run `cargo check`"))?;
        let row = ["name", "version", "checksum"].map(|key| text(package, key));
        found.insert(row.join(" "));
        if let Some(needs) = package.get("dependencies").and_then(Value::as_array) {
            waiting.extend(needs.iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    Ok(found.into_iter().collect())
}

/// Checks, without a BPF toolchain, that every object is as recorded and was built from the
/// present sources.
///
/// # Errors
///
/// When one is not, with the command that mends it.
pub(crate) fn check_fresh() -> Result<()> {
    let root = run::workspace();
    let sources = fingerprint(root)?;
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

    fn workspace_copy() -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let source = copy.path().join("hb-ebpf/src");
        fs::create_dir_all(source.join("deep")).unwrap();
        fs::write(source.join("main.rs"), "fn main() {}").unwrap();
        fs::write(source.join("deep/part.rs"), "").unwrap();
        fs::write(
            copy.path().join("hb-ebpf/Cargo.toml"),
            "[package]\nname = \"hb-ebpf\"\n[dependencies]\na = \"1\"\n[dev-dependencies]\nd = \"1\"\n",
        )
        .unwrap();
        fs::write(copy.path().join("Cargo.toml"), "[profile.release]\nopt-level = 3\n").unwrap();
        fs::write(copy.path().join("Cargo.lock"), LOCK).unwrap();
        copy
    }

    const LOCK: &str = r#"
        package = [
            { name = "a", version = "1.0.0", checksum = "aa", dependencies = ["b 2.0.0"] },
            { name = "b", version = "1.0.0", checksum = "b1" },
            { name = "b", version = "2.0.0", checksum = "b2" },
            { name = "d", version = "1.0.0", checksum = "dd" },
        ]
    "#;

    #[test]
    fn the_fingerprint_moves_with_what_goes_into_the_object() {
        let copy = workspace_copy();
        let root = copy.path();
        let edits = [
            ("hb-ebpf/src/main.rs", "fn main() { }"),
            ("hb-ebpf/src/deep/part.rs", "//"),
            ("Cargo.toml", "[profile.release]\nopt-level = 2\n"),
            ("Cargo.lock", &LOCK.replace("b2", "b3")),
        ];
        let mut seen = BTreeSet::from([fingerprint(root).unwrap()]);
        for (file, content) in edits {
            fs::write(root.join(file), content).unwrap();
            assert!(seen.insert(fingerprint(root).unwrap()), "{file} made no difference");
        }
        fs::rename(root.join("hb-ebpf/src/main.rs"), root.join("hb-ebpf/src/node.rs")).unwrap();
        assert!(seen.insert(fingerprint(root).unwrap()), "a new name made no difference");
    }

    #[test]
    fn the_fingerprint_stays_when_other_crates_move() {
        let copy = workspace_copy();
        let before = fingerprint(copy.path()).unwrap();
        let lock = LOCK.replace("dd", "de").replace("b1", "b0");
        fs::write(copy.path().join("Cargo.lock"), lock).unwrap();
        assert_eq!(fingerprint(copy.path()).unwrap(), before);
    }

    #[test]
    fn a_crate_that_is_not_locked_is_named() {
        let copy = workspace_copy();
        fs::write(copy.path().join("Cargo.lock"), "package = []").unwrap();
        let error = fingerprint(copy.path()).unwrap_err().to_string();
        assert!(error.contains("\"a\""), "{error}");
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
