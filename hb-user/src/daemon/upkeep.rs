//! Service addresses that are not where they should be: put back at once when somebody removes them,
//! tried again every second, and told of. Other programs change addresses and interfaces as they like.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use hb_ebpf::time::BootTime;

use super::{Daemon, LocalVip, resources::describe};
use crate::{
    address::{Interface, Present, Removals, Vip},
    clock,
    core::Phase,
    fast::{Command, EffectError},
    id::GroupId,
};

/// An address is put back at once if that was not done for so long. After that it is the look round
/// the host that does it, so that a program that fights over it keeps nobody busy.
const AT_ONCE_EVERY: Duration = Duration::from_secs(1);

/// Least packets of IPv6, in bytes (RFC 8200, section 5).
const IPV6_MTU: u32 = 1280;

/// What is known of addresses that are not as they should be.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Why the kernel did not take an address, as it was told last.
    refused: BTreeMap<IpAddr, String>,
    /// Why an address cannot be served on its interface, whether or not it is this node's turn.
    obstacles: BTreeMap<IpAddr, String>,
    /// When each was put back at once last.
    put_back: BTreeMap<IpAddr, BootTime>,
}

impl Upkeep {
    /// Forgets everything but what concerns these addresses.
    pub(super) fn keep(&mut self, served: &BTreeSet<IpAddr>) {
        let Self { refused, obstacles, put_back } = self;
        refused.retain(|ip, _| served.contains(ip));
        obstacles.retain(|ip, _| served.contains(ip));
        put_back.retain(|ip, _| served.contains(ip));
    }

    /// Takes note that an address is put back. Returns whether it may be done at once.
    fn may_at_once(&mut self, ip: IpAddr, now: BootTime) -> bool {
        let last = self.put_back.get(&ip);
        let may = last.is_none_or(|last| now.since(*last) >= AT_ONCE_EVERY);
        if may {
            self.put_back.insert(ip, now);
        }
        may
    }
}

/// Tells whether the addresses of a group are this node's in this phase.
fn is_taken(phase: Phase) -> bool {
    matches!(phase, Phase::Starting { .. } | Phase::Serving { .. })
}

/// Returns why an address cannot be served on its interface.
fn obstacle(local: &LocalVip, interface: &Interface, arp_ignore_all: i32) -> Option<String> {
    let Interface { name, mtu, ipv6, arp_ignore, .. } = interface;
    if local.vip.ip().is_ipv6() {
        return match *mtu {
            mtu if mtu < IPV6_MTU && mtu != 0 => {
                Some(format!("the MTU of {name} is {mtu}, and IPv6 needs {IPV6_MTU}: raise it"))
            }
            _ if !ipv6 => {
                Some(format!("IPv6 is off on {name}: set net.ipv6.conf.{name}.disable_ipv6 to 0"))
            }
            _ => None,
        };
    }
    // Nobody need ask for one that routers send here.
    local.subnet?;
    // See `address`: the kernel goes by the larger one.
    let ignore = arp_ignore_all.max(*arp_ignore);
    matches!(ignore, 2 | 3 | 8).then(|| {
        format!(
            "with net.ipv4.conf.{name}.arp_ignore, or that of all, at {ignore} the kernel does not \
             answer neighbours that ask for it: set both to 0 or 1"
        )
    })
}

impl Daemon {
    /// Addresses were removed, by this node or somebody else. Returns whether only a list tells which.
    pub(super) fn on_addresses_removed(&mut self, removals: &Removals) {
        if removals.overrun {
            self.counted = BootTime::NEVER;
        }
        let now = clock::now();
        let mut missing = BTreeMap::<GroupId, u64>::new();
        for removed in &removals.removed {
            let Some((group, place)) = self.place_of(removed) else { continue };
            let concerns = |view: &crate::core::GroupView| view.group == group;
            let views = self.controller.core().view().groups;
            let Some(view) = views.into_iter().find(concerns) else { continue };
            let warm = self.is_warm(group);
            if !(is_taken(view.phase) || warm) || !self.upkeep.may_at_once(removed.ip, now) {
                continue;
            }
            tracing::warn!(
                group = self.group_name(group),
                vip = %removed.ip,
                "address is gone: putting it back"
            );
            if warm {
                self.warm_up(group);
            } else {
                *missing.entry(group).or_default() |= 1 << place;
            }
        }
        for (group, missing) in missing {
            self.command(Command::Restore { group, missing });
        }
    }

    /// Returns the group that an address is of, and its place there.
    fn place_of(&self, found: &Present) -> Option<(GroupId, usize)> {
        let here = |local: &LocalVip| local.vip.is(found);
        self.vips.iter().zip(0..).find_map(|(vips, group)| {
            vips.iter().position(here).map(|place| (GroupId(group), place))
        })
    }

    /// The kernel did not take an address. It is tried again at the next look.
    pub(super) fn on_refused(&mut self, group: GroupId, vip: &Vip, error: &EffectError) {
        let error = describe(error);
        if self.upkeep.refused.get(&vip.ip()) != Some(&error) {
            let group = self.group_name(group);
            tracing::error!(group, vip = %vip, error, "address is not up: tried again every second");
            self.upkeep.refused.insert(vip.ip(), error);
        }
    }

