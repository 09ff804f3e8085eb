//! Groups: service addresses and resources.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

use hb_ebpf::{gate::MAX_VIPS, wire::GROUPS};

use super::{
    super::{
        Failure, GateMode, Group, InterfaceName, Link, LinkAddress, Name, Readable, Require,
        Resource, ServiceAddress, StopFailure,
        error::At,
        file::{Section, TextOrMap},
    },
    duration_within,
    network::{Nodes, not_unicast},
    resources::resource,
};
use crate::id::{GroupId, NodeId};

/// For how long a failure counts if the file does not say.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it may be told to.
const FAILURE_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);

/// How often resources are started again here within how long, if the file does not say,
const MAX_RESTARTS: u32 = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(600);
/// and how often at most.
const MOST_RESTARTS: u32 = 1000;

/// Reads the groups. `auto_failback` is for those that do not say; `gate` is what the gate does.
pub(super) fn groups(
    root: &Section<'_>,
    nodes: &Nodes,
    links: &[Link],
    auto_failback: Option<Option<Duration>>,
    gate: Option<GateMode>,
) -> Vec<Group> {
    let sections = root.sections("group", "[[group]]");
    if sections.is_empty() && root.has("group").is_none() {
        root.missing("[[group]]", "describe at least one group of addresses and resources");
    }
    let count = sections.len();
    let mut groups = Vec::new();
    let mut names: Vec<Name> = Vec::new();
    let mut vips = BTreeMap::new();
    let mut excess = None;
    for (index, section) in sections.into_iter().enumerate() {
        // Said once, however many there are.
        if index == GROUPS {
            let message = format!(
                "this is group {} of {count}, and {GROUPS} are the most; put those from here on into \
                 the file of another cluster, with a daemon of its own",
                index + 1
            );
            section.problems.add(section.position, message);
        }
        let text = section.required_text("name", "give every group a name of its own");
        let name = section.checked(text, Name::new);
        if let Some(name) = &name {
            if names.contains(&name.value) {
                let message = format!("group {:?} is there twice; rename one", name.value.as_str());
                root.problems.add(name.position, message);
            }
            names.push(name.value.clone());
        }
        let name = name.map(|name| name.value);
        let group = group(section, GroupId(index as u8), name, nodes, auto_failback, gate);
        for (address, owner) in &group.found {
            check_vip(root, *address, owner, links, &mut vips);
            if vips.len() > MAX_VIPS {
                excess.get_or_insert(*address);
            }
        }
        if let Some(group) = &group.complete {
            let same = |known: &&Group| known.fingerprint() == group.fingerprint();
            if let Some(known) = groups.iter().find(same).filter(|known| known.name != group.name) {
                let message = format!(
                    "groups {:?} and {:?} have the same fingerprint, by which machines tell groups \
                     apart; rename one",
                    known.name.as_str(),
                    group.name.as_str()
                );
                root.problems.add(root.position, message);
            }
        }
        groups.extend(group.complete);
    }
    if let Some(At { value, position }) = excess {
        let message = format!(
            "address {value} is service address {} of {}, and {MAX_VIPS} are the most in all groups \
             together; put those from here on into the file of another cluster, with a daemon of its own",
            MAX_VIPS + 1,
            vips.len()
        );
        root.problems.add(position, message);
    }
    groups
}

/// Reads what becomes of a group where a resource failed.
fn on_failure(section: &Section<'_>) -> Option<Failure> {
    let most = match section.has("max_restarts") {
        Some(_) => section.integer("max_restarts", 1, MOST_RESTARTS).map(|at| at.value),
        None => Some(MAX_RESTARTS),
    };
    let window = duration_within(section, "restart_window", RESTART_WINDOW, FAILURE_TIMEOUTS);
    let restart = match section.text("on_failure") {
        Some(text) => match text.value {
            "move" => Some(false),
            "restart" => Some(true),
            _ => {
                section.unknown_choice("on_failure", text, ["move", "restart"]);
                None
            }
        },
        None if section.has("on_failure").is_some() => None,
        None => Some(false),
    };
    let (most, window, restart) = (most?, window?, restart?);
    if restart {
        return Some(Failure::Restart { most, window });
    }
    for key in ["max_restarts", "restart_window"] {
        if let Some(position) = section.has(key) {
            let message =
                format!("{key} is without effect: set `on_failure = \"restart\"`, or remove it");
            section.problems.add(position, message);
        }
    }
    Some(Failure::Move)
}

/// What could be read of a group.
struct ReadGroup {
    complete: Option<Group>,
    /// Its addresses, each with the group's name.
    found: Vec<(At<IpAddr>, String)>,
}

