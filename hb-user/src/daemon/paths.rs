//! Whether the addresses of a group can be reached on this node, and whether it hears anybody at all.
//!
//! News come from the kernel when an interface changes; a full look once a second is the net below. On most
//! cards the kernel holds the news of a carrier back for up to a second after an earlier one
//! (`net/core/link_watch.c`), so the kernel half tells of its loss first.

use std::{collections::BTreeMap, time::Duration};

use hb_ebpf::{maps::Life, time::BootTime, wire::GROUPS};

use super::{Daemon, LocalVip};
use crate::{address::LinkNews, clock, config::HostView, core::Input, id::GroupId};

/// A machine to which nothing came for so long while all others were silent hears nobody.
const DEAF: Duration = Duration::from_millis(1500);

/// What is known of the interfaces, and what was told of it.
#[derive(Default)]
pub(super) struct Paths {
    /// By name.
    interfaces: BTreeMap<String, Seen>,
    /// What is wrong with an interface of each group.
    errors: [Option<String>; GROUPS],
    ears: Ears,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    index: u32,
    up: bool,
    carrier: bool,
}

impl Paths {
    /// Returns what is wrong with an interface of the group's addresses.
    pub(super) fn error(&self, group: GroupId) -> Option<&str> {
        self.errors.get(usize::from(group.0))?.as_deref()
    }

    /// The group at that place is another one now: nothing was told of it.
    pub(super) fn forget(&mut self, place: usize) {
        if let Some(error) = self.errors.get_mut(place) {
            *error = None;
        }
    }

    fn take(&mut self, news: LinkNews) {
        let index = match &news {
            LinkNews::There(interface) => interface.index,
            LinkNews::Gone(index) => *index,
        };
        // It may have another name now.
        self.interfaces.retain(|_, seen| seen.index != index);
        if let LinkNews::There(interface) = news {
            let seen = Seen { index, up: interface.up, carrier: interface.carrier };
            self.interfaces.insert(interface.name, seen);
        }
    }

    /// An interface loses its carrier, if it had one.
    fn lose(&mut self, index: u32) {
        for seen in self.interfaces.values_mut().filter(|seen| seen.index == index) {
            seen.carrier = false;
        }
    }

    fn replace(&mut self, host: &HostView) {
        let seen = host.interfaces.iter().map(|found| {
            let (index, up, carrier) = (found.index, found.up, found.carrier);
            (found.name.clone(), Seen { index, up, carrier })
        });
        self.interfaces = seen.collect();
    }

    /// Returns what is wrong with an interface of these addresses.
    fn wrong(&self, vips: &[LocalVip]) -> Option<String> {
        vips.iter().find_map(|vip| {
            let name = &vip.interface;
            match self.interfaces.get(name) {
                None => Some(format!("interface {name} is not there")),
                Some(seen) if seen.index != vip.vip.interface() => {
                    Some(format!("interface {name} was made anew, and is not in use yet"))
                }
                Some(Seen { up: false, .. }) => Some(format!("interface {name} is down")),
                Some(Seen { carrier: false, .. }) => {
                    Some(format!("interface {name} has no carrier"))
                }
                Some(_) => None,
            }
        })
    }
}

/// Tells from how many packets arrived whether any do.
#[derive(Debug, Default)]
struct Ears {
    /// Counters of the interfaces that matter, as they changed last, and when.
    last: Option<(Vec<(u32, u32)>, BootTime)>,
}

impl Ears {
    /// Takes in the counters, by index, of which a machine of the cluster was heard or not; tells
    /// whether this machine is isolated.
    fn look(&mut self, counters: Vec<(u32, u32)>, heard: bool, now: BootTime) -> bool {
        match &self.last {
            Some((before, since)) if !heard && *before == counters => now.since(*since) >= DEAF,
            _ => {
                self.last = Some((counters, now));
                false
            }
        }
    }
}

impl Daemon {
    /// Takes in what the kernel told.
    pub(super) fn on_link_news(&mut self, news: Vec<LinkNews>) {
        if news.is_empty() {
            return;
        }
        news.into_iter().for_each(|one| self.paths.take(one));
        self.tell_paths();
    }

    /// Takes in what the kernel half told. Notices follow, and say where that was wrong.
    pub(super) fn on_lost_carrier(&mut self, interface: u32) {
        self.paths.lose(interface);
        self.tell_paths();
    }

