//! Numbers made of the configuration, for the wire.

use std::{net::IpAddr, time::Duration};

use hb_ebpf::maps::Transport;
use sha2::{Digest, Sha256};

use super::{ClusterName, Config, Group, Link, LinkAddress, PingGroup, Resource, ResourceKind};

/// First bytes of the canonical form; changes when the form does.
const FORM: &str = "hb configuration 3";
/// The same of a group's own.
const GROUP_FORM: &str = "hb group 1";

pub(super) fn cluster_id(name: &ClusterName) -> u32 {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(name.as_str()));
    u32::from_be_bytes([a, b, c, d]).max(1)
}

pub(super) fn fingerprint(config: &Config) -> u64 {
    let mut form = Form(Sha256::new());
    form.text(FORM);
    form.text(config.cluster.name.as_str());
    form.text(config.cluster.policy.as_str());
    let timers = &config.timers;
    for timer in [
        timers.interval(),
        timers.warntime(),
        timers.deadtime(),
        timers.initdead(),
        timers.controller_deadtime(),
        timers.doubt_max(),
    ] {
        form.duration(timer);
    }
    let lease = &config.lease;
    for length in [lease.length, lease.margin, lease.drain, lease.seek] {
        form.duration(length);
    }
    form.bytes(&lease.rho.to_be_bytes());
    form.count(config.nodes.len());
    for node in &config.nodes {
        form.bytes(&[node.id.0]);
        form.text(node.name.as_str());
    }
    if let Some(witness) = &config.witness {
        form.bytes(&[witness.id.0]);
        form.text(witness.name.as_str());
    }
    // Not the options: they may be secret, and a fingerprint travels in the clear.
    if let Some(fence) = &config.fence {
        form.text(fence.action.as_str());
        form.duration(fence.delay);
    }
    form.count(config.links.len());
    for link in &config.links {
        form.link(link);
    }
    form.count(config.groups.len());
    for group in &config.groups {
        form.group(group);
    }
    form.count(config.pings.len());
    for ping in &config.pings {
        form.ping(ping);
    }
    form.finish()
}

/// What a group is: its name and the set of its addresses. Prefixes, interfaces, resources and the order
/// of anything are how it is served.
pub(super) fn group(group: &Group) -> u32 {
    let mut addresses: Vec<_> = group.addresses.iter().map(|address| address.address).collect();
    addresses.sort_unstable();
    let mut form = Form(Sha256::new());
    form.text(GROUP_FORM);
    form.text(group.name.as_str());
    form.count(addresses.len());
    for address in addresses {
        form.ip(address);
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(form.0.finalize());
    u32::from_be_bytes([a, b, c, d]).max(1)
}

/// The canonical form on its way into the hash. Every part is preceded by its length, so that no
/// two configurations have the same form.
struct Form(Sha256);

impl Form {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn duration(&mut self, duration: Duration) {
        self.bytes(&duration.as_nanos().to_be_bytes());
    }

    fn ip(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    fn link(&mut self, link: &Link) {
        self.text(link.name.as_str());
        self.text(match link.transport {
            Transport::Ethernet => "ethernet",
            Transport::Udp4 => "udp4",
            Transport::Udp6 => "udp6",
        });
        self.bytes(&[link.multihop]);
        self.count(link.ends.len());
        for (node, end) in &link.ends {
            self.bytes(&[node.0]);
            self.text(end.interface.as_str());
            match end.address {
                LinkAddress::Ip(address) => self.ip(address),
                LinkAddress::Mac(address) => self.bytes(&address),
            }
        }
    }

    fn group(&mut self, group: &Group) {
        self.text(group.name.as_str());
        self.bytes(&[group.preferred.0, u8::from(group.auto_failback)]);
        self.count(group.addresses.len());
        for address in &group.addresses {
            self.ip(address.address);
            self.bytes(&[address.prefix]);
            self.count(address.interfaces.len());
            for (node, interface) in &address.interfaces {
                self.bytes(&[node.0]);
                self.text(interface.as_str());
            }
        }
        self.count(group.resources.len());
        for resource in &group.resources {
            self.resource(resource);
        }
    }

    fn ping(&mut self, ping: &PingGroup) {
        self.text(ping.name.as_str());
        self.count(ping.targets.len());
        for target in &ping.targets {
            self.ip(*target);
        }
        self.duration(ping.interval);
        self.duration(ping.deadping);
        self.count(ping.interfaces.len());
        for (node, interface) in &ping.interfaces {
            self.bytes(&[node.0]);
            self.text(interface.as_str());
        }
    }

    fn resource(&mut self, resource: &Resource) {
        self.text(resource.name.as_str());
        let ResourceKind::Script { program, args } = &resource.kind;
        self.text("script");
        self.bytes(program.as_os_str().as_encoded_bytes());
        self.count(args.len());
        for arg in args {
            self.text(arg);
        }
        for timeout in [resource.start_timeout, resource.stop_timeout, resource.status_timeout] {
            self.duration(timeout);
        }
        self.duration(resource.status_interval.unwrap_or_default());
    }

    fn finish(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(self.0.finalize());
        u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
    }
}
