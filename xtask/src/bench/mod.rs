//! `cargo xtask bench`: figures, each with its distribution.

mod compare;
mod dots;
mod facts;
mod failover;
mod figures;
mod kernel;
mod load;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measures hb in the lab.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Compare(compare::Compare),
    Failover(failover::Failover),
    Kernel(kernel::Kernel),
    Load(load::Load),
}

impl Bench {
    /// Does what the verb says.
    pub(crate) fn run(&self) -> Result<()> {
        match &self.verb {
            Verb::Compare(verb) => verb.run(),
            Verb::Failover(verb) => verb.run(),
            Verb::Kernel(verb) => verb.run(),
            Verb::Load(verb) => verb.run(),
        }
    }
}
