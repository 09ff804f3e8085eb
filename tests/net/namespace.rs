//! Namespaces of the lab with what tests of addresses and sockets ask of them.

use std::{
    net::Ipv6Addr,
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use hb_user::address::{AddressSocket, Interface};
use lab::{guard::Guard, netns::Netns};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Does something with the guard that removes what is left when this process is interrupted or
/// killed.
pub(crate) fn with_guard(work: impl FnOnce(&mut Guard) -> anyhow::Result<()>) {
    static GUARD: OnceLock<Mutex<Guard>> = OnceLock::new();
    let agent = Path::new(env!("CARGO_BIN_EXE_lab-agent"));
    let guard = GUARD.get_or_init(|| Mutex::new(Guard::start(agent).unwrap()));
    // A test that panicked meanwhile has left the guard as good as it was.
    work(&mut guard.lock().unwrap_or_else(PoisonError::into_inner)).unwrap();
}

/// A network namespace, deleted on drop.
pub(crate) struct Namespace {
    netns: Netns,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hb-net-{}-{count}", std::process::id());
        with_guard(|guard| guard.netns(&name));
        let netns = Netns::create(&name).unwrap();
        // Addresses are usable at once, so that a listing does not change by itself.
        for which in ["all", "default"] {
            netns.sysctl(&format!("ipv6/conf/{which}/accept_dad"), "0").unwrap();
        }
        Self { netns }
    }

    /// Two namespaces with a cable between `left` in the first and `right` in the second, with the
    /// addresses 10.9.0.1, fd09::1 and 10.9.0.2, fd09::2 in that order.
    pub(crate) fn pair() -> (Self, Self) {
        let (left, right) = (Self::new(), Self::new());
        left.cable("left", &right, "right");
        left.ip("addr add 10.9.0.1/24 dev left");
        left.ip("addr add fd09::1/64 dev left nodad");
        right.ip("addr add 10.9.0.2/24 dev right");
        right.ip("addr add fd09::2/64 dev right nodad");
        (left, right)
    }

    /// Lays a cable to another namespace, switches both ends on and waits for them to settle.
    pub(crate) fn cable(&self, name: &str, other: &Self, other_name: &str) {
        let far = other.netns.name();
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {far}"));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
        // The last the kernel does by itself once it has seen the carrier.
        self.link_local(name);
        other.link_local(other_name);
    }

    /// Waits for the link-local address of the interface called `name`.
    pub(crate) fn link_local(&self, name: &str) -> Ipv6Addr {
        const STEP: Duration = Duration::from_millis(5);
        for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
            let links = self.list(&format!("-6 addr show dev {name} scope link"));
            // What the filter leaves out, `ip` prints as empty objects.
            let address = links
                .iter()
                .filter_map(|link| link["addr_info"].as_array())
                .flatten()
                .find_map(|address| address["local"].as_str());
            match address {
                Some(address) => return address.parse().unwrap(),
                None => thread::sleep(STEP),
            }
        }
        panic!("{name} got no link-local address");
    }

    /// Runs `ip` with `arguments` in the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        self.netns.ip(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
    }

    /// Runs `ip` and returns the list it prints.
    pub(crate) fn list(&self, arguments: &str) -> Vec<Value> {
        match self.netns.ip_json(&arguments.split(' ').collect::<Vec<_>>()).unwrap() {
            Value::Array(items) => items,
            other => panic!("no list: {other}"),
        }
    }

    /// Runs `body` on a thread of its own that has entered the namespace.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(body).unwrap()
    }

    /// The interface called `name`.
    pub(crate) fn interface(&self, name: &str) -> Interface {
        let interfaces = self.inside(|| AddressSocket::open().unwrap().interfaces().unwrap());
        interfaces.into_iter().find(|interface| interface.name == name).unwrap()
    }

    /// Index and MAC address of the interface called `name`.
    pub(crate) fn end(&self, name: &str) -> (u32, [u8; 6]) {
        let interface = self.interface(name);
        (interface.index, interface.mac.unwrap())
    }
}
