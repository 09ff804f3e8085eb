//! A cluster in the lab, and how to ask it.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use hb_ebpf::time::BootTime;
use lab::{
    Lab, Options,
    addresses::{Machine, NODES, VIP4, VIP6},
    binary,
    client::{Client, Pace},
    clock,
    config::Settings,
    tcx,
};
use serde_json::Value;

use super::turn::Turn;

/// Long enough for the slowest machine; no test waits that long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Timers that forgive a busy machine: dead after 200 ms.
pub(crate) fn slow() -> Settings {
    Settings {
        interval: "5ms".into(),
        misses: 40,
        initdead: "1s".into(),
        controller_deadtime: "300ms".into(),
        ..Settings::default()
    }
}

/// Timers that forgive a busy machine a little: dead after 30 ms.
pub(crate) fn brisk() -> Settings {
    Settings { interval: "2ms".into(), misses: 15, ..slow() }
}

/// Waits until `look` finds something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = clock::now().after(PATIENCE);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(STEP);
    }
}

/// Binds a socket, once its port is free: a child that another test begins has what was open here until
/// its program runs.
pub(crate) fn when_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> T {
    wait_for("a port", || match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        bound => Some(bound.unwrap()),
    })
}

/// A lab with the `hb` under test.
pub(crate) fn options(settings: Settings) -> Options {
    static HB: OnceLock<PathBuf> = OnceLock::new();
    let hb = HB.get_or_init(|| {
        let given = std::env::var_os("HB_BIN").map(PathBuf::from);
        binary::hb(given.as_deref()).unwrap()
    });
    let mut options = Options::new().unwrap();
    options.agent = PathBuf::from(env!("CARGO_BIN_EXE_lab-agent"));
    options.hb = Some(hb.clone());
    options.settings = settings;
    options.limit = Duration::from_secs(180);
    options
}

/// Two nodes and a client.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    /// Given back last.
    _turn: Arc<Turn>,
}

impl Cluster {
    /// A lab without daemons.
    pub(crate) fn new(settings: Settings) -> Self {
        Self::of(options(settings))
    }

    /// A lab of those options, without daemons.
    pub(crate) fn of(options: Options) -> Self {
        let turn = Turn::of(&options.settings);
        Self { lab: Lab::up(options).unwrap(), _turn: turn }
    }

    /// Both daemons run and `a` serves.
    pub(crate) fn up(settings: Settings) -> Self {
        let mut cluster = Self::new(settings);
        cluster.start_both();
        cluster
    }

    /// Restarts a daemon in order, as an upgrade does, and waits until it takes part again.
    pub(crate) fn restart(&mut self, node: Machine) {
        self.lab.signal(node, libc::SIGTERM).unwrap();
        self.wait_for_end(node);
        self.lab.start_daemon(node).unwrap();
        let holder = self.holder();
        self.wait_until_serving(holder);
    }

    /// Waits until one node holds the group, and returns which.
    pub(crate) fn holder(&mut self) -> Machine {
        wait_for("a holder", || {
            NODES.into_iter().find(|node| {
                let status = self.lab.status(*node).ok();
                status.is_some_and(|status| status["groups"][0]["state"] == "holding")
            })
        })
    }

    /// Starts both daemons and waits until `a` serves.
    pub(crate) fn start_both(&mut self) {
        for node in NODES {
            self.lab.start_daemon(node).unwrap();
        }
        self.wait_until_serving(Machine::A);
    }

    /// Waits until `node` serves and the other one stands by, and judges that by the wire too.
    pub(crate) fn wait_until_serving(&mut self, node: Machine) {
        self.wait_until_alone(node);
        let peer = node.peer();
        self.wait_for(peer, "stands by", |status| {
            let group = &status["groups"][0];
            group["health"] == "standby" && group["holder"] == node.name()
        });
        self.wait_for(node, "its peer is alive", |status| {
            status["peers"][0]["life"] == "alive"
                && status["peers"][0]["controller"]["alive"] == true
        });
        if self.lab.settings().warm {
            self.wait_until_warm(peer);
        } else {
            assert_eq!(self.vips(peer), BTreeSet::new(), "on {peer}");
        }
    }

    /// Waits until the addresses are up on a node that does not serve.
    pub(crate) fn wait_until_warm(&self, node: Machine) {
        wait_for(&format!("warm addresses on {node}"), || {
            (self.vips(node) == both_vips()).then_some(())
        });
    }

    /// Waits until `node` serves, whatever the other one does.
    pub(crate) fn wait_until_alone(&mut self, node: Machine) {
        self.wait_for(node, "serves", |status| {
            let group = &status["groups"][0];
            group["state"] == "holding" && group["health"] == "healthy"
        });
        assert_eq!(self.vips(node), both_vips(), "on {node}");
        for vip in both_vips() {
            let serves = self.lab.who_serves(vip, PATIENCE).unwrap();
            assert_eq!(serves, Some(node), "at {vip}");
        }
    }

    /// Rewrites the configuration, which both nodes share.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = &self.lab.files().config;
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    /// What `hb status --json` prints; panics if the daemon has ended.
    pub(crate) fn status(&mut self, node: Machine) -> Value {
        wait_for(&format!("a status of {node}"), || {
            if let Some(daemon) = self.lab.daemon_mut(node) {
                daemon.check().unwrap();
            }
            self.lab.status(node).ok()
        })
    }

