//! The lab: two nodes, a client, perhaps a witness, and a switch as network namespaces of one
//! machine, with the real kernel path between them.
//!
//! ```text
//!   node a ──eth0── a-client ┐                      ┌ b-client ──eth0── node b
//!      │                     ├── br0 (client net) ──┤                      │
//!      │                     ├────── client         │                      │
//!      │                     └────── w-client ── witness                   │
//!      └────eth1─── a-direct ─── br1 (direct link) ─── b-direct ───eth1────┘
//! ```
//!
//! All the nodes share one clock, one scheduler and the machine's cores: one stall stops them all
//! at once, so the lab proves nothing about false takeovers between separate machines.
//!
//! Reading order: [`addresses`] (who is where), [`switch`] (the wires, and cutting them), [`node`]
//! (the processes), [`disk`] (what they write to), [`client`] (who asks), [`connections`] (who stays
//! connected), [`judge`] (who watches the wire), [`faults`] (what can go wrong), [`Lab`] (all of it),
//! [`guard`] (cleaning up).

pub mod addresses;
pub mod agent;
pub mod bfd;
pub mod binary;
pub mod capture;
pub mod chaos;
pub mod client;
pub mod clock;
pub mod config;
pub mod connections;
pub mod crowd;
pub mod disk;
pub mod faults;
pub mod fence;
pub mod guard;
pub mod judge;
pub mod keeper;
pub mod lease;
pub mod load;
pub mod mounts;
pub mod netns;
pub mod node;
pub mod peers;
pub mod power;
pub mod requirements;
pub mod responder;
pub mod socket;
pub mod stalls;
pub mod switch;
pub mod takeover;
pub mod tcx;
pub mod witness;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hb_ebpf::time::BootTime;
use serde_json::Value;

use crate::{
    addresses::{Machine, NODES},
    client::{Client, Pace},
    config::{Files, Settings},
    disk::Disk,
    fence::{Plug, PowerSwitch},
    guard::Guard,
    judge::Judge,
    netns::Netns,
    node::Process,
    switch::Switch,
    tcx::Foreign,
};

/// How to set up a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// An executable that calls [`agent::main`]; the lab's processes are verbs of it.
    pub agent: PathBuf,
    /// The `hb` binary; without one there are no daemons.
    pub hb: Option<PathBuf>,
    /// What the generated configuration says.
    pub settings: Settings,
    /// A configuration to use instead.
    pub config: Option<PathBuf>,
    /// The responders end by themselves after this long.
    pub limit: Duration,
    /// What `hb` runs on has [disks](Lab::disk) that can be made slow.
    pub disks: bool,
}

impl Options {
    /// The usual lab, with this executable as the agent.
    ///
    /// # Errors
    ///
    /// If the system cannot tell which executable this is.
    pub fn new() -> Result<Self> {
        let agent = std::env::current_exe().context("cannot tell the path of this executable")?;
        Ok(Self {
            agent,
            hb: None,
            settings: Settings::default(),
            config: None,
            limit: Duration::from_secs(900),
            disks: false,
        })
    }
}

/// A lab, standing. Everything is removed on drop, and when this process ends in any other way.
pub struct Lab {
    options: Options,
    name: String,
    cluster: String,
    files: Files,
    starts: u32,
    /// Which machine got another configuration when.
    edits: Vec<(BootTime, Machine)>,
    daemons: BTreeMap<Machine, Process>,
    responders: BTreeMap<Machine, Process>,
    disks: BTreeMap<Machine, Disk>,
    /// Programs of somebody else.
    foreign: BTreeMap<Machine, Foreign>,
    fence: Option<PowerSwitch>,
    switch: Switch,
    machines: BTreeMap<Machine, Netns>,
    /// Last, since it waits until all is removed.
    guard: Guard,
}

