//! The configuration: one strict TOML file, the same on every node.
//!
//! [`Config::load`] reads it into types that cannot hold nonsense, or reports *all* that is wrong
//! with it, each with line, column and what to do. [`Config::identify`] finds out which node this
//! host is; [`Config::check_host`] then compares the file with the host's interfaces. Nothing is
//! started from half a configuration: an unknown key is an error.
//!
//! The format is described in `docs/configuration.md`; [`DEFAULT_FILE`] is a commented example.

mod check;
mod diff;
mod duration;
mod error;
mod file;
mod fingerprint;
mod host;
mod lease;
mod local;
mod names;
mod nearest;
mod policy;
mod queue;
mod resource;
mod timers;
mod unready;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hb_ebpf::{lease::identity::Places, maps::Transport, wire::GROUPS};

use crate::{
    id::{GroupId, LinkId, NodeId},
    kernel::Mode,
    link::Ends,
    notify::Kind,
};

pub(crate) use check::resources::TIMEOUT as RESOURCE_TIMEOUT;
pub use diff::{Difference, Way};
pub use duration::{DurationError, Readable, parse as parse_duration};
pub use error::{ConfigError, ConfigErrors, Position};
pub use fingerprint::{differing, link_fingerprint, same_links};
pub(crate) use host::index_of;
pub use host::{HostView, Interface, hostname};
pub use lease::{Expected, LEASE_MOST, LeaseTiming, LeaseValues};
pub use local::{IdentifyError, Local, LocalLink};
pub use names::{ClusterName, InterfaceName, Name, NameError};
pub(crate) use nearest::suggestion;
pub use policy::{
    FENCE_ASK, FENCE_END, FENCE_PAUSE, Fence, FenceAction, Gate, GateMode, Policy, Witness,
};
pub use queue::Queue;
pub use resource::{Check, CheckKind, Resource, ResourceKind, Timeout, Url};
pub use timers::{
    CONTROLLER_DEADTIME, DOUBT_MAX, INITDEAD_MOST, INTERVAL, MISSES, TimerValues, Timers,
    TimersError,
};
pub use unready::Unready;

/// A complete, commented configuration of two machines, as `hb config --default` prints it. Each
/// comment says what raising the value costs.
pub const DEFAULT_FILE: &str = include_str!("../../../packaging/hb.toml");

/// Files above this many bytes are refused unread.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration that passed every check that needs no host.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the whole cluster is about.
    pub cluster: Cluster,
    /// When silence means what.
    pub timers: Timers,
    /// How long leases last.
    pub lease: LeaseTiming,
    /// The nodes, by rank: lowest id first. Exactly two.
    pub nodes: Vec<Node>,
    /// The third machine that votes; there is one under policy `witness` alone.
    pub witness: Option<Witness>,
    /// The links, at the index of their [`LinkId`]; 1 to 4.
    pub links: Vec<Link>,
    /// The groups, at the index of their [`GroupId`]; 1 to 8.
    pub groups: Vec<Group>,
    /// Machines that answer while an interface works.
    pub pings: Vec<PingGroup>,
    /// Programs that are told what changes.
    pub notifies: Vec<Notify>,
    /// How a silent node is made sure to be off; there is one under policy `safe` alone.
    pub fence: Option<Fence>,
    /// How the gate treats packets of service addresses.
    pub gate: Gate,
    /// How to log.
    pub log: Log,
    path: PathBuf,
}

/// What the whole cluster is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// File of its keys, absolute.
    pub key_file: PathBuf,
    /// Who may serve when nodes cannot hear each other.
    pub policy: Policy,
    /// Directory that holds one state directory per node, absolute.
    pub state_dir: PathBuf,
    /// Path of the control socket if the file names one, absolute; see [`Local::control_socket`].
    pub control_socket: Option<PathBuf>,
    /// Who counts misses.
    pub engine: Engine,
    /// How long a start waits for interfaces and own addresses that are not there; `None` for as long as
    /// it takes.
    pub network_wait: Option<Duration>,
}

