//! Why the kernel half is not at work.

use std::{error::Error, io, path::PathBuf};

use super::attach::Mode;
use crate::{id::NodeId, own_path::NotOurs};

/// What the kernel or the loader said.
pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// Why the kernel half is not at work.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No BPF file system, or no right to write there.
    #[error(
        "cannot use {path} for pins: mount a BPF file system there (`mount -t bpf bpf /sys/fs/bpf`) and run as root"
    )]
    Pins {
        /// Where the pins go.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the directory of the pins.
    #[error("another process uses {path}: end it (`fuser {path}`)")]
    PinsTaken {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else could change what is pinned.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// Pinned maps of another version.
    #[error(
        "the maps pinned at {path} were left by another version of hb ({what}): stop its daemon, then run `hb detach` for this node and start again"
    )]
    Foreign {
        /// Where the pins are.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The object does not load.
    #[error(
        "the kernel refused the maps of the kernel half: it is known to run on Linux 6.12 and newer with BTF, and needs CAP_BPF and CAP_NET_ADMIN"
    )]
    Load(#[source] Cause),
    /// A program does not load.
    #[error(
        "the kernel refused the program `{program}`: it is known to run on Linux 6.12 and newer with BTF, and needs CAP_BPF and CAP_NET_ADMIN"
    )]
    Program {
        /// Which.
        program: &'static str,
        /// What the kernel said.
        source: Cause,
    },
    /// The gate would go by a map that anybody may write.
    #[error(
        "cannot keep processes from writing the map pinned at {pin}, which the gate goes by: end \
         the one that has it mapped for writing (`grep -l bpf-map /proc/*/maps`) and start again"
    )]
    Freeze {
        /// The pin of the map.
        pin: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map misbehaves.
    #[error("cannot {step} map {map} of the kernel half")]
    Map {
        /// Which.
        map: &'static str,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: Cause,
    },
    /// A map of the object is missing or of another kind.
    #[error(
        "the object of the kernel half has no usable {0}: rebuild it with `cargo xtask build-ebpf`"
    )]
    Missing(&'static str),
    /// Mapping into memory failed.
    #[error("cannot map the shared maps of the kernel half into memory")]
    Mmap(#[source] io::Error),
    /// No attach mode works.
    #[error(
        "cannot attach to {interface} in any mode ({why}); is another XDP program there (`ip link show {interface}`)? Beside it heartbeats are heard at TCX, which Linux has since 6.6"
    )]
    Attach {
        /// Which interface.
        interface: String,
        /// Why not, by mode.
        why: String,
    },
    /// The only mode that may be does not work.
    #[error(
        "cannot attach to {interface} in {mode} mode: {hint}; `attach = \"auto\"` of the link allows the other modes",
        mode = .mode.as_str(), hint = hint(*.mode, interface)
    )]
    AttachOnly {
        /// Which interface.
        interface: String,
        /// How it was to be.
        mode: Mode,
        /// Why not.
        source: Cause,
    },
    /// A pin of a link cannot be made.
    #[error("cannot pin the attachment to {interface}")]
    PinLink {
        /// Which interface.
        interface: String,
        /// What the kernel said.
        source: Cause,
    },
    /// A program cannot be taken off its interface.
    #[error("cannot take the program pinned at {pin} off its interface: see the kernel's log")]
    Detach {
        /// The pin of the link.
        pin: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link cannot be handled.
    #[error("cannot handle the attachment to {interface}")]
    Link {
        /// Which interface.
        interface: String,
        /// What the kernel said.
        source: Cause,
    },
    /// An unattached program said no.
    #[error("the kernel half refused to {step} {peer}")]
    Request {
        /// What was asked.
        step: &'static str,
        /// For whom.
        peer: NodeId,
    },
    /// The gate cannot be put on what leaves by an interface.
    #[error(
        "cannot put the gate on {interface} ({why}): it needs TCX, which Linux has since 6.6; \
         without it nothing stops a node that lost its lease"
    )]
    Gate {
        /// Which interface.
        interface: String,
        /// What the kernel said.
        why: String,
    },
    /// Another program keeps itself before the gate.
    #[error(
        "{program} puts itself before the gate of what {way} {interface}, again and again, and may let \
         packets of service addresses pass: end the program that attaches it \
         (`bpftool net show dev {interface}`)"
    )]
    NotFirst {
        /// Which interface.
        interface: String,
        /// `arrives at` or `leaves by`.
        way: &'static str,
        /// Its name and id.
        program: String,
    },
    /// The chains of programs at interfaces cannot be looked at or changed.
    #[error(
        "cannot look after the gate where it is attached: Linux 6.6 or newer is needed, and root"
    )]
    Chain(#[source] io::Error),
    /// A record could not be asked for a change.
    #[error("the kernel half did not carry out order {op} for group {group}: {why}")]
    Order {
        /// Code of the operation ([`hb_ebpf::lease::op::Op`]).
        op: u8,
        /// Index of the group.
        group: u8,
        /// What the kernel said.
        why: String,
    },
    /// The log of the kernel half cannot be read.
    #[error("cannot read the log of the kernel half")]
    Log(#[source] Cause),
}

/// Says what may be in the way of a mode.
fn hint(mode: Mode, interface: &str) -> String {
    let taken = format!("another XDP program is there (`ip link show {interface}`)");
    match mode {
        Mode::Native => format!("the driver cannot, it is a bond, or {taken}"),
        Mode::Generic => taken,
        Mode::Tcx => "it needs TCX, which Linux has since 6.6".to_owned(),
    }
}

/// Returns the whole chain of causes in one line, without the verifier's log.
pub(super) fn describe(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let line = error.to_string();
        let line = line.lines().next().unwrap_or_default();
        if !text.contains(line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(line);
        }
        cause = error.source();
    }
    text
}
