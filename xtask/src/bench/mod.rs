//! `cargo xtask bench`: figures, each with its distribution.

mod against;
mod compare;
mod dots;
mod facts;
mod failover;
mod figures;
mod heartbeat;
mod kernel;
mod load;
mod scale;
mod sweep;
mod tail;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::run;

/// Measures hb: in the lab, in the kernel, and against another revision of itself.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(flatten)]
    against: against::Against,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Compare(compare::Compare),
    Failover(failover::Failover),
    Heartbeat(heartbeat::Heartbeat),
    Kernel(kernel::Kernel),
    Load(load::Load),
    Scale(scale::Scale),
    Sweep(sweep::Sweep),
}

impl Verb {
    /// Tells whether what is measured is, in part, code of this very program.
    fn measures_itself(&self) -> bool {
        match self {
            Self::Kernel(verb) => !verb.is_smoke(),
            Self::Heartbeat(verb) => !verb.is_smoke(),
            Self::Scale(verb) => !verb.is_smoke(),
            Self::Sweep(verb) => !verb.is_smoke(),
            Self::Compare(_) | Self::Failover(_) | Self::Load(_) => false,
        }
    }
}

impl Bench {
    /// Does what the verb says.
    pub(crate) fn run(&self) -> Result<()> {
        let Some(verb) = &self.verb else {
            return match self.against.revision() {
                Some(revision) => self.against.run(revision),
                None => bail!("say what to measure: a verb, or --against REV; see --help"),
            };
        };
        if cfg!(debug_assertions) && verb.measures_itself() {
            return optimized();
        }
        match verb {
            Verb::Compare(verb) => verb.run(),
            Verb::Failover(verb) => verb.run(),
            Verb::Heartbeat(verb) => verb.run(),
            Verb::Kernel(verb) => verb.run(),
            Verb::Load(verb) => verb.run(),
            Verb::Scale(verb) => verb.run(),
            Verb::Sweep(verb) => verb.run(),
        }
    }
}

/// Builds this program with optimizations and runs that one, with the same arguments.
fn optimized() -> Result<()> {
    let mut cargo = run::cargo();
    // Files that the arguments name are where they would be without this.
    cargo.current_dir(std::env::current_dir().context("cannot tell the current directory")?);
    let manifest = run::workspace().join("Cargo.toml");
    cargo.args(["run", "--quiet", "--release", "--package", "xtask", "--manifest-path"]);
    run::run(cargo.arg(manifest).arg("--").args(std::env::args_os().skip(1)))
}