/// Who counts misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The kernel where it can, else the daemon.
    Auto,
    /// The kernel, or the daemon does not start.
    Kernel,
    /// A real-time thread of the daemon.
    User,
}

impl Engine {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What `uname -n` prints there.
    pub name: Name,
    /// Its id and rank.
    pub id: NodeId,
}

/// How the program sits on the interfaces of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// Natively where that works, else in generic mode, else in traffic control.
    #[default]
    Auto,
    /// Natively, or the machine does not start.
    Native,
    /// In generic mode.
    Generic,
    /// In traffic control.
    Tcx,
}

impl Attach {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
        }
    }

    /// Returns the only mode there may be, if no other will do.
    #[must_use]
    pub const fn only(self) -> Option<Mode> {
        match self {
            Self::Auto => None,
            Self::Native => Some(Mode::Native),
            Self::Generic => Some(Mode::Generic),
            Self::Tcx => Some(Mode::Tcx),
        }
    }
}

/// One network path between the nodes.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its number on the wire: its place in the file.
    pub id: LinkId,
    /// Its name.
    pub name: Name,
    /// How frames travel on it.
    pub transport: Transport,
    /// Extra hops its frames may make; 0 for raw Ethernet.
    pub multihop: u8,
    /// How the program sits on its interfaces.
    pub attach: Attach,
    ends: BTreeMap<NodeId, LinkEnd>,
}

impl Link {
    /// Returns the least TTL or hop limit of a frame that came no longer way than allowed. Senders
    /// use 255 (RFC 5082).
    #[must_use]
    pub const fn min_hops(&self) -> u8 {
        255 - self.multihop
    }

    /// Returns the end of the link at `node`; every node of the configuration has one, the witness
    /// on one link or more.
    #[must_use]
    pub fn end(&self, node: NodeId) -> Option<&LinkEnd> {
        self.ends.get(&node)
    }

    /// Returns the ends of the link, by id; that of the witness among them if it is on this link.
    pub fn ends(&self) -> impl Iterator<Item = (NodeId, &LinkEnd)> {
        self.ends.iter().map(|(id, end)| (*id, end))
    }
}

/// One end of a link.
#[derive(Clone, Debug)]
pub struct LinkEnd {
    /// Interface of that node.
    pub interface: InterfaceName,
    /// Address of that node on the link.
    pub address: LinkAddress,
    interface_position: Position,
    address_position: Position,
}

/// Address of one end of a link; its kind fits the link's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkAddress {
    /// For UDP: a unicast address of the transport's family.
    Ip(IpAddr),
    /// For raw Ethernet: a unicast MAC address.
    Mac([u8; 6]),
}

impl LinkAddress {
    /// Returns the ends of a link from here to `peer`; `None` if the two are of different kinds.
    #[must_use]
    pub fn ends(self, peer: Self) -> Option<Ends> {
        Some(match (self, peer) {
            (Self::Mac(own), Self::Mac(peer)) => Ends::Ethernet { own, peer },
            (Self::Ip(IpAddr::V4(own)), Self::Ip(IpAddr::V4(peer))) => Ends::Udp4 { own, peer },
            (Self::Ip(IpAddr::V6(own)), Self::Ip(IpAddr::V6(peer))) => Ends::Udp6 { own, peer },
            _ => return None,
        })
    }
}

impl std::fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
        }
    }
}

