//! What a node says of itself and the cluster when asked.
//!
//! The report is the contract with scripts and monitors: fields are added, never renamed or given
//! another meaning. Times are ages in microseconds at the moment of the report, never instants, so
//! that nobody needs this machine's clock; what never happened is absent (`null`).

mod gate;
mod lease;
mod render;
mod verdict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use gate::{AddressAtGate, BeforeGate, GateReport, InterfaceAtGate, render_gate};
pub use lease::{LeaseStatus, Promise, Vote};
pub(crate) use render::{Page, ago, row, span};
pub use render::{WIDTH, render};
pub use verdict::Verdict;

/// Everything one node knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the daemon.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the cluster in the frames.
    pub cluster_id: u32,
    /// Name of the node that reports.
    pub node: String,
    /// Its id, 1 to 64.
    pub node_id: u8,
    /// How often its daemon started.
    pub incarnation: u32,
    /// Fingerprint of its configuration: 16 hexadecimal digits.
    pub config_hash: String,
    /// What counts the misses.
    pub engine: Engine,
    /// How the fast path is scheduled.
    pub scheduling: Scheduling,
    /// The daemon's main loop.
    pub controller: Controller,
    /// The ids of the keys that authenticate frames.
    #[serde(default)]
    pub keys: KeysReport,
    /// `witness`, `safe` or `available`.
    pub policy: String,
    /// How long the daemon has run, in seconds.
    pub uptime_s: u64,
    /// How often this machine stood still, as the clocks of others tell.
    #[serde(default)]
    pub pauses: PausesReport,
    /// The other machines: the nodes by id, then the witness if there is one.
    pub peers: Vec<PeerStatus>,
    /// The groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// The kernel's check of packets from and to service addresses.
    #[serde(default)]
    pub gate: Option<GateReport>,
    /// Frames refused, by reason, that named no node or link there could be.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// What an operator should mend, one sentence each; then what an operator should know of that is over.
    pub warnings: Vec<String>,
    /// How many of the warnings, from the first on, are of something that is wrong now.
    #[serde(default)]
    pub mend: usize,
}

/// What counts the misses, and why that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Which engine.
    pub kind: EngineKind,
    /// Why it was chosen.
    pub reason: String,
}

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// One kernel timer per peer.
    KernelTimer,
    /// A real-time thread of the daemon, where the kernel has no timers for BPF.
    User,
}

/// How the fast path is scheduled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// The policy in force: `SCHED_DEADLINE`, `SCHED_FIFO` or `SCHED_OTHER`.
    pub policy: String,
    /// The better ones that were refused, each with the reason.
    pub refused: Vec<String>,
}

/// This node's controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Age of its stamp.
    pub age_us: u64,
    /// Time between two rounds of its main loop, in milliseconds.
    pub tick_ms: u64,
}

/// The keys of a node, by their ids in the key file, 1 to 255.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReport {
    /// Those whose frames are taken: one, or two while one is put in the place of the other.
    pub accepted: Vec<u8>,
    /// The one that this node sends with.
    pub sends_with: u8,
}

/// One other machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// Whether it only votes, without a daemon.
    #[serde(default)]
    pub witness: bool,
    /// Its id.
    pub id: u8,
    /// Its life by the rules of the detector.
    pub life: PeerLife,
    /// Why it is late, dead or left.
    pub cause: Option<String>,
    /// How long it has been so.
    pub since_us_ago: u64,
    /// When it was last heard on any link.
    pub last_arrival_us_ago: Option<u64>,
    /// How often its daemon started; absent before it was heard.
    pub incarnation: Option<u32>,
    /// Its controller, by its own frames; absent before it was heard, and of a witness.
    pub controller: Option<PeerController>,
    /// Whether its configuration is ours; absent before it was heard.
    pub config_matches: Option<bool>,
    /// Sections in which it is seen to differ; one in sixteen is not.
    #[serde(default)]
    pub config_differs: Vec<String>,
    /// Why it refuses our frames, if it says that it does.
    pub refuses_us: Option<String>,
    /// Intervals of silence.
    pub misses: Misses,
    /// Intervals in which no probe of ours left, and verdicts put off, ever.
    pub doubts_total: u64,
    /// Verdicts of death ever.
    pub deaths_total: u64,
    /// Its clock minus ours; absent before an answer told.
    pub offset_us: Option<f64>,
    /// How often it stood still, as its clock tells.
    #[serde(default)]
    pub pauses: PausesReport,
    /// The links to it, in the order of the configuration.
    pub links: Vec<LinkStatus>,
}

/// Pauses of a machine: a suspend, a stopped or migrated virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausesReport {
    /// Since this daemon started.
    pub total: u64,
    /// The last one.
    pub latest: Option<PauseReport>,
}

/// One pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReport {
    /// How long it was.
    pub us: u64,
    /// When it was found.
    pub us_ago: u64,
    /// Whose clocks told. If it is one alone, its own may have been set instead.
    pub by: Vec<String>,
}

/// A peer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerLife {
    /// Not heard since we watch.
    Unheard,
    /// Heard within deadtime.
    Alive,
    /// Silent for warntime.
    Late,
    /// Silent for deadtime.
    Dead,
    /// Said that it leaves, and is silent since.
    Left,
}

