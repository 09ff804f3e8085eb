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
mod tail;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

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
}

impl Bench {
    /// Does what the verb says.
    pub(crate) fn run(&self) -> Result<()> {
        match (&self.verb, self.against.revision()) {
            (Some(Verb::Compare(verb)), _) => verb.run(),
            (Some(Verb::Failover(verb)), _) => verb.run(),
            (Some(Verb::Heartbeat(verb)), _) => verb.run(),
            (Some(Verb::Kernel(verb)), _) => verb.run(),
            (Some(Verb::Load(verb)), _) => verb.run(),
            (None, Some(revision)) => self.against.run(revision),
            (None, None) => bail!("say what to measure: a verb, or --against REV; see --help"),
        }
    }
}
