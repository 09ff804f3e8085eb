//! Echo requests and replies, byte for byte.

use std::net::IpAddr;

/// Bytes of a request: type, code, checksum, identifier and sequence, and eight of data.
const LENGTH: usize = 16;
/// Bytes of the data.
const DATA: [u8; 8] = *b"hb: here";

/// Types of requests and replies: RFC 792 and RFC 4443.
const fn types(target: IpAddr) -> (u8, u8) {
    match target {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    }
}

/// Returns a request to `target`. The kernel puts the checksum of one by ICMPv6 (RFC 3542, section 3.1).
pub(super) fn request(target: IpAddr, identifier: u16, sequence: u16) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = types(target).0;
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..].copy_from_slice(&DATA);
    if target.is_ipv4() {
        let checksum = checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// Tells whether what a raw socket received from `target` is the reply to that request. IPv4 comes with
/// its header (raw(7)), IPv6 without (RFC 3542, section 3).
pub(super) fn is_reply(target: IpAddr, packet: &[u8], identifier: u16, sequence: u16) -> bool {
    let header = match target {
        IpAddr::V4(_) => packet.first().map_or(0, |first| usize::from(first & 15) * 4),
        IpAddr::V6(_) => 0,
    };
    let Some(message) = packet.get(header..).and_then(<[u8]>::first_chunk::<8>) else {
        return false;
    };
    let [kind, code, _, _, rest @ ..] = *message;
    let [a, b] = identifier.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    kind == types(target).1 && code == 0 && rest == [a, b, c, d]
}

/// The Internet checksum of a message whose own is zero (RFC 1071).
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_sums_up() {
        let message = request(V4, 0xabcd, 3);
        assert_eq!(message[..2], [8, 0]);
        // With its checksum in place the sum is all ones (RFC 1071, section 1).
        assert_eq!(checksum(&message), 0);
        assert_eq!(request(V6, 1, 1)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_the_answer_to_this_request_is_one() {
        let mut v6 = request(V6, 5, 6);
        assert!(!is_reply(V6, &v6, 5, 6), "the request itself");
        v6[0] = 129;
        assert!(is_reply(V6, &v6, 5, 6));
        assert!(!is_reply(V6, &v6, 5, 7) && !is_reply(V6, &v6, 4, 6));
        let mut v4 = vec![0x46; 24];
        v4.extend(request(V4, 5, 6));
        v4[24] = 0;
        assert!(is_reply(V4, &v4, 5, 6), "behind a header with an option");
        v4[25] = 1;
        assert!(!is_reply(V4, &v4, 5, 6), "another code");
        for length in 0..32 {
            assert!(!is_reply(V4, &v4[..length], 5, 6));
            assert!(!is_reply(V6, &v6[..length.min(7)], 5, 6));
        }
    }
}
