//! What a controller reaches of its machine.

use std::time::Duration;

use hb_ebpf::{
    epoch::Epoch,
    lease::{Policy, Record, op::Order},
    maps::Peer,
    time::BootTime,
    wire::GROUPS,
};

use crate::{
    core::storage::Write,
    id::{GroupId, NodeId},
};

/// What came of the wish to have the open work of a group ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// It is being ended; [`Controller::on_swept`](super::Controller::on_swept) follows.
    Begun,
    /// This kernel cannot end any, and the policy does not ask for it.
    Impossible,
    /// It could not be begun, and why.
    Refused(String),
}

/// The machine of one controller.
///
/// None of these waits: what takes long is begun, and its completion is handed in later. The shell
/// logs what fails here and is not returned. Everything but what is looked at may be the last that this
/// process does.
pub trait World {
    /// Returns the time.
    fn now(&self) -> BootTime;

    /// Returns the policy of the cluster.
    fn policy(&self) -> Policy;

    /// Returns the other machines, the witness last.
    fn others(&self) -> Vec<NodeId>;

    /// Returns the groups of the configuration.
    fn groups(&self) -> Vec<GroupId>;

    /// Returns what they are in frames and records, by place.
    fn fingerprints(&self) -> [u32; GROUPS];

    /// Tells whether the addresses of a group are to be up while it does not serve here.
    fn is_warm(&self, group: GroupId) -> bool;

    /// Returns what this node's frames say of its configuration.
    fn config_hash(&self) -> u64;

    /// Looks at a machine.
    fn peer(&self, peer: NodeId) -> Option<Peer>;

    /// Tells whether a machine answers on any link; so does one that was not asked for long enough.
    fn answers(&self, peer: NodeId) -> bool;

    /// Looks at the record of a group.
    fn record(&self, group: GroupId) -> Option<Record>;

    /// Asks for a change of a record; returns the answer, `None` if there is none. Then nobody knows
    /// whether it was changed.
    fn order(&mut self, order: Order) -> Option<Order>;

    /// Tells whether the fast path went round since this was asked last, and asks it to go round again.
    fn fast_path_answers(&mut self) -> bool;

    /// Stamps the controller's slot.
    fn stamp(&mut self);

    /// Begins to watch a peer whose watch the kernel ended; tells whether it did.
    fn watch(&mut self, peer: NodeId) -> bool;

    /// Notes who else may say that a peer is silent.
    fn set_buddy(&mut self, peer: NodeId, buddy: Option<NodeId>);

    /// Begins to make something durable; [`Controller::on_written`](super::Controller::on_written)
    /// follows.
    fn write(&mut self, write: Write);

    /// Begins the delay before a fence of a node, and asks meanwhile whether anybody is there who answers;
    /// [`Controller::on_fence_due`](super::Controller::on_fence_due) follows.
    fn delay_fence(&mut self, node: NodeId);

    /// Tells whether anybody on the interfaces of service addresses answered during that.
    fn is_answered(&self, node: NodeId) -> bool;

    /// Returns for how long this node seeks nothing if nobody did: another one has the time to fence it then.
    fn stand_back(&self) -> Duration;

    /// Has a node fenced, for what these records seek;
    /// [`Controller::on_agent`](super::Controller::on_agent) follows.
    ///
    /// # Errors
    ///
    /// If there is no agent.
    fn run_agent(&mut self, node: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String>;

    /// Waits until the last packets of a node that was fenced have left;
    /// [`Controller::on_silent`](super::Controller::on_silent) follows.
    fn await_silence(&mut self, asked: Vec<(GroupId, Epoch)>);

    /// Begins to end what is open at the addresses of a group, which are gone. Where an earlier sweep of the group
    /// has not ended, one of them may answer for both, by the newer number.
    fn sweep(&mut self, group: GroupId, number: u64) -> Sweep;

    /// Has the addresses of a group put up that is not held here, behind the closed gate.
    fn warm(&mut self, group: GroupId);

    /// Has them taken down again.
    fn cool(&mut self, group: GroupId);
}
