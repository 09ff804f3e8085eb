//! Why a node does not start.

use std::{io, path::PathBuf};

use hb_ebpf::lease::TermsError;

use crate::{
    address::{AddressError, BatchFull},
    announce::AnnounceError,
    core::SetupError,
    fast::FastError,
    kernel::KernelError,
    link::LinkError,
    parting::PartingError,
    sockets::SweepError,
    state_dir::StateDirError,
};

/// Why a prepared node did not start. What was begun is undone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel half.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel has no timers for us, and the configuration insists on them.
    #[error(
        "engine = \"kernel\", but this kernel refuses BPF timers ({0}): set engine = \"auto\" or \
         \"user\", or run a kernel without PREEMPT_RT"
    )]
    Engine(String),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// What an earlier life left behind.
    #[error(transparent)]
    Parting(#[from] PartingError),
    /// The fast path.
    #[error(transparent)]
    Fast(#[from] FastError),
    /// A link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A socket to announce with.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// Too many addresses.
    #[error(transparent)]
    Batch(#[from] BatchFull),
    /// Connections to an address that moves away cannot be ended.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// Addresses cannot be listed.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// The voters or the lengths of leases.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The core.
    #[error(transparent)]
    Core(#[from] SetupError),
    /// This process has another clock than the kernel half.
    #[error(
        "CLOCK_BOOTTIME of this process is {ahead_ns} ns ahead of the kernel's, by which leases run: \
         it is in a time namespace (time_namespaces(7)); start hb outside of it"
    )]
    Clock {
        /// By how much; below 0 it is behind.
        ahead_ns: i128,
    },
    /// Another process uses the kernel half.
    #[error(
        "another process uses what is pinned at {}: a daemon with another state directory, or `hb \
         gate --remove`", .0.display()
    )]
    InUse(PathBuf),
    /// The interfaces cannot be listed.
    #[error("cannot read the interfaces of this host")]
    Interfaces(#[source] io::Error),
    /// Nobody can gate new interfaces.
    #[error("cannot start the thread that gates new interfaces")]
    Cover(#[source] io::Error),
    /// Nobody can write to the disk.
    #[error("cannot start the thread that writes to the disk")]
    Disk(#[source] io::Error),
    /// No random numbers.
    #[error("cannot draw a random boot nonce")]
    Random(#[source] io::Error),
    /// A link has an end that does not fit its transport.
    #[error("link {0} has no usable interface or address on this host any more: start again")]
    Ends(String),
}
