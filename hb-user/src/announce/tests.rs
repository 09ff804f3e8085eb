use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

/// All announcements of one takeover up to `until`, made by a caller who is always on time.
fn announced(started: BootTime, until: BootTime) -> Vec<u64> {
    let mut now = started;
    let mut times = vec![0];
    loop {
        let next = Schedule::next(started, now);
        if next > until {
            return times;
        }
        times.push(next.since(started).as_micros() as u64);
        now = next;
    }
}

#[test]
fn a_takeover_is_announced_over_a_minute_and_then_every_minute() {
    let started = BootTime(7 * SECOND_NS);
    let times = announced(started, started.after(Duration::from_secs(180)));
    assert_eq!(times[..7], [0, 1_000, 5_000, 20_000, 100_000, 500_000, 2_000_000]);
    let seconds: Vec<_> = times[6..].iter().map(|us| us / 1_000_000).collect();
    assert_eq!(seconds, [2, 4, 7, 11, 16, 22, 29, 37, 46, 56, 116, 176]);
    // After a port that forwards late has begun to, the next one is soon.
    for forwards in [30, 50] {
        let next = seconds.iter().find(|at| **at >= forwards).unwrap();
        assert!(next - forwards < 10);
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.is_sorted(), "{gaps:?}");
}

#[test]
fn nothing_is_announced_before_the_takeover() {
    assert_eq!(Schedule::next(BootTime(9), BootTime(3)), BootTime(9));
}

proptest! {
    #[test]
    fn the_next_announcement_is_ahead_and_within_a_minute(
        started in 0..u64::MAX / 4,
        elapsed in 0..u64::MAX / 4,
    ) {
        let now = BootTime(started + elapsed);
        let next = Schedule::next(BootTime(started), now);
        prop_assert!(next > now);
        prop_assert!(next.since(now) <= REFRESH);
    }

    #[test]
    fn time_does_not_run_out(started: u64, now: u64) {
        let next = Schedule::next(BootTime(started), BootTime(now));
        prop_assert!(next >= BootTime(started));
        prop_assert!(next > BootTime(now) || next == BootTime(u64::MAX));
    }

    #[test]
    fn ipv4_is_announced_by_arp_request_and_reply(ip: [u8; 4], mac: [u8; 6]) {
        let announcement = Announcement::new(Ipv4Addr::from(ip).into(), mac, Gateways::default());
        let frames: Vec<&[u8]> = announcement.frames().collect();
        prop_assert_eq!(frames.len(), 2);
        for (frame, operation, target_mac) in [(frames[0], 1, [0; 6]), (frames[1], 2, mac)] {
            let mut expected = vec![0xff; 6];
            expected.extend(mac);
            expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
            expected.extend(mac);
            expected.extend(ip);
            expected.extend(target_mac);
            expected.extend(ip);
            prop_assert_eq!(frame, &expected[..]);
        }
    }

    #[test]
    fn ipv6_is_announced_by_an_advertisement(ip: [u8; 16], mac: [u8; 6]) {
        let announcement = Announcement::new(Ipv6Addr::from(ip).into(), mac, Gateways::default());
        let frames: Vec<&[u8]> = announcement.frames().collect();
        prop_assert_eq!(frames.len(), 1);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
        let mut expected = vec![0x33, 0x33, 0, 0, 0, 1];
        expected.extend(mac);
        expected.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend(ip);
        expected.extend(all_nodes);
        expected.extend([136, 0, frames[0][56], frames[0][57], 0x20, 0, 0, 0]);
        expected.extend(ip);
        expected.extend([2, 1]);
        expected.extend(mac);
        prop_assert_eq!(frames[0], &expected[..]);

        prop_assert_eq!(remainder(frames[0]), 0);
    }

    #[test]
    fn the_router_is_asked_from_the_address(
        ip: [u8; 4],
        mac: [u8; 6],
        v4: [u8; 4],
        ip6: [u8; 16],
        v6: [u8; 16],
    ) {
        let gateways = Gateways { v4: Some(v4.into()), v6: Some(v6.into()) };
        let plain = Announcement::new(Ipv4Addr::from(ip).into(), [1; 6], Gateways::default());
        let asking = plain.asking(gateways).at(mac);
        let frames: Vec<&[u8]> = asking.frames().collect();
        prop_assert_eq!(frames.len(), 3);
        let mut expected = vec![0xff; 6];
        expected.extend(mac);
        expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        expected.extend(mac);
        expected.extend(ip);
        expected.extend([0; 6]);
        expected.extend(v4);
        prop_assert_eq!(frames[2], &expected[..]);
        prop_assert_eq!(asking.asking(Gateways { v4: None, ..gateways }).frames().count(), 2);

        let asking = Announcement::new(Ipv6Addr::from(ip6).into(), mac, gateways);
        let frames: Vec<&[u8]> = asking.frames().collect();
        prop_assert_eq!(frames.len(), 2);
        let frame = frames[1];
        let mut expected = vec![0x33, 0x33, 0xff];
        expected.extend(&v6[13..]);
        expected.extend(mac);
        expected.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        expected.extend(ip6);
        expected.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
        expected.extend(&v6[13..]);
        expected.extend([135, 0, frame[56], frame[57], 0, 0, 0, 0]);
        expected.extend(v6);
        expected.extend([1, 1]);
        expected.extend(mac);
        prop_assert_eq!(frame, &expected[..]);
        prop_assert_eq!(remainder(frame), 0);
    }
}

/// The receiver's check of a checksum: pseudo-header and message, taken as one number, leave no remainder
/// modulo 2^16 - 1. Written as a remainder, not as folded carries.
fn remainder(frame: &[u8]) -> u32 {
    let mut covered = frame[22..54].to_vec();
    covered.extend(32_u32.to_be_bytes());
    covered.extend([0, 0, 0, 58]);
    covered.extend(&frame[54..]);
    covered.iter().fold(0_u32, |rest, &byte| (rest * 256 + u32::from(byte)) % 0xffff)
}
