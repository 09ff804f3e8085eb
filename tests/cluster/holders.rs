//! Watches which nodes have the service addresses, often.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hb_ebpf::time::BootTime;
use hb_user::address::AddressSocket;
use lab::{
    addresses::{Machine, is_vip},
    clock,
};

use super::support::Cluster;

/// Between two looks at both nodes.
const STEP: Duration = Duration::from_millis(1);

/// A watch at work.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What a watch saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Looks taken.
    pub(crate) looks: u64,
    /// When both nodes had the same address.
    pub(crate) overlaps: Vec<(BootTime, IpAddr)>,
    /// Who had any address, each time that changed.
    pub(crate) holders: Vec<(BootTime, Vec<Machine>)>,
    /// Who had any at any look.
    had: BTreeSet<Machine>,
}

impl Watch {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        // A socket stays in the namespace it was made in.
        let [mut a, mut b] = [Machine::A, Machine::B]
            .map(|node| cluster.lab.netns(node).enter(AddressSocket::open).unwrap().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopping.load(Ordering::Relaxed) {
                // What a had before and after b had it, both had at once.
                let before = vips(&mut a);
                let between = vips(&mut b);
                let after = vips(&mut a);
                let now = clock::now();
                seen.looks += 1;
                let both = before.iter().filter(|vip| between.contains(vip) && after.contains(vip));
                seen.overlaps.extend(both.map(|vip| (now, *vip)));
                let seen_at = [(Machine::A, &before), (Machine::B, &between), (Machine::A, &after)];
                let having = seen_at.iter().filter(|(_, vips)| !vips.is_empty());
                seen.had.extend(having.map(|(node, _)| *node));
                // A change of a's between its two looks belongs to no look at b.
                if before == after {
                    let nodes = [(Machine::A, &after), (Machine::B, &between)];
                    let having = nodes.iter().filter(|(_, vips)| !vips.is_empty());
                    let holders: Vec<_> = having.map(|(node, _)| *node).collect();
                    if seen.holders.last().is_none_or(|(_, last)| *last != holders) {
                        seen.holders.push((now, holders));
                    }
                }
                thread::sleep(STEP);
            }
            seen
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap();
        assert!(seen.looks > 10, "{seen:?}");
        seen
    }
}

impl Seen {
    /// Asserts that no address was ever on both nodes.
    pub(crate) fn assert_never_both(&self) {
        assert_eq!(self.overlaps, [], "{:?}", self.holders);
    }

    /// Asserts that `node` had an address all the time, and no other one had any.
    pub(crate) fn assert_always_at(&self, node: Machine) {
        let nodes: Vec<_> = self.holders.iter().map(|(_, nodes)| nodes.clone()).collect();
        assert_eq!(nodes, [vec![node]], "{:?}", self.holders);
    }

    /// Asserts that `node` never had an address.
    pub(crate) fn assert_never(&self, node: Machine) {
        assert!(!self.had.contains(&node), "{node:?} had one: {:?}", self.holders);
    }
}

fn vips(socket: &mut AddressSocket) -> BTreeSet<IpAddr> {
    let present = socket.addresses(None).unwrap();
    present.into_iter().map(|address| address.ip).filter(|ip| is_vip(*ip)).collect()
}