fn group(
    section: Section<'_>,
    id: GroupId,
    name: Option<Name>,
    nodes: &Nodes,
    auto_failback: Option<Option<Duration>>,
    gate: Option<GateMode>,
) -> ReadGroup {
    let preferred = match section.text("preferred") {
        Some(text) => nodes.find(&section, text),
        None => nodes.complete.iter().map(|node| node.id).min(),
    };
    let auto_failback = match section.has("auto_failback") {
        Some(_) => section.failback("auto_failback"),
        None => auto_failback,
    };
    let failure_timeout = match section.has("failure_timeout") {
        Some(position) => section.duration("failure_timeout").and_then(|At { value, .. }| {
            if !value.is_zero() && !FAILURE_TIMEOUTS.contains(&value) {
                let message = format!(
                    "failure_timeout = {} is out of range; give {} to {}, or \"0s\" for never",
                    Readable(value),
                    Readable(*FAILURE_TIMEOUTS.start()),
                    Readable(*FAILURE_TIMEOUTS.end())
                );
                section.problems.add(position, message);
                return None;
            }
            Some(Some(value).filter(|value| !value.is_zero()))
        }),
        None => Some(Some(FAILURE_TIMEOUT)),
    };
    let on_failure = on_failure(&section);
    let on_stop_failure = match section.text("on_stop_failure") {
        Some(text) => match text.value {
            "block" => Some(StopFailure::Block),
            "ignore" => Some(StopFailure::Ignore),
            _ => {
                section.unknown_choice("on_stop_failure", text, ["block", "ignore"]);
                None
            }
        },
        None if section.has("on_stop_failure").is_some() => None,
        None => Some(StopFailure::default()),
    };
    let warm_addresses = match section.has("warm_addresses") {
        Some(position) => {
            let warm = section.boolean("warm_addresses");
            if let (Some(true), Some(mode @ (GateMode::DryRun | GateMode::Bypass))) = (warm, gate) {
                let message = format!(
                    "{:?} is in the way of warm_addresses: with them only the gate keeps a node \
                     that does not serve from answering; set `mode = \"on\"` in [gate], or remove this",
                    mode.as_str()
                );
                section.problems.add(position, message);
            }
            warm
        }
        None => Some(false),
    };
    let require = match section.text("require") {
        Some(text) => match text.value {
            "any" => Some(Require::Any),
            "all" => Some(Require::All),
            _ => {
                section.unknown_choice("require", text, ["any", "all"]);
                None
            }
        },
        None if section.has("require").is_some() => None,
        None => Some(Require::default()),
    };
    let label = name
        .as_ref()
        .map_or_else(|| id.to_string(), |name| format!("group {name:?}", name = name.as_str()));
    let mut found = Vec::new();
    let mut addresses = Vec::new();
    let address_sections = section.sections("address", "[[group.address]]");
    let resource_sections = section.sections("resource", "[[group.resource]]");
    if address_sections.is_empty() && resource_sections.is_empty() {
        let message = format!(
            "{label} has neither addresses nor resources; add [[group.address]] or \
             [[group.resource]], or remove the group"
        );
        section.problems.add(section.position, message);
    }
    for address_section in address_sections {
        let (ip, address) = service_address(address_section, nodes);
        found.extend(ip.map(|ip| (ip, label.clone())));
        addresses.extend(address);
    }
    let mut resources: Vec<Resource> = Vec::new();
    for resource_section in resource_sections {
        let position = resource_section.position;
        let Some(resource) = resource(resource_section) else { continue };
        if resources.iter().any(|known| known.name == resource.name) {
            let message =
                format!("resource {:?} is in {label} twice; rename one", resource.name.as_str());
            section.problems.add(position, message);
        }
        resources.push(resource);
    }
    section.finish();
    let complete = || {
        let (name, preferred, auto_failback) = (name?, preferred?, auto_failback?);
        let (failure_timeout, warm_addresses) = (failure_timeout?, warm_addresses?);
        let (require, on_failure, on_stop_failure) = (require?, on_failure?, on_stop_failure?);
        Some(Group {
            id,
            name,
            preferred,
            auto_failback,
            failure_timeout,
            on_failure,
            on_stop_failure,
            warm_addresses,
            require,
            addresses,
            resources,
        })
    };
    ReadGroup { complete: complete(), found }
}

/// Checks one service address against all others and the links.
fn check_vip(
    root: &Section<'_>,
    vip: At<IpAddr>,
    owner: &str,
    links: &[Link],
    vips: &mut BTreeMap<IpAddr, String>,
) {
    if let Some(first) = vips.insert(vip.value, owner.to_owned()) {
        let message = format!("address {} is already in {first}; remove one of them", vip.value);
        root.problems.add(vip.position, message);
    }
    for link in links {
        for (node, end) in link.ends() {
            if end.address == LinkAddress::Ip(vip.value) {
                let message = format!(
                    "address {} is the address of {node} on link {:?}, which never moves; choose \
                     another for the group",
                    vip.value,
                    link.name.as_str()
                );
                root.problems.add(vip.position, message);
            }
        }
    }
}