/// An ordered list of resources that lives on one node at a time: the addresses, then the rest.
#[derive(Clone, Debug)]
pub struct Group {
    /// Place of its record: its place in the file, until [`Config::place`] says otherwise.
    pub id: GroupId,
    /// Its name.
    pub name: Name,
    /// Node that takes it when both start.
    pub preferred: NodeId,
    /// For how long the preferred node stands by before the group moves back to it; `None` for never.
    pub auto_failback: Option<Duration>,
    /// For how long a failure keeps a node from the group; `None` until an operator clears it.
    pub failure_timeout: Option<Duration>,
    /// What becomes of the group where a resource that ran has failed.
    pub on_failure: Failure,
    /// What becomes of the group where a resource could not be stopped.
    pub on_stop_failure: StopFailure,
    /// Whether the addresses are on this node also while it does not serve, behind the closed gate.
    pub warm_addresses: bool,
    /// How many of the addresses it needs.
    pub require: Require,
    /// Service addresses, in order.
    pub addresses: Vec<ServiceAddress>,
    /// Resources to start after the addresses, in order, and to stop before them, in reverse.
    pub resources: Vec<Resource>,
}

impl Group {
    /// Returns the number that stands for the group in frames and records, never 0: the first four bytes
    /// of a SHA-256 of its name and the set of its addresses, see `docs/protocol.md`.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        fingerprint::group(self)
    }
}

/// What becomes of a group one of whose resources failed while it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// Another node takes it.
    #[default]
    Move,
    /// Its resources are started again here, and another node takes it where that does not last.
    Restart {
        /// So often at most,
        most: u32,
        /// within so long.
        window: Duration,
    },
}

/// What becomes of a group one of whose resources could not be stopped and may still run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopFailure {
    /// It stays on its node until nothing runs there.
    #[default]
    Block,
    /// It is handed over as if nothing ran.
    Ignore,
}

/// How many of its addresses a group needs to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    /// One. Others that cannot be put up are tried again, and told of.
    #[default]
    Any,
    /// All. Where one cannot be put up, the group is served by the other node.
    All,
}

/// A service address (VIP).
#[derive(Clone, Debug)]
pub struct ServiceAddress {
    /// The address: unicast, neither loopback nor link-local IPv6.
    pub address: IpAddr,
    /// Its prefix length, 1 to 32 or 128.
    pub prefix: u8,
    /// Whether it is in a subnet of its interface. Else routers send it to this node as they do any other
    /// address behind it.
    pub on_link: bool,
    interfaces: BTreeMap<NodeId, InterfaceName>,
    address_position: Position,
    interface_position: Position,
}

impl ServiceAddress {
    /// Returns the interface it goes to on `node`; every node of the configuration has one.
    #[must_use]
    pub fn interface(&self, node: NodeId) -> Option<&InterfaceName> {
        self.interfaces.get(&node)
    }
}

/// How a machine is asked whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PingMethod {
    /// By an echo request (RFC 792, RFC 4443).
    #[default]
    Icmp,
    /// For its link-layer address (RFC 826; RFC 4861, section 4.3): a neighbour alone can tell.
    Arp,
}

impl PingMethod {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Arp => "arp",
        }
    }
}

/// Machines behind an interface that answer while it works. One that answers is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingGroup {
    /// Its name.
    pub name: Name,
    /// Who is asked: unicast addresses.
    pub targets: Vec<IpAddr>,
    /// How.
    pub method: PingMethod,
    /// Time between two requests to a target.
    pub interval: Duration,
    /// Silence of all targets that means that the interface leads nowhere; at least two intervals.
    pub deadping: Duration,
    interfaces: BTreeMap<NodeId, InterfaceName>,
}

impl PingGroup {
    /// Returns the interface on `node` that the targets are behind; every node has one.
    #[must_use]
    pub fn interface(&self, node: NodeId) -> Option<&InterfaceName> {
        self.interfaces.get(&node)
    }
}

/// A program that is told what changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Its name.
    pub name: Name,
    /// The program, absolute, and its first arguments.
    pub command: Vec<String>,
    /// What it is told of: one kind or more.
    pub on: Vec<Kind>,
    /// How it is told.
    pub form: NotifyForm,
    /// How long it may take for one event.
    pub timeout: Duration,
}

