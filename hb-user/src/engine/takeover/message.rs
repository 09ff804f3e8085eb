//! What the daemon asks of the fast path, and what it hears of it.

use hb_ebpf::{
    epoch::Epoch,
    maps::{Cause, Event, PeerKeys},
    time::BootTime,
    wire::{GROUPS, Health},
};

use crate::{
    address::{ChangeError, Vip},
    announce::Gateways,
    id::{GroupId, NodeId},
    realtime::{Demand, Policy},
};

/// Groups, each by its index.
pub type Groups = [bool; GROUPS];

/// What the daemon asks of the fast path.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Say this in frames from now on, and send a probe at once.
    Publish {
        /// How each group fares here.
        health: [Health; GROUPS],
        /// The daemon is leaving in order.
        leaving: bool,
    },
    /// Seek these groups at the instant the kernel declares `peer` dead or finds its controller
    /// dead, and each of them at the instant the peer says that it released it to this node.
    Arm {
        /// The peer.
        peer: NodeId,
        /// What to seek.
        groups: Groups,
    },
    /// Seek a group, and once it is held put up its addresses and announce them. One that is held
    /// already is only put up.
    Seek {
        /// The group.
        group: GroupId,
    },
    /// Seek a group no longer, unless it has been won.
    GiveUp {
        /// The group.
        group: GroupId,
    },
    /// Give a group away: close its gate, say so, and take down its addresses.
    Release {
        /// The group.
        group: GroupId,
        /// To whom; `None` for whoever seeks it.
        successor: Option<NodeId>,
    },
    /// Take down the addresses of a group that is held no longer, or whose lease has run out.
    Drop {
        /// The group.
        group: GroupId,
    },
    /// Announce the addresses of a group again, from the start of the schedule.
    Announce {
        /// The group.
        group: GroupId,
    },
    /// Announce the addresses of a group once more, and go on with its schedule.
    Remind {
        /// The group.
        group: GroupId,
    },
    /// Put up the addresses of a group that are missing, and announce them again.
    Restore {
        /// The group.
        group: GroupId,
        /// Which: a set of places in the group.
        missing: u64,
    },
    /// An interface has another MAC address: announce what is on it by that one.
    Mac {
        /// Index of the interface.
        interface: u32,
        /// The address it has now.
        mac: [u8; 6],
    },
    /// Ask these routers as well when what is on an interface is announced.
    Gateways {
        /// Index of the interface.
        interface: u32,
        /// The routers it has now.
        gateways: Gateways,
    },
    /// Put up the addresses of a group that is not held, behind the closed gate.
    Warm {
        /// The group.
        group: GroupId,
    },
    /// Take them down again.
    Cool {
        /// The group.
        group: GroupId,
    },
    /// Go by these keys in probes to a peer.
    Keys {
        /// The peer, or the witness.
        peer: NodeId,
        /// The keys shared with it.
        keys: PeerKeys,
        /// Which of them to send with.
        slot: usize,
        /// Precede each probe by one under the other, to see whether it is answered.
        trial: bool,
    },
    /// Probe at this interval from now on, with this demand on the scheduler.
    Pace {
        /// Between two probes, in nanoseconds.
        interval_ns: u64,
        /// CPU time, if it is reserved.
        demand: Demand,
    },
    /// Take up what [`Fast::rebind`](crate::fast::Fast::rebind) has ready.
    Rebind,
    /// End the thread.
    Exit,
}

/// What set off a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The daemon asked.
    Asked,
    /// The kernel declared a peer dead.
    Death(NodeId, Cause),
    /// The kernel half of a peer says that its controller is dead.
    Controller(NodeId),
    /// A peer handed the group over.
    Release(NodeId),
}

/// When the steps of a takeover were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// When the verdict was due, or the release arrived; never where the daemon asked.
    pub due: BootTime,
    /// When the kernel gave the verdict, or took in the release.
    pub verdict: BootTime,
    /// When this thread saw it, or the command.
    pub seen: BootTime,
    /// When the record began to seek.
    pub sought: BootTime,
    /// When this thread saw that the record holds.
    pub won: BootTime,
    /// When the last address was up.
    pub address: BootTime,
    /// When the last announcement had left.
    pub announced: BootTime,
}

/// What the fast path did, or what the kernel told it.
#[derive(Clone, Copy, Debug)]
pub enum Report {
    /// The kernel has something to tell; the facts are in the maps.
    Event(Event),
    /// The record of a group seeks now.
    Sought {
        /// The group.
        group: GroupId,
    },
    /// An address could not be put up; it is not there.
    Refused {
        /// The group.
        group: GroupId,
        /// The address.
        vip: Vip,
        /// Why not.
        error: EffectError,
    },
    /// The addresses of a group are up as far as they are needed, or not.
    Took {
        /// The group.
        group: GroupId,
        /// In which epoch.
        epoch: Epoch,
        /// What set it off.
        trigger: Trigger,
        /// When.
        steps: Steps,
        /// Announcements that could not be sent.
        unsent: u32,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
    /// The addresses of a group that is not held are up, or not.
    Warmed {
        /// The group.
        group: GroupId,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
    /// The thread is scheduled otherwise, for another interval.
    Rescheduled {
        /// How.
        policy: Policy,
        /// The kernel's error number if it refused a reservation, 0 if not.
        errno: i32,
    },
    /// The addresses of a group are gone, or not.
    Dropped {
        /// The group.
        group: GroupId,
        /// When.
        at: BootTime,
        /// The first thing that failed.
        result: Result<(), EffectError>,
    },
}

/// Why the addresses of a group are not as they should be. Plain data: making one allocates
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// An address could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Nothing could be asked of the kernel.
    #[error("cannot ask the kernel to change addresses: see its log, then restart hb on this node")]
    Socket,
    /// There is no such group.
    #[error("no such group")]
    Unknown,
}
