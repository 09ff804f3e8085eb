//! Runs all tests and adds up what they say.
//!
//! First those of every crate, which need nothing, then those in `tests`, which load programs into
//! the kernel and build networks of their own to do it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, privilege, run};

/// The tests that are mostly waiting, two of which run at a time.
const CLUSTERS: &str = "cluster";

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Run only the tests whose name contains this
    filter: Option<String>,
    /// Leave out the tests that need a kernel, and with them every privilege
    #[arg(long)]
    unit_only: bool,
}

/// Runs the verb, and ends with the line `N passed, N failed`.
///
/// # Errors
///
/// When a test fails, nothing matches the filter, something does not build, or a privilege or a
/// program is missing.
pub(crate) fn run(options: &Options) -> Result<()> {
    // First, so that nobody waits for a build to learn it.
    let runner = if options.unit_only { None } else { Some(prepare()?) };
    let layout = Layout::read()?;
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let filter = options.filter.as_deref();
    if let Err(error) = unit_tests(filter, &layout, &mut tally) {
        failures.push(format!("{error:#}"));
    }
    if let Some(runner) = runner
        && let Err(error) = kernel_tests(filter, &layout, &runner, &[], &mut tally)
    {
        failures.push(format!("{error:#}"));
    }
    tally.print();
    conclude(&tally, filter, &failures)
}

/// Runs only the tests that need a kernel, with these variables set.
///
/// # Errors
///
/// As [`run()`].
pub(crate) fn run_kernel_tests(variables: &[(&str, PathBuf)]) -> Result<()> {
    let mut tally = Tally::default();
    let result = kernel_tests(None, &Layout::read()?, &prepare()?, variables, &mut tally);
    tally.print();
    conclude(
        &tally,
        None,
        &result.err().map(|error| format!("{error:#}")).into_iter().collect::<Vec<_>>(),
    )
}

fn conclude(tally: &Tally, filter: Option<&str>, failures: &[String]) -> Result<()> {
    let names = tally.failures.join(", ");
    if !failures.is_empty() {
        bail!("{}: {names}", failures.join("; "));
    }
    if tally.failed > 0 {
        bail!("{} tests failed: {names}", tally.failed);
    }
    if let Some(filter) = filter
        && tally.passed + tally.ignored == 0
    {
        bail!("no test has {filter:?} in its name");
    }
    Ok(())
}

fn unit_tests(filter: Option<&str>, layout: &Layout, tally: &mut Tally) -> Result<()> {
    let mut command = run::cargo();
    command.args([
        "test",
        "--workspace",
        "--lib",
        "--bins",
        "--examples",
        "--locked",
        "--no-fail-fast",
    ]);
    command.args(layout.unit_tests.iter().flat_map(|name| ["--test", name]));
    command.arg("--").args(filter);
    let targets = run::run_lines(&mut command, |line| tally.count(line));
    // Never together with others, says cargo.
    let mut command = run::cargo();
    command.args(["test", "--workspace", "--doc", "--locked", "--no-fail-fast", "--"]).args(filter);
    targets.and(run::run_lines(&mut command, |line| tally.count(line)))
}

/// How a test binary that needs privilege is started.
#[derive(Debug, PartialEq, Eq)]
struct Runner {
    /// Empty when this process has what is needed.
    command: &'static str,
}

/// Checks the kernel, the privileges and the programs that the tests need; installs the latter.
fn prepare() -> Result<Runner> {
    privilege::check_kernel()?;
    packages::require("ip", "iproute2")?;
    // Counts the system calls of the fast path.
    packages::require("strace", "strace")?;
    agents()?;
    let status = privilege::Status::of_this_process()?;
    choose_runner(status.is_root(), &status.missing(), run::which("sudo").is_some())
}

