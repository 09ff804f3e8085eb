//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Keeps service addresses on exactly one healthy node, and moves them in under a millisecond.
#[derive(Debug, Parser)]
#[command(name = "hb", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run this node's daemon until SIGTERM, which hands over and leaves.
    Run(Which),
    /// Check a configuration, the keys and this host against it; start nothing.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Which node this is; the host's name if not given.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Show who serves, or why nobody does; peers, links and what to mend.
    Status {
        #[command(flatten)]
        socket: Socket,
        /// Print the whole report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget that a group failed on this node, so that it may serve here again.
    Clear {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Ask the daemon to hand over and leave, as SIGTERM does.
    Stop {
        #[command(flatten)]
        socket: Socket,
    },
    /// Remove what a daemon that is gone for good left in the kernel: programs, pins, addresses.
    Detach(Which),
    /// Keys of the cluster.
    Key {
        /// What to do with them.
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// The configuration file.
    Config {
        /// Print a complete, commented configuration to start from.
        #[arg(long, required = true)]
        default: bool,
    },
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Write a new key file, readable by its owner alone; copy it to the other node.
    Generate {
        /// The file; it must not exist.
        #[arg(value_name = "FILE", default_value = "/etc/hb/key")]
        file: PathBuf,
    },
}

const DEFAULT_CONFIG: &str = "/etc/hb/hb.toml";

/// Which node.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Which node this is; the host's name if not given.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// Which daemon.
#[derive(Debug, clap::Args)]
pub struct Socket {
    #[command(flatten)]
    pub which: Which,
    /// Its control socket; found through the configuration if not given.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}
