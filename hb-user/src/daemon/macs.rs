//! The MAC addresses of this node's own interfaces: where heartbeats come to, and whose claims are its own.
//! An interface may get another one while the daemon runs.

use std::collections::BTreeMap;

use super::{Daemon, gate::mac_text, resources::describe};
use crate::{config::HostView, fast::Command, id::LinkId};

/// What the kernel half was told.
#[derive(Default)]
pub(super) struct Macs {
    /// Index of each link's interface, and the address that frames come to there.
    ends: BTreeMap<LinkId, (u32, Option<[u8; 6]>)>,
    /// All own addresses, those of service addresses' interfaces first.
    own: Vec<[u8; 6]>,
}

impl Macs {
    /// Notes that a link is on another interface now, of which the kernel half was told.
    pub(super) fn moved(&mut self, link: LinkId, index: u32, mac: Option<[u8; 6]>) {
        self.ends.insert(link, (index, mac));
    }
}

impl Daemon {
    /// Tells the kernel half what is new.
    pub(super) fn look_at_macs(&mut self, host: &HostView) {
        let links = self.local.links.clone();
        for link in &links {
            let Some(interface) = host.interface(link.own.interface.as_str()) else { continue };
            let now = (interface.index, host.comes_to(interface.index));
            let before = self.macs.ends.get(&link.id).copied();
            // One that was made anew has none of our programs.
            if before == Some(now) || before.is_some_and(|(index, _)| index != now.0) {
                continue;
            }
            let told = link.others().try_for_each(|(peer, end)| {
                self.kernel.set_path(*peer, link.id, &link.path(now.0, now.1, end.address))
            });
            match told {
                Ok(()) => drop(self.macs.ends.insert(link.id, now)),
                Err(error) => {
                    let error = describe(&error);
                    tracing::error!(link = %link.name, error, "frames to a new MAC address are refused");
                    continue;
                }
            }
            if before.is_some() {
                let mac = now.1.map_or_else(|| "any".to_owned(), mac_text);
                tracing::info!(link = %link.name, mac, "interface has another MAC address");
            }
        }
        self.look_at_announced(host);
        let own = own(host, |name| self.vips.iter().flatten().any(|vip| vip.interface == name));
        if own != self.macs.own {
            match self.kernel.set_macs(&own) {
                Ok(()) => self.macs.own = own,
                Err(error) => {
                    let error = describe(&error);
                    tracing::warn!(error, "own MAC addresses are not known to the gate");
                }
            }
        }
    }

    /// Has addresses on an interface that has another MAC address announced by that one.
    fn look_at_announced(&mut self, host: &HostView) {
        let mut changed = BTreeMap::new();
        for local in self.vips.iter_mut().flatten() {
            let Some(interface) = host.interface(&local.interface) else { continue };
            let Some(mac) = interface.mac else { continue };
            // One that was made anew is another one.
            if interface.index == local.vip.interface() && mac != local.mac {
                local.mac = mac;
                changed.insert(interface.index, (&interface.name, mac));
            }
        }
        for (interface, (name, mac)) in changed {
            let text = mac_text(mac);
            tracing::info!(
                interface = name,
                mac = text,
                "service addresses have another MAC address"
            );
            self.command(Command::Mac { interface, mac });
        }
    }
}

/// Returns every MAC address of `host` once, first those of interfaces that serve.
fn own(host: &HostView, serves: impl Fn(&str) -> bool) -> Vec<[u8; 6]> {
    let (first, rest): (Vec<_>, Vec<_>) =
        host.interfaces.iter().partition(|interface| serves(&interface.name));
    let mut macs = Vec::new();
    for mac in first.into_iter().chain(rest).filter_map(|interface| interface.mac) {
        if mac != [0; 6] && !macs.contains(&mac) {
            macs.push(mac);
        }
    }
    macs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interface;

    #[test]
    fn own_addresses_are_told_once_and_those_that_serve_first() {
        let interface =
            |name: &str, mac| Interface { name: name.to_owned(), mac, ..Interface::default() };
        let [one, two] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let host = HostView {
            interfaces: vec![
                interface("bond0", Some(one)),
                interface("eth0", Some(one)),
                interface("eth1", Some(two)),
                interface("lo", Some([0; 6])),
                interface("tun0", None),
            ],
        };
        assert_eq!(own(&host, |name| name == "eth1"), [two, one]);
        assert_eq!(own(&host, |_| false), [one, two]);
    }
}
