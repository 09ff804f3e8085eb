//! The messages of `NETLINK_SOCK_DIAG` (`linux/sock_diag.h`, `linux/inet_diag.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// `SOCK_DIAG_BY_FAMILY`.
const LIST: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE` of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `INET_DIAG_REQ_BYTECODE`: a filter that the kernel runs over each socket.
const FILTER: u16 = 1;
/// `INET_DIAG_BC_JMP` and `INET_DIAG_BC_S_COND` of that filter.
const JUMP: u8 = 1;
const SOURCE: u8 = 7;

/// `TCP_TIME_WAIT` and `TCP_LISTEN` of `net/tcp_states.h`.
const TIME_WAIT: u8 = 6;
pub(super) const LISTEN: u8 = 10;

/// Which sockets a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) family: u8,
    pub(super) protocol: u8,
}

const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
pub(super) const TCP: u8 = libc::IPPROTO_TCP as u8;
pub(super) const UDP: u8 = libc::IPPROTO_UDP as u8;

/// All that are looked at. A socket of an IPv6 program that speaks IPv4 is of family `AF_INET6`.
pub(super) const KINDS: [Kind; 4] = [
    Kind { family: INET, protocol: TCP },
    Kind { family: INET6, protocol: TCP },
    Kind { family: INET, protocol: UDP },
    Kind { family: INET6, protocol: UDP },
];

/// `struct inet_diag_sockid`. Ports and addresses are in network order, the rest in that of the
/// host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Id {
    own_port: [u8; 2],
    other_port: [u8; 2],
    own: [u8; 16],
    other: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_req_v2`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: Id,
}

/// `struct inet_diag_msg`: a socket.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    user: u32,
    inode: u32,
}

const _: () = assert!(size_of::<Id>() == 48);
const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<Request>() == 56);
const _: () = assert!(size_of::<Message>() == 72);

/// Whole length of a request to destroy one socket.
pub(super) const DESTROY_LEN: usize = size_of::<Header>() + size_of::<Request>();

/// A socket, as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) family: u8,
    pub(super) state: u8,
    /// Bytes that wait to be read; for UDP, memory of them.
    pub(super) unread: u32,
    /// The number by which `/proc/PID/fd` names it; 0 if no file is it.
    pub(super) inode: u32,
    pub(super) id: Id,
}

impl Found {
    /// Returns its own address; an IPv4 address in IPv6 clothes comes as IPv4.
    pub(super) fn own(&self) -> IpAddr {
        if self.family == INET {
            let [a, b, c, d, ..] = self.id.own;
            return Ipv4Addr::new(a, b, c, d).into();
        }
        IpAddr::V6(Ipv6Addr::from(self.id.own)).to_canonical()
    }

    pub(super) fn own_port(&self) -> u16 {
        u16::from_be_bytes(self.id.own_port)
    }

    /// Whether it is connected: it has a port at the other end.
    pub(super) fn connected(&self) -> bool {
        self.id.other_port != [0, 0]
    }
}

/// What a datagram of the kernel holds, part by part.
pub(super) enum Part {
    Socket(Found),
    /// The end of a listing.
    Done,
    /// An answer: 0, or the number of an error.
    Answer {
        sequence: u32,
        errno: i32,
    },
    Other,
}

/// Splits a datagram into its parts.
pub(super) fn parts(bytes: &[u8]) -> impl Iterator<Item = Part> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = Header::read_from_prefix(rest).ok()?;
        let length = usize::try_from(header.length).ok()?;
        let payload = rest.get(size_of::<Header>()..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(part(&header, payload))
    })
}

fn part(header: &Header, payload: &[u8]) -> Part {
    match header.kind {
        LIST => match Message::read_from_prefix(payload) {
            Ok((message, _)) => Part::Socket(Found {
                family: message.family,
                state: message.state,
                unread: message.receive_queue,
                inode: message.inode,
                id: message.id,
            }),
            Err(_) => Part::Other,
        },
        DONE => Part::Done,
        ERROR => match i32::read_from_prefix(payload) {
            Ok((code, _)) => {
                Part::Answer { sequence: header.sequence, errno: code.saturating_neg() }
            }
            Err(_) => Part::Other,
        },
        _ => Part::Other,
    }
}

/// Returns a request for all sockets of `kind` whose own address is one of `own`; for all of them
/// if that is empty. An IPv4 address means IPv6 sockets that speak IPv4, too.
pub(super) fn list(kind: Kind, own: &[IpAddr]) -> Vec<u8> {
    // What waits for stray packets only, or for clients, holds no work.
    let states = if kind.protocol == TCP { !(1 << TIME_WAIT | 1 << LISTEN) } else { u32::MAX };
    let mut bytes = vec![0; DESTROY_LEN];
    let filter = filter(own);
    if !filter.is_empty() {
        let length = 4 + filter.len() as u16;
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&FILTER.to_ne_bytes());
        bytes.extend_from_slice(&filter);
    }
    let id = Id::new_zeroed();
    write(&mut bytes, LIST, NLM_F_REQUEST | NLM_F_DUMP, 0, kind, states, &id);
    bytes
}