/// Installs the agents of the Open Cluster Framework, and what some of them manage in tests.
fn agents() -> Result<()> {
    // The agent of file systems refuses to do anything without it.
    if !Path::new("/sbin/modprobe").exists() {
        packages::install(&["kmod"], "agents of resources")?;
    }
    for (file, package, service, why) in [
        (
            "/usr/lib/ocf/resource.d/heartbeat/Dummy",
            "resource-agents",
            "logd.service",
            "agents of resources",
        ),
        ("/usr/sbin/nginx", "nginx-light", "nginx.service", "a service for agents of resources"),
    ] {
        if !Path::new(file).exists() {
            packages::install_unstarted(&[package], &[service], why)?;
        }
    }
    Ok(())
}

fn choose_runner(is_root: bool, missing: &[&str], has_sudo: bool) -> Result<Runner> {
    if missing.is_empty() {
        return Ok(Runner { command: "" });
    }
    let missing = missing.join(", ");
    if is_root {
        bail!(
            "this process is root without {missing}: give them to the container it runs in, \
             or run `cargo xtask test --unit-only`"
        );
    }
    if !has_sudo {
        bail!(
            "this process lacks {missing} and there is no sudo: become root, \
             or run `cargo xtask test --unit-only`"
        );
    }
    eprintln!("this process lacks {missing}: it builds the kernel tests and sudo runs them");
    Ok(Runner { command: "sudo -E" })
}

fn kernel_tests(
    filter: Option<&str>,
    layout: &Layout,
    runner: &Runner,
    variables: &[(&str, PathBuf)],
    tally: &mut Tally,
) -> Result<()> {
    let mut build = run::cargo();
    build.args(["build", "--release", "--package", "hb-user", "--bin", "hb", "--locked"]);
    // What the variables name is embedded while it is compiled.
    let others: &[&str] =
        if variables.is_empty() { &[] } else { &["--features", "hb-user/other-objects"] };
    let chosen = || variables.iter().map(|(name, path)| (name, path));
    run::run(build.args(others).envs(chosen()))?;

    // The tests share two cores with the nodes that they watch. Those of clusters take turns, the
    // others run one at a time.
    let (clusters, others_alone): (Vec<_>, Vec<_>) =
        layout.kernel_tests.iter().partition(|name| *name == CLUSTERS);
    let mut results = Vec::new();
    for (names, threads) in [(others_alone, "1"), (clusters, "2")] {
        // Without a name, cargo would run all there are.
        if names.is_empty() {
            continue;
        }
        let mut command = run::cargo();
        command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(others);
        command.args(names.into_iter().flat_map(|name| ["--test", name]));
        command.args(["--", "--test-threads", threads]).args(filter);
        command.env("HB_BIN", layout.target_directory.join("release/hb"));
        command.envs(chosen());
        if !runner.command.is_empty() {
            command.env(runner_variable(&host()?), runner.command);
        }
        results.push(run::run_lines(&mut command, |line| tally.count(line)));
    }
    results.into_iter().collect()
}

/// What cargo knows of the workspace.
///
/// Which packages a command selects decides with which features their dependencies are built, and
/// anything built with others is built anew. So all tests are run with the whole workspace selected,
/// and those that need a kernel are told apart by their names.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    target_directory: PathBuf,
    /// Test binaries that need a kernel: those of the package `hb-tests`.
    kernel_tests: Vec<String>,
    /// Those of all other packages.
    unit_tests: Vec<String>,
}

impl Layout {
    fn read() -> Result<Self> {
        let mut command = run::cargo();
        Self::of(&run::output(command.args(["metadata", "--format-version=1", "--no-deps"]))?)
    }

    fn of(text: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(text)
            .context("`cargo metadata` did not write what this program expects of it")?;
        let mut layout = Self {
            target_directory: metadata.target_directory,
            kernel_tests: Vec::new(),
            unit_tests: Vec::new(),
        };
        for package in metadata.packages {
            let names = package.targets.into_iter().filter(Target::is_test);
            let names = names.map(|target| target.name);
            if package.name == "hb-tests" {
                layout.kernel_tests.extend(names);
            } else {
                layout.unit_tests.extend(names);
            }
        }
        Ok(layout)
    }
}

