//! The gate: what is to or from a service address passes while this node holds its group, and
//! never else; nothing else is touched.

use std::{net::IpAddr, thread, time::Duration};

use hb_ebpf::{
    gate::{Bounce, Count, Mode, Settings},
    lease::{
        Policy, Terms, Timing,
        op::{DONE, Op, Order},
    },
    maps::EventKind,
    wire::{Be32, Be64, GroupWord, Health, State},
};
use hb_user::{
    clock,
    id::GroupId,
    kernel::{Guarded, Leases, Way as Program},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::{
    packets,
    rig::{INTERFACE, ME, PEER, Rig, Sender, XDP_DROP, XDP_PASS, XDP_TX, identity},
    vip_packets::{CLIENT_MAC, OWN_MAC, Touching, Way, claims, touching},
};

const WITNESS: u8 = 9;
/// What stands for the group in frames and records.
const FINGERPRINT: u32 = 0x6772_0000;
pub(super) const TC_SHOT: i32 = 2;
pub(super) const TCX_NEXT: i32 = -1;
pub(super) const LONG: Duration = Duration::from_millis(1_900);

/// The addresses of group 0, one of each family, and those of group 1, which nobody ever holds and
/// which are on this node all the same.
const VIPS: [&str; 4] = ["192.0.2.100", "2001:db8::100", "192.0.2.101", "2001:db8::166"];

pub(super) fn vip(number: usize) -> IpAddr {
    VIPS[number].parse().unwrap()
}

/// A node with a gate, and its peer.
pub(super) struct Gated {
    pub(super) rig: Rig,
    leases: Leases,
    pub(super) sender: Sender,
}

impl Gated {
    pub(super) fn new(policy: Policy, lease: Duration) -> Self {
        let mut rig = Rig::new();
        rig.shared.introduce(&hb_user::kernel::Identity { groups: 2, ..identity() });
        let ms = 1_000_000;
        let timing = Timing {
            lease_ns: lease.as_nanos() as u64,
            margin_ns: ms,
            drain_ns: 2 * ms,
            seek_ns: 1_000 * ms,
            rho: 205,
            interval_ns: ms,
            deadtime_ns: 5 * ms,
            controller_deadtime_ns: identity().controller_deadtime_ns,
        };
        let terms =
            Terms::new(policy, &timing, &[PEER.0, ME.0, WITNESS], ME.0, Some(WITNESS)).unwrap();
        rig.kernel.set_terms(&terms).unwrap();
        let guarded = |number, group, warm| Guarded {
            address: vip(number),
            group: Some(GroupId(group)),
            warm,
        };
        let all = [(0, 0, false), (1, 0, false), (2, 1, true), (3, 1, true)];
        let all = all.map(|(number, group, warm)| guarded(number, group, warm));
        rig.kernel.set_vips(&all).unwrap();
        let leases = rig.kernel.leases().unwrap();
        // Nothing was promised before that it would have to wait for.
        let order = Order { fingerprint: FINGERPRINT, now_ns: 1, ..Order::new(Op::Start, 0) };
        assert_eq!(leases.order(order).unwrap().code, DONE);
        // Nobody set a mode: new maps are zero, and that is closed.
        const { assert!(Mode::On as u8 == 0) };
        Self { rig, leases, sender: Sender::new() }
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.rig.kernel.set_gate(&Settings { mode: mode as u8, ..Settings::default() }).unwrap();
    }

    pub(super) fn order(&self, op: Op) -> Order {
        let order = self.leases.order(Order::new(op, 0)).unwrap();
        assert_eq!(order.code, DONE, "{op:?}");
        order
    }

    pub(super) fn state(&self) -> State {
        self.rig.shared.record(GroupId(0)).unwrap().state()
    }

    /// Has the peer promise the epoch that this node seeks, in a frame that answers one of now.
    /// Returns when the lease ends.
    fn promise(&mut self, epoch: u64, lease: Duration) -> u64 {
        let t0 = clock::now().ns();
        let mut frame = self.sender.probe();
        frame.groups[0] = GroupWord {
            health: Health::Standby as u8,
            promise_epoch: Be64::new(epoch),
            promise_t0_ns: Be64::new(t0),
            promise_lease_ns: Be32::new(lease.as_nanos() as u32),
            fingerprint: Be32::new(FINGERPRINT),
            ..GroupWord::default()
        };
        let frame = self.sender.signed(frame);
        assert_eq!(self.rig.run(&frame).0, XDP_TX);
        assert_eq!(self.state(), State::Holding);
        t0 + lease.as_nanos() as u64
    }

    /// Seeks and holds the group. Returns when the lease ends.
    pub(super) fn win(&mut self, lease: Duration) -> u64 {
        let epoch = self.order(Op::Seek).epoch;
        self.promise(epoch, lease)
    }

    /// Runs whatever looks at such a packet, and says of each whether it passed. None may change it.
    pub(super) fn looks(&self, packet: &Touching) -> Vec<bool> {
        let gate = |way| {
            let (verdict, left) = self.rig.kernel.run_gate(way, &packet.bytes).unwrap();
            assert_eq!(left, packet.bytes, "{}", packet.what);
            assert!([TC_SHOT, TCX_NEXT].contains(&verdict), "{}: {verdict}", packet.what);
            verdict == TCX_NEXT
        };
        match packet.way {
            Way::In => {
                let (verdict, left) = self.rig.run_packet(&packet.bytes);
                assert_eq!(left, packet.bytes, "{}", packet.what);
                assert!([XDP_DROP, XDP_PASS].contains(&verdict), "{}: {verdict}", packet.what);
                vec![verdict == XDP_PASS, gate(Program::In)]
            }
            Way::Out => vec![gate(Program::Out)],
        }
    }

    pub(super) fn count(&self, number: usize, what: Count) -> u64 {
        self.rig.kernel.gate_counters(number as u8).unwrap()[what as usize]
    }

    fn counters(&self) -> Vec<[u64; hb_ebpf::gate::COUNTS]> {
        (0..VIPS.len()).map(|number| self.rig.kernel.gate_counters(number as u8).unwrap()).collect()
    }

    /// Asserts what becomes of every packet of group 0's addresses, and that it is counted as
    /// `counted` (arriving, leaving) and as nothing else.
    pub(super) fn assert_all(&self, pass: bool, counted: [Count; 2], when: &str) {
        for number in 0..2 {
            for tags in 0..3 {
                for packet in touching(vip(number), tags) {
                    let before = self.counters();
                    let looks = self.looks(&packet);
                    let expected = vec![pass; looks.len()];
                    assert_eq!(looks, expected, "{when}: {}", packet.what);
                    let mut after = before;
                    let count = counted[usize::from(packet.way == Way::Out)];
                    after[number][count as usize] += looks.len() as u64;
                    assert_eq!(self.counters(), after, "{when}: {}", packet.what);
                }
            }
        }
    }

    /// Asserts that group 1 is closed, whatever group 0 does.
    fn assert_other_closed(&self) {
        for number in 2..VIPS.len() {
            for packet in touching(vip(number), 0) {
                assert!(!self.looks(&packet).contains(&true), "{}", packet.what);
            }
        }
    }
}

const PASSED: [Count; 2] = [Count::PassedIn, Count::PassedOut];
pub(super) const NOT_HOLDING: [Count; 2] = [Count::NotHoldingIn, Count::NotHoldingOut];
const EXPIRED: [Count; 2] = [Count::ExpiredIn, Count::ExpiredOut];
const CONTROLLER: [Count; 2] = [Count::ControllerIn, Count::ControllerOut];

fn wait_until(ns: u64) {
    let now = clock::now().ns();
    thread::sleep(Duration::from_nanos(ns.saturating_sub(now) + 1_000));
}

#[test]
fn packets_pass_only_under_a_majoritys_promises() {
    let mut gated = Gated::new(Policy::Witness, LONG);
    gated.assert_all(false, NOT_HOLDING, "idle");
    let epoch = gated.order(Op::Seek).epoch;
    gated.assert_all(false, NOT_HOLDING, "seeking, with its own vote alone");
    gated.promise(epoch, LONG);
    gated.assert_all(true, PASSED, "promised");
    gated.assert_other_closed();

    gated.order(Op::Release);
    assert_eq!(gated.state(), State::Released);
    gated.assert_all(false, NOT_HOLDING, "released");
}

#[test]
fn the_gate_closes_when_the_lease_ends_whoever_is_alive() {
    let lease = Duration::from_millis(60);
    let mut gated = Gated::new(Policy::Witness, lease);
    let end = gated.win(lease);
    wait_until(end);
    assert_eq!(gated.state(), State::Holding, "nobody was told");
    gated.assert_all(false, EXPIRED, "expired");
    // The same epoch, promised again by a frame: open, without anybody's help.
    let epoch = gated.rig.shared.record(GroupId(0)).unwrap().epoch;
    let end = gated.promise(epoch, lease);
    let arrives = &touching(vip(0), 0)[0];
    let (passed, now) = (gated.looks(arrives), clock::now().ns());
    // A machine that stalled in between has not shown anything.
    assert!(passed.iter().all(|passed| *passed) || now >= end, "{passed:?}");

    wait_until(end);
    gated.order(Op::StepDown);
    gated.assert_all(false, NOT_HOLDING, "stepped down");
}

#[test]
fn without_promises_the_gate_closes_with_the_daemon() {
    let mut gated = Gated::new(Policy::Available, LONG);
    gated.assert_all(false, NOT_HOLDING, "idle");
    gated.order(Op::Seek);
    gated.assert_all(true, PASSED, "holding");
    let dead = clock::now().ns() - identity().controller_deadtime_ns - 1;
    gated.rig.shared.stamp_controller(hb_ebpf::time::BootTime(dead));
    gated.assert_all(false, CONTROLLER, "the daemon is dead");
    gated.rig.shared.stamp_controller(hb_ebpf::time::BootTime(u64::MAX));
    gated.assert_all(true, PASSED, "the daemon is back");

    // A better placed holder by the peer's frame: closed before the daemon hears of it.
    let mut frame = gated.sender.probe();
    frame.groups[0] = GroupWord {
        state: State::Holding as u8,
        health: Health::Healthy as u8,
        epoch: Be64::new(0x7_0001),
        // It served for longer.
        promise_t0_ns: Be64::new(u64::MAX),
        fingerprint: Be32::new(FINGERPRINT),
        ..GroupWord::default()
    };
    let frame = gated.sender.signed(frame);
    assert_eq!(gated.rig.run(&frame).0, XDP_TX);
    gated.assert_all(false, NOT_HOLDING, "outranked");
}

/// Whatever the policy: once the controller is dead the kernel half holds only until it hears anybody,
/// and says so in the very answer.
#[test]
fn a_group_whose_controller_is_dead_is_given_away_at_the_next_frame() {
    for policy in [Policy::Available, Policy::Witness] {
        let mut gated = Gated::new(policy, LONG);
        if policy == Policy::Available {
            gated.order(Op::Seek);
        } else {
            gated.win(LONG);
        }
        assert_eq!(gated.state(), State::Holding);
        let dead = clock::now().ns() - identity().controller_deadtime_ns - 1;
        gated.rig.shared.stamp_controller(hb_ebpf::time::BootTime(dead));
        assert_eq!(gated.state(), State::Holding, "nobody was heard yet");
        let probe = gated.sender.probe();
        let (verdict, answer) = gated.rig.run(&probe);
        assert_eq!(verdict, XDP_TX);
        let sent = packets::wrap(gated.rig.shape, &probe);
        let answer = packets::unwrap(gated.rig.shape, &sent, &answer);
        assert_eq!(answer.groups[0].state(), State::Released, "{policy:?}");
        assert_eq!(gated.state(), State::Released, "{policy:?}");
        gated.rig.shared.stamp_controller(hb_ebpf::time::BootTime(u64::MAX));
        gated.assert_all(false, NOT_HOLDING, "the daemon is back, and holds nothing");
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Any bit of the address another one, and the packet is somebody else's.
#[test]
fn an_address_beside_it_is_not_looked_at_twice() {
    let gated = Gated::new(Policy::Witness, LONG);
    let packets: Vec<_> = (0..2)
        .flat_map(|number| (0..3).flat_map(move |tags| touching(vip(number), tags)))
        .collect();
    let before = gated.counters();
    runner(3_000)
        .run(&(prop::sample::select(packets), 0usize..128), |(packet, bit)| {
            let mut other = packet.clone();
            let bit = bit % (packet.length * 8);
            other.bytes[packet.at + bit / 8] ^= 1 << (bit % 8);
            let found = &other.bytes[packet.at..packet.at + packet.length];
            if let IpAddr::V4(third) = vip(2)
                && found == third.octets()
            {
                return Ok(());
            }
            prop_assert!(gated.looks(&other).iter().all(|passed| *passed), "{}", packet.what);
            Ok(())
        })
        .unwrap();
    assert_eq!(gated.counters(), before, "not even counted");
}

#[test]
fn random_packets_pass_both_ways_byte_for_byte() {
    const TYPES: [u16; 8] = [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88cc, 0x8847, 0x0026];
    let gated = Gated::new(Policy::Witness, LONG);
    let packet = (
        prop::sample::select(TYPES.to_vec()),
        prop::collection::vec(any::<u8>(), 12),
        prop::collection::vec(any::<u8>(), 46..1_486),
        any::<bool>(),
    );
    let before = gated.counters();
    runner(3_000)
        .run(&packet, |(ethertype, addresses, mut payload, whole)| {
            match ethertype {
                0x0800 if whole => payload[0] = 0x45,
                0x86dd if whole => payload[0] = 0x60,
                0x0806 if whole => payload[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]),
                _ => {}
            }
            let bytes = [&addresses[..], &ethertype.to_be_bytes(), &payload[..]].concat();
            for way in [Way::In, Way::Out] {
                let what = format!("{way:?} {ethertype:#06x}");
                let bytes = bytes.clone();
                let packet = Touching { what, way, bytes, at: 0, length: 0 };
                prop_assert!(gated.looks(&packet).iter().all(|passed| *passed), "{}", packet.what);
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(gated.counters(), before);
}

#[test]
fn short_packets_pass() {
    let gated = Gated::new(Policy::Witness, LONG);
    let before = gated.counters();
    for packet in touching(vip(0), 2).iter().chain(&touching(vip(1), 2)) {
        for length in 14..packet.at + packet.length {
            let bytes = &packet.bytes[..length];
            if packet.way == Way::In {
                assert_eq!(gated.rig.run_packet(bytes), (XDP_PASS, bytes.to_vec()));
            }
        }
    }
    assert_eq!(gated.counters(), before);
}

#[test]
fn dry_run_counts_and_bypass_does_not_look() {
    let mut gated = Gated::new(Policy::Witness, LONG);
    gated.set_mode(Mode::DryRun);
    gated.assert_all(true, NOT_HOLDING, "dry-run");
    gated.set_mode(Mode::Bypass);
    let before = gated.counters();
    for number in 0..2 {
        let packets = touching(vip(number), 1);
        assert!(packets.iter().flat_map(|packet| gated.looks(packet)).all(|passed| passed));
    }
    gated.win(LONG);
    for packet in claims(vip(0), CLIENT_MAC) {
        assert_eq!(gated.rig.run_packet(&packet).0, XDP_PASS);
    }
    assert_eq!(gated.counters(), before, "not even counted");
    gated.set_mode(Mode::On);
    gated.assert_all(true, PASSED, "on");
}

#[test]
fn claims_by_others_are_heard_and_counted_and_change_nothing() {
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
    let mut gated = Gated::new(Policy::Witness, LONG);
    let all: Vec<_> = (0..2).flat_map(|number| claims(vip(number), CLIENT_MAC)).collect();
    for packet in &all {
        assert_eq!(gated.rig.run_packet(packet), (XDP_PASS, packet.clone()), "the stack hears it");
    }
    let nobodys = gated.rig.kernel.claims(0).unwrap();
    assert_eq!((nobodys.mac, gated.count(0, Count::Claims)), ([0; 6], 0), "not served here");

    gated.win(LONG);
    while gated.rig.pending_event().is_some() {}
    let record = gated.rig.shared.record(GroupId(0)).unwrap();
    for (number, times) in [(0, 2), (1, 1)] {
        for packet in claims(vip(number), STRANGER) {
            assert_eq!(gated.rig.run_packet(&packet), (XDP_PASS, packet.clone()));
        }
        assert_eq!(gated.count(number, Count::Claims), times);
        // One event an address and second, however many there are.
        let event = gated.rig.expect_event();
        assert_eq!((event.kind, event.link), (EventKind::Claim as u8, number as u8));
        assert_eq!(gated.rig.pending_event(), None);
        let mac = gated.rig.kernel.claims(number as u8).unwrap().mac;
        // An advertisement says in its Ethernet header whose it is.
        assert_eq!(mac, STRANGER, "{number}");
    }
    assert_eq!(gated.rig.shared.record(GroupId(0)).unwrap(), record, "never a yield");
    // Where no heartbeats are heard, traffic control counts them.
    let claim = &claims(vip(0), CLIENT_MAC)[0];
    assert_eq!(gated.rig.kernel.run_gate(Program::In, claim).unwrap(), (TCX_NEXT, claim.clone()));
    assert_eq!(gated.count(0, Count::Claims), 3);
    assert_eq!(gated.rig.kernel.claims(0).unwrap().mac, CLIENT_MAC);
}

/// The stack takes an advertisement of an IPv6 address that it has itself for a conflict, and logs
/// it; of an IPv4 address it takes no notice.
#[test]
fn the_holders_advertisements_of_a_warm_address_do_not_reach_the_stack() {
    let mut gated = Gated::new(Policy::Witness, LONG);
    let verdicts = [(Mode::On, XDP_DROP, TC_SHOT), (Mode::DryRun, XDP_PASS, TCX_NEXT)];
    for (mode, xdp, tcx) in verdicts {
        gated.set_mode(mode);
        for packet in claims(vip(3), CLIENT_MAC) {
            assert_eq!(gated.rig.run_packet(&packet), (xdp, packet.clone()));
            let late = gated.rig.kernel.run_gate(Program::In, &packet).unwrap();
            assert_eq!(late, (tcx, packet));
        }
        for number in 0..3 {
            for packet in claims(vip(number), CLIENT_MAC) {
                assert_eq!(gated.rig.run_packet(&packet), (XDP_PASS, packet.clone()));
                let late = gated.rig.kernel.run_gate(Program::In, &packet).unwrap();
                assert_eq!(late, (TCX_NEXT, packet));
            }
        }
    }
}

#[test]
fn after_a_release_clients_packets_are_sent_on_and_nodes_are_not() {
    const SUCCESSOR: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let mut gated = Gated::new(Policy::Witness, LONG);
    gated.win(LONG);
    let until = clock::now().after(Duration::from_millis(700)).ns();
    let bounce = Bounce { until_ns: until, interface: INTERFACE, to: SUCCESSOR, own: OWN_MAC };
    for number in 0..2 {
        gated.rig.kernel.set_bounce(number, &bounce).unwrap();
    }
    gated.assert_all(true, PASSED, "still served here");
    gated.order(Op::Release);

    let arrives = |number| {
        let packets = touching(vip(number), 0).into_iter();
        packets.filter(|packet| packet.way == Way::In).collect::<Vec<_>>()
    };
    for number in 0..2 {
        let mut bounced = 0;
        for Touching { what, bytes, .. } in arrives(number) {
            let (verdict, left) = gated.rig.run_packet(&bytes);
            assert_eq!(verdict, XDP_TX, "{what}");
            assert_eq!(left[..6], SUCCESSOR, "{what}");
            assert_eq!(left[6..12], OWN_MAC, "{what}");
            assert_eq!(left[12..], bytes[12..], "{what}: nothing else changes, nor the size");
            bounced += 1;
            // What a node sent, or sent on, is not sent on: else two could play with it for ever.
            for mac in [SUCCESSOR, OWN_MAC] {
                let mut again = bytes.clone();
                again[6..12].copy_from_slice(&mac);
                assert_eq!(gated.rig.run_packet(&again), (XDP_DROP, again.clone()), "{what}");
            }
            let mut group = bytes.clone();
            group[0] |= 1;
            assert_eq!(gated.rig.run_packet(&group), (XDP_DROP, group.clone()), "{what}");
            assert!(clock::now().ns() < until, "too slow a machine to show anything");
        }
        assert_eq!(gated.count(number, Count::Bounced), bounced);
    }
    // Group 1 was not handed over.
    gated.assert_other_closed();
    wait_until(until);
    gated.assert_all(false, NOT_HOLDING, "the time is over");

    let elsewhere = Bounce { until_ns: u64::MAX, interface: INTERFACE + 1, ..bounce };
    gated.rig.kernel.set_bounce(0, &elsewhere).unwrap();
    gated.rig.kernel.set_bounce(1, &elsewhere).unwrap();
    gated.assert_all(false, NOT_HOLDING, "another interface");
}