    /// Takes in all interfaces.
    pub(super) fn look_at_paths(&mut self, host: &HostView) {
        self.paths.replace(host);
        self.tell_paths();
        let links = self.local.links.iter().map(|link| link.own.interface.as_str());
        let served = self.vips.iter().flatten().map(|vip| vip.interface.as_str());
        let mut names: Vec<_> = links.chain(served).collect();
        names.sort_unstable();
        names.dedup();
        let found = names.into_iter().filter_map(|name| host.interface(name));
        let counters = found.map(|found| (found.index, found.received)).collect();
        let heard = self.others().into_iter().any(|peer| {
            let life = self.maps().peer(peer).map(|peer| Life::from_code(peer.life));
            matches!(life, Some(Life::Alive | Life::Late))
        });
        let isolated = self.paths.ears.look(counters, heard, clock::now());
        self.feed(Input::Isolated(isolated));
    }

    /// Tells the core of each group whose path is another one now.
    pub(super) fn tell_paths(&mut self) {
        for group in self.groups() {
            let place = usize::from(group.0);
            let Some(vips) = self.vips.get(place) else { continue };
            let error = self.paths.wrong(vips);
            let Some(before) = self.paths.errors.get_mut(place) else { continue };
            if *before != error {
                before.clone_from(&error);
                self.feed(Input::Path { group, result: error.map_or(Ok(()), Err) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::address::{Interface, Vip};

    fn interface(index: u32, name: &str, up: bool, carrier: bool) -> LinkNews {
        LinkNews::There(Interface {
            index,
            name: name.to_owned(),
            mac: None,
            up,
            carrier,
            loopback: false,
            mtu: 1500,
            ipv6: true,
            arp_ignore: 0,
            promotes_secondaries: false,
            xdp: None,
        })
    }

    fn vips() -> Vec<LocalVip> {
        let ip: IpAddr = "192.0.2.100".parse().unwrap();
        let vip = Vip::new(2, ip, 32).unwrap();
        vec![LocalVip { vip, interface: "eth0".to_owned(), mac: [0; 6], subnet: Some(24) }]
    }

    #[test]
    fn what_is_wrong_with_an_interface_is_told() {
        let mut paths = Paths::default();
        let mut after = |news: LinkNews| {
            paths.take(news);
            paths.wrong(&vips())
        };
        assert_eq!(after(interface(2, "eth0", true, true)), None);
        assert_eq!(after(interface(3, "eth1", false, false)), None, "another one");
        let told = |error: Option<String>| error.unwrap();
        assert!(told(after(interface(2, "eth0", true, false))).contains("no carrier"));
        assert!(told(after(interface(2, "eth0", false, false))).contains("is down"));
        assert_eq!(after(interface(2, "eth0", true, true)), None);
        assert!(told(after(interface(2, "wan0", true, true))).contains("not there"));
        assert_eq!(after(interface(2, "eth0", true, true)), None);
        assert!(told(after(LinkNews::Gone(2))).contains("not there"));
        assert!(told(after(interface(4, "eth0", true, true))).contains("made anew"));
        assert_eq!(paths.wrong(&[]), None, "a group without addresses needs no interface");
        paths.take(interface(2, "eth0", true, true));
        paths.lose(3);
        assert_eq!(paths.wrong(&vips()), None, "another one");
        paths.lose(2);
        assert!(told(paths.wrong(&vips())).contains("no carrier"));
    }

    #[test]
    fn who_hears_nothing_while_all_others_are_silent_is_isolated() {
        let mut ears = Ears::default();
        let at = |ms: u64| BootTime(1_000_000_000 + ms * 1_000_000);
        let count = |packets| vec![(2, packets)];
        assert!(!ears.look(count(7), true, at(0)));
        assert!(!ears.look(count(9), true, at(1000)), "the peer is heard");
        assert!(!ears.look(count(9), false, at(2000)));
        assert!(ears.look(count(9), false, at(3000)));
        assert!(ears.look(count(9), false, at(4000)));
        assert!(!ears.look(count(10), false, at(5000)), "somebody is heard");
        assert!(!ears.look(count(10), false, at(6000)));
        assert!(ears.look(count(10), false, at(7000)));
        assert!(!ears.look(count(10), true, at(8000)), "the peer is back");
    }
}
