//! Addresses that bear our mark, or that the gate looks after, and that the configuration does not name:
//! an earlier one did. Nothing of them may leave this node, since another may serve them by now. So
//! they stay at the gate, of no group, until they are gone, and what was open there has ended.
//!
//! One that the configuration names in another place (interface or prefix) goes as well: at the gate
//! it is that of its group.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Daemon, LocalVip,
    clean::{self, Unswept},
    removal::remove_address,
    resources::describe,
    survey::Found,
};
use crate::{
    address::{AddressSocket, PROTOCOL, Present},
    config::{Config, Policy},
    id::GroupId,
    kernel::{Guarded, KernelError, addresses_of_others},
    sockets::{SweepError, Sweeper},
};

/// How long connections are ended at one go.
const WITHIN: Duration = Duration::from_secs(5);

/// What is known of strays.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Those that the gate is told of as belonging to no group.
    gated: BTreeSet<IpAddr>,
    /// Why some are still here, as it was told last.
    left: BTreeMap<IpAddr, String>,
    /// Somebody is at it.
    under_way: bool,
}

impl Strays {
    /// Takes down what a start found, now that the gate is told of `gated` and sits everywhere. What was
    /// open there is ended later, and what does not go is tried again.
    pub(super) fn begin(gated: BTreeSet<IpAddr>, found: &[Present]) -> Self {
        let left = take_down(found);
        for Present { ip, prefix, interface, .. } in found {
            tracing::warn!(
                address = %ip,
                prefix,
                interface,
                left = left.get(ip),
                "an address bears the mark of hb, and this configuration does not have it there: it goes"
            );
        }
        Self { gated, left, under_way: false }
    }
}

impl Strays {
    /// Returns those that the gate is told of.
    pub(super) fn gated(&self) -> impl Iterator<Item = IpAddr> {
        self.gated.iter().copied()
    }

    /// Tells whether some are being taken down.
    pub(super) const fn are_going(&self) -> bool {
        self.under_way
    }

    /// Takes note that the gate is told of these.
    pub(super) fn guarded_now(&mut self, gated: BTreeSet<IpAddr>) {
        self.gated = gated;
    }
}

/// What became of them.
pub(super) struct Cleared {
    /// Those that were tried.
    tried: BTreeSet<IpAddr>,
    /// Why some are still here.
    left: BTreeMap<IpAddr, String>,
}

/// Returns the addresses that bear our mark and are none of `vips`, by their place. Some may be those of
/// another cluster that has a node on this host as well.
pub(super) fn strays(present: &[Present], vips: &[Vec<LocalVip>]) -> Vec<Present> {
    let named = |found: &Present| {
        vips.iter().flatten().any(|local| {
            let vip = &local.vip;
            (vip.ip(), vip.interface(), vip.prefix()) == (found.ip, found.interface, found.prefix)
        })
    };
    let ours = present.iter().filter(|found| found.protocol == Some(PROTOCOL));
    ours.filter(|found| !named(found)).cloned().collect()
}

/// Leaves those out that a node of another cluster looks after.
///
/// # Errors
///
/// [`KernelError`] if that cannot be told.
pub(super) fn of_this_cluster(
    mut found: Vec<Present>,
    cluster: u32,
) -> Result<Vec<Present>, KernelError> {
    let others = others(&found, cluster)?;
    found.retain(|stray| !others.contains(&stray.ip));
    Ok(found)
}

/// Returns the addresses that nodes of other clusters look after, if some of `present` bear our mark.
///
/// # Errors
///
/// [`KernelError`] if that cannot be told.
pub(super) fn others(present: &[Present], cluster: u32) -> Result<BTreeSet<IpAddr>, KernelError> {
    if present.iter().any(|found| found.protocol == Some(PROTOCOL)) {
        addresses_of_others(cluster)
    } else {
        Ok(BTreeSet::new())
    }
}

/// Returns which addresses belong to no group: of `found`, and of what the gate looks after so far.
pub(super) fn of_no_group(
    vips: &[Vec<LocalVip>],
    found: &[Present],
    gated: Vec<IpAddr>,
) -> BTreeSet<IpAddr> {
    let all = found.iter().map(|stray| stray.ip).chain(gated);
    all.filter(|ip| !vips.iter().flatten().any(|local| local.vip.ip() == *ip)).collect()
}

