//! What the client's wire says of the service addresses: ARP (RFC 826, RFC 5227) and Neighbor
//! Advertisements (RFC 4861), with the kernel's time of arrival.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hb_ebpf::time::BootTime;

use crate::{
    addresses::{Mac, is_vip},
    clock::{self, RealTime},
    socket::Socket,
};

/// How a claim was worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// An ARP request whose sender claims the address.
    ArpRequest,
    /// An ARP reply to this MAC address, which the target hardware address names.
    ArpReply(Mac),
    /// A Neighbor Advertisement.
    NeighborAdvertisement {
        /// It answers a question.
        solicited: bool,
        /// It replaces what is known.
        overrides: bool,
    },
}

/// Somebody said that a service address is at a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it arrived at the client.
    pub at: BootTime,
    /// The service address.
    pub address: IpAddr,
    /// Where it is said to be.
    pub mac: Mac,
    /// In which words.
    pub kind: ClaimKind,
    /// Whom the frame was sent to.
    pub to: Mac,
}

/// Watches the namespace's wire for claims.
#[derive(Debug)]
pub struct Capture {
    sockets: [Socket; 2],
}

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

impl Capture {
    /// Begins to watch; to be called inside the namespace.
    ///
    /// # Errors
    ///
    /// If the kernel refuses packet sockets: no `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let sockets =
            [Socket::packet(libc::ETH_P_ARP as u16)?, Socket::packet(libc::ETH_P_IPV6 as u16)?];
        for socket in &sockets {
            socket.keep_times(1 << 20)?;
        }
        Ok(Self { sockets })
    }

    /// Appends the claims that arrived since, up to a room of `limit` in all.
    ///
    /// # Errors
    ///
    /// If a socket breaks.
    pub fn drain(&self, clock: RealTime, claims: &mut Vec<Claim>, limit: usize) -> io::Result<()> {
        let mut buffer = [0; 256];
        for socket in &self.sockets {
            while let Some(received) = socket.receive(&mut buffer, clock)? {
                let at = received.at.unwrap_or_else(clock::now);
                let frame = &buffer[..received.length];
                if let Some((kind, address, mac)) = parse(frame)
                    && let Some(to) = frame.first_chunk().copied().map(Mac)
                    && is_vip(address)
                    && claims.len() < limit
                {
                    claims.push(Claim { at, address, mac, kind, to });
                }
            }
        }
        Ok(())
    }
}

/// Reads a claim from a frame, or `None` for a frame that makes none.
pub(crate) fn parse(frame: &[u8]) -> Option<(ClaimKind, IpAddr, Mac)> {
    match frame.get(12..ETHERNET)? {
        [0x08, 0x06] => {
            let arp = frame.get(ETHERNET..ETHERNET + 28)?;
            // Ethernet and IPv4, with their lengths.
            if arp[..6] != [0, 1, 8, 0, 6, 4] {
                return None;
            }
            let kind = match arp[6..8] {
                [0, 1] => ClaimKind::ArpRequest,
                [0, 2] => ClaimKind::ArpReply(Mac(arp[18..24].try_into().ok()?)),
                _ => return None,
            };
            let address: [u8; 4] = arp[14..18].try_into().ok()?;
            Some((kind, Ipv4Addr::from(address).into(), Mac(arp[8..14].try_into().ok()?)))
        }
        [0x86, 0xdd] => {
            let ip = frame.get(ETHERNET..)?;
            // ICMPv6 right behind the fixed header, type 136, with a target link-layer option.
            if *ip.get(6)? != 58 || *ip.get(40)? != 136 {
                return None;
            }
            let flags = *ip.get(44)?;
            let target: [u8; 16] = ip.get(48..64)?.try_into().ok()?;
            let mut options = ip.get(64..)?;
            while let [kind, eights, ..] = *options {
                let option = options.get(..usize::from(eights) * 8).filter(|o| !o.is_empty())?;
                if kind == 2 {
                    let mac = Mac(option.get(2..8)?.try_into().ok()?);
                    return Some((
                        ClaimKind::NeighborAdvertisement {
                            solicited: flags & 0x40 != 0,
                            overrides: flags & 0x20 != 0,
                        },
                        Ipv6Addr::from(target).into(),
                        mac,
                    ));
                }
                options = &options[option.len()..];
            }
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::{VIP4, VIP6};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn arp(operation: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(MAC);
        frame.extend(VIP4.octets());
        frame.extend([0; 6]);
        frame.extend(VIP4.octets());
        frame
    }

    fn advertisement(option: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(MAC);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(VIP6.octets());
        frame.extend([0; 16]);
        frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        frame.extend(VIP6.octets());
        frame.extend(option);
        frame
    }

    #[test]
    fn claims_are_read() {
        assert_eq!(parse(&arp(1)), Some((ClaimKind::ArpRequest, VIP4.into(), Mac(MAC))));
        assert_eq!(parse(&arp(2)), Some((ClaimKind::ArpReply(Mac([0; 6])), VIP4.into(), Mac(MAC))));
        assert_eq!(
            parse(&advertisement(&[2, 1, 2, 0, 0, 0, 0, 7])),
            Some((
                ClaimKind::NeighborAdvertisement { solicited: false, overrides: true },
                VIP6.into(),
                Mac(MAC)
            ))
        );
    }

    #[test]
    fn what_is_cut_short_or_empty_is_no_claim() {
        let whole = advertisement(&[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 7]);
        assert!(parse(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "of {length} bytes");
        }
        for length in 0..42 {
            assert_eq!(parse(&arp(1)[..length]), None, "of {length} bytes");
        }
        assert_eq!(parse(&advertisement(&[2, 0, 2, 0, 0, 0, 0, 7])), None);
        assert_eq!(parse(&arp(3)), None);
    }
}
