//! VLAN tags before a packet of a service address, as many as there may be; and announcements that come back.

use hb_ebpf::{
    gate::{Count, Mode},
    lease::Policy,
};
use hb_user::kernel::Way as Program;

use super::{
    gate::{Gated, LONG, TCX_NEXT, vip},
    rig::XDP_PASS,
    vip_packets::{OWN_MAC, Touching, Way, claims, touching},
};

/// Tags that are looked behind.
const LOOKED_BEHIND: usize = 8;

/// A tag (IEEE 802.1Q or 802.1ad) of VLAN `vlan`; none if 0.
fn tag(number: usize, vlan: u8) -> [u8; 4] {
    let [high, low] = if number % 3 == 2 { [0x88, 0xa8] } else { [0x81, 0x00] };
    // A priority makes it no VLAN.
    [high, low, (number as u8 % 8) << 5, vlan]
}

fn tagged(packet: &Touching, tags: &[[u8; 4]]) -> Touching {
    let bytes = [&packet.bytes[..12], &tags.concat(), &packet.bytes[12..]].concat();
    let what = format!("{} behind {} tags", packet.what, tags.len());
    Touching { what, bytes, at: packet.at + 4 * tags.len(), ..packet.clone() }
}

fn priority(count: usize) -> Vec<[u8; 4]> {
    (0..count).map(|number| tag(number, 0)).collect()
}

fn packets() -> Vec<Touching> {
    (0..2).flat_map(|number| touching(vip(number), 0)).collect()
}

#[test]
fn a_closed_gate_stops_what_is_behind_any_number_of_priority_tags() {
    let gated = Gated::new(Policy::Witness, LONG);
    for packet in packets() {
        for count in 0..=LOOKED_BEHIND + 4 {
            let buried = gated.rig.kernel.buried().unwrap();
            let packet = tagged(&packet, &priority(count));
            let looks = gated.looks(&packet);
            assert!(!looks.contains(&true), "{}", packet.what);
            let more = if count > LOOKED_BEHIND { looks.len() as u64 } else { 0 };
            assert_eq!(gated.rig.kernel.buried().unwrap(), buried + more, "{}", packet.what);
        }
    }
}

#[test]
fn an_open_gate_passes_what_it_can_see_of_a_service_address() {
    let mut gated = Gated::new(Policy::Witness, LONG);
    gated.win(LONG);
    for packet in packets() {
        for count in 0..=LOOKED_BEHIND {
            let packet = tagged(&packet, &priority(count));
            assert!(!gated.looks(&packet).contains(&false), "{}", packet.what);
        }
        let packet = tagged(&packet, &priority(LOOKED_BEHIND + 1));
        assert!(!gated.looks(&packet).contains(&true), "{}", packet.what);
    }
}

/// A packet of a VLAN goes on to the interface of that VLAN, with a gate of its own, or to nobody.
#[test]
fn what_is_too_deep_in_a_vlan_is_left_to_the_gate_there() {
    let gated = Gated::new(Policy::Witness, LONG);
    for packet in packets() {
        for at in 0..LOOKED_BEHIND {
            let mut tags = priority(LOOKED_BEHIND + 2);
            tags[at] = tag(at, 7);
            let deep = tagged(&packet, &tags);
            assert!(!gated.looks(&deep).contains(&false), "{}, VLAN at {at}", deep.what);
            tags.truncate(LOOKED_BEHIND);
            let seen = tagged(&packet, &tags);
            assert!(!gated.looks(&seen).contains(&true), "{}, VLAN at {at}", seen.what);
        }
    }
    assert_eq!(gated.rig.kernel.buried().unwrap(), 0);
}

#[test]
fn what_is_of_no_service_address_passes_behind_all_tags_that_are_looked_behind() {
    let gated = Gated::new(Policy::Witness, LONG);
    for mut packet in packets() {
        packet.bytes[packet.at + packet.length - 1] ^= 0x80;
        for count in 0..=LOOKED_BEHIND {
            let packet = tagged(&packet, &priority(count));
            assert!(!gated.looks(&packet).contains(&false), "{}", packet.what);
        }
    }
}

#[test]
fn what_is_buried_passes_a_gate_that_only_counts_or_does_not_look() {
    let mut gated = Gated::new(Policy::Witness, LONG);
    let packet = tagged(&touching(vip(0), 0)[0], &priority(LOOKED_BEHIND + 1));
    assert_eq!(packet.way, Way::In);
    for (mode, counted) in [(Mode::DryRun, 2), (Mode::Bypass, 2)] {
        gated.set_mode(mode);
        assert_eq!(gated.looks(&packet), [true, true]);
        assert_eq!(gated.rig.kernel.buried().unwrap(), counted, "{mode:?}");
    }
}

/// A loop, a mirror or a bridge that reflects brings a node's own announcements back to it.
#[test]
fn an_own_announcement_that_comes_back_is_nobody_elses_claim() {
    const SECOND_PORT: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
    let mut gated = Gated::new(Policy::Witness, LONG);
    gated.rig.kernel.set_macs(&[OWN_MAC, SECOND_PORT]).unwrap();
    gated.win(LONG);
    while gated.rig.pending_event().is_some() {}
    let hear = |gated: &Gated, number: usize, mac| {
        for packet in claims(vip(number), mac) {
            assert_eq!(gated.rig.run_packet(&packet), (XDP_PASS, packet.clone()));
            let late = gated.rig.kernel.run_gate(Program::In, &packet).unwrap();
            assert_eq!(late, (TCX_NEXT, packet));
        }
        gated.count(number, Count::Claims)
    };
    for number in 0..2 {
        for mac in [OWN_MAC, SECOND_PORT] {
            assert_eq!(hear(&gated, number, mac), 0, "{number}");
        }
        assert_eq!(gated.rig.kernel.claims(number as u8).unwrap().mac, [0; 6]);
    }
    assert_eq!(gated.rig.pending_event(), None);
    for (number, count) in [(0, 4), (1, 2)] {
        assert_eq!(hear(&gated, number, STRANGER), count, "{number}");
        assert_eq!(gated.rig.kernel.claims(number as u8).unwrap().mac, STRANGER);
    }
    // The second port is another machine's now.
    gated.rig.kernel.set_macs(&[OWN_MAC]).unwrap();
    assert_eq!(hear(&gated, 0, SECOND_PORT), 8);
    assert_eq!(hear(&gated, 0, OWN_MAC), 8);
}