/// Returns all that the gate has to look after: the service addresses of each group, and `strays`.
pub(super) fn guarded(
    config: &Config,
    vips: &[Vec<LocalVip>],
    strays: &BTreeSet<IpAddr>,
) -> Vec<Guarded> {
    let mut guarded = Vec::new();
    for (address, group) in super::gate::numbered(vips) {
        let warm = config.group(GroupId(group)).is_some_and(|group| group.warm_addresses);
        guarded.push(Guarded { address, group: Some(GroupId(group)), warm });
    }
    let strays = strays.iter().map(|&address| Guarded { address, group: None, warm: true });
    guarded.extend(strays);
    guarded
}

/// Takes down `strays`, and says of each what could not be done.
pub(super) fn take_down(strays: &[Present]) -> BTreeMap<IpAddr, String> {
    let mut left = BTreeMap::new();
    let mut socket = match AddressSocket::open() {
        Ok(socket) => socket,
        Err(error) => {
            let why = describe(&error);
            return strays.iter().map(|stray| (stray.ip, why.clone())).collect();
        }
    };
    for stray in strays {
        if let Err(why) = remove_address(&mut socket, stray) {
            left.insert(stray.ip, why);
        }
    }
    left
}

/// Takes down `found`, and ends what is open at those of `gated` that are gone. Takes a while.
fn clear(found: &[Present], gated: BTreeSet<IpAddr>, strict: bool) -> Cleared {
    let mut left = take_down(found);
    match AddressSocket::open().and_then(|mut socket| socket.addresses(None)) {
        Ok(present) => {
            for found in present.iter().filter(|found| gated.contains(&found.ip)) {
                let why = || match found.protocol {
                    Some(PROTOCOL) => "it does not go".to_owned(),
                    _ => "somebody else put it there: `ip address del` removes it".to_owned(),
                };
                left.entry(found.ip).or_insert_with(why);
            }
        }
        Err(error) => {
            let why = describe(&error);
            left.extend(gated.iter().map(|ip| (*ip, why.clone())));
        }
    }
    let gone: Vec<IpAddr> = gated.iter().copied().filter(|ip| !left.contains_key(ip)).collect();
    let ended = end_work(&gone, strict).and_then(|()| clean::drop_waiting());
    if let Err(why) = ended {
        left.extend(gone.iter().map(|ip| (*ip, why.clone())));
    }
    Cleared { tried: gated, left }
}

fn end_work(addresses: &[IpAddr], strict: bool) -> Result<(), String> {
    if addresses.is_empty() {
        return Ok(());
    }
    let mut sweeper = match Sweeper::open(addresses) {
        Ok(sweeper) => sweeper,
        // Connections are left to end by themselves: said at the start.
        Err(SweepError::NoListing { .. } | SweepError::NoDestroying { .. }) if !strict => {
            return Ok(());
        }
        Err(error) => return Err(describe(&error)),
    };
    match clean::sweep(&mut sweeper, addresses, WITHIN) {
        Ok(_) => Ok(()),
        Err(Unswept::More { ended }) => {
            Err(format!("connections to it are being ended, {ended} at the last try"))
        }
        Err(Unswept::Refused(why)) => Err(why),
    }
}

impl Daemon {
    /// Goes on with strays: `present` are the addresses of this host, `others` those that nodes of other
    /// clusters on it look after.
    pub(super) fn go_on_with_strays(&mut self, present: &[Present], others: &BTreeSet<IpAddr>) {
        if self.strays.under_way {
            return;
        }
        let mut found = strays(present, &self.vips);
        found.retain(|stray| !others.contains(&stray.ip));
        let named: BTreeSet<IpAddr> =
            self.vips.iter().flatten().map(|local| local.vip.ip()).collect();
        let new: BTreeSet<IpAddr> = found
            .iter()
            .map(|stray| stray.ip)
            .filter(|ip| !named.contains(ip) && !self.strays.gated.contains(ip))
            .collect();
        if !new.is_empty() {
            // At the gate before anything else is done to it.
            let mut gated = self.strays.gated.clone();
            gated.extend(&new);
            if let Err(error) = self.guard(&gated) {
                tracing::error!(error = describe(&error), "the gate is not told of an address");
                return;
            }
            self.strays.gated = gated;
        }
        if found.is_empty() && self.strays.gated.is_empty() {
            return;
        }
        self.strays.under_way = true;
        let gated = self.strays.gated.clone();
        let strict = self.config.cluster.policy != Policy::Available;
        self.surveyor.begin_blocking(move || Found::Cleared(clear(&found, gated, strict)));
    }