static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Sets up namespaces, switch, configuration and responders; starts no daemon yet.
    ///
    /// # Errors
    ///
    /// If a privilege is missing, or the kernel or `ip` refuses a step, named in the error.
    pub fn up(options: Options) -> Result<Self> {
        requirements::check_privileges()?;
        for done in mounts::ensure()? {
            eprintln!("lab: {done}");
        }
        for name in guard::sweep()? {
            eprintln!("lab: removed {name}, which an earlier lab left behind");
        }
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = guard::lab_name(number);
        let cluster = format!("lab{}x{number}", std::process::id());
        let directory = Path::new(guard::DIRECTORY).join(&name);

        let mut guard = Guard::start(&options.agent)?;
        let mut create = |role: &str| -> Result<Netns> {
            let name = format!("{name}-{role}");
            guard.netns(&name)?;
            Netns::create(&name)
        };
        let switch = create("sw")?;
        let mut machines = BTreeMap::new();
        for machine in options.settings.machines() {
            machines.insert(machine, create(machine.name())?);
        }
        guard.path(&directory)?;
        guard.path(&pins(&cluster))?;
        for node in NODES {
            guard.path(&socket(&cluster, node))?;
        }

        let plugs: Vec<_> = machines.iter().map(|(&machine, netns)| (machine, netns)).collect();
        let switch = Switch::build(switch, &plugs)?;
        let files = config::write(
            &cluster,
            &directory,
            &options.agent,
            &options.settings,
            options.config.as_deref(),
        )?;
        let fence = if options.settings.has_fence() {
            let nodes = NODES.map(|node| Plug {
                namespace: machines[&node].name().to_owned(),
                pins: pins(&cluster).join(node.name()),
            });
            Some(PowerSwitch::start(&files.fence_socket, switch.wires().clone(), nodes)?)
        } else {
            None
        };
        let disks = machines.keys().filter(|_| options.disks);
        let mut lab = Self {
            disks: disks.map(|machine| (*machine, Disk::default())).collect(),
            options,
            fence,
            name,
            cluster,
            files,
            starts: 0,
            foreign: BTreeMap::new(),
            edits: Vec::new(),
            daemons: BTreeMap::new(),
            responders: BTreeMap::new(),
            switch,
            machines,
            guard,
        };
        for node in NODES {
            lab.start_responder(node)?;
        }
        if lab.options.hb.is_some() && lab.has_witness() {
            lab.start_witness()?;
        }
        Ok(lab)
    }

    /// Returns the lab's name, the first part of its namespaces' names.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the switch, for cuts finer than [`Lab::cut`].
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Returns the switch, to change it.
    pub fn switch_mut(&mut self) -> &mut Switch {
        &mut self.switch
    }

    /// Returns where the daemon of a node pins its maps.
    #[must_use]
    pub fn pins(&self, node: Machine) -> PathBuf {
        pins(&self.cluster).join(node.name())
    }

    /// Returns where the daemon of a node listens.
    #[must_use]
    pub fn socket(&self, node: Machine) -> PathBuf {
        socket(&self.cluster, node)
    }

    /// Prepares a command of `hb` in the namespace of a node.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary.
    pub fn hb(&self, node: Machine) -> Result<Command> {
        let hb = self.options.hb.as_ref().context("this lab has no hb binary")?;
        self.machines[&node].command(hb)
    }

    /// Returns the files of the cluster.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Returns the namespace of a machine.
    #[must_use]
    pub fn netns(&self, machine: Machine) -> &Netns {
        &self.machines[&machine]
    }

    /// Returns the daemon of a node, if it was started.
    #[must_use]
    pub fn daemon(&self, node: Machine) -> Option<&Process> {
        self.daemons.get(&node)
    }

    /// Returns the daemon of a node, if it was started.
    pub fn daemon_mut(&mut self, node: Machine) -> Option<&mut Process> {
        self.daemons.get_mut(&node)
    }

    /// Starts the daemon of a node, without waiting for anything.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary or it cannot be run.
    pub fn start_daemon(&mut self, node: Machine) -> Result<()> {
        let log = self.next_log(node, "daemon");
        let hb = self.options.hb.as_ref().context("this lab has no hb binary")?;
        let (config, disk) = (self.files.of(node), self.disks.get(&node));
        let process = node::daemon(hb, &config, node, &self.machines[&node], disk, &log)?;
        self.daemons.insert(node, process);
        Ok(())
    }

    /// Returns the disk of a machine, for its daemons and `hb witness` there; only a lab with
    /// [`Options::disks`] has one.
    #[must_use]
    pub fn disk(&self, machine: Machine) -> Option<&Disk> {
        self.disks.get(&machine)
    }

    /// Returns where the kernel half of a node publishes its leases; in a lab without `hb`, where
    /// [`lease::write`] may publish some in its stead.
    #[must_use]
    pub fn leases(&self, node: Machine) -> PathBuf {
        if self.options.hb.is_some() {
            self.pins(node).join(lease::MAP)
        } else {
            self.files.directory.join(format!("{node}.leases"))
        }
    }

    /// Returns the responder of a node, if it runs.
    pub fn responder_mut(&mut self, node: Machine) -> Option<&mut Process> {
        self.responders.get_mut(&node)
    }

    /// Starts the responder of a node and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn start_responder(&mut self, node: Machine) -> Result<()> {
        let log = self.next_log(node, "responder");
        let options = &self.options;
        let netns = &self.machines[&node];
        let leases = self.leases(node);
        let process = node::respond(&options.agent, node, netns, &log, options.limit, &leases)?;
        self.responders.insert(node, process);
        Ok(())
    }

    /// Cuts every link of a machine, both ways, in one instant, which is returned.
    pub fn cut(&self, machine: Machine) -> BootTime {
        self.switch.cut(machine)
    }

    /// Heals every link of a machine in one instant, which is returned.
    pub fn heal(&self, machine: Machine) -> BootTime {
        self.switch.heal(machine)
    }

    /// Returns the power switch of the nodes; only policy `safe` has one.
    #[must_use]
    pub fn power_switch(&self) -> Option<&PowerSwitch> {
        self.fence.as_ref()
    }

    /// Returns what the lab was set up with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// Returns what `hb status --json` says on a node.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary or the daemon does not answer.
    pub fn status(&self, node: Machine) -> Result<Value> {
        let hb = self.options.hb.as_ref().context("this lab has no hb binary")?;
        node::status(hb, &socket(&self.cluster, node))
    }

    /// Waits until `node` says that the controller of its peer is alive, or is not.
    ///
    /// Returns the time the answer was read, within a few milliseconds of the change.
    ///
    /// # Errors
    ///
    /// If a daemon of `node` ended, or after `limit`, with what was said last.
    pub fn wait_for_controller(
        &mut self,
        node: Machine,
        alive: bool,
        limit: Duration,
    ) -> Result<BootTime> {
        let end = clock::now().after(limit);
        loop {
            if let Some(daemon) = self.daemons.get_mut(&node) {
                daemon.check()?;
            }
            let status = self.status(node);
            let now = clock::now();
            if let Ok(status) = &status
                && node::controller_alive(status, node.peer()) == Some(alive)
            {
                return Ok(now);
            }
            if now > end {
                let word = if alive { "alive" } else { "dead" };
                let said = status.map_or_else(|error| format!("{error:#}"), |s| s.to_string());
                bail!(
                    "{node} did not report the controller of {} {word} within {limit:?}; its \
                     status: {said}",
                    node.peer()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `node` says that it could take over: a voter that started without its record
    /// cannot for a while.
    ///
    /// # Errors
    ///
    /// If a daemon of `node` ended, or after `limit`, with what was said last.
    pub fn wait_for_standby(&mut self, node: Machine, limit: Duration) -> Result<()> {
        let end = clock::now().after(limit);
        loop {
            if let Some(daemon) = self.daemons.get_mut(&node) {
                daemon.check()?;
            }
            let status = self.status(node);
            if let Ok(status) = &status
                && status["groups"][0]["health"] == "standby"
            {
                return Ok(());
            }
            if clock::now() > end {
                let said = status.map_or_else(|error| format!("{error:#}"), |s| s.to_string());
                bail!("{node} does not stand by within {limit:?}; its status: {said}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a judge.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn judge(&self) -> Result<Judge> {
        let groups = self.options.settings.groups.iter();
        let lines = groups.map(|group| group.addresses.clone()).collect();
        Judge::start(self.netns(Machine::Client), self.switch.netns(), lines)
    }

    /// Starts a client.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn client(&self, pace: Pace) -> Result<Client> {
        Client::start(self.netns(Machine::Client), pace)
    }

    /// Asks the service address from the client until a node answers, or `limit` has passed.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn who_serves(&self, address: IpAddr, limit: Duration) -> Result<Option<Machine>> {
        client::who_serves(self.netns(Machine::Client), address, limit)
    }

    /// Has the lab's directory, with its logs, survive the lab; returns it.
    ///
    /// # Errors
    ///
    /// If the guard is gone.
    pub fn keep_files(&mut self) -> Result<PathBuf> {
        self.guard.keep(&self.files.directory)?;
        Ok(self.files.directory.clone())
    }

    /// Removes the logs of earlier starts and of the resource.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn forget_logs(&mut self) -> Result<()> {
        for entry in fs::read_dir(&self.files.directory).context("cannot list the lab's files")? {
            let path = entry.context("cannot list the lab's files")?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                guard::remove_path(&path)?;
            }
        }
        Ok(())
    }

    fn next_log(&mut self, node: Machine, what: &str) -> PathBuf {
        self.starts += 1;
        self.files.directory.join(format!("{:04}-{node}-{what}.log", self.starts))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(directory) = self.keep_files()
        {
            eprintln!("lab: logs are kept in {}", directory.display());
        }
    }
}

/// Where the daemons of a cluster pin their maps.
fn pins(cluster: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/hb").join(cluster)
}

/// Where the daemon of a node listens.
fn socket(cluster: &str, node: Machine) -> PathBuf {
    PathBuf::from(format!("/run/hb/{cluster}-{node}.sock"))
}
