//! `cargo xtask mutants`: breaks the code that decides, one small change at a time, and sees whether a test
//! fails.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::run;

/// The version of cargo-mutants that is installed.
const VERSION: &str = "27.1.0";
/// What is still running after this long, in seconds, is an endless loop: the tests of a room take less.
const TIMEOUT_S: &str = "120";
/// Where results lie, below the workspace.
const RESULTS: &str = "target/mutants";

/// Breaks the code that decides, one small change at a time, and runs the tests that hold it.
///
/// Needs no privilege. Installs cargo-mutants in target/tools if it is not there. What must not be reported,
/// and why, is in .cargo/mutants.toml. Ends with 1 if a change made no test fail; all results are in
/// target/mutants/mutants.out.
#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Only these parts of the code; all of them if none is given.
    #[arg(value_enum)]
    rooms: Vec<Room>,
    /// Only what changed since this revision.
    #[arg(long, value_name = "REVISION")]
    since: Option<String>,
    /// Only files that match, as `hb-ebpf/src/lease/voter.rs` or `**/holder.rs`.
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,
    /// Only a part of the changes, as `0/4`: the first of four.
    #[arg(long, value_name = "PART/PARTS")]
    shard: Option<String>,
}

/// A part of the code with tests of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Room {
    /// What the kernel half decides: hb-ebpf's library.
    Kernel,
    /// What a node decides.
    Core,
    /// The order of steps.
    Engine,
    /// What a configuration may say.
    Config,
}

impl Room {
    /// Returns its crate, its files, and the tests that hold it.
    const fn parts(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Kernel => ("hb-ebpf", "hb-ebpf/src/**/*.rs", &["--lib"]),
            Self::Core => ("hb-user", "hb-user/src/core/**/*.rs", &["--lib", "core::"]),
            Self::Engine => ("hb-user", "hb-user/src/engine/**/*.rs", &["--lib", "engine::"]),
            Self::Config => ("hb-user", "hb-user/src/config/**/*.rs", &["--lib", "config::"]),
        }
    }
}

impl Mutants {
    /// Runs the verb.
    ///
    /// # Errors
    ///
    /// When a change made no test fail, when the tests fail without one, and when cargo-mutants is missing and
    /// cannot be installed.
    pub(crate) fn run(&self) -> Result<()> {
        let tool = tool()?;
        let diff = self.since.as_deref().map(differences).transpose()?;
        let rooms = if self.rooms.is_empty() { Room::value_variants() } else { &self.rooms };
        let mut survived = Vec::new();
        for &room in rooms {
            survived.extend(self.judge(room, &tool, diff.as_deref())?);
        }
        if !survived.is_empty() {
            bail!("{} changes made no test fail:\n{}", survived.len(), survived.join("\n"));
        }
        Ok(())
    }

    /// Returns the changes in a room that no test noticed.
    fn judge(&self, room: Room, tool: &Path, diff: Option<&Path>) -> Result<Vec<String>> {
        let mut command = self.command(room, tool, diff);
        println!("> {}", run::line(&command));
        let status = command.status().context("cannot start cargo-mutants")?;
        let results = run::workspace().join(RESULTS).join("mutants.out");
        // As cargo-mutants documents them: all caught; missed; timed out. Others are failures.
        match status.code() {
            Some(0) => Ok(Vec::new()),
            Some(2 | 3) => {
                let mut survived = Vec::new();
                for file in ["missed.txt", "timeout.txt"] {
                    let path = results.join(file);
                    let text = fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    survived.extend(text.lines().map(str::to_owned));
                }
                Ok(survived)
            }
            _ => bail!("cargo-mutants failed: {status}"),
        }
    }

    fn command(&self, room: Room, tool: &Path, diff: Option<&Path>) -> Command {
        let (package, files, tests) = room.parts();
        let mut command = Command::new(tool);
        command.current_dir(run::workspace());
        command.args(["mutants", "--package", package, "--output", RESULTS]);
        command.args(["--timeout", TIMEOUT_S, "--colors", "never"]);
        if self.files.is_empty() {
            command.args(["--file", files]);
        }
        command.args(self.files.iter().flat_map(|file| ["--file", file]));
        command.args(self.shard.iter().flat_map(|shard| ["--shard", shard]));
        if let Some(diff) = diff {
            command.arg("--in-diff").arg(diff);
        }
        command.args(["--", "--locked"]).args(tests);
        command
    }
}

/// Writes what changed since a revision, and returns where.
fn differences(revision: &str) -> Result<PathBuf> {
    let mut git = Command::new("git");
    git.current_dir(run::workspace()).args(["diff", "--relative", revision, "--", "*.rs"]);
    let text = run::output(&mut git)?;
    let directory = run::workspace().join(RESULTS);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {RESULTS}"))?;
    let path = directory.join("since.diff");
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Returns cargo-mutants, installed if need be.
fn tool() -> Result<PathBuf> {
    let root = run::workspace().join("target/tools");
    let path = root.join("bin/cargo-mutants");
    let installed = run::is_executable(&path)
        .then(|| run::output(Command::new(&path).args(["mutants", "--version"])))
        .transpose()?;
    if installed.is_none_or(|version| !version.ends_with(VERSION)) {
        eprintln!("installing cargo-mutants {VERSION} in target/tools");
        let mut command = run::cargo();
        command.args(["install", "cargo-mutants", "--version", VERSION, "--locked"]);
        run::run(command.args(["--root", "target/tools"]))?;
    }
    Ok(path)
}