#[derive(serde::Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(serde::Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(serde::Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Target {
    fn is_test(&self) -> bool {
        self.kind.iter().any(|kind| kind == "test")
    }
}

fn host() -> Result<String> {
    let text = run::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

/// The variable by which cargo learns how to start what it built for a target.
fn runner_variable(target: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", target.to_uppercase().replace(['-', '.'], "_"))
}

/// The sum of the summaries of several test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// The names of those that failed.
    failures: Vec<String>,
}

impl Tally {
    /// Adds a line of output, when it is a summary, `test result: ok. 3 passed; 0 failed; ...`, or
    /// a failure, `test name ... FAILED`.
    fn count(&mut self, line: &str) {
        let failure = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        self.failures.extend(failure.map(str::to_owned));
        let Some(summary) = line.strip_prefix("test result: ") else { return };
        let counts = summary.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, name)) = count.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match name {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn print(&self) {
        if self.ignored > 0 {
            println!("{} ignored", self.ignored);
        }
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_need_a_kernel_are_those_of_one_package() {
        let text = r#"{"target_directory": "/t", "packages": [
            {"name": "hb-user", "targets": [
                {"name": "hb_user", "kind": ["lib"]}, {"name": "vectors", "kind": ["test"]}]},
            {"name": "hb-tests", "targets": [
                {"name": "lab", "kind": ["lib"]}, {"name": "cluster", "kind": ["test"]}]}]}"#;
        let expected = Layout {
            target_directory: "/t".into(),
            kernel_tests: vec!["cluster".to_owned()],
            unit_tests: vec!["vectors".to_owned()],
        };
        assert_eq!(Layout::of(text).unwrap(), expected);
        assert!(Layout::of("{}").is_err());
        // Where none is named, cargo would run none and be content.
        let layout = Layout::read().unwrap();
        assert!(!layout.kernel_tests.is_empty() && !layout.unit_tests.is_empty(), "{layout:?}");
        // And runs all of one name.
        assert!(layout.kernel_tests.iter().all(|name| !layout.unit_tests.contains(name)));
    }

    #[test]
    fn summaries_add_up() {
        let mut tally = Tally::default();
        let output = "running 4 tests\n\
            test a ... ok\n\
            test b ... FAILED\n\
            test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 5 filtered out; finished in 1.50s\n";
        output.lines().for_each(|line| tally.count(line));
        let failures = vec!["b".to_owned()];
        assert_eq!(tally, Tally { passed: 15, failed: 1, ignored: 2, failures });
        let error = conclude(&tally, None, &[]).unwrap_err().to_string();
        assert_eq!(error, "1 tests failed: b");
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        let mut tally = Tally::default();
        tally.count("3 passed; 1 failed");
        tally.count("  test result: ok. 3 passed; 0 failed");
        tally.count("test result: ");
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn a_filter_that_matches_nothing_fails() {
        let error = conclude(&Tally::default(), Some("lease"), &[]).unwrap_err().to_string();
        assert!(error.contains("\"lease\""), "{error}");
        conclude(&Tally { passed: 1, ..Tally::default() }, Some("lease"), &[]).unwrap();
    }

    #[test]
    fn a_missing_privilege_is_named_or_borrowed() {
        assert_eq!(choose_runner(false, &[], false).unwrap().command, "");
        assert_eq!(choose_runner(false, &["CAP_BPF"], true).unwrap().command, "sudo -E");
        for (is_root, has_sudo) in [(true, true), (true, false), (false, false)] {
            let error = choose_runner(is_root, &["CAP_BPF"], has_sudo).unwrap_err().to_string();
            assert!(error.contains("CAP_BPF"), "{error}");
        }
    }

    #[test]
    fn the_runner_goes_by_the_target() {
        assert_eq!(
            runner_variable("x86_64-unknown-linux-gnu"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }
}
