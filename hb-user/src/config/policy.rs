//! Who may serve when nodes cannot hear each other, and what each answer to that needs.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use hb_ebpf::lease;

use super::Name;
use crate::id::NodeId;

/// Who may serve when nodes cannot hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whoever has the promise of a third machine, the witness.
    Witness,
    /// Whoever has fenced the other.
    Safe,
    /// Each on its own: across a partition two nodes may serve.
    Available,
}

impl Policy {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Witness => "witness",
            Self::Safe => "safe",
            Self::Available => "available",
        }
    }
}

impl From<Policy> for lease::terms::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Witness => Self::Witness,
            Policy::Safe => Self::Safe,
            Policy::Available => Self::Available,
        }
    }
}

/// The machine that votes and never serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name, that of no node.
    pub name: Name,
    /// Its id, that of no node.
    pub id: NodeId,
}

/// How long an agent that hangs may take to end once it was told to.
pub const FENCE_END: Duration = Duration::from_secs(2);
/// Time between two tries of a fence.
pub const FENCE_PAUSE: Duration = Duration::from_secs(1);

/// How long a node that is about to fence another waits for an answer from anybody at least.
pub const FENCE_ASK: Duration = Duration::from_millis(200);
/// How much longer than the delays a node waits that had none.
const FENCE_STAND_BACK: Duration = Duration::from_secs(1);

/// How a silent node is made sure to be off.
#[derive(Clone, PartialEq, Eq)]
pub struct Fence {
    /// The program, absolute: one that takes its options as fence agents do.
    pub command: PathBuf,
    /// What it is asked to do.
    pub action: FenceAction,
    /// How long one try may take.
    pub timeout: Duration,
    /// How often it is tried again after a failure.
    pub retries: u32,
    /// How long the node of lower rank waits before it fences.
    pub delay: Duration,
    /// Options by the node that is to be fenced, in the order they are passed.
    pub options: BTreeMap<NodeId, Vec<(String, String)>>,
}

impl Fence {
    /// Returns how long a fence takes at most: the delays, the tries, each with the time to end one
    /// that hangs, and the pauses between them.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let one = self.timeout.saturating_add(FENCE_END);
        one.saturating_mul(self.retries.saturating_add(1))
            .saturating_add(FENCE_PAUSE.saturating_mul(self.retries))
            .saturating_add(self.delay)
            .saturating_add(FENCE_ASK)
    }

    /// Returns for how long a node seeks nothing that nobody answers, so that the other one may fence it first:
    /// that one waits its delay at most, and then its agent takes less than that.
    #[must_use]
    pub fn stand_back(&self) -> Duration {
        self.delay.saturating_mul(2).saturating_add(FENCE_STAND_BACK)
    }

    /// Returns how long `own` waits before it fences `peer`: nothing if it ranks first.
    #[must_use]
    pub fn delay(&self, own: NodeId, peer: NodeId) -> Duration {
        if own < peer { Duration::ZERO } else { self.delay }
    }
}

/// Values of options may be secret: only their names are shown.
impl std::fmt::Debug for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: BTreeMap<_, Vec<_>> = self
            .options
            .iter()
            .map(|(node, options)| (*node, options.iter().map(|(name, _)| name).collect()))
            .collect();
        f.debug_struct("Fence")
            .field("command", &self.command)
            .field("action", &self.action)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("delay", &self.delay)
            .field("options", &names)
            .finish()
    }
}

/// What a fence agent is asked to do to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAction {
    /// Turn the node off and leave it so.
    Off,
    /// Turn it off and on again.
    Reboot,
}

impl FenceAction {
    /// Returns the word of the file, which is that of fence agents too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
        }
    }
}

/// How the gate treats packets of service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What it does to a packet without a lease.
    pub mode: GateMode,
    /// How long after a planned move the old holder sends packets on to the new one; zero for not
    /// at all.
    pub handover_bounce: Duration,
}

/// What the gate does to a packet without a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateMode {
    /// Drop it.
    On,
    /// Count it and let it pass.
    DryRun,
    /// Nothing; neither looks nor counts.
    Bypass,
}

impl GateMode {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::DryRun => "dry-run",
            Self::Bypass => "bypass",
        }
    }
}
