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
fn a_takeover_is_announced_in_a_burst_and_then_every_minute() {
    let started = BootTime(7 * SECOND_NS);
    assert_eq!(
        announced(started, started.after(Duration::from_secs(130))),
        [0, 1_000, 5_000, 20_000, 100_000, 500_000, 2_000_000, 62_000_000, 122_000_000]
    );
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
        let announcement = Announcement::new(Ipv4Addr::from(ip).into(), mac);
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
        let announcement = Announcement::new(Ipv6Addr::from(ip).into(), mac);
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

        // The receiver's check: pseudo-header and message, taken as one number, leave no
        // remainder modulo 2^16 - 1. Written as a remainder, not as folded carries.
        let mut covered = frames[0][22..54].to_vec();
        covered.extend(32_u32.to_be_bytes());
        covered.extend([0, 0, 0, 58]);
        covered.extend(&frames[0][54..]);
        let remainder = covered.iter().fold(0_u32, |rest, &byte| (rest * 256 + u32::from(byte)) % 0xffff);
        prop_assert_eq!(remainder, 0);
    }
}