    /// Waits until the status of `node` is as wanted; returns it.
    pub(crate) fn wait_for(
        &mut self,
        node: Machine,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let end = clock::now().after(PATIENCE);
        loop {
            let status = self.status(node);
            if wanted(&status) {
                return status;
            }
            assert!(
                clock::now() < end,
                "{node} does not say within {PATIENCE:?}: {what}; but {status:#}; log: {}",
                fs::read_to_string(self.log_file(node)).unwrap()
            );
            thread::sleep(STEP);
        }
    }

    /// Epoch of the group, as `node` says.
    pub(crate) fn epoch(&mut self, node: Machine) -> u64 {
        self.status(node)["groups"][0]["epoch"].as_u64().unwrap()
    }

    /// Service addresses on a node, by `ip`.
    pub(crate) fn vips(&self, node: Machine) -> BTreeSet<IpAddr> {
        let vips = both_vips();
        let interfaces = self.lab.netns(node).ip_json(&["address"]).unwrap();
        let infos = interfaces.as_array().unwrap().iter();
        infos
            .filter_map(|interface| interface["addr_info"].as_array())
            .flatten()
            .filter_map(|info| info["local"].as_str()?.parse().ok())
            .filter(|address| vips.contains(address))
            .collect()
    }

    /// Mode of the XDP program on an interface of a node, by `ip`: 1 for the driver's, 2 for the
    /// generic one; `None` without a program.
    pub(crate) fn xdp_mode(&self, node: Machine, interface: &str) -> Option<u64> {
        let links = self.lab.netns(node).ip_json(&["link", "show", "dev", interface]).unwrap();
        links[0]["xdp"]["mode"].as_u64()
    }

    /// Asserts that a node has nothing of `hb`: address, program, pin, socket.
    pub(crate) fn assert_nothing_left(&self, node: Machine) {
        assert_eq!(self.vips(node), BTreeSet::new(), "on {node}");
        for interface in ["eth0", "eth1"] {
            assert_eq!(self.xdp_mode(node, interface), None, "{interface} of {node}");
        }
        for interface in ["eth0", "eth1", "lo"] {
            for way in [tcx::Way::In, tcx::Way::Out] {
                let chain = tcx::chain(self.lab.netns(node), interface, way).unwrap();
                assert_eq!(chain, [], "{interface} of {node}, {way:?}");
            }
        }
        let (pins, socket) = (self.lab.pins(node), self.lab.socket(node));
        assert!(!pins.exists(), "{} is left", pins.display());
        assert!(!socket.exists(), "{} is left", socket.display());
    }

    /// Log of the newest daemon of a node.
    pub(crate) fn log_file(&self, node: Machine) -> PathBuf {
        self.lab.daemon(node).unwrap().log().to_owned()
    }

    /// Lines of the newest daemon of a node with this message.
    pub(crate) fn logged(&self, node: Machine, message: &str) -> Vec<Value> {
        logged(&self.log_file(node), message)
    }

    /// Waits for a line of the newest daemon of a node.
    pub(crate) fn wait_for_log(
        &self,
        node: Machine,
        message: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("{message:?} in the log of {node}"), || {
            self.logged(node, message).into_iter().find(|line| wanted(line))
        })
    }

    /// A client that asks at `target` every millisecond until it is finished.
    pub(crate) fn client(&self, target: IpAddr) -> Client {
        let client = self
            .lab
            .client(Pace {
                target: (target, lab::addresses::SERVICE_PORT).into(),
                interval: Duration::from_millis(1),
                limit: Duration::from_secs(60),
            })
            .unwrap();
        let start = clock::now();
        wait_for("an answer for the client", || {
            NODES.into_iter().find(|node| client.newest_answer(*node) >= start)
        });
        client
    }

    /// Runs `hb` to its end, in the namespace of a node.
    pub(crate) fn hb(&self, node: Machine, arguments: &[&str]) -> Output {
        let mut command = self.lab.hb(node).unwrap();
        command.args(arguments);
        to_its_end(command)
    }

    /// Asks the daemon of a node through the command line.
    pub(crate) fn ask(&self, node: Machine, arguments: &[&str]) -> Output {
        let socket = self.lab.socket(node);
        self.hb(node, &[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    }

    /// Waits until the daemon of a node has ended well.
    pub(crate) fn wait_for_end(&mut self, node: Machine) {
        let status = self.lab.daemon_mut(node).unwrap().wait(PATIENCE).unwrap();
        assert!(status.success(), "the daemon of {node} ended with {status}");
    }

    /// Sends `SIGKILL` to the daemon of a node and waits for its end.
    pub(crate) fn kill(&mut self, node: Machine) -> BootTime {
        let at = self.lab.signal(node, libc::SIGKILL).unwrap();
        self.lab.daemon_mut(node).unwrap().wait(PATIENCE).unwrap();
        at
    }
}

/// Both service addresses.
pub(crate) fn both_vips() -> BTreeSet<IpAddr> {
    [VIP4.into(), VIP6.into()].into()
}

/// The link of that name in a status.
pub(crate) fn link<'a>(status: &'a Value, name: &str) -> &'a Value {
    let links = status["peers"][0]["links"].as_array().unwrap();
    links.iter().find(|link| link["link"] == name).unwrap()
}

/// Lines of a log with this message.
pub(crate) fn logged(log: &Path, message: &str) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["message"] == message)
        .collect()
}

/// Runs a command that must end by itself.
pub(crate) fn to_its_end(mut command: Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = clock::now().after(PATIENCE);
    while child.try_wait().unwrap().is_none() {
        if clock::now() > end {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{command:?} goes on: {}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}
