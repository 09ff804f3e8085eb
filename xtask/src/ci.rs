//! Every check that a change must pass, in the order in which they run.
//!
//! A failing step does not stop the others: one run says all that is wrong.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    build_ebpf::{self, Outcome},
    deny, kernel_object, run, test,
};

/// Timers for a machine whose cores stand still for some ten milliseconds now and then, as those of a
/// busy host do: to them that is no death. A run that a longer stall spoils is done again.
const CALM: [&str; 8] =
    ["--interval", "4ms", "--misses", "20", "--lease", "160ms", "--controller-deadtime", "160ms"];

/// Runs the verb, and ends with a table of the steps.
///
/// # Errors
///
/// When a step failed; the message names all that did.
pub(crate) fn run() -> Result<()> {
    if kernel_object::is_overridden() {
        bail!(
            "HB_KERNEL_OBJECT, HB_WITNESS_OBJECT or HB_SWITCH_OBJECT is set: unset it, the kept objects are tested"
        );
    }
    let mut steps = Steps::default();
    let mut outcome = None;
    steps.run("kernel objects", || {
        outcome = Some(build_ebpf::check()?);
        Ok(())
    });
    steps.run("format", || {
        require_component("fmt", "rustfmt")?;
        cargo(&["fmt", "--all", "--check"], &[])
    });
    steps.run("lints", || {
        require_component("clippy", "clippy")?;
        let lint = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        cargo(&lint, &[])
    });
    steps.run("documentation", || {
        let document = ["doc", "--workspace", "--no-deps", "--locked"];
        cargo(&document, &[("RUSTDOCFLAGS", "-D warnings")])
    });
    steps.run("dependencies", deny::run);
    steps.run("tests", || test::run(&test::Options::default()));
    if let Some(Outcome::OtherTools(directory)) = &outcome {
        steps.run("kernel tests on the rebuilt objects", || {
            test::run_kernel_tests(&kernel_object::variables(directory))
        });
    }
    for (fault, runs) in
        [("crash", "2"), ("cut", "1"), ("stop", "1"), ("kill", "2"), ("freeze", "2")]
    {
        let demo = ["run", "-q", "-p", "xtask", "--", "demo", "--runs", runs, "--fault", fault];
        steps.run(format!("demo: {fault}"), || cargo(&[&demo[..], &CALM].concat(), &[]));
    }
    // Whether they work; their figures would say nothing here.
    steps.run("bench --against", || {
        let mut git = Command::new("git");
        git.current_dir(run::workspace()).args(["rev-parse", "--verify", "HEAD"]);
        if let Err(error) = run::output(&mut git) {
            println!(
                "these sources are in no repository, so there is no other revision: {error:#}"
            );
            return Ok(());
        }
        cargo(&["run", "-q", "-p", "xtask", "--", "bench", "--against", "HEAD", "--smoke"], &[])
    });
    for smoke in [
        &["compare", "--hb-as", "hb-200us", "--peer", "keepalived", "--runs", "1"][..],
        &["load", "--smoke", "--level", "L0", "--level", "L7"],
        &["kernel", "--smoke"],
        &[&["failover", "--smoke", "--fault", "crash"][..], &CALM].concat(),
        &["heartbeat", "--smoke"],
        &["scale", "--smoke"],
    ] {
        steps.run(format!("bench {}", smoke[0]), || {
            cargo(&[&["run", "-q", "-p", "xtask", "--", "bench"], smoke].concat(), &[])
        });
    }
    // Each once, in the profile of the tests: it proves that they run. Figures of a shared machine
    // would say nothing, and optimizing every dependency for them takes minutes.
    steps.run("benchmarks", || cargo(&["test", "--workspace", "--bench", "*", "--locked"], &[]));
    steps.conclude()
}

fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    run::run_telling_why(run::cargo().args(arguments).envs(variables.iter().copied()))
}

/// Makes sure that a component of the Rust toolchain is there, which the minimal profile lacks.
fn require_component(verb: &str, component: &str) -> Result<()> {
    if run::output(run::cargo().args([verb, "--version"])).is_ok() {
        return Ok(());
    }
    eprintln!("installing the toolchain component {component}");
    run::run(Command::new("rustup").args(["component", "add", component]))
        .with_context(|| format!("the toolchain component {component} is missing"))
}

/// The steps so far.
#[derive(Default)]
struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    error: Option<String>,
}

impl Steps {
    fn run(&mut self, name: impl Into<String>, work: impl FnOnce() -> Result<()>) {
        let name = name.into();
        println!("\n== {name}");
        let start = run::now();
        let result = work();
        let took = start.elapsed();
        let error = result.err().map(|error| format!("{error:#}"));
        match &error {
            None => println!("== {name}: passed in {:.1} s", took.as_secs_f64()),
            Some(error) => println!("== {name}: failed in {:.1} s: {error}", took.as_secs_f64()),
        }
        self.done.push(Step { name, took, error });
    }

    fn conclude(&self) -> Result<()> {
        print!("\n{}", self.table());
        let failed: Vec<&str> =
            self.done.iter().filter(|step| step.error.is_some()).map(|step| &*step.name).collect();
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} of {} steps failed: {}", failed.len(), self.done.len(), failed.join(", "));
    }

    /// One line a step: name, seconds, result.
    fn table(&self) -> String {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0).max(5);
        let row = |name: &str, took: Duration, result: &str| {
            format!("{name:<width$}  {:>7.1} s  {result}\n", took.as_secs_f64())
        };
        let mut table: String = self
            .done
            .iter()
            .map(|step| row(&step.name, step.took, step.error.as_deref().unwrap_or("passed")))
            .collect();
        table.push_str(&row("total", self.done.iter().map(|step| step.took).sum(), ""));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_stop_the_steps_after_it_but_counts() {
        let mut steps = Steps::default();
        steps.run("first", || bail!("broken"));
        let mut ran = false;
        steps.run("second", || {
            ran = true;
            Ok(())
        });
        assert!(ran);
        let error = steps.conclude().unwrap_err().to_string();
        assert_eq!(error, "1 of 2 steps failed: first");
        let table = steps.table();
        assert!(table.contains("broken") && table.contains("passed"), "{table}");
        assert_eq!(table.lines().count(), 3);
    }

    #[test]
    fn all_passed_is_a_success() {
        let mut steps = Steps::default();
        steps.run("only", || Ok(()));
        steps.conclude().unwrap();
    }
}
