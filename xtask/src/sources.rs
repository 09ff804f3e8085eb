//! What in the repository goes into the kernel objects, as one hash.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::build_ebpf::FLAGS;

/// One hash over everything in the repository that goes into the objects: the sources of
/// `hb-ebpf`, its manifest, the locked crates that it needs, the release profile and the compiler
/// flags.
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
    let profile = shared.get("profile").and_then(|profile| profile.get("release"));
    inputs.push(("profile.release".to_owned(), show(profile)));
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_fingerprint_stays_when_other_crates_or_profiles_move() {
        let copy = workspace_copy();
        let before = fingerprint(copy.path()).unwrap();
        let lock = LOCK.replace("dd", "de").replace("b1", "b0");
        fs::write(copy.path().join("Cargo.lock"), lock).unwrap();
        let profiles = "[profile.release]\nopt-level = 3\n[profile.dev]\nopt-level = 1\n";
        fs::write(copy.path().join("Cargo.toml"), profiles).unwrap();
        assert_eq!(fingerprint(copy.path()).unwrap(), before);
    }

    #[test]
    fn a_crate_that_is_not_locked_is_named() {
        let copy = workspace_copy();
        fs::write(copy.path().join("Cargo.lock"), "package = []").unwrap();
        let error = fingerprint(copy.path()).unwrap_err().to_string();
        assert!(error.contains("\"a\""), "{error}");
    }
}
