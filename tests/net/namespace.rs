//! Network namespaces as values.

use std::{
    fs,
    net::Ipv6Addr,
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use hb_user::address::{AddressSocket, Interface};
use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace, deleted on drop.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hb-net-{}-{count}", std::process::id());
        run(&["netns", "add", &name]);
        let namespace = Self { name };
        // Addresses are usable at once, so that a listing does not change by itself.
        namespace.inside(|| {
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
            }
        });
        namespace.ip("link set lo up");
        namespace
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
        let far = &other.name;
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
        run(&[&["-n", &self.name], &arguments.split(' ').collect::<Vec<_>>()[..]].concat());
    }

    /// Runs `ip` and returns the list it prints.
    pub(crate) fn list(&self, arguments: &str) -> Vec<Value> {
        let arguments = arguments.split(' ').collect::<Vec<_>>();
        let text = run(&[&["-n", &self.name, "-j"], &arguments[..]].concat());
        match serde_json::from_str(&text).unwrap() {
            Value::Array(items) => items,
            other => panic!("no list: {other}"),
        }
    }

    /// Runs `body` on a thread of its own that has entered the namespace.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
                // SAFETY: `file` is open; only this thread changes its namespace.
                let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
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

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["netns", "del", &self.name]);
    }
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}(needs root)", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}