impl PeerLife {
    /// Returns the life as the report spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Alive => "alive",
            Self::Late => "late",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// A peer's controller as its newest frame tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerController {
    /// Whether its age is within `controller_deadtime`.
    pub alive: bool,
    /// Age of its stamp.
    pub age_us: u64,
}

/// Intervals in which a probe left and nothing arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misses {
    /// Since the last arrival.
    pub consecutive: u64,
    /// Ever.
    pub total: u64,
}

/// One link to one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub link: String,
    /// `ethernet`, `udp4` or `udp6`.
    pub transport: String,
    /// The interface here.
    pub interface: String,
    /// How the program is attached to it.
    pub attach_mode: AttachMode,
    /// Why it is not attached in native mode.
    pub attach_reason: Option<String>,
    /// Whether it was heard within deadtime.
    pub up: bool,
    /// When it was last heard.
    pub last_arrival_us_ago: Option<u64>,
    /// Fresh frames that arrived.
    pub received: u64,
    /// Probes of the peer answered.
    pub answered: u64,
    /// Probes of ours that could not be sent.
    pub send_errors: u64,
    /// Probes of ours that were.
    pub sent: u64,
    /// Frames refused, by reason; only reasons that occurred.
    pub refused: BTreeMap<String, u64>,
    /// Authentic frames that were not fresh, and so changed nothing.
    pub unfresh: u64,
    /// Round trips of our probes; absent before the first answer.
    pub rtt_us: Option<Quantiles>,
    /// Times between arrivals; absent before the second.
    pub gap_us: Option<Quantiles>,
    /// Whether the peer says that it hears our answers on this link.
    pub answers_heard_by_peer: bool,
}

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack, after it made a packet of the frame: slower.
    Generic,
    /// In traffic control, after XDP: slower.
    Tcx,
    /// Not at all: nothing is heard or answered there.
    None,
}

impl AttachMode {
    /// Returns the mode as the report spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::None => "none",
        }
    }
}

/// A distribution, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of the values are at most this.
    pub p50: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// All are; absent where it is not kept.
    pub max: Option<f64>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// What this node is to it.
    pub state: GroupState,
    /// How it fares here.
    pub health: GroupHealth,
    /// What stands for it in frames: 8 hexadecimal digits, made of its name and its addresses.
    #[serde(default)]
    pub fingerprint: String,
    /// Index of its record in the map for applications.
    #[serde(default)]
    pub record: u8,
    /// Machines that are heard and have no group of that name with these addresses.
    #[serde(default)]
    pub lacking: Vec<String>,
    /// Name of the node that holds it, as far as this one knows.
    pub holder: Option<String>,
    /// How it fares there: here as it is, elsewhere by the newest word of that node.
    #[serde(default)]
    pub holder_health: Option<GroupHealth>,
    /// Epoch of that holder, else the highest heard of; 0 for never held.
    pub epoch: u64,
    /// Upper half of the epoch: how often a voter lost its record.
    pub generation: u32,
    /// This node's permission to serve it, and its own vote.
    #[serde(default)]
    pub lease: Option<LeaseStatus>,
    /// Its addresses, in the order of the configuration.
    pub addresses: Vec<AddressStatus>,
    /// Its resources, in the order in which they start.
    pub resources: Vec<ResourceStatus>,
    /// Why it does not run here, or anywhere.
    pub reason: Option<String>,
    /// How often its resources were started again here after a failure, within the window that counts.
    #[serde(default)]
    pub restarts: u32,
    /// An operator wants this node to stand aside of it (`hb standby`).
    #[serde(default)]
    pub aside: bool,
    /// It is in maintenance on this node (`hb maintenance`).
    #[serde(default)]
    pub maintenance: bool,
    /// How long holder and state have been so.
    pub since_us_ago: u64,
}

/// What a node is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    /// Does not hold it.
    Idle,
    /// Seeks to hold it.
    Seeking,
    /// Holds it.
    Holding,
    /// Held it and gave it to a successor.
    Released,
}

impl GroupState {
    /// Returns the state as the report spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Seeking => "seeking",
            Self::Holding => "holding",
            Self::Released => "released",
        }
    }
}

/// How a group fares on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupHealth {
    /// Not ready to take it.
    Starting,
    /// Serving.
    Healthy,
    /// A resource failed; an operator has to clear it.
    Failed,
    /// Stopping, or the node is leaving.
    Stopping,
    /// Ready to take it.
    Standby,
    /// An interface of its addresses is not there, is down or has no carrier.
    NoPath,
    /// Able to take it, and not to: an operator wants that node to stand aside.
    Aside,
}

impl GroupHealth {
    /// Returns the health as the report spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
            Self::Standby => "standby",
            Self::NoPath => "no-path",
            Self::Aside => "aside",
        }
    }
}

/// One service address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address, with its prefix length if it has one.
    pub address: String,
    /// The interface it belongs on.
    pub interface: String,
    /// Whether it is there now.
    pub present: bool,
    /// Whether it is to be there also while the group is not served here (`warm_addresses`).
    pub warm: bool,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// Its type and agent, as `script` or `ocf:heartbeat:Dummy`.
    pub kind: String,
    /// `running`, `stopped`, `starting`, `stopping`, `failed` or `unknown`, and the reason after a
    /// colon if there is one.
    pub state: String,
    /// What looks whether it runs while the group serves; empty if nobody does.
    #[serde(default)]
    pub watched: Vec<String>,
}
