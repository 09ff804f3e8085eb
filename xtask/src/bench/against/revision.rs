//! A revision of the repository, built to be measured.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// A revision and what was built of it.
pub(super) struct Revision {
    /// As it is shown.
    pub(super) name: String,
    /// Its daemon.
    pub(super) hb: PathBuf,
    /// Its xtask, if that one can measure what a packet costs.
    pub(super) xtask: Option<PathBuf>,
    tree: PathBuf,
    target: PathBuf,
}

impl Revision {
    /// Checks `revision` out below `target/against` and builds it, with the means to tell what a
    /// packet `costs` or without.
    ///
    /// # Errors
    ///
    /// If there is no such revision or it does not build.
    pub(super) fn build(revision: &str, costs: bool) -> Result<Self> {
        let root = run::workspace();
        let mut git = Command::new("git");
        git.current_dir(root).args(["rev-parse", "--verify", "--short"]);
        let commit = run::output(git.arg(format!("{revision}^{{commit}}")))?;
        let place = root.join("target/against");
        let tree = place.join(&commit);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        if !tree.exists() {
            let mut git = Command::new("git");
            git.current_dir(root).args(["worktree", "prune"]);
            run::run(&mut git)?;
            let mut git = Command::new("git");
            git.current_dir(root).args(["worktree", "add", "--detach"]).arg(&tree).arg(&commit);
            run::run(&mut git)?;
        }
        let target = place.join(format!("{commit}-target"));
        seed(&root.join("target/release"), &target.join("release")).with_context(|| {
            format!("cannot put what is built already below {}", target.display())
        })?;
        Self::built(format!("{revision} ({commit})"), tree, target, costs)
    }

    /// Builds this tree, as it is, with whatever was not committed.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub(super) fn present(costs: bool) -> Result<Self> {
        let root = run::workspace();
        Self::built("this tree".into(), root.into(), root.join("target"), costs)
    }

    /// `target` is not that of another tree: cargo takes what it built from the same place in another
    /// workspace for its own.
    fn built(name: String, tree: PathBuf, target: PathBuf, costs: bool) -> Result<Self> {
        let build = |arguments: &[&str]| {
            let mut cargo = run::cargo();
            cargo.current_dir(&tree).env("CARGO_TARGET_DIR", &target);
            run::run(cargo.args(["build", "--release", "--locked"]).args(arguments))
        };
        build(&["--package", "hb-user", "--bin", "hb"])?;
        if costs {
            build(&["--package", "xtask"])?;
        }
        let xtask = target.join("release/xtask");
        let measures =
            costs && run::output(Command::new(&xtask).args(["bench", "kernel", "--help"])).is_ok();
        if costs && !measures {
            println!("{name} cannot measure what a packet costs: that is not compared");
        }
        // A later build of this tree replaces its binaries.
        let keep = target.join("measured").join(tree.file_name().unwrap_or_default());
        fs::create_dir_all(&keep).with_context(|| format!("cannot make {}", keep.display()))?;
        let copy = |binary: &str| -> Result<PathBuf> {
            let to = keep.join(binary);
            fs::copy(target.join("release").join(binary), &to)
                .with_context(|| format!("cannot keep {binary} of {name}"))?;
            Ok(to)
        };
        let hb = copy("hb")?;
        let xtask = if measures { Some(copy("xtask")?) } else { None };
        Ok(Self { name, hb, xtask, tree, target })
    }

    /// Runs its micro-benchmarks; returns the mean of each in nanoseconds.
    ///
    /// # Errors
    ///
    /// If one fails.
    pub(super) fn criterion(&self) -> Result<BTreeMap<String, f64>> {
        let mut cargo = run::cargo();
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        let arguments = ["bench", "--package", "benches", "--locked", "--", "--quick", "--noplot"];
        run::output(cargo.args(arguments))?;
        let mut means = BTreeMap::new();
        collect(&self.target.join("criterion"), &mut means)?;
        Ok(means)
    }
}

/// What names of the workspace's own crates begin with.
const OURS: [&str; 4] = ["hb", "xtask", "benches", "lab"];

/// Links what cargo has built of others' crates below `from` to the same place below `to`, where
/// it need not be built again. What is there already stays.
fn seed(from: &Path, to: &Path) -> io::Result<()> {
    for part in ["deps", ".fingerprint", "build"] {
        if from.join(part).exists() {
            link(&from.join(part), &to.join(part))?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let bare = name.to_string_lossy();
        let bare = bare.strip_prefix("lib").unwrap_or(&bare);
        let (path, place) = (entry.path(), to.join(&name));
        if OURS.iter().any(|ours| bare.starts_with(ours)) || place.is_file() {
            continue;
        }
        if entry.file_type()?.is_dir() {
            link(&path, &place)?;
        } else {
            fs::hard_link(&path, &place)?;
        }
    }
    Ok(())
}

/// Reads `new/estimates.json` of every benchmark below `directory`, as criterion leaves them.
fn collect(directory: &Path, means: &mut BTreeMap<String, f64>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let estimates = path.join("new/estimates.json");
        if estimates.exists() {
            let value: Value = serde_json::from_slice(&fs::read(&estimates)?)?;
            let about: Value = serde_json::from_slice(&fs::read(path.join("new/benchmark.json"))?)?;
            let mean = value["mean"]["point_estimate"].as_f64();
            let name = about["full_id"].as_str();
            if let (Some(mean), Some(name)) = (mean, name) {
                means.insert(format!("{name} (ns)"), mean);
            }
        }
        if path.is_dir() && !estimates.exists() {
            collect(&path, means)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_linked_and_our_own_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        for path in ["deps/libaya-1.rlib", "deps/libhb_user-1.rlib", "build/libc-2/out/output"] {
            let path = from.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "first").unwrap();
        }
        for _ in 0..2 {
            seed(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(to.join("deps/libaya-1.rlib")).unwrap(), "first");
            assert_eq!(fs::read_to_string(to.join("build/libc-2/out/output")).unwrap(), "first");
            assert!(!to.join("deps/libhb_user-1.rlib").exists());
        }
    }

    #[test]
    fn means_are_found_at_any_depth() {
        let directory = tempfile::tempdir().unwrap();
        for (place, name, mean) in [("sign", "sign", 7.5), ("group/case", "group/case", 8.0)] {
            let new = directory.path().join(place).join("new");
            fs::create_dir_all(&new).unwrap();
            let estimates = format!(r#"{{"mean": {{"point_estimate": {mean}}}}}"#);
            fs::write(new.join("estimates.json"), estimates).unwrap();
            fs::write(new.join("benchmark.json"), format!(r#"{{"full_id": "{name}"}}"#)).unwrap();
        }
        let mut means = BTreeMap::new();
        collect(directory.path(), &mut means).unwrap();
        let expected =
            BTreeMap::from([("sign (ns)".to_owned(), 7.5), ("group/case (ns)".to_owned(), 8.0)]);
        assert_eq!(means, expected);
    }
}
