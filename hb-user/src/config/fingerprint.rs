//! Numbers made of the configuration, for the wire.

use std::{net::IpAddr, time::Duration};

use hb_ebpf::maps::Transport;
use sha2::{Digest, Sha256};

use super::{
    ClusterName, Config, Group, Link, LinkAddress, PingGroup, Resource, ResourceKind, Timeout,
};

/// First bytes of the canonical form; changes when the form does.
const FORM: &str = "hb configuration 5";
/// The same of a group's own.
const GROUP_FORM: &str = "hb group 1";
/// The same of a link's own.
const LINK_FORM: &str = "hb link 1";

pub(super) fn cluster_id(name: &ClusterName) -> u32 {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(name.as_str()));
    u32::from_be_bytes([a, b, c, d]).max(1)
}

/// Name of a part of the configuration, its bits in the fingerprint, and what makes its form.
type Part = (&'static str, u32, fn(&mut Form, &Config));

/// Parts of the configuration that have bits of their own in the fingerprint, most significant first, after
/// the [`WHOLE_BITS`] of all together. By those of the links more is decided than what to tell.
const PARTS: [Part; 9] = [
    ("cluster", 4, Form::cluster),
    ("timers", 4, Form::timers),
    ("lease", 4, Form::lease),
    ("node", 4, Form::nodes),
    ("witness", 4, Form::witness),
    ("fence", 4, Form::fence),
    (LINKS, 12, Form::links),
    ("group", 4, Form::groups),
    ("ping", 4, Form::pings),
];
const LINKS: &str = "link";
const WHOLE_BITS: u32 = 20;
const _: () = {
    let (mut bits, mut part) = (WHOLE_BITS, 0);
    while part < PARTS.len() {
        bits += PARTS[part].1;
        part += 1;
    }
    assert!(bits == u64::BITS);
};

pub(super) fn fingerprint(config: &Config) -> u64 {
    let mut whole = Form(Sha256::new());
    let mut digits = 0;
    for (name, bits, part) in PARTS {
        let mut form = Form(Sha256::new());
        form.text(FORM);
        form.text(name);
        part(&mut form, config);
        let hash = form.0.finalize();
        let number = u64::from(u16::from_be_bytes([hash[0], hash[1]]));
        digits = digits << bits | number & ((1 << bits) - 1);
        whole.bytes(&hash);
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(whole.0.finalize());
    let whole = u64::from(u32::from_be_bytes([a, b, c, d]) >> (32 - WHOLE_BITS)).max(1);
    whole << (64 - WHOLE_BITS) | digits
}

/// Returns the parts in which two configurations differ that have these fingerprints. One in sixteen
/// differences of a part cannot be seen, of links one in 4,096; that there is one can.
#[must_use]
pub fn differing(one: u64, other: u64) -> Vec<&'static str> {
    let mut differing = Vec::new();
    let mut differences = one ^ other;
    for (name, bits, _) in PARTS.iter().rev() {
        if differences & ((1 << bits) - 1) != 0 {
            differing.insert(0, *name);
        }
        differences >>= bits;
    }
    differing
}

/// Tells whether two configurations that have these fingerprints have the same links, as far as can be seen.
#[must_use]
pub fn same_links(one: u64, other: u64) -> bool {
    // Where no part is seen to differ, it may be this one.
    let differing = differing(one, other);
    one == other || !(differing.is_empty() || differing.contains(&LINKS))
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

/// Which link between two machines it is: how frames travel on it, and the address of either end. Its name,
/// its place in the file and the interfaces of the ends are no matter of the wire.
#[must_use]
pub fn link_fingerprint(one: LinkAddress, other: LinkAddress) -> u32 {
    let mut form = Form(Sha256::new());
    form.text(LINK_FORM);
    for end in [one.min(other), one.max(other)] {
        form.end(end);
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

    fn texts<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t String>) {
        self.count(texts.len());
        texts.for_each(|text| self.text(text));
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

    fn cluster(&mut self, config: &Config) {
        self.text(config.cluster.name.as_str());
        self.text(config.cluster.policy.as_str());
    }

    fn timers(&mut self, config: &Config) {
        let timers = &config.timers;
        for timer in [
            timers.interval(),
            timers.warntime(),
            timers.deadtime(),
            timers.initdead(),
            timers.controller_deadtime(),
            timers.doubt_max(),
        ] {
            self.duration(timer);
        }
    }

    fn lease(&mut self, config: &Config) {
        let lease = &config.lease;
        for length in [lease.length, lease.margin, lease.drain, lease.seek] {
            self.duration(length);
        }
        self.bytes(&lease.rho.to_be_bytes());
    }

    fn nodes(&mut self, config: &Config) {
        for node in &config.nodes {
            self.bytes(&[node.id.0]);
            self.text(node.name.as_str());
        }
    }

    fn witness(&mut self, config: &Config) {
        if let Some(witness) = &config.witness {
            self.bytes(&[witness.id.0]);
            self.text(witness.name.as_str());
        }
    }

    /// Not its options: they may be secret, and a fingerprint travels in the clear.
    fn fence(&mut self, config: &Config) {
        if let Some(fence) = &config.fence {
            self.text(fence.action.as_str());
            self.duration(fence.delay);
        }
    }

    fn links(&mut self, config: &Config) {
        config.links.iter().for_each(|link| self.link(link));
    }

    fn groups(&mut self, config: &Config) {
        config.groups.iter().for_each(|group| self.group(group));
    }

    fn pings(&mut self, config: &Config) {
        config.pings.iter().for_each(|ping| self.ping(ping));
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
            self.end(end.address);
        }
    }

    fn end(&mut self, address: LinkAddress) {
        match address {
            LinkAddress::Ip(address) => self.ip(address),
            LinkAddress::Mac(address) => self.bytes(&address),
        }
    }

    fn group(&mut self, group: &Group) {
        self.text(group.name.as_str());
        let after = group.auto_failback.map(|after| after.as_nanos() as u64);
        self.bytes(&[group.preferred.0, after.map_or(0, |after| 1 + u8::from(after > 0))]);
        if let Some(after) = after.filter(|after| *after > 0) {
            self.bytes(&after.to_be_bytes());
        }
        self.count(group.addresses.len());
        for address in &group.addresses {
            self.ip(address.address);
            self.bytes(&[address.prefix, u8::from(address.on_link)]);
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
        self.text(ping.method.as_str());
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
        self.text(resource.kind.as_str());
        match &resource.kind {
            ResourceKind::Script { program, args } => {
                self.bytes(program.as_os_str().as_encoded_bytes());
                self.texts(args.iter());
            }
            // Not the values of parameters: they may be secret, and a fingerprint travels in the clear.
            ResourceKind::Ocf { provider, agent, params, check_level } => {
                self.text(provider);
                self.text(agent);
                self.texts(params.iter().map(|(name, _)| name));
                self.bytes(&check_level.to_be_bytes());
            }
            ResourceKind::Lsb { program } => self.bytes(program.as_os_str().as_encoded_bytes()),
            ResourceKind::Heartbeat { script, args } => {
                self.text(script);
                self.texts(args.iter());
            }
        }
        for timeout in [resource.start_timeout, resource.stop_timeout, resource.status_timeout] {
            match timeout {
                Timeout::Fixed(time) => self.duration(time),
                // What it advises may differ from machine to machine, and is no key of the file.
                Timeout::Advised(_) => self.text("advised"),
            }
        }
        self.duration(resource.status_interval.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, std::path::Path::new("hb.toml")).unwrap()
    }

    #[test]
    fn what_differs_is_told_by_its_digits() {
        let good = include_str!("../../../packaging/hb.toml");
        let own = config(good).fingerprint();
        assert_eq!(differing(own, own), Vec::<&str>::new());
        for (part, from, to) in [
            ("timers", "misses = 5", "misses = 6"),
            ("link", "multihop = 0", "multihop = 1"),
            ("group", "start_timeout = \"20s\"", "start_timeout = \"21s\""),
            ("ping", "method = \"icmp\"", "method = \"arp\""),
        ] {
            assert!(good.contains(from), "{from}");
            let other = config(&good.replace(from, to)).fingerprint();
            assert_ne!(other, own, "{part}");
            assert_eq!(differing(own, other), [part]);
            assert_eq!(same_links(own, other), part != LINKS);
        }
        assert!(same_links(own, own));
        assert!(!same_links(own, own ^ 1 << 63), "nobody knows what it is that differs");
    }

    #[test]
    fn a_link_is_its_two_ends() {
        let ip = |text: &str| LinkAddress::Ip(text.parse().unwrap());
        let [one, other] = [ip("192.0.2.1"), ip("192.0.2.2")];
        let link = link_fingerprint(one, other);
        assert_eq!(link, link_fingerprint(other, one), "both say the same");
        for (one, other) in [
            (one, ip("192.0.2.3")),
            (one, one),
            (ip("::ffff:192.0.2.1"), other),
            (LinkAddress::Mac([192, 0, 2, 1, 0, 0]), other),
        ] {
            assert_ne!(link, link_fingerprint(one, other), "{one} {other}");
        }
    }
}
