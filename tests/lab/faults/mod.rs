//! What can go wrong in the lab, and how each of it is mended.

mod carry;
mod edit;
mod restart;

use std::{fmt, str::FromStr, sync::PoisonError, thread, time::Duration};

use anyhow::{Context, Result};

pub(crate) use self::carry::FENCES;
pub use self::{
    carry::{Deed, Planned, carry_out, mend_all},
    edit::{CHANGES, Change, Edit},
    restart::{REMOVALS, RESTARTS, Removal, Restart},
};
use crate::{
    Lab,
    addresses::{Link, Machine},
    fence::PowerSwitch,
    guard,
    responder::Order,
    switch::{Direction, port_name},
    tcx::{Place, Verdict, Way},
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGSTOP to a daemon; it is continued later.
    Freeze,
    /// SIGKILL to a daemon; it is started again later.
    Kill,
    /// SIGTERM to a daemon; it is started again later.
    Stop,
    /// One link of a node is cut, both ways.
    CutLink,
    /// The port of a link of a node is taken down, so that its interface has no carrier.
    Carrier,
    /// An interface of a node, or every one, is set down.
    LinkDown,
    /// A port, or every one, loses all packets, perhaps in one direction, and keeps its carrier.
    Silent,
    /// The port of the service addresses goes down and up again a few times.
    Flap,
    /// A daemon starts again behind a port that does not forward yet.
    Late,
    /// Every link of a node is cut, both ways.
    Cut,
    /// A link of a node, or every one, loses all packets in one direction.
    OneWay,
    /// Every link of a node loses half of the packets to it, each by itself.
    Lossy,
    /// A node does not hear the other one, nor perhaps the witness; the client hears both.
    Partition,
    /// The witness is cut from everybody.
    WitnessGone,
    /// The witness starts anew, without its record.
    WitnessRestart,
    /// A daemon is killed, all that is pinned removed, and the daemon started.
    Forget,
    /// Loss of power: every link is cut and every process killed; the node boots later.
    Crash,
    /// A responder leaves questions unread for a while.
    Unread,
    /// Daemons end and start again, in each order.
    Restart,
    /// A daemon is taken off its node while clients are connected. Where this is among the kinds, the
    /// client has connections open to every service address in each run.
    Connections,
    /// The file changes between two starts, on one node first.
    Edit,
    /// Writing out takes long on a machine, or does not come back.
    SlowDisk,
    /// Somebody's program of traffic control is put beside the gate of a node.
    Tcx,
    /// Somebody removes what a node has pinned.
    Pins,
}

/// All kinds.
pub const KINDS: [Kind; 24] = [
    Kind::Freeze,
    Kind::Kill,
    Kind::Stop,
    Kind::CutLink,
    Kind::Carrier,
    Kind::LinkDown,
    Kind::Silent,
    Kind::Flap,
    Kind::Late,
    Kind::Cut,
    Kind::OneWay,
    Kind::Lossy,
    Kind::Partition,
    Kind::WitnessGone,
    Kind::WitnessRestart,
    Kind::Forget,
    Kind::Crash,
    Kind::Unread,
    Kind::Restart,
    Kind::Connections,
    Kind::Edit,
    Kind::SlowDisk,
    Kind::Tcx,
    Kind::Pins,
];

/// Kinds in which a cable, a port or an interface fails, and no machine; `network` on the command line.
pub const NETWORK: [Kind; 5] =
    [Kind::Carrier, Kind::LinkDown, Kind::Silent, Kind::Flap, Kind::Late];

impl Kind {
    /// Returns its word on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::CutLink => "cut-link",
            Self::Carrier => "carrier",
            Self::LinkDown => "link-down",
            Self::Silent => "silent",
            Self::Flap => "flap",
            Self::Late => "late",
            Self::Cut => "cut",
            Self::OneWay => "one-way",
            Self::Lossy => "lossy",
            Self::Partition => "partition",
            Self::WitnessGone => "witness-gone",
            Self::WitnessRestart => "witness-restart",
            Self::Forget => "forget",
            Self::Crash => "crash",
            Self::Unread => "unread",
            Self::Restart => "restart",
            Self::Connections => "connections",
            Self::Edit => "edit",
            Self::SlowDisk => "slow-disk",
            Self::Tcx => "tcx",
            Self::Pins => "pins",
        }
    }

    /// Returns whether only a lab with a witness has it.
    #[must_use]
    pub const fn needs_witness(self) -> bool {
        matches!(self, Self::WitnessGone | Self::WitnessRestart)
    }

    /// Returns whether a daemon starts, which takes longer than most timers.
    #[must_use]
    pub const fn starts(self) -> bool {
        matches!(self, Self::Restart | Self::Connections | Self::Edit)
    }

    /// Returns whether a voter starts without its record, and so takes no part for a while.
    #[must_use]
    pub const fn forgets(self) -> bool {
        matches!(
            self,
            Self::WitnessRestart | Self::Forget | Self::Crash | Self::Connections | Self::Edit
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name).with_context(|| {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name()).collect();
            format!("no fault is called {name:?}: take some of {}", names.join(", "))
        })
    }
}

