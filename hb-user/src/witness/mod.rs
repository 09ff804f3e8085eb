//! The machine that only votes: `hb witness`.
//!
//! The command attaches the kernel half, tells it of its clusters and ends; the kernel votes on.
//! [`prepare`] finds what is wrong before anything is touched, [`start`] attaches and configures,
//! [`status`] looks, [`detach`] takes away, and [`generation`] says which numbers have to be on the
//! disk for a voter without a process.
//!
//! All clusters share one kernel half, since an interface takes one program. What is known of a
//! cluster stays when another one is added or changed.

pub mod detach;
pub mod generation;
mod outcome;
mod patience;
pub mod prepare;
pub mod start;
pub mod status;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use hb_ebpf::lease::TermsError;

use crate::{
    config::ConfigErrors, kernel::KernelError, key::KeyError, own_path, state_dir::StateDirError,
    trust::Untrusted,
};

/// Where the configurations of the clusters lie.
pub const DEFAULT_CONFIGS: &str = "/etc/hb/witness.d";
/// Where the kernel half is pinned. Nodes pin theirs below `/sys/fs/bpf/hb`, by cluster.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/hb-witness";

/// Why the command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A configuration is wrong, by itself or for this host.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Somebody else may change one.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// A directory of configurations cannot be read.
    #[error("cannot read the configurations in {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no configuration.
    #[error("there is no configuration in {0}: put one there for each cluster, named NAME.toml")]
    Empty(PathBuf),
    /// A configuration has no witness.
    #[error("{path} has no [witness]: under policy {policy:?} no third machine votes")]
    NoWitness {
        /// The file.
        path: PathBuf,
        /// Its policy.
        policy: &'static str,
    },
    /// Two configurations are of one cluster.
    #[error(
        "{} and {} are of one cluster ({}): give one configuration for each",
        paths[0].display(), paths[1].display(),
        if names[0] == names[1] { names[0].clone() } else {
            format!("{} and {} have the same number on the wire; rename one", names[0], names[1])
        }
    )]
    Twice {
        /// The files.
        paths: [PathBuf; 2],
        /// The names in them.
        names: [String; 2],
    },
    /// More clusters than the kernel half has room for.
    #[error("no room for cluster {name}: this machine votes in {most} clusters already")]
    Full {
        /// The cluster.
        name: String,
        /// How many there may be.
        most: usize,
    },
    /// The interfaces cannot be listed.
    #[error("cannot read the interfaces of this host")]
    Interfaces(#[source] io::Error),
    /// The keys are of no use.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The voters or the lengths of leases.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The numbers on the disk.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The generations are used up.
    #[error("the generations of cluster {0} are used up: give its witness a new id")]
    UsedUp(String),
    /// The kernel half was left by another version.
    #[error(
        "the kernel half pinned at {path} is of another version of hb ({what}): run `hb witness \
         --detach`, then `hb witness`; what it promised is forgotten, so a few seconds pass before \
         it votes again"
    )]
    Foreign {
        /// Where the pins are.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The kernel half.
    #[error(transparent)]
    Kernel(KernelError),
    /// No random numbers.
    #[error("cannot draw a random boot nonce")]
    Random(#[source] io::Error),
    /// Another command is at work.
    #[error("another `hb witness` is at work: wait until it has ended")]
    Busy,
    /// Whether another command is at work cannot be told.
    #[error("cannot lock {path}: mount a BPF file system there and run as root")]
    Lock {
        /// What is locked.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// There is nothing to look at.
    #[error("no witness is attached here (nothing is pinned at {0}): run `hb witness`")]
    Absent(PathBuf),
    /// A cluster is not known here.
    #[error(
        "this machine does not vote in cluster {0}; `hb witness --status` lists those it knows"
    )]
    Unknown(String),
}

impl From<KernelError> for WitnessError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Foreign { path, what } => Self::Foreign { path, what },
            other => Self::Kernel(other),
        }
    }
}

/// Keeps other commands from changing what is pinned at `pins` until it is dropped.
#[derive(Debug)]
struct Lock {
    pins: PathBuf,
    _directory: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that was made for the lock and has nothing in it.
        drop(fs::remove_dir(&self.pins));
    }
}

impl Lock {
    /// Makes the directory if it is not there, for its owner alone: nobody else can lock it.
    fn take(pins: &Path) -> Result<Self, WitnessError> {
        let failed = |source| WitnessError::Lock { path: pins.to_owned(), source };
        loop {
            let directory = own_path::make(pins).map_err(KernelError::from)?;
            match directory.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(WitnessError::Busy),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever had it may have removed the directory in the end.
            let locked = directory.metadata().map_err(failed)?;
            if fs::metadata(pins).is_ok_and(|there| same(&there, &locked)) {
                return Ok(Self { pins: pins.to_owned(), _directory: directory });
            }
        }
    }
}

fn same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
