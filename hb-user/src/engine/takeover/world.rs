//! What the order of steps sees and does.

use hb_ebpf::{
    lease::{Record, op::Order},
    maps::{Event, MAX_NODES, Peer, PeerKeys},
    time::BootTime,
    wire::{GROUPS, Health},
};

use super::{Command, Report, Shape};
use crate::{
    address::{Change, Vip},
    announce::Gateways,
    id::{GroupId, NodeId},
    realtime::{Demand, Policy},
};

/// Other machines, each by its number less one.
pub type Peers = [bool; MAX_NODES];

/// A change of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// Its group.
    pub group: GroupId,
    /// Its place in the group.
    pub place: usize,
    /// What is to be done.
    pub change: Change,
}

/// What of a group is new.
#[derive(Clone, Copy, Debug)]
pub enum Rebound {
    /// These addresses are bound to another interface, and not up there: a set of places in the group.
    Addresses(u64),
    /// The whole of it: nothing is here.
    Group(Shape),
}

/// What the fast path sees and does, but for what takes time. Nothing of it waits.
pub trait World {
    /// Returns the time.
    fn now(&self) -> BootTime;
    /// Returns what the kernel has to tell next.
    fn event(&mut self) -> Option<Event>;
    /// Returns what the daemon asks for next.
    fn command(&mut self) -> Option<Command>;
    /// Shows the daemon that the thread has heard all events and commands.
    fn went_round(&mut self);
    /// Returns the record of a group; `None` if there is none, or it cannot be read now.
    fn record(&self, group: GroupId) -> Option<Record>;
    /// Returns what is known of another machine.
    fn peer(&self, peer: NodeId) -> Option<Peer>;
    /// Asks for a change of a record; returns the order with the record as it is then, `None` if the
    /// kernel takes none.
    fn order(&mut self, order: Order) -> Option<Order>;
    /// Counts the misses of a peer now. Returns whether that was done.
    fn count_misses(&mut self, peer: NodeId) -> bool;
    /// Says this in frames from now on.
    fn publish(&mut self, health: &[Health; GROUPS], leaving: bool);
    /// Sends a probe to every other machine now.
    fn probe(&mut self);
    /// Sends one to each of those.
    fn probe_these(&mut self, peers: &Peers);
    /// Goes by other keys in probes to a peer.
    fn set_keys(&mut self, peer: NodeId, keys: &PeerKeys, slot: usize, trial: bool);
    /// Has the deputy go by another interval, and the scheduler by another demand; returns how the thread is
    /// scheduled from now on, and the kernel's error number or 0, where CPU time is reserved.
    fn pace(&mut self, interval_ns: u64, demand: Demand) -> Option<(Policy, i32)>;
    /// Returns an address of a group.
    fn vip(&self, group: GroupId, place: usize) -> Option<Vip>;
    /// Announces an address. Returns how many frames did not leave.
    fn announce(&mut self, group: GroupId, place: usize) -> u32;
    /// Announces by this MAC address from now on what of the group is on an interface; returns whether anything is.
    fn set_mac(&mut self, group: GroupId, interface: u32, mac: [u8; 6]) -> bool;
    /// Does so with questions for these routers.
    fn set_gateways(&mut self, group: GroupId, interface: u32, gateways: Gateways) -> bool;
    /// Takes up what is bound anew, and tells of each group that this concerns.
    fn rebind(&mut self, tell: impl FnMut(GroupId, Rebound));
    /// Has the deputy probe from one interval from now on.
    fn stand_in(&mut self);
    /// Has it probe no more.
    fn stand_back(&mut self);
    /// Puts in a report, and wakes the daemon for it or leaves that for later.
    fn report(&mut self, report: Report, ring: bool);
    /// Wakes the daemon for the reports there are.
    fn ring(&mut self);
}