    /// Puts back addresses of the groups that have served here since before the look, if somebody
    /// took them away, or they could not be put up.
    pub(super) fn restore_addresses(&mut self, present: &[Present], began: BootTime) {
        for view in self.controller.core().view().groups {
            if !is_taken(view.phase) || view.since >= began {
                continue;
            }
            let group = view.group;
            let vips = self.vips.get(usize::from(group.0)).map_or(&[][..], Vec::as_slice);
            let is_gone = |local: &LocalVip| !present.iter().any(|found| local.vip.is(found));
            let mut missing = 0;
            for (place, local) in vips.iter().enumerate().filter(|(_, local)| is_gone(local)) {
                missing |= 1 << place;
                if !self.upkeep.refused.contains_key(&local.vip.ip()) {
                    let group = self.group_name(group);
                    tracing::warn!(group, vip = %local.vip, "address is gone: putting it back");
                }
            }
            if missing != 0 {
                self.command(Command::Restore { group, missing });
            }
        }
        self.forget_refused(present);
    }

    /// Forgets of addresses that they could not be put up, if they are there, or are this node's no more.
    fn forget_refused(&mut self, present: &[Present]) {
        let wanted: BTreeSet<GroupId> = self
            .controller
            .core()
            .view()
            .groups
            .into_iter()
            .filter(|view| is_taken(view.phase) || self.wants_warm(view.group))
            .map(|view| view.group)
            .collect();
        for (group, local) in self
            .vips
            .iter()
            .zip(0..)
            .flat_map(|(vips, group)| vips.iter().map(move |local| (GroupId(group), local)))
        {
            let is_there = present.iter().any(|found| local.vip.is(found));
            if !is_there && wanted.contains(&group) {
                continue;
            }
            if self.upkeep.refused.remove(&local.vip.ip()).is_some() && is_there {
                let group = self.group_name(group);
                tracing::info!(group, vip = %local.vip, "address is up again");
            }
        }
    }

    /// Looks whether every address could be served on its interface, also while this node stands by.
    pub(super) fn look_for_obstacles(&mut self, interfaces: &[Interface], arp_ignore_all: i32) {
        let mut now = BTreeMap::new();
        for local in self.vips.iter().flatten() {
            let index = local.vip.interface();
            let Some(found) = interfaces.iter().find(|found| found.index == index) else {
                continue;
            };
            if let Some(why) = obstacle(local, found, arp_ignore_all) {
                now.insert(local.vip.ip(), why);
            }
        }
        for (ip, why) in &now {
            if self.upkeep.obstacles.get(ip) != Some(why) {
                tracing::warn!(vip = %ip, why, "address cannot be served on this node");
            }
        }
        for ip in self.upkeep.obstacles.keys().filter(|ip| !now.contains_key(ip)) {
            tracing::info!(vip = %ip, "address can be served on this node again");
        }
        self.upkeep.obstacles = now;
    }

    /// Returns what an operator should know of service addresses, one sentence each.
    pub(super) fn warn_of_addresses(&self) -> Vec<String> {
        let Upkeep { refused, obstacles, .. } = &self.upkeep;
        let hindered = obstacles
            .iter()
            .map(|(ip, why)| format!("service address {ip} cannot be served on this node: {why}"));
        let refused = refused.iter().filter(|(ip, _)| !obstacles.contains_key(ip));
        let refused = refused
            .map(|(ip, why)| format!("service address {ip} is not up, and tried again: {why}"));
        hindered.chain(refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface() -> Interface {
        Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: None,
            up: true,
            carrier: true,
            loopback: false,
            mtu: 1500,
            ipv6: true,
            arp_ignore: 0,
            promotes_secondaries: false,
            xdp: None,
        }
    }

    #[test]
    fn what_keeps_an_interface_from_serving_is_named() {
        let vip = |ip: &str, prefix, subnet| LocalVip {
            vip: Vip::new(2, ip.parse().unwrap(), prefix).unwrap(),
            interface: "eth0".to_owned(),
            mac: [0; 6],
            subnet,
        };
        let (v4, v6) = (vip("192.0.2.100", 24, Some(24)), vip("2001:db8::100", 64, Some(64)));
        let routed = vip("203.0.113.7", 32, None);
        let why = |vip, change: fn(&mut Interface)| {
            let mut interface = interface();
            change(&mut interface);
            obstacle(vip, &interface, 0)
        };
        for vip in [&v4, &v6] {
            assert_eq!(why(vip, |_| {}), None);
        }
        assert_eq!(why(&v4, |interface| interface.ipv6 = false), None);
        assert!(why(&v6, |interface| interface.ipv6 = false).unwrap().contains("disable_ipv6"));
        // The kernel takes IPv6 off it.
        let small = |interface: &mut Interface| (interface.mtu, interface.ipv6) = (1200, false);
        assert!(why(&v6, small).unwrap().contains("1200"));
        for (value, fine) in [(1, true), (2, false), (3, false), (8, false)] {
            let own = Interface { arp_ignore: value, ..interface() };
            assert_eq!(obstacle(&v4, &own, 0).is_none(), fine, "{value}");
            assert_eq!(obstacle(&v4, &interface(), value).is_none(), fine, "{value}");
            assert_eq!(obstacle(&v6, &own, value), None);
            assert_eq!(obstacle(&routed, &own, value), None, "nobody asks for it");
        }
    }

    #[test]
    fn who_fights_over_an_address_has_it_put_back_at_once_no_more_than_once_a_second() {
        let at = |ms: u64| BootTime(5_000_000_000 + ms * 1_000_000);
        let [one, other]: [IpAddr; 2] = [[192, 0, 2, 100].into(), [192, 0, 2, 101].into()];
        let mut upkeep = Upkeep::default();
        let count = (0..5000).filter(|ms| upkeep.may_at_once(one, at(*ms))).count();
        assert_eq!(count, 5);
        assert!(upkeep.may_at_once(other, at(4999)));
    }
}