/// A fault with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To which node; of no meaning for what happens to none.
    pub node: Machine,
    /// On which link, `None` for all; of no meaning elsewhere.
    pub link: Option<Link>,
    /// Which way packets are lost; of no meaning elsewhere.
    pub direction: Direction,
    /// Whether the node is parted from the witness as well; of no meaning elsewhere.
    pub from_witness: bool,
    /// In which order daemons start; of no meaning elsewhere.
    pub restart: Restart,
    /// How a daemon is taken off; of no meaning elsewhere.
    pub removal: Removal,
    /// What is different in the file; of no meaning elsewhere.
    pub edit: Edit,
    /// How long writing out takes, `None` for ever; of no meaning elsewhere.
    pub disk: Option<Duration>,
    /// Which program somebody puts where; of no meaning elsewhere.
    pub foreign: (Way, Place, Verdict),
}

impl Fault {
    /// A fault of a node, on all its links where it is one of links, both ways; a partition is from
    /// the other node and the witness; of what comes in several ways, it is the first.
    #[must_use]
    pub const fn of(kind: Kind, node: Machine) -> Self {
        Self {
            kind,
            node,
            link: None,
            direction: Direction::Both,
            from_witness: true,
            restart: RESTARTS[0],
            removal: REMOVALS[0],
            edit: Edit { change: CHANGES[0], in_place: false, witness_first: false },
            disk: None,
            foreign: (Way::Out, Place::First, Verdict::Pass),
        }
    }

