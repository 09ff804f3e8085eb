//! The gate as the daemon deals with it: put on every interface there is, told of hand-overs, and
//! asked who else claims a service address.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use hb_ebpf::gate::Bounce;

use super::{Daemon, LocalVip, resources::describe};
use crate::{
    address::{LinkNews, link_news},
    clock,
    config::HostView,
    id::{GroupId, NodeId},
    kernel::{Displaced, Gates, KernelError},
};

/// Returns every service address with its group, in the order of their numbers.
pub(super) fn numbered(vips: &[Vec<LocalVip>]) -> Vec<(IpAddr, u8)> {
    let groups = vips.iter().enumerate();
    groups
        .flat_map(|(group, vips)| vips.iter().map(move |local| (local.vip.ip(), group as u8)))
        .collect()
}

/// What of a host is gated now.
pub(super) struct Covered {
    /// Indices of the interfaces there are.
    pub(super) present: BTreeSet<u32>,
    /// Names of those that were not gated before.
    pub(super) new: Vec<String>,
    /// Programs that stood before the gate, and the names of their interfaces; it is first now.
    pub(super) displaced: Vec<(String, Displaced)>,
    /// What could not be gated.
    pub(super) refused: Vec<(String, KernelError)>,
}

/// Puts the gate on every interface of `host`, loopback as well, before all other programs there, and
/// forgets those that are gone.
pub(super) fn cover(gates: &mut Gates, host: &HostView) -> Covered {
    let before: BTreeSet<u32> = gates.gated().collect();
    let (mut new, mut displaced, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut present = BTreeSet::new();
    for interface in &host.interfaces {
        let (name, index) = (&interface.name, interface.index);
        present.insert(index);
        match gates.gate(name, index) {
            Ok(found) => {
                displaced.extend(found.into_iter().map(|program| (name.clone(), program)));
                if !before.contains(&index) {
                    new.push(name.clone());
                }
            }
            Err(error) => refused.push((name.clone(), error)),
        }
    }
    gates.forget(&present);
    Covered { present, new, displaced, refused }
}

/// Puts the gate on every interface of `host`, before an address can be up that it is to guard.
///
/// # Errors
///
/// The first interface that has none.
pub(super) fn cover_first(gates: &mut Gates, host: &HostView) -> Result<(), KernelError> {
    let covered = cover(gates, host);
    log_displaced(&covered.displaced);
    covered.refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Says which programs were first until now.
pub(super) fn log_displaced(displaced: &[(String, Displaced)]) {
    for (interface, Displaced { way, program }) in displaced {
        tracing::warn!(
            interface,
            program,
            way = way.words(),
            "a program stood before the gate: put behind it"
        );
    }
}

/// Writes a MAC address as people do.
pub(super) fn mac_text([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl Daemon {
    /// Has clients' packets for a group sent on to `successor` for a while: called just before the
    /// group is released to it.
    pub(super) fn prepare_bounce(&mut self, group: GroupId, successor: Option<NodeId>) {
        let window = self.config.gate.handover_bounce;
        let Some(successor) = successor.filter(|_| !window.is_zero()) else { return };
        let until_ns = clock::now().after(window).ns();
        let mut bounces = Vec::new();
        let numbered = self.vips.iter().enumerate();
        let all = numbered.flat_map(|(index, vips)| vips.iter().map(move |vip| (index, vip)));
        for (number, (index, local)) in all.enumerate() {
            if index != usize::from(group.0) {
                continue;
            }
            if let Some(to) = self.mac_of(successor, &local.interface) {
                let interface = local.vip.interface();
                let bounce = Bounce { until_ns, interface, to, own: local.mac };
                bounces.push((number as u8, bounce));
            }
        }
        for (number, bounce) in bounces {
            if let Err(error) = self.kernel.set_bounce(number, &bounce) {
                let group = self.group_name(group);
                tracing::warn!(group, error = describe(&error), "packets are not sent on");
            }
        }
    }

    /// Returns the MAC address of a peer on the segment of one of our interfaces, as its frames tell.
    fn mac_of(&self, peer: NodeId, interface: &str) -> Option<[u8; 6]> {
        let links = self.local.links.iter();
        let mut links = links.filter(|link| link.own.interface.as_str() == interface);
        links.find_map(|link| {
            let (_, state) = self.shared.link(peer, link.id)?;
            // Behind a router it would be the router's.
            (state.mac != [0; 6] && link.min_hops == u8::MAX).then_some(state.mac)
        })
    }
}

/// Hears of interfaces that come, go and change: netlink route, group of links (rtnetlink(7)).
pub(super) struct Interfaces(OwnedFd);

impl Interfaces {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn listen() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system call.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: all zero is a valid address of this kind.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address outlives the call, and its length is given.
        if unsafe { libc::bind(fd, (&raw const address).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }

    /// Returns what was told. What did not fit is lost: whoever asks for it looks at all interfaces as
    /// well.
    pub(super) fn news(&self) -> Vec<LinkNews> {
        let mut news = Vec::new();
        // More than the kernel tells of one interface at once (`NLMSG_GOODSIZE`).
        let mut heap = [0u8; 16 * 1024];
        loop {
            // SAFETY: the buffer is writable for its length.
            let got =
                unsafe { libc::recv(self.0.as_raw_fd(), heap.as_mut_ptr().cast(), heap.len(), 0) };
            // An overrun means that much was told: the next read tells whether there is more.
            let overrun =
                got < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
            match usize::try_from(got) {
                Ok(length @ 1..) => news.extend(link_news(&heap[..length.min(heap.len())])),
                _ if overrun => {}
                _ => return news,
            }
        }
    }
}

impl AsRawFd for Interfaces {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