/// How a program is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NotifyForm {
    /// By its environment and a JSON object on its standard input.
    #[default]
    Hb,
    /// By keepalived's arguments as well, of what changes the state that keepalived knows.
    Keepalived,
}

impl NotifyForm {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hb => "hb",
            Self::Keepalived => "keepalived",
        }
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// In which form, if the file says so; see [`Log::format_for`].
    pub format: Option<LogFormat>,
    /// Least important level that is logged.
    pub level: tracing::Level,
}

impl Log {
    /// Returns the format to log in. `journal_stream` tells whether the environment has
    /// `JOURNAL_STREAM`, with which systemd marks a standard error that goes to the journal.
    #[must_use]
    pub fn format_for(&self, journal_stream: bool) -> LogFormat {
        let default = if journal_stream { LogFormat::Journald } else { LogFormat::Text };
        self.format.unwrap_or(default)
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// Fields for the journal.
    Journald,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, in the order of the file; or that it cannot be read, is larger
    /// than 1 MiB or not UTF-8.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let fail = |message| ConfigErrors::of_file(path, message);
        let metadata = fs::metadata(path).map_err(|error| {
            fail(format!("cannot read: {error}; `hb config --default` prints a file to start from"))
        })?;
        if !metadata.is_file() {
            return Err(fail("is no regular file; give the path of the configuration".into()));
        }
        if metadata.len() > MAX_FILE_BYTES {
            let len = metadata.len();
            return Err(fail(format!(
                "is {len} bytes long, more than 1 MiB; is it the right file?"
            )));
        }
        let bytes = fs::read(path).map_err(|error| {
            fail(format!("cannot read: {error}; give the daemon's user leave to read it"))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            fail(format!("is not UTF-8 from byte {offset} on; save it as UTF-8"))
        })?;
        Self::parse(&text, path)
    }

    /// Checks `text`; `path` is what errors call it.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, in the order of the text.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use hb_user::config::{Config, DEFAULT_FILE};
    ///
    /// let path = Path::new("/etc/hb/hb.toml");
    /// let config = Config::parse(DEFAULT_FILE, path)?;
    /// assert_eq!(config.nodes.len(), 2);
    ///
    /// let wrong = DEFAULT_FILE.replacen("interval = ", "intervall = ", 1);
    /// let error = Config::parse(&wrong, path).unwrap_err().to_string();
    /// assert!(error.contains("/etc/hb/hb.toml:28:1: unknown key \"intervall\""), "{error}");
    /// # Ok::<(), hb_user::config::ConfigErrors>(())
    /// ```
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        check::config(text, path)
    }

    /// Returns the file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the cluster's number on the wire: the first four bytes of the SHA-256 of its name,
    /// or 1 should they be 0.
    #[must_use]
    pub fn cluster_id(&self) -> u32 {
        fingerprint::cluster_id(&self.cluster.name)
    }

    /// Returns the fingerprint of everything that must be equal on all nodes, never 0.
    ///
    /// Comments, order of keys and ways to write the same value do not matter; neither do key
    /// file, state directory, control socket, engine, wait for the network and log, which are each node's own affair.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint::fingerprint(self)
    }

    /// Returns the fingerprints of the groups, in the order of the file.
    #[must_use]
    pub fn groups_wanted(&self) -> Vec<u32> {
        self.groups.iter().map(Group::fingerprint).collect()
    }

    /// Gives every group the place of its record.
    pub fn place(&mut self, places: &Places) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            if let Some(place) = places.of(index) {
                group.id = GroupId(place);
            }
        }
    }

    /// Returns the fingerprints of the groups by the place of their records, 0 where none is.
    #[must_use]
    pub fn fingerprints(&self) -> [u32; GROUPS] {
        std::array::from_fn(|place| self.group(GroupId(place as u8)).map_or(0, Group::fingerprint))
    }

    /// Returns the group whose record is at that place.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// Returns the node called `name`.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
