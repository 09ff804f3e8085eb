//! Who else may be behind an interface: what answers there says that the interface works.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::{address, echo::request, identifier, open, reply};
use crate::config::HostView;

/// All nodes of the link (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Neighbours asked at most: one that answers is enough.
const MOST: usize = 8;

/// Asks all IPv6 nodes behind an interface for an echo, and those IPv4 neighbours and gateways that the
/// kernel knows there. Returns once one of them answers, which may be never.
///
/// # Errors
///
/// The kernel's, if nobody at all could be asked.
pub(crate) async fn ask_around(interface: &str, sequence: u16) -> io::Result<()> {
    let arp = fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let known = gateways(&routes, interface).chain(neighbours(&arp, interface));
    // A service address that another node had may be this one's by now, and answer whatever the wire does.
    let own = tokio::task::spawn_blocking(HostView::read).await??;
    let known = others(known, &own);
    let all = [IpAddr::V6(ALL_NODES)];
    match (send(&all, interface, sequence), send(&known, interface, sequence)) {
        (Ok(v6), Ok(v4)) => tokio::select! {
            answer = reply(&v6, all[0], identifier(), sequence) => answer,
            answer = reply(&v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED), identifier(), sequence) => answer,
        },
        (Ok(v6), Err(_)) => reply(&v6, all[0], identifier(), sequence).await,
        (Err(_), Ok(v4)) => {
            reply(&v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED), identifier(), sequence).await
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// Asks targets of one family; returns where they answer.
///
/// # Errors
///
/// The kernel's, if none could be asked.
fn send(targets: &[IpAddr], interface: &str, sequence: u16) -> io::Result<AsyncFd<Socket>> {
    let Some(first) = targets.first() else { return Err(io::ErrorKind::NotFound.into()) };
    let socket = open(*first, interface)?;
    if first.is_ipv6() {
        // What this node says to itself is no sign of life.
        socket.get_ref().set_multicast_loop_v6(false)?;
    }
    let (mut sent, mut failed) = (false, None);
    for target in targets {
        let message = request(*target, identifier(), sequence);
        match socket.get_ref().send_to(&message, &address(*target, interface)?.into()) {
            Ok(_) => sent = true,
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if !sent => Err(error),
        _ => Ok(socket),
    }
}

/// Returns those of `addresses` that are not this machine's, so many that one may answer.
fn others(addresses: impl Iterator<Item = Ipv4Addr>, own: &HostView) -> Vec<IpAddr> {
    let addresses: BTreeSet<_> = addresses.map(IpAddr::V4).collect();
    let is_own = |address: &IpAddr| {
        own.interfaces.iter().flat_map(|one| &one.addresses).any(|(own, _)| own == address)
    };
    addresses.into_iter().filter(|address| !is_own(address)).take(MOST).collect()
}

/// Returns the neighbours behind `interface` whose addresses are known, of `/proc/net/arp` (proc(5)).
fn neighbours(arp: &str, interface: &str) -> impl Iterator<Item = Ipv4Addr> {
    arp.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let address = fields.next()?;
        // `ATF_COM` of `linux/if_arp.h`: it was resolved.
        let flags = u32::from_str_radix(fields.nth(1)?.strip_prefix("0x")?, 16).ok()?;
        let device = fields.nth(2)?;
        (flags & 2 != 0 && device == interface).then(|| address.parse().ok())?
    })
}

/// Returns the gateways behind `interface`, of `/proc/net/route`: its numbers are in the machine's own
/// order, of an address in network order.
fn gateways(routes: &str, interface: &str) -> impl Iterator<Item = Ipv4Addr> {
    routes.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        let gateway = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
        (device == interface && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_knows_is_read() {
        let arp = "IP address       HW type     Flags       HW address            Mask     Device\n\
                   192.0.2.50       0x1         0x2         02:00:00:00:00:01     *        eth0\n\
                   192.0.2.51       0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                   192.0.2.52       0x1         0x6         02:00:00:00:00:03     *        eth0\n\
                   10.0.0.1         0x1         0x2         02:00:00:00:00:02     *        eth1\n\
                   garbage\n";
        let found: Vec<_> = neighbours(arp, "eth0").collect();
        assert_eq!(found, [Ipv4Addr::new(192, 0, 2, 50), Ipv4Addr::new(192, 0, 2, 52)]);
        let gateway = u32::from_ne_bytes([192, 0, 2, 254]);
        let routes = format!(
            "Iface\tDestination\tGateway \tFlags\n\
             eth0\t00000000\t{gateway:08X}\t0003\n\
             eth0\t000200C0\t00000000\t0001\n\
             eth1\t00000000\t0100000A\t0003\n"
        );
        let found: Vec<_> = gateways(&routes, "eth0").collect();
        assert_eq!(found, [Ipv4Addr::new(192, 0, 2, 254)]);
    }

    #[test]
    fn this_machine_is_no_neighbour_of_its_own() {
        let own = HostView::read().unwrap();
        let other = Ipv4Addr::new(192, 0, 2, 50);
        let asked = others([Ipv4Addr::LOCALHOST, other].into_iter(), &own);
        assert_eq!(asked, [IpAddr::V4(other)]);
        let many = (1..=255).map(|last| Ipv4Addr::new(198, 51, 100, last));
        assert_eq!(others(many, &own).len(), MOST);
    }

    #[tokio::test]
    async fn who_is_behind_no_interface_cannot_be_asked() {
        assert!(ask_around("hb-nowhere", 1).await.is_err());
    }
}
