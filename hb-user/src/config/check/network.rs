//! Nodes and links.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use hb_ebpf::maps::{MAX_LINKS, MAX_NODES, Transport};

use super::{
    super::{
        Attach, InterfaceName, Link, LinkAddress, LinkEnd, Name, Node, Witness,
        error::{At, Position},
        file::Section,
        nearest::suggestion,
    },
    policy::ReadWitness,
};
use crate::id::{LinkId, NodeId};

/// Nodes this version can work with.
const SUPPORTED_NODES: usize = 2;

/// The nodes of the file.
pub(super) struct Nodes {
    /// Every name, with the id where that could be read.
    names: Vec<(Name, Option<NodeId>)>,
    /// Those of which all is known, in the order of the file.
    pub(super) complete: Vec<Node>,
}

impl Nodes {
    /// Finds the node a part of the file is about, or reports that there is none.
    pub(super) fn find(&self, section: &Section<'_>, name: At<&str>) -> Option<NodeId> {
        let found = self.names.iter().find(|(known, _)| known.as_str() == name.value);
        // Without any node, that is the error to report.
        if found.is_none() && !self.names.is_empty() {
            let names = self.names.iter().map(|(name, _)| name.as_str());
            let hint = suggestion(name.value, "nodes", names);
            let message = format!("there is no node {:?}; {hint}", name.value);
            section.problems.add(name.position, message);
        }
        found.and_then(|(_, id)| *id)
    }

    /// Tells whether a node is called `name`.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known.as_str() == name)
    }

    /// Reports the nodes that `have` says have none of what belongs to every node.
    pub(super) fn check_all(
        &self,
        section: &Section<'_>,
        position: Position,
        have: impl Fn(&str) -> bool,
        message: impl Fn(&Name) -> String,
    ) {
        for (name, _) in &self.names {
            if !have(name.as_str()) {
                section.problems.add(position, message(name));
            }
        }
    }
}

/// Reads the nodes.
pub(super) fn nodes(root: &Section<'_>) -> Nodes {
    let sections = root.sections("node", "[[node]]");
    let count = sections.len();
    let mut ids = Vec::new();
    let mut nodes = Nodes { names: Vec::new(), complete: Vec::new() };
    for (index, section) in sections.into_iter().enumerate() {
        if index >= SUPPORTED_NODES {
            let message = format!(
                "this is node {} of {count}, and this version supports exactly \
                 {SUPPORTED_NODES}; remove it",
                index + 1
            );
            section.problems.add(section.position, message);
        }
        let text = section.required_text("name", "write what `uname -n` prints on that machine");
        let name = section.checked(text, Name::new);
        if section.has("id").is_none() {
            section.missing("id", "give every node a number of its own, from 1; lower ranks first");
        }
        let id = section.integer("id", 1, MAX_NODES as u32);
        section.finish();
        if let Some(name) = &name
            && nodes.names.iter().any(|(known, _)| *known == name.value)
        {
            let message = format!("node {:?} is there twice; rename one", name.value.as_str());
            root.problems.add(name.position, message);
        }
        if let Some(id) = id {
            if ids.contains(&id.value) {
                let message = format!("id {} is taken by another node; change one", id.value);
                root.problems.add(id.position, message);
            }
            ids.push(id.value);
        }
        let id = id.and_then(|id| u8::try_from(id.value).ok()).map(NodeId);
        if let Some(name) = name {
            nodes.names.push((name.value.clone(), id));
            nodes.complete.extend(id.map(|id| Node { name: name.value, id }));
        }
    }
    if count < SUPPORTED_NODES {
        let message = format!(
            "[[node]] is there {count} times, and this version supports exactly {SUPPORTED_NODES} \
             nodes; describe every node of the cluster"
        );
        root.problems.add(root.has("node").unwrap_or(root.position), message);
    }
    nodes
}