    fn links(&self) -> &'static [Link] {
        match self.link {
            None => self.node.links(),
            Some(Link::Client) => &[Link::Client],
            Some(Link::Direct) => &[Link::Direct],
        }
    }

    fn set_ports(&self, lab: &Lab, state: &str) -> Result<()> {
        let port = |link: &Link| format!("link set {} {state}\n", port_name(self.node, *link));
        let lines: String = self.links().iter().map(port).collect();
        lab.switch().netns().ip_batch(&lines)
    }

    /// Sets the node's own interfaces up or down. What the kernel takes with one, a network manager puts
    /// back.
    fn set_interfaces(&self, lab: &Lab, up: bool) -> Result<()> {
        let mut lines = String::new();
        for &link in self.links() {
            let (interface, state) = (link.interface(), if up { "up" } else { "down" });
            lines += &format!("link set {interface} {state}\n");
            if up && link == Link::Client {
                lines += &format!("address replace {}/64 dev {interface} nodad\n", self.node.v6());
            }
        }
        lab.netns(self.node).ip_batch(&lines)
    }

    /// Lets it happen.
    ///
    /// # Errors
    ///
    /// If the lab refuses; that a daemon to be frozen or killed does not run is none.
    pub fn inject(&self, lab: &mut Lab) -> Result<()> {
        let node = self.node;
        match self.kind {
            Kind::Freeze => signal(lab, node, libc::SIGSTOP),
            Kind::Kill => end(lab, node, libc::SIGKILL),
            // A frozen daemon leaves in order when it is thawed, or is killed in the end.
            Kind::Stop => signal(lab, node, libc::SIGTERM),
            Kind::CutLink | Kind::OneWay | Kind::Carrier | Kind::LinkDown | Kind::Silent => {
                match self.kind {
                    Kind::Carrier => self.set_ports(lab, "down")?,
                    Kind::LinkDown => self.set_interfaces(lab, false)?,
                    _ => {}
                }
                // The lab goes by this to tell whether the nodes are parted.
                for &link in self.links() {
                    lab.switch().cut_link(node, link, self.direction);
                }
                Ok(())
            }
            Kind::Flap => {
                for _ in 0..FLAPS {
                    self.set_ports(lab, "down")?;
                    thread::sleep(FLAP);
                    self.set_ports(lab, "up")?;
                    thread::sleep(FLAP);
                }
                Ok(())
            }
            Kind::Late => {
                signal(lab, node, libc::SIGTERM)?;
                wait_for_leave(lab, node)?;
                for &link in self.links() {
                    lab.switch().cut_link(node, link, Direction::Both);
                }
                lab.start_daemon(node)
            }
            Kind::Cut => {
                lab.cut(node);
                Ok(())
            }
            Kind::Lossy => {
                lab.switch().lose(node, LOSS);
                Ok(())
            }
            Kind::Partition => {
                let others = [node.peer(), Machine::Witness];
                lab.switch().part(node, if self.from_witness { &others } else { &others[..1] });
                Ok(())
            }
            Kind::WitnessGone => {
                lab.cut(Machine::Witness);
                Ok(())
            }
            Kind::WitnessRestart => lab.restart_witness(),
            Kind::Forget => {
                end(lab, node, libc::SIGKILL)?;
                lab.detach(node)?;
                lab.start_daemon(node)
            }
            Kind::Crash => lab.crash(node).map(drop),
            Kind::Unread => order(lab, node, Order::Hold),
            Kind::Restart => self.restart.inject(lab, node),
            Kind::Connections => self.removal.inject(lab, node),
            Kind::Edit => self.edit.inject(lab, node),
            Kind::SlowDisk => {
                let disk = lab.disk(node).context("this lab has no disks")?;
                match self.disk {
                    Some(takes) => disk.take(takes),
                    None => disk.hang(),
                }
                Ok(())
            }
            Kind::Tcx => {
                let (way, place, verdict) = self.foreign;
                lab.put_foreign(node, way, place, verdict)
            }
            Kind::Pins => guard::remove_path(&lab.pins(node)),
        }
    }

    /// Mends it.
    ///
    /// # Errors
    ///
    /// If the lab refuses.
    pub fn mend(&self, lab: &mut Lab) -> Result<()> {
        let node = self.node;
        match self.kind {
            Kind::Freeze => signal(lab, node, libc::SIGCONT),
            Kind::Kill => ensure_daemon(lab, node),
            Kind::Stop => {
                wait_for_leave(lab, node)?;
                ensure_daemon(lab, node)
            }
            Kind::CutLink
            | Kind::OneWay
            | Kind::Carrier
            | Kind::LinkDown
            | Kind::Silent
            | Kind::Late => while_no_power_is_cut(lab, |lab| {
                match self.kind {
                    Kind::Carrier => self.set_ports(lab, "up")?,
                    Kind::LinkDown => self.set_interfaces(lab, true)?,
                    _ => {}
                }
                // What is switched off sends nothing, and its namespace would.
                if lab.responder_runs(node)? {
                    for &link in self.links() {
                        lab.switch().heal_link(node, link, self.direction);
                    }
                }
                Ok(())
            }),
            Kind::Cut => while_no_power_is_cut(lab, |lab| {
                if lab.responder_runs(node)? {
                    lab.heal(node);
                }
                Ok(())
            }),
            Kind::Lossy => {
                lab.switch().lose(node, 0);
                Ok(())
            }
            Kind::Partition => {
                lab.switch().part(node, &[]);
                Ok(())
            }
            Kind::WitnessGone => {
                lab.heal(Machine::Witness);
                Ok(())
            }
            Kind::WitnessRestart | Kind::Forget | Kind::Pins | Kind::Flap => Ok(()),
            Kind::Crash => boot(lab, node),
            Kind::Unread => order(lab, node, Order::Read),
            Kind::Restart => self.restart.mend(lab, node),
            Kind::Connections => self.removal.mend(lab, node),
            Kind::Edit => self.edit.mend(lab, node),
            Kind::SlowDisk => {
                mend_disk(lab, node);
                Ok(())
            }
            Kind::Tcx => {
                lab.take_foreign(node);
                Ok(())
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node;
        let links = self.link.map_or("all links", Link::name);
        match (self.kind, self.direction) {
            (Kind::WitnessGone | Kind::WitnessRestart, _) => write!(f, "{}", self.kind),
            (Kind::Partition, _) => {
                let witness = if self.from_witness { " and the witness" } else { "" };
                write!(f, "partition of {node} from {}{witness}", node.peer())
            }
            (Kind::Restart, _) => {
                write!(f, "{} from {node} on, {}", self.kind, self.restart.name())
            }
            (Kind::Connections, _) => write!(f, "{} to {node}, {}", self.kind, self.removal.name()),
            (Kind::Edit, _) => write!(f, "{} on {node}: {}", self.kind, self.edit.describe()),
            (Kind::SlowDisk, _) => match self.disk {
                Some(takes) => write!(f, "{} of {node}, {takes:?}", self.kind),
                None => write!(f, "{} of {node}, does not answer", self.kind),
            },
            (Kind::Tcx, _) => {
                let (way, place, verdict) = self.foreign;
                write!(f, "{} on {node}, {way:?} {place:?} {verdict:?}", self.kind)
            }
            (Kind::Silent, Direction::FromMachine) => {
                write!(f, "{} from {node} ({links})", self.kind)
            }
            (Kind::Silent, Direction::ToMachine) => {
                write!(f, "{} to {node} ({links})", self.kind)
            }
            (Kind::CutLink | Kind::Carrier | Kind::LinkDown | Kind::Silent, _) => {
                write!(f, "{} of {node} ({links})", self.kind)
            }
            (Kind::OneWay, Direction::FromMachine) => {
                write!(f, "{} from {node} ({links})", self.kind)
            }
            (Kind::OneWay, _) => write!(f, "{} to {node} ({links})", self.kind),
            _ => write!(f, "{} of {node}", self.kind),
        }
    }
}

/// How often [`Kind::Flap`] takes the port down.
const FLAPS: u32 = 5;
/// For how long it is down, and up, each time.
const FLAP: Duration = Duration::from_millis(200);
/// Packets that [`Kind::Lossy`] loses, in percent.
const LOSS: u32 = 50;

/// A daemon that is asked to leave mostly has within this.
const WAIT: Duration = Duration::from_secs(1);
/// It has within this, where nothing keeps it.
const LEAVE: Duration = Duration::from_secs(5);

fn signal(lab: &mut Lab, node: Machine, signal: i32) -> Result<()> {
    if lab.daemon_runs(node)? {
        lab.signal(node, signal)?;
    }
    Ok(())
}

/// Waits for the end of a daemon that was told to leave. One that hangs is a defect, which is the error.
/// Another fault may have put a new one in its place.
fn wait_for_leave(lab: &mut Lab, node: Machine) -> Result<()> {
    if let Some(daemon) = lab.daemon_mut(node).filter(|daemon| daemon.was_told_to_end()) {
        daemon.signal(libc::SIGCONT)?;
        if daemon.wait(WAIT).is_ok() {
            return Ok(());
        }
    }
    // It may wait for a disk, as it should.
    mend_disk(lab, node);
    match lab.daemon_mut(node).filter(|daemon| daemon.was_told_to_end()) {
        Some(daemon) => daemon.wait(LEAVE).map(drop),
        None => Ok(()),
    }
}

fn mend_disk(lab: &Lab, machine: Machine) {
    if let Some(disk) = lab.disk(machine) {
        disk.mend();
    }
}

fn end(lab: &mut Lab, node: Machine, kill: i32) -> Result<()> {
    signal(lab, node, kill)?;
    match lab.daemon_mut(node) {
        Some(daemon) => daemon.wait(LEAVE).map(drop),
        None => Ok(()),
    }
}

/// Starts the daemon of a node unless it runs; on a node that was switched off, after a boot.
fn ensure_daemon(lab: &mut Lab, node: Machine) -> Result<()> {
    if lab.daemon_runs(node)? {
        Ok(())
    } else if lab.responder_runs(node)? {
        lab.start_daemon(node)
    } else {
        boot(lab, node)
    }
}

fn boot(lab: &mut Lab, node: Machine) -> Result<()> {
    while_no_power_is_cut(lab, |lab| {
        lab.reboot(node)?;
        lab.start_daemon(node)
    })
}

fn while_no_power_is_cut<T>(lab: &mut Lab, work: impl FnOnce(&mut Lab) -> T) -> T {
    let supply = lab.power_switch().map(PowerSwitch::supply);
    let _held = supply.as_ref().map(|supply| supply.lock().unwrap_or_else(PoisonError::into_inner));
    work(lab)
}

fn order(lab: &mut Lab, node: Machine, order: Order) -> Result<()> {
    if lab.responder_runs(node)?
        && let Some(responder) = lab.responder_mut(node)
    {
        responder.order(order)?;
    }
    Ok(())
}