/// Returns the filter: one condition after the other, each followed by a jump to the end, which
/// accepts. Where the last condition fails, it leads beyond the end, which refuses.
fn filter(own: &[IpAddr]) -> Vec<u8> {
    let mut conditions = Vec::new();
    for address in own {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (INET6, v6.octets().to_vec()),
        };
        let length = 4 + 8 + octets.len() as u8;
        // `struct inet_diag_bc_op` {code, yes, no} and `struct inet_diag_hostcond` {family,
        // prefix, port}; any port is -1.
        let mut condition = vec![SOURCE, length];
        condition.extend_from_slice(&u16::from(length + 4).to_ne_bytes());
        condition.extend_from_slice(&[family, octets.len() as u8 * 8, 0, 0]);
        condition.extend_from_slice(&(-1_i32).to_ne_bytes());
        condition.extend_from_slice(&octets);
        conditions.push(condition);
    }
    let mut left: usize = conditions.iter().map(|condition| condition.len() + 4).sum::<usize>();
    let mut filter = Vec::new();
    let last = conditions.len().wrapping_sub(1);
    for (index, condition) in conditions.iter().enumerate() {
        filter.extend_from_slice(condition);
        left -= condition.len() + 4;
        if index != last {
            // The last condition has no jump behind it.
            let to_end = left as u16;
            filter.extend_from_slice(&[JUMP, 4]);
            filter.extend_from_slice(&to_end.to_ne_bytes());
        }
    }
    filter
}

/// Makes a request to destroy a socket that was found, in place. It is answered only if that fails.
pub(super) fn destroy(bytes: &mut [u8; DESTROY_LEN], sequence: u32, protocol: u8, found: &Found) {
    let kind = Kind { family: found.family, protocol };
    write(bytes, DESTROY, NLM_F_REQUEST, sequence, kind, u32::MAX, &found.id);
}

/// Has the last of some requests to destroy answered in any case.
pub(super) fn ask_for_answer_to_last(requests: &mut [u8]) {
    let Some(at) = requests.len().checked_sub(DESTROY_LEN) else { return };
    let Some(last) = requests.get_mut(at..) else { return };
    if let Ok((header, _)) = Header::read_from_prefix(last) {
        let asking = Header { flags: header.flags | NLM_F_ACK, ..header };
        let _fits = asking.write_to_prefix(last).is_ok();
    }
}

fn write(bytes: &mut [u8], kind: u16, flags: u16, sequence: u32, of: Kind, states: u32, id: &Id) {
    let header = Header { length: bytes.len() as u32, kind, flags, sequence, port: 0 };
    let Kind { family, protocol } = of;
    let request = Request { family, protocol, extensions: 0, padding: 0, states, id: *id };
    // Both have room: every caller's buffer is at least as long.
    if let Some((first, second)) = bytes.split_at_mut_checked(size_of::<Header>()) {
        first.copy_from_slice(header.as_bytes());
        let _fits = request.write_to_prefix(second).is_ok();
    }
}

/// A request to destroy a socket that cannot exist, which tells whether the kernel would.
pub(super) fn trial(protocol: u8) -> [u8; DESTROY_LEN] {
    let mut bytes = [0; DESTROY_LEN];
    let nobody = Found { family: INET, state: 0, unread: 0, inode: 0, id: Id::new_zeroed() };
    destroy(&mut bytes, 1, protocol, &nobody);
    ask_for_answer_to_last(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_what_the_kernel_audits() {
        let own: Vec<IpAddr> =
            ["10.0.0.1", "2001:db8::1", "10.0.0.2"].map(|ip| ip.parse().unwrap()).to_vec();
        let bytes = filter(&own);
        assert_eq!(bytes.len(), 16 + 4 + 28 + 4 + 16);
        // As `inet_diag_bc_audit` goes: along `yes`, to the very end.
        let (mut at, mut seen) = (0, Vec::new());
        while at < bytes.len() {
            let yes = usize::from(bytes[at + 1]);
            let no = usize::from(u16::from_ne_bytes([bytes[at + 2], bytes[at + 3]]));
            assert!(yes >= 4 && yes % 4 == 0 && no >= 4 && no % 4 == 0);
            assert!(no <= bytes.len() - at + 4);
            seen.push((bytes[at], at + no));
            at += yes;
        }
        assert_eq!(at, bytes.len());
        let end = bytes.len();
        assert_eq!(
            seen,
            [(SOURCE, 20), (JUMP, end), (SOURCE, 52), (JUMP, end), (SOURCE, end + 4)],
            "a failing condition goes to the next, a jump to the end, the last failure beyond"
        );
        assert!(filter(&[]).is_empty());
    }

    #[test]
    fn answers_are_read() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(
            Header { length: 36, kind: ERROR, flags: 0, sequence: 7, port: 0 }.as_bytes(),
        );
        bytes.extend_from_slice(&(-libc::ENOENT).to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(
            Header { length: 20, kind: DONE, flags: 0, sequence: 0, port: 0 }.as_bytes(),
        );
        bytes.extend_from_slice(&[0; 4]);
        let mut parts = parts(&bytes);
        let Some(Part::Answer { sequence: 7, errno: libc::ENOENT }) = parts.next() else {
            panic!("no answer")
        };
        assert!(matches!(parts.next(), Some(Part::Done)));
        assert!(parts.next().is_none());
    }

    #[test]
    fn nonsense_ends_the_iteration() {
        for bytes in [&[][..], &[0; 15], &[0; 16], &[255; 64]] {
            assert!(parts(bytes).take(100).count() < 100);
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mut id = Id::new_zeroed();
        id.own = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        let found = Found { family: INET6, state: 1, unread: 0, inode: 0, id };
        assert_eq!(found.own(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert!(!found.connected());
    }
}
