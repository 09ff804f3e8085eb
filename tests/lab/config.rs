//! The configuration and the key of the lab's cluster.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    addresses::{Link, MACHINES, Machine, NODES, PREFIX4, PREFIX6, VIP4, VIP6},
    guard,
};

/// A group of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// The node it prefers.
    pub preferred: Machine,
    /// Its service addresses.
    pub addresses: Vec<IpAddr>,
}

/// What may differ from lab to lab.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time between two probes, as the configuration spells it.
    pub interval: String,
    /// Misses that mean dead.
    pub misses: u32,
    /// The first deadtime after start.
    pub initdead: String,
    /// Age at which a controller is dead.
    pub controller_deadtime: String,
    /// Who may serve when nodes do not hear each other: `witness`, `safe` or `available`.
    pub policy: String,
    /// Length of a lease; the default of `hb` if not said, as with the three that follow.
    pub lease: Option<String>,
    /// Longest time from the gate to the wire.
    pub margin: Option<String>,
    /// How long a vote stays given after a release.
    pub drain: Option<String>,
    /// What the gate does: `on`, `dry-run` or `bypass`.
    pub gate: Option<String>,
    /// With `safe`, how long the node of higher id waits before it fences.
    pub fence_delay: String,
    /// Who counts the misses.
    pub engine: String,
    /// Whether a group returns to the node it prefers when that does.
    pub auto_failback: bool,
    /// Whether the addresses are up on both nodes.
    pub warm: bool,
    /// The links, each with its transport as the configuration spells it.
    pub links: Vec<(Link, &'static str)>,
    /// The groups, in this order.
    pub groups: Vec<Group>,
    /// Whether each group has a resource besides its addresses.
    pub resource: bool,
    /// Lines put at the end: further keys of the last group, further sections.
    pub extra: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: "200us".into(),
            misses: 3,
            initdead: "1s".into(),
            controller_deadtime: "20ms".into(),
            policy: "available".into(),
            lease: None,
            margin: None,
            drain: None,
            gate: None,
            fence_delay: "300ms".into(),
            engine: "auto".into(),
            auto_failback: false,
            warm: false,
            links: vec![(Link::Client, "udp4"), (Link::Direct, "ethernet")],
            groups: vec![Group {
                name: GROUP,
                preferred: Machine::A,
                addresses: vec![VIP4.into(), VIP6.into()],
            }],
            resource: true,
            extra: String::new(),
        }
    }
}

impl Settings {
    /// Returns whether a third machine votes.
    #[must_use]
    pub fn has_witness(&self) -> bool {
        self.policy == "witness"
    }

    /// Returns whether a silent node is fenced.
    #[must_use]
    pub fn has_fence(&self) -> bool {
        self.policy == "safe"
    }

    /// Returns all service addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.groups.iter().flat_map(|group| group.addresses.clone()).collect()
    }

    /// Returns the machines of a lab with these settings.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        let wanted = |&machine: &Machine| machine != Machine::Witness || self.has_witness();
        MACHINES.into_iter().filter(wanted).collect()
    }
}

/// The files of a cluster, all in one directory.
#[derive(Clone, Debug)]
pub struct Files {
    /// The directory.
    pub directory: PathBuf,
    /// The configuration of every machine that has none of its own.
    pub config: PathBuf,
    /// Where the resource notes what it was told.
    pub resource_log: PathBuf,
    /// Where the lab's power switch listens ([`crate::fence`]).
    pub fence_socket: PathBuf,
}

impl Files {
    /// Returns the configuration of a machine.
    #[must_use]
    pub fn of(&self, machine: Machine) -> PathBuf {
        let own = self.own(machine);
        if own.exists() { own } else { self.config.clone() }
    }

    /// Returns where a configuration for that machine alone lies, if there is one.
    fn own(&self, machine: Machine) -> PathBuf {
        self.directory.join(format!("hb-{machine}.toml"))
    }

    /// Gives a machine of cluster `name` a configuration of its own, or with `None` that of all
    /// others. Its daemon reads it when it is started next.
    ///
    /// # Errors
    ///
    /// If it cannot be written or removed.
    pub fn rewrite(&self, name: &str, machine: Machine, settings: Option<&Settings>) -> Result<()> {
        let own = self.own(machine);
        match settings {
            Some(settings) => write_file(&own, &text(name, &self.directory, settings)?),
            None => guard::remove_path(&own),
        }
    }
}

/// Writes configuration, key and resource of cluster `name` into `directory`, which is made.
/// `agent` is an executable that calls [`crate::agent::main`]. `config` replaces the
/// configuration that would be generated.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(
    name: &str,
    directory: &Path,
    agent: &Path,
    settings: &Settings,
    config: Option<&Path>,
) -> Result<Files> {
    let files = Files {
        directory: directory.into(),
        config: directory.join("hb.toml"),
        resource_log: directory.join("resource.log"),
        fence_socket: directory.join("fence.sock"),
    };
    let [key, program, fence] = FILES.map(|file| directory.join(file));
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    write_key(&key)?;
    write_script(&program, agent, "lab-resource", &files.resource_log)?;
    write_script(&fence, agent, "lab-fence", &files.fence_socket)?;
    let text = match config {
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => text(name, directory, settings)?,
    };
    write_file(&files.config, &text)?;
    Ok(files)
}

/// Names of the key, of the resource's program and of the fence agent.
const FILES: [&str; 3] = ["key", "resource.sh", "fence.sh"];

