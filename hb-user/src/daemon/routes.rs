//! Whether a route leads from the interface of each service address to its neighbours, and by which router.
//! An interface may carry and have lost its own address: what arrives there is answered into nowhere, or by
//! another way. A router may go by nothing but a question put to itself, so announcements ask it.
//!
//! The kernel tells that some route changed. Then, and once a second, it is asked.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

use hb_ebpf::{time::BootTime, wire::GROUPS};

use super::{Daemon, LocalVip, resources::describe, survey::Found};
use crate::{
    address::{AddressError, AddressSocket, Vip, network_of},
    announce::Gateways,
    clock,
    config::Require,
    core::Input,
    fast::Command,
};

/// Least time from one look at the news to the next: a routing daemon may change routes all the time.
const EVERY: Duration = Duration::from_millis(50);

/// What is known of routes, and what was told of it.
#[derive(Default)]
pub(super) struct Routes {
    under_way: bool,
    looked: BootTime,
    /// What the core was told of each group.
    told: [Option<String>; GROUPS],
    /// What some addresses of a group lack, where it needs only one of them, and since when.
    partly: [Option<(String, BootTime)>; GROUPS],
    /// The routers that announcements ask on each interface, by its index.
    gateways: BTreeMap<u32, Gateways>,
    /// Why the kernel was not asked, as it was told last.
    refused: Option<String>,
}

/// A route that some addresses of a group lack for so long is told of.
const PARTLY: Duration = Duration::from_secs(1);

impl Routes {
    /// Returns which route some addresses of a group lack that needs only one of them.
    pub(super) fn lacks(&self, place: usize, now: BootTime) -> Option<&str> {
        let (error, since) = self.partly.get(place)?.as_ref()?;
        (now.since(*since) >= PARTLY).then_some(error.as_str())
    }

    /// The group at that place is another one now: nothing was told of it.
    pub(super) fn forget(&mut self, place: usize) {
        if let (Some(told), Some(partly)) = (self.told.get_mut(place), self.partly.get_mut(place)) {
            (*told, *partly) = (None, None);
        }
    }

    /// Announcements were made without routers: they are told of them at the next look.
    pub(super) fn tell_gateways_again(&mut self) {
        self.gateways.clear();
    }

    /// Tells whether it is time to see whether there is news.
    pub(super) fn listens(&self, now: BootTime) -> bool {
        !self.under_way && now.since(self.looked) >= EVERY
    }
}

/// What the kernel says of routes.
#[derive(Default)]
pub(super) struct Ways {
    /// Service addresses without a route to their neighbours.
    unrouted: BTreeSet<IpAddr>,
    /// The routers of each interface, by its index.
    gateways: BTreeMap<u32, Gateways>,
}

/// Asks the kernel.
fn look(vips: &[(Vip, Option<u8>)]) -> Result<Ways, AddressError> {
    let mut socket = AddressSocket::open()?;
    let mut ways = Ways::default();
    for (vip, subnet) in vips {
        if let Some(subnet) = subnet
            && !socket.leads_out(vip, *subnet)?
        {
            ways.unrouted.insert(vip.ip());
        }
        if let Entry::Vacant(entry) = ways.gateways.entry(vip.interface()) {
            let mut gateways = Gateways::default();
            if let Some(IpAddr::V4(gateway)) = socket.gateway(vip.interface(), false)? {
                gateways.v4 = Some(gateway);
            }
            if let Some(IpAddr::V6(gateway)) = socket.gateway(vip.interface(), true)? {
                gateways.v6 = Some(gateway);
            }
            entry.insert(gateways);
        }
    }
    Ok(ways)
}

impl Ways {
    /// Tells whether one of these addresses has all that it needs.
    fn serves_any(&self, vips: &[LocalVip]) -> bool {
        vips.iter().any(|local| !self.unrouted.contains(&local.vip.ip()))
    }

    /// Returns which route the first of these addresses lacks that has none.
    fn error(&self, vips: &[LocalVip]) -> Option<String> {
        let mut unrouted = vips.iter().filter(|local| self.unrouted.contains(&local.vip.ip()));
        unrouted.find_map(|LocalVip { vip, interface, subnet, .. }| {
            let (network, subnet) = (network_of(vip.ip(), (*subnet)?), (*subnet)?);
            Some(format!("no route to {network}/{subnet} on {interface}"))
        })
    }
}

