//! A revision of the repository, built to be measured.

use std::{
    collections::BTreeMap,
    fs,
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
    /// packet `costs` or without. What both revisions depend on is built once.
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
        Self::built(format!("{revision} ({commit})"), tree, costs)
    }

    /// Builds this tree, as it is, with whatever was not committed.
    ///
    /// # Errors
    ///
    /// If it does not build.
    pub(super) fn present(costs: bool) -> Result<Self> {
        let root = run::workspace();
        Self::built("this tree".into(), root.into(), costs)
    }

    fn built(name: String, tree: PathBuf, costs: bool) -> Result<Self> {
        let target = run::workspace().join("target");
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
        // Each build of another revision replaces the binaries of the one before.
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