fn text(name: &str, directory: &Path, settings: &Settings) -> Result<String> {
    let [key, program, fence] = FILES.map(|file| directory.join(file));
    let mut text = format!(
        r#"[cluster]
name = "{name}"
key_file = "{key}"
policy = "{policy}"
state_dir = "{state}"
engine = "{engine}"

[timers]
interval = "{interval}"
misses = {misses}
initdead = "{initdead}"
controller_deadtime = "{controller_deadtime}"
auto_failback = {auto_failback}

[log]
format = "json"
"#,
        key = key.display(),
        state = directory.join("state").display(),
        policy = settings.policy,
        engine = settings.engine,
        auto_failback = settings.auto_failback,
        interval = settings.interval,
        misses = settings.misses,
        initdead = settings.initdead,
        controller_deadtime = settings.controller_deadtime,
    );
    let lengths =
        [("length", &settings.lease), ("margin", &settings.margin), ("drain", &settings.drain)];
    write_section(&mut text, "lease", &lengths)?;
    write_section(&mut text, "gate", &[("mode", &settings.gate)])?;
    if settings.has_witness() {
        let (name, id) = (Machine::Witness, Machine::Witness.id());
        write!(text, "\n[witness]\nname = \"{name}\"\nid = {id}\n")?;
    }
    if settings.has_fence() {
        write!(
            text,
            "\n[fence]\ncommand = \"{}\"\ntimeout = \"2s\"\nretries = 0\ndelay = \"{}\"\n",
            fence.display(),
            settings.fence_delay
        )?;
        for node in NODES {
            write!(text, "[fence.node.{node}]\nplug = \"{node}\"\n")?;
        }
    }
    for node in NODES {
        write!(text, "\n[[node]]\nname = \"{node}\"\nid = {}\n", node.id())?;
    }
    for &(link, transport) in &settings.links {
        write!(text, "\n[[link]]\nname = \"{}\"\ntransport = \"{transport}\"\n", link.name())?;
        let witness = Some(Machine::Witness)
            .filter(|witness| settings.has_witness() && witness.links().contains(&link));
        for node in NODES.into_iter().chain(witness) {
            write!(text, "[link.node.{node}]\ninterface = \"{}\"\n", link.interface())?;
            match transport {
                "ethernet" => writeln!(text, "mac = \"{}\"", node.mac(link))?,
                "udp6" => writeln!(text, "address = \"{}\"", node.v6())?,
                _ => writeln!(text, "address = \"{}\"", node.v4(link))?,
            }
        }
    }
    for group in &settings.groups {
        write_group(&mut text, group, settings, &program)?;
    }
    text.push_str(&settings.extra);
    Ok(text)
}

fn write_group(
    text: &mut String,
    group: &Group,
    settings: &Settings,
    program: &Path,
) -> Result<()> {
    let (name, preferred) = (group.name, group.preferred);
    write!(text, "\n[[group]]\nname = \"{name}\"\npreferred = \"{preferred}\"\n")?;
    if settings.warm {
        writeln!(text, "warm_addresses = true")?;
    }
    for address in &group.addresses {
        let (prefix, interface) =
            (if address.is_ipv4() { PREFIX4 } else { PREFIX6 }, Link::Client.interface());
        write!(
            text,
            "[[group.address]]\naddress = \"{address}/{prefix}\"\ninterface = \"{interface}\"\n"
        )?;
    }
    if settings.resource {
        write!(
            text,
            "[[group.resource]]\nname = \"svc\"\ntype = \"script\"\nprogram = \"{}\"\n",
            program.display()
        )?;
    }
    Ok(())
}

/// Writes the keys that are said, if any is.
fn write_section(text: &mut String, section: &str, keys: &[(&str, &Option<String>)]) -> Result<()> {
    if keys.iter().any(|(_, value)| value.is_some()) {
        write!(text, "\n[{section}]\n")?;
    }
    for (key, value) in keys {
        if let Some(value) = value {
            writeln!(text, "{key} = \"{value}\"")?;
        }
    }
    Ok(())
}

/// Name of the group of an ordinary lab.
pub const GROUP: &str = "web";

fn write_key(path: &Path) -> Result<()> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    let mut line = String::from("1 ");
    for byte in bytes {
        write!(line, "{byte:02x}")?;
    }
    line.push('\n');
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a program that runs a verb of the agent.
fn write_script(path: &Path, agent: &Path, verb: &str, argument: &Path) -> Result<()> {
    let script =
        format!("#!/bin/sh\nexec '{}' {verb} '{}' \"$@\"\n", agent.display(), argument.display());
    write_file(path, &script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// How long a resource takes to stop while it is slow.
const SLOW: Duration = Duration::from_millis(500);

/// Returns the file that makes the resources slow, beside their log.
pub(crate) fn slow_file(log: &Path) -> PathBuf {
    log.with_extension("slow")
}

/// The resource of a lab's group: notes when it was told what, by whom. `arguments` are the log
/// file and what the daemon passed, the verb first.
///
/// A line is `<boot time in ns> <verb> <node> <epoch> <group> <reason>`, with `-` for what the
/// daemon did not say in `HB_NODE`, `HB_EPOCH`, `HB_GROUP` and `HB_REASON`; only the reason may
/// have spaces.
///
/// # Errors
///
/// If the log cannot be written.
pub fn resource(arguments: &[String]) -> Result<()> {
    let at = crate::clock::now();
    let [log, verb, ..] = arguments else {
        anyhow::bail!("lab-resource needs a log file and a verb, got {arguments:?}");
    };
    if verb == "stop" && slow_file(Path::new(log)).exists() {
        thread::sleep(SLOW);
    }
    let said = |name| std::env::var(name).unwrap_or_else(|_| "-".into());
    // One write of a short line to a file opened for append is whole.
    let [node, epoch, group, reason] = ["HB_NODE", "HB_EPOCH", "HB_GROUP", "HB_REASON"].map(said);
    let line = format!("{} {verb} {node} {epoch} {group} {reason}\n", at.ns());
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot append to {log}"))
}