impl Daemon {
    /// Begins to ask the kernel for the routes, unless it is being asked.
    pub(super) fn look_at_routes(&mut self) {
        if self.routes.under_way {
            return;
        }
        self.routes.under_way = true;
        self.routes.looked = clock::now();
        let vips: Vec<_> =
            self.vips.iter().flatten().map(|local| (local.vip, local.subnet)).collect();
        self.surveyor.begin_blocking(move || Found::Routes(look(&vips)));
    }

    /// Tells the core of each group whose addresses have routes where they had none, or the other way
    /// round.
    pub(super) fn on_routes(&mut self, found: Result<Ways, AddressError>) {
        self.routes.under_way = false;
        let ways = match found {
            Ok(ways) => ways,
            Err(error) => {
                let error = describe(&error);
                if self.routes.refused.as_ref() != Some(&error) {
                    tracing::error!(error, "routes not looked at");
                    self.routes.refused = Some(error);
                }
                return;
            }
        };
        self.routes.refused = None;
        for (interface, gateways) in &ways.gateways {
            let (interface, gateways) = (*interface, *gateways);
            // Announcements are made without any.
            let before = self.routes.gateways.get(&interface).copied().unwrap_or_default();
            if before != gateways {
                self.command(Command::Gateways { interface, gateways });
            }
        }
        self.routes.gateways.clone_from(&ways.gateways);
        for group in self.groups() {
            let place = usize::from(group.0);
            let Some(vips) = self.vips.get(place) else { continue };
            let lacks = ways.error(vips);
            let one_will_do =
                self.config.group(group).is_some_and(|group| group.require == Require::Any);
            let (partly, error) =
                if one_will_do && ways.serves_any(vips) { (lacks, None) } else { (None, lacks) };
            if let Some(before) = self.routes.partly.get_mut(place) {
                let now = clock::now();
                let since = before.as_ref().map_or(now, |(_, since)| *since);
                *before = partly.map(|error| (error, since));
            }
            let Some(told) = self.routes.told.get_mut(place) else { continue };
            if *told != error {
                told.clone_from(&error);
                self.feed(Input::Route { group, result: error.map_or(Ok(()), Err) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_that_is_missing_is_named() {
        let local = |ip: &str, subnet| LocalVip {
            vip: Vip::new(2, ip.parse().unwrap(), subnet).unwrap(),
            interface: "eth0".to_owned(),
            mac: [0; 6],
            subnet: Some(subnet),
        };
        let vips = [local("192.0.2.100", 24), local("2001:db8::100", 64)];
        let unrouted = |ips: &[&str]| Ways {
            unrouted: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..Ways::default()
        };
        assert_eq!(unrouted(&["198.51.100.1"]).error(&vips), None);
        let told = unrouted(&["2001:db8::100"]).error(&vips).unwrap();
        assert_eq!(told, "no route to 2001:db8::/64 on eth0");
        let told = unrouted(&["2001:db8::100", "192.0.2.100"]).error(&vips).unwrap();
        assert_eq!(told, "no route to 192.0.2.0/24 on eth0");
        assert!(unrouted(&["2001:db8::100"]).serves_any(&vips));
        assert!(!unrouted(&["2001:db8::100", "192.0.2.100"]).serves_any(&vips));
    }

    #[test]
    fn a_route_that_some_addresses_lack_is_told_of_after_a_while() {
        let mut routes = Routes::default();
        let at = |ms: u64| BootTime(1_000_000_000 + ms * 1_000_000);
        routes.partly[1] = Some(("no route".to_owned(), at(0)));
        assert_eq!((routes.lacks(1, at(999)), routes.lacks(0, at(5000))), (None, None));
        assert_eq!(routes.lacks(1, at(1000)), Some("no route"));
    }

    #[test]
    fn news_are_looked_at_now_and_then() {
        let mut routes = Routes { looked: BootTime(1_000_000_000), ..Routes::default() };
        assert!(!routes.listens(BootTime(1_049_999_999)));
        assert!(routes.listens(BootTime(1_050_000_000)));
        routes.under_way = true;
        assert!(!routes.listens(BootTime(2_000_000_000)));
    }
}