/// Returns the address as far as it could be read, and the whole if all of it could.
fn service_address(
    section: Section<'_>,
    nodes: &Nodes,
) -> (Option<At<IpAddr>>, Option<ServiceAddress>) {
    let hint = "write it with its prefix length, such as \"192.0.2.100/24\"";
    let address = section.required_text("address", hint).and_then(|text| prefixed(&section, text));
    let interface_position = section.has("interface");
    if interface_position.is_none() {
        section.missing("interface", "name the interface it goes to, such as \"eth0\"");
    }
    let interfaces =
        section.text_or_map("interface").and_then(|text| interfaces(&section, text, nodes));
    let on_link = match section.has("on_link") {
        Some(_) => section.boolean("on_link"),
        None => Some(true),
    };
    if let (Some(At { value: (ip, prefix), position }), Some(false)) = (&address, on_link) {
        let host = if ip.is_ipv4() { 32 } else { 128 };
        if *prefix != host {
            let message = format!(
                "address {ip} is in no subnet, by on_link = false, so it has no prefix of {prefix} bits; \
                 write \"{ip}/{host}\", or remove on_link"
            );
            section.problems.add(*position, message);
        }
    }
    section.finish();
    let ip = address.as_ref().map(|at| At { value: at.value.0, position: at.position });
    let complete = || {
        let address = address?;
        Some(ServiceAddress {
            address: address.value.0,
            prefix: address.value.1,
            on_link: on_link?,
            interfaces: interfaces?,
            address_position: address.position,
            interface_position: interface_position?,
        })
    };
    (ip, complete())
}

pub(super) fn interfaces(
    section: &Section<'_>,
    text: TextOrMap<'_>,
    nodes: &Nodes,
) -> Option<BTreeMap<NodeId, InterfaceName>> {
    match text {
        TextOrMap::Text(text) => {
            let name = section.checked(Some(text), InterfaceName::new)?.value;
            Some(nodes.complete.iter().map(|node| (node.id, name.clone())).collect())
        }
        TextOrMap::Map(position, map) => {
            let have = |node: &str| map.iter().any(|(name, _)| name.value == node);
            nodes.check_all(section, position, have, |node| {
                format!("interface names none for node {node}; add {node} = \"..\"")
            });
            let mut interfaces = BTreeMap::new();
            for (node, interface) in map {
                let node = nodes.find(section, node);
                let interface = section.checked(interface, InterfaceName::new);
                if let (Some(node), Some(interface)) = (node, interface) {
                    interfaces.insert(node, interface.value);
                }
            }
            Some(interfaces)
        }
    }
}

/// Reads `address/prefix` and checks that the address is one that can move.
fn prefixed(section: &Section<'_>, text: At<&str>) -> Option<At<(IpAddr, u8)>> {
    let At { value, position } = text;
    let refuse = |why: String| {
        section.problems.add(position, why);
        None
    };
    let Some((address, prefix)) = value.split_once('/') else {
        let hint = "add the prefix length, such as \"192.0.2.100/24\"";
        return refuse(format!("address {value:?} has no prefix length; {hint}"));
    };
    let address = section.ip(Some(At { value: address, position }))?.value;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|digit| digit.is_ascii_digit());
    let prefix = prefix.parse().ok().filter(|prefix| digits && (1..=most).contains(prefix));
    let Some(prefix) = prefix else {
        return refuse(format!(
            "address {value:?} has no prefix length from 1 to {most}; use that of the subnet"
        ));
    };
    if let Some(why) = not_unicast(address) {
        return refuse(format!("address {address} {why}"));
    }
    match address {
        IpAddr::V4(address) => {
            let (network, broadcast) = subnet_ends(address, prefix);
            // RFC 3021: a /31 has neither.
            if prefix < 31 && (address == network || address == broadcast) {
                let what = if address == network { "network" } else { "broadcast" };
                return refuse(format!(
                    "address {value:?} is the {what} address of its subnet; choose one between \
                     {network} and {broadcast}"
                ));
            }
        }
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            return refuse(format!(
                "address {address} is link-local, and clients would have to name an interface \
                 with it; use a global or unique local address"
            ));
        }
        // RFC 4291, section 2.6.1: the subnet-router anycast address; RFC 6164 for /127.
        IpAddr::V6(address) if prefix < 127 && host_part(address, prefix) == 0 => {
            return refuse(format!(
                "address {value:?} is the routers' address of its subnet; choose another"
            ));
        }
        IpAddr::V6(_) => {}
    }
    Some(At { value: (address, prefix), position })
}

/// Returns the first and last address of the subnet; `prefix` is 1 to 32.
fn subnet_ends(address: Ipv4Addr, prefix: u8) -> (Ipv4Addr, Ipv4Addr) {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    (Ipv4Addr::from(u32::from(address) & !hosts), Ipv4Addr::from(u32::from(address) | hosts))
}

fn host_part(address: Ipv6Addr, prefix: u8) -> u128 {
    u128::from(address) & u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}