/// Reads the links.
pub(super) fn links(root: &Section<'_>, nodes: &Nodes, witness: Option<&ReadWitness>) -> Vec<Link> {
    let sections = root.sections("link", "[[link]]");
    if sections.is_empty() && root.has("link").is_none() {
        root.missing("[[link]]", "describe at least one network path between the nodes");
    }
    let mut links: Vec<Link> = Vec::new();
    let mut names: Vec<Name> = Vec::new();
    let mut addresses: BTreeMap<LinkAddress, String> = BTreeMap::new();
    for (index, section) in sections.into_iter().enumerate() {
        if index >= MAX_LINKS {
            let message =
                format!("this is link {}, and {MAX_LINKS} are the most; remove it", index + 1);
            section.problems.add(section.position, message);
        }
        let text = section.required_text("name", "give every link a name of its own");
        let name = section.checked(text, Name::new);
        if let Some(name) = &name {
            if names.contains(&name.value) {
                let message = format!("link {:?} is there twice; rename one", name.value.as_str());
                root.problems.add(name.position, message);
            }
            names.push(name.value.clone());
        }
        let id = LinkId(index as u8);
        let link = link(section, id, name.map(|name| name.value), nodes, witness);
        let Some(link) = link else { continue };
        for (node, end) in &link.ends {
            let owner = format!("{node} on link {:?}", link.name.as_str());
            if let Some(first) = addresses.insert(end.address, owner) {
                let message = format!(
                    "address {} is already that of {first}; give every end its own",
                    end.address
                );
                root.problems.add(end.address_position, message);
            }
        }
        links.push(link);
    }
    if let Some(Witness { name, id }) = witness.and_then(|witness| witness.complete.as_ref())
        && let Some(position) = witness.map(|witness| witness.position)
        && !links.is_empty()
        && !links.iter().any(|link| link.ends.contains_key(id))
    {
        let message = format!(
            "the witness {name} is on no link, so no node can hear its vote; add \
             [link.node.{name}] to at least one"
        );
        root.problems.add(position, message);
    }
    for (place, link) in links.iter().enumerate() {
        check_attach(root, link, &links[..place]);
    }
    links
}

/// Checks that no interface is to have the program in two modes.
fn check_attach(root: &Section<'_>, link: &Link, earlier: &[Link]) {
    for (node, end) in link.ends() {
        let others = earlier.iter().filter(|other| {
            let same = |other: &LinkEnd| other.interface == end.interface;
            other.end(node).is_some_and(same) && other.attach != link.attach
        });
        for other in others {
            let message = format!(
                "links {:?} and {:?} of {node} share interface {}, and want attach = {:?} and {:?}; give \
                 both the same",
                other.name.as_str(),
                link.name.as_str(),
                end.interface,
                other.attach.as_str(),
                link.attach.as_str()
            );
            root.problems.add(end.interface_position, message);
        }
    }
}

fn link(
    section: Section<'_>,
    id: LinkId,
    name: Option<Name>,
    nodes: &Nodes,
    witness: Option<&ReadWitness>,
) -> Option<Link> {
    section.required_text("transport", "choose one of udp4, udp6, ethernet");
    let transports =
        [("udp4", Transport::Udp4), ("udp6", Transport::Udp6), ("ethernet", Transport::Ethernet)];
    let transport = match section.has("transport") {
        Some(_) => section.choice("transport", &transports),
        None => None,
    };
    let multihop = match section.has("multihop") {
        Some(_) => section.integer("multihop", 0, 254),
        None => Some(At { value: 0, position: section.position }),
    };
    if let (Some(Transport::Ethernet), Some(multihop)) = (transport, multihop)
        && multihop.value > 0
    {
        let message = "multihop has no meaning for ethernet, which no router forwards; remove it \
                       or use udp4 or udp6";
        section.problems.add(multihop.position, message);
    }
    let attaches = [Attach::Auto, Attach::Native, Attach::Generic, Attach::Tcx]
        .map(|attach| (attach.as_str(), attach));
    let attach = match section.has("attach") {
        Some(_) => section.choice("attach", &attaches),
        None => Some(Attach::Auto),
    };

    let mut ends = BTreeMap::new();
    let label = name.as_ref().map_or("NAME", Name::as_str).to_owned();
    match section.section("node", "[link.node.NAME]") {
        None if section.has("node").is_none() => {
            let message =
                format!("link {label:?} has no ends; add [link.node.NAME] for every node");
            section.problems.add(section.position, message);
        }
        None => {}
        Some(table) => {
            let entries = table.entries();
            let have = |node: &str| entries.iter().any(|(name, _)| name.value == node);
            nodes.check_all(&section, section.position, have, |node| {
                format!("link {label:?} has no end at node {node}; add [link.node.{node}]")
            });
            for (name, entry) in entries {
                let witness = witness.filter(|witness| {
                    witness.name.as_ref().is_some_and(|known| known.as_str() == name.value)
                });
                let node = match witness {
                    Some(witness) => witness.complete.as_ref().map(|witness| witness.id),
                    None => nodes.find(&section, name),
                };
                let end = entry.and_then(|entry| link_end(entry, transport));
                if let (Some(node), Some(end)) = (node, end) {
                    ends.insert(node, end);
                }
            }
        }
    }
    section.finish();
    let multihop = u8::try_from(multihop?.value).ok()?;
    Some(Link { id, name: name?, transport: transport?, multihop, attach: attach?, ends })
}