    /// Tells the gate of the service addresses, and of `strays`.
    fn guard(&mut self, strays: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        self.kernel.set_vips(&guarded(&self.config, &self.vips, strays))
    }

    pub(super) fn on_strays_cleared(&mut self, cleared: Cleared) {
        let Cleared { tried, left } = cleared;
        self.strays.under_way = false;
        let gone = |ip: &&IpAddr| !left.contains_key(*ip);
        let gone: BTreeSet<IpAddr> = tried.iter().filter(gone).copied().collect();
        for (ip, why) in &left {
            if self.strays.left.get(ip) != Some(why) {
                tracing::warn!(
                    address = %ip,
                    why,
                    "an address that no group names is still here, behind a closed gate"
                );
            }
        }
        self.strays.left = left;
        if gone.is_empty() {
            return;
        }
        let gated: BTreeSet<IpAddr> = self.strays.gated.difference(&gone).copied().collect();
        if let Err(error) = self.guard(&gated) {
            tracing::error!(error = describe(&error), "the gate is not told of an address");
            return;
        }
        self.strays.gated = gated;
        for address in gone {
            tracing::info!(%address, "an address that no group names is gone, and what was open there");
        }
    }

    /// Returns what an operator should know of strays, one sentence each.
    pub(super) fn warn_of_strays(&self) -> Vec<String> {
        let named = self.strays.left.keys().filter(|ip| !self.strays.gated.contains(ip));
        let all: BTreeSet<&IpAddr> = self.strays.gated.iter().chain(named).collect();
        all.into_iter()
            .map(|ip| {
                let place = if self.strays.gated.contains(ip) {
                    "is in no group now: it is kept behind a closed gate until it is gone"
                } else {
                    "is also in another place than the configuration says: that one is removed"
                };
                let why = self.strays.left.get(ip).map(|why| format!(" ({why})"));
                format!("{ip} was put up by hb earlier and {place}{}", why.unwrap_or_default())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Vip;

    fn present(ip: &str, interface: u32, prefix: u8, protocol: Option<u8>) -> Present {
        Present { interface, ip: ip.parse().unwrap(), prefix, flags: 0, protocol, label: None }
    }

    #[test]
    fn what_bears_our_mark_elsewhere_is_a_stray_and_what_does_not_is_none() {
        let vip = |ip: &str, prefix| LocalVip {
            vip: Vip::new(2, ip.parse().unwrap(), prefix).unwrap(),
            interface: "eth0".to_owned(),
            mac: [0; 6],
            subnet: Some(prefix),
        };
        let vips = [vec![vip("192.0.2.1", 32)], vec![vip("2001:db8::1", 128)]];
        let ours = Some(PROTOCOL);
        let strays = strays(
            &[
                present("192.0.2.1", 2, 32, ours),
                present("192.0.2.1", 3, 32, ours),
                present("192.0.2.1", 2, 24, ours),
                present("2001:db8::1", 2, 128, ours),
                present("2001:db8::2", 2, 128, ours),
                present("192.0.2.9", 2, 24, None),
                present("192.0.2.8", 2, 24, Some(2)),
            ],
            &vips,
        );
        let found: Vec<_> = strays
            .iter()
            .map(|stray| (stray.ip.to_string(), stray.interface, stray.prefix))
            .collect();
        let wanted = [("192.0.2.1", 3, 32), ("192.0.2.1", 2, 24), ("2001:db8::2", 2, 128)];
        assert_eq!(found, wanted.map(|(ip, interface, prefix)| (ip.to_owned(), interface, prefix)));
    }
}
