//! Machines that answer while an interface works.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{
    super::{Group, Link, LinkAddress, Name, PingGroup, PingMethod, Readable, file::Section},
    duration_within,
    groups::interfaces,
    network::{Nodes, not_unicast},
};

/// Least and most of the time between two requests.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// Least and most of the silence that counts.
const DEADPING: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(3600);
/// Most groups of targets, and most targets in one.
const MOST: usize = 16;

/// Reads them. Each watches an interface that has service addresses.
pub(super) fn pings(
    root: &Section<'_>,
    nodes: &Nodes,
    links: &[Link],
    groups: &[Group],
) -> Vec<PingGroup> {
    let mut names: Vec<Name> = Vec::new();
    let mut pings = Vec::new();
    for (index, section) in root.sections("ping", "[[ping]]").into_iter().enumerate() {
        let position = section.position;
        if index >= MOST {
            let message = format!("this is ping group {}, and {MOST} are the most", index + 1);
            section.problems.add(position, message);
        }
        let Some(ping) = ping(section, nodes) else { continue };
        if names.contains(&ping.name) {
            let message = format!("ping group {:?} is there twice; rename one", ping.name.as_str());
            root.problems.add(position, message);
        }
        names.push(ping.name.clone());
        for (node, interface) in &ping.interfaces {
            let mut addresses = groups.iter().flat_map(|group| &group.addresses);
            if !addresses.any(|address| address.interface(*node) == Some(interface)) {
                let message = format!(
                    "ping group {:?} watches interface {interface} of {node}, which no service address \
                     goes to; name one that has service addresses",
                    ping.name.as_str()
                );
                root.problems.add(position, message);
            }
        }
        for target in &ping.targets {
            let service = groups.iter().flat_map(|group| &group.addresses);
            let ends = links.iter().flat_map(Link::ends).map(|(_, end)| end.address);
            let what = if service.map(|one| one.address).any(|address| address == *target) {
                "a service address"
            } else if ends.into_iter().any(|address| address == LinkAddress::Ip(*target)) {
                "an address of the cluster's own machines"
            } else {
                continue;
            };
            let message = format!(
                "target {target} of ping group {:?} is {what}, and says nothing of the network; name \
                 another machine, such as the gateway",
                ping.name.as_str()
            );
            root.problems.add(position, message);
        }
        pings.push(ping);
    }
    pings
}

fn ping(section: Section<'_>, nodes: &Nodes) -> Option<PingGroup> {
    let text = section.required_text("name", "give every ping group a name of its own");
    let name = section.checked(text, Name::new);
    if section.has("interface").is_none() {
        let hint = "name the interface of service addresses that it watches, such as \"eth0\"";
        section.missing("interface", hint);
    }
    let interfaces =
        section.text_or_map("interface").and_then(|text| interfaces(&section, text, nodes));
    let targets = targets(&section);
    let methods = [PingMethod::Icmp, PingMethod::Arp].map(|method| (method.as_str(), method));
    let method = match section.has("method") {
        Some(_) => section.choice("method", &methods),
        None => Some(PingMethod::default()),
    };
    let interval = duration_within(&section, "interval", Duration::from_secs(1), INTERVAL);
    let deadping = duration_within(&section, "deadping", Duration::from_secs(5), DEADPING);
    if let (Some(interval), Some(deadping)) = (interval, deadping)
        && deadping < interval * 2
    {
        let position = section.has("deadping").or(section.has("interval"));
        let message = format!(
            "deadping {} is less than 2 x interval {}; raise it, or lower interval",
            Readable(deadping),
            Readable(interval)
        );
        section.problems.add(position.unwrap_or(section.position), message);
    }
    section.finish();
    Some(PingGroup {
        name: name?.value,
        targets: targets?,
        method: method?,
        interval: interval?,
        deadping: deadping?,
        interfaces: interfaces?,
    })
}

fn targets(section: &Section<'_>) -> Option<Vec<IpAddr>> {
    let texts = section.texts("targets")?;
    if texts.is_empty() {
        let hint =
            "list one address or more, such as [\"192.0.2.254\"]: one that answers is enough";
        section.missing("targets", hint);
        return None;
    }
    if let Some(beyond) = texts.get(MOST) {
        let message = format!("{MOST} targets are the most of a ping group; remove the others");
        section.problems.add(beyond.position, message);
    }
    let mut known = BTreeSet::new();
    let mut targets = Vec::new();
    for text in texts {
        let position = text.position;
        let Some(target) = section.ip(Some(text)) else { continue };
        if let Some(why) = not_unicast(target.value) {
            section.problems.add(position, format!("target {} {why}", target.value));
        }
        if !known.insert(target.value) {
            let message = format!("target {} is there twice; remove one", target.value);
            section.problems.add(position, message);
        }
        targets.push(target.value);
    }
    Some(targets)
}