fn link_end(section: Section<'_>, transport: Option<Transport>) -> Option<LinkEnd> {
    let text = section.required_text("interface", "name that node's interface, such as \"eth0\"");
    let interface = section.checked(text, InterfaceName::new);
    let wrong = match transport {
        Some(Transport::Ethernet) => ("address", "an ethernet link goes by mac"),
        Some(_) => ("mac", "a UDP link goes by address"),
        // Whichever is there may be right.
        None => {
            let _ = (section.has("address"), section.has("mac"));
            section.finish();
            return None;
        }
    };
    if let Some(position) = section.has(wrong.0) {
        section
            .problems
            .add(position, format!("{} is out of place: {}; remove it", wrong.0, wrong.1));
    }
    let address = match transport {
        Some(Transport::Ethernet) => {
            let hint = "write that interface's MAC address, such as \"02:00:00:00:00:01\"";
            mac(&section, section.required_text("mac", hint))
        }
        other => {
            let hint = "write that node's IP address on this link";
            let text = section.required_text("address", hint);
            section.ip(text).and_then(|ip| link_ip(&section, ip, other == Some(Transport::Udp6)))
        }
    };
    section.finish();
    let (interface, address) = (interface?, address?);
    Some(LinkEnd {
        interface: interface.value,
        address: address.value,
        interface_position: interface.position,
        address_position: address.position,
    })
}

fn link_ip(section: &Section<'_>, ip: At<IpAddr>, v6: bool) -> Option<At<LinkAddress>> {
    let At { value, position } = ip;
    let why = not_unicast(value).or_else(|| match (value.is_ipv6(), v6) {
        (true, false) => Some("is IPv6 on a udp4 link; use udp6 or an IPv4 address"),
        (false, true) => Some("is IPv4 on a udp6 link; use udp4 or an IPv6 address"),
        _ => None,
    });
    match why {
        Some(why) => {
            section.problems.add(position, format!("address {value} {why}"));
            None
        }
        None => Some(At { value: LinkAddress::Ip(value), position }),
    }
}

/// Returns why an address cannot be that of one machine among others.
pub(super) fn not_unicast(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("stands for no address; write the real one")
    } else if address.is_loopback() {
        Some("never leaves its machine; write one that the others can reach")
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("is not the address of one machine; write a unicast one")
    } else if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        Some("is an IPv4 address in IPv6 clothes; write it as IPv4")
    } else {
        None
    }
}

fn mac(section: &Section<'_>, text: Option<At<&str>>) -> Option<At<LinkAddress>> {
    let At { value, position } = text?;
    let Some(bytes) = parse_mac(value) else {
        let message =
            format!("mac {value:?} is no MAC address; write one such as \"02:00:00:00:00:01\"");
        section.problems.add(position, message);
        return None;
    };
    if bytes[0] & 1 != 0 || bytes == [0; 6] {
        let message = format!("mac {value:?} is not that of one machine; write a unicast one");
        section.problems.add(position, message);
        return None;
    }
    Some(At { value: LinkAddress::Mac(bytes), position })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':');
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
