//! Silence, judged by the kernel's timers and by the daemon's own engine.

use std::{thread, time::Duration};

use hb_ebpf::{
    maps::{Cause, Event, EventKind, Life, Transport},
    time::BootTime,
    wire::Frame,
};
use hb_user::{
    clock,
    id::{LinkId, NodeId},
};

use super::{
    packets,
    rig::{LINK, PEER, Rig, Sender, keys, path},
};

const MS: u64 = 1_000_000;

fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// Hears the peer once more. What it says is an event that comes after all that came before.
fn revive(rig: &Rig, sender: &mut Sender) {
    rig.run(&sender.answer());
}

fn expect(rig: &mut Rig, kind: EventKind) -> Event {
    loop {
        let event = rig.expect_event();
        if event.kind == kind as u8 {
            return event;
        }
        // A first miss comes before each silence that is told of, and by chance at other times.
        assert_eq!(event.kind, EventKind::Missed as u8, "{event:?} instead of {kind:?}");
    }
}

/// Expects a death that is put off. That the link was not heard is told without waiting.
fn expect_doubted(rig: &mut Rig) -> Event {
    expect(rig, EventKind::Late);
    expect(rig, EventKind::Link);
    expect(rig, EventKind::Dead)
}

#[test]
fn a_peer_never_heard_is_dead_after_initdead_and_not_before() {
    let mut rig = Rig::new();
    rig.set_timing(PEER, [5, 20, 30, 150]);
    rig.kernel.arm(PEER, true).unwrap();
    let armed = rig.peer();
    assert_eq!((armed.watched, armed.life), (1, Life::Unheard as u8));
    let event = expect(&mut rig, EventKind::Dead);
    assert_eq!((event.peer, event.cause), (PEER.0, Cause::NeverHeard as u8));
    assert_eq!(event.due_ns, armed.started_ns + 150 * MS);
    assert!(event.at_ns >= event.due_ns);
    assert_eq!(event.silence_ns, event.at_ns - armed.started_ns);
    let peer = rig.peer();
    assert_eq!((peer.life, peer.cause), (Life::Dead as u8, Cause::NeverHeard as u8));
    assert_eq!((peer.verdict_ns, peer.deaths_total), (event.at_ns, 1));
    // The verdict is given once: what comes next is the peer's return.
    pause(50);
    revive(&rig, &mut Sender::new());
    expect(&mut rig, EventKind::Up);
}

/// The watch is on deadtime from the first arrival, however long initdead would still last.
#[test]
fn a_peer_that_dies_within_initdead_is_dead_after_deadtime() {
    let mut rig = Rig::new();
    rig.set_timing(PEER, [5, 20, 30, 3_600_000]);
    rig.kernel.arm(PEER, true).unwrap();
    // The timer has fired meanwhile, and gone to sleep again.
    pause(30);
    revive(&rig, &mut Sender::new());
    expect(&mut rig, EventKind::Up);
    expect(&mut rig, EventKind::Late);
    let event = expect(&mut rig, EventKind::Dead);
    assert_eq!(event.cause, Cause::Silence as u8);
    assert_eq!(event.due_ns, rig.peer().last_arrival_ns + 30 * MS);
}

#[test]
fn arrivals_keep_it_alive_and_silence_kills_it_once() {
    let (mut rig, mut sender) = Rig::acquainted();
    rig.set_timing(PEER, [5, 400, 600, 10]);
    rig.kernel.arm(PEER, false).unwrap();
    for _ in 0..140 {
        revive(&rig, &mut sender);
        pause(5);
    }
    let peer = rig.peer();
    assert_eq!((peer.life, peer.deaths_total, peer.links_up), (Life::Alive as u8, 0, 1));
    let missed = peer.misses_total;
    let late = expect(&mut rig, EventKind::Late);
    assert!(late.silence_ns >= 400 * MS);
    let dead = expect(&mut rig, EventKind::Dead);
    let last = rig.peer().last_arrival_ns;
    assert_eq!(dead.cause, Cause::Silence as u8);
    assert_eq!(dead.due_ns, last + 600 * MS);
    assert!(dead.silence_ns >= 600 * MS && dead.at_ns == last + dead.silence_ns);
    let peer = rig.peer();
    assert_eq!((peer.life, peer.links_up, peer.deaths_total), (Life::Dead as u8, 0, 1));
    assert_eq!(u64::from(peer.misses), dead.silence_ns / (5 * MS));
    assert!(peer.misses_total >= missed + u64::from(peer.misses) - 1);
    assert_eq!(peer.doubts_total, 0);
    pause(30);
    revive(&rig, &mut sender);
    expect(&mut rig, EventKind::Up);
    assert_eq!((rig.peer().misses, rig.peer().links_up), (0, 1));
    // And again.
    rig.set_timing(PEER, [5, 20, 30, 10]);
    expect(&mut rig, EventKind::Late);
    expect(&mut rig, EventKind::Dead);
    assert_eq!(rig.peer().deaths_total, 2);
}

#[test]
fn the_first_miss_of_each_silence_is_told_once() {
    let (mut rig, mut sender) = Rig::acquainted();
    rig.set_timing(PEER, [50, 40_000, 60_000, 10]);
    rig.shared.stamp_probe(PEER, BootTime(u64::MAX));
    revive(&rig, &mut sender);
    rig.kernel.arm(PEER, false).unwrap();
    for _ in 0..2 {
        revive(&rig, &mut sender);
        let heard = rig.peer().last_arrival_ns;
        let event = rig.expect_event();
        assert_eq!((event.kind, event.peer), (EventKind::Missed as u8, PEER.0), "{event:?}");
        assert!(event.at_ns >= heard + 75 * MS, "{event:?}, heard at {heard}");
        assert!(rig.peer().misses >= 1);
        // Several more, of which nothing is told: the next event is that of the next silence.
        pause(300);
        assert!(rig.peer().misses >= 5);
    }
}

#[test]
fn a_link_that_falls_silent_is_told_while_the_peer_lives() {
    let (mut rig, mut sender) = Rig::acquainted();
    rig.kernel.set_path(PEER, LinkId(1), &path(Transport::Udp4)).unwrap();
    rig.set_timing(PEER, [5, 50_000, 200, 10]);
    rig.shared.stamp_probe(PEER, BootTime(u64::MAX));
    let mut on_second = |rig: &Rig| {
        let frame = sender.answer();
        rig.run(&sender.signed(Frame { link: 1, ..frame }));
    };
    on_second(&rig);
    let event = expect(&mut rig, EventKind::Link);
    assert_eq!((event.link, rig.peer().links_up), (1, 3));
    rig.kernel.arm(PEER, false).unwrap();
    let event = loop {
        on_second(&rig);
        match rig.pending_event() {
            // A pause that was longer than asked for.
            Some(event) if event.kind == EventKind::Missed as u8 => {}
            Some(event) => break event,
            None => pause(5),
        }
    };
    assert_eq!((event.kind, event.link), (EventKind::Link as u8, LINK.0));
    assert_eq!((rig.peer().links_up, rig.peer().life), (2, Life::Alive as u8));
}

/// Our own prober stopped: the silence may be ours.
#[test]
fn a_verdict_without_probes_waits_until_doubt_is_exhausted() {
    let (mut rig, _) = Rig::acquainted();
    rig.set_timing(PEER, [5, 20, 30, 10]);
    rig.shared.stamp_probe(PEER, BootTime(1));
    rig.kernel.arm(PEER, false).unwrap();
    let event = expect_doubted(&mut rig);
    assert_eq!(event.cause, Cause::DoubtExhausted as u8);
    assert!(event.at_ns - event.due_ns >= 100 * MS, "{event:?}");
    let peer = rig.peer();
    assert_eq!((peer.cause, peer.misses_total), (Cause::DoubtExhausted as u8, 0));
    assert!(peer.doubts_total > 0);
}

/// Prepares a second peer that is alive and silent.
fn second_peer(rig: &mut Rig, interval_ms: u64) -> NodeId {
    let other = NodeId(3);
    rig.kernel.set_keys(other, &keys()).unwrap();
    rig.kernel.set_path(other, LINK, &path(Transport::Udp4)).unwrap();
    rig.set_timing(other, [interval_ms, 3_600_000, 3_600_000, 3_600_000]);
    rig.kernel.watch(other, true).unwrap();
    let mut sender = Sender { id: other, ..Sender::new() };
    rig.run_packet(&packets::wrap(rig.shape, &sender.answer()));
    assert_eq!(rig.shared.peer(other).unwrap().life, Life::Alive as u8);
    expect(rig, EventKind::Up);
    rig.shared.set_buddy(PEER, Some(other));
    other
}

#[test]
fn a_buddy_that_is_overdue_too_puts_the_verdict_off() {
    let (mut rig, _) = Rig::acquainted();
    second_peer(&mut rig, 1);
    rig.set_timing(PEER, [5, 20, 30, 10]);
    rig.kernel.arm(PEER, false).unwrap();
    let event = expect_doubted(&mut rig);
    assert_eq!(event.cause, Cause::DoubtExhausted as u8);
    assert!(event.at_ns - event.due_ns >= 100 * MS, "{event:?}");
}

#[test]
fn a_buddy_that_is_heard_leaves_no_doubt() {
    let (mut rig, _) = Rig::acquainted();
    second_peer(&mut rig, 3_600_000);
    rig.set_timing(PEER, [5, 20, 30, 10]);
    rig.kernel.arm(PEER, false).unwrap();
    expect(&mut rig, EventKind::Late);
    assert_eq!(expect(&mut rig, EventKind::Dead).cause, Cause::Silence as u8);
}

#[test]
fn a_late_callback_doubts_itself() {
    let (mut rig, _) = Rig::acquainted();
    rig.set_timing(PEER, [5, 20, 30, 10]);
    let mut timing = rig.peer().timing;
    // Every callback is later than this.
    timing.late_ns = 0;
    rig.shared.set_timing(PEER, &timing);
    rig.kernel.arm(PEER, false).unwrap();
    assert_eq!(expect_doubted(&mut rig).cause, Cause::DoubtExhausted as u8);
}

#[test]
fn without_a_controller_the_watch_ends_until_it_is_armed_again() {
    let (mut rig, _) = Rig::acquainted();
    rig.set_timing(PEER, [5, 20, 30, 60]);
    rig.shared.stamp_controller(BootTime(1));
    rig.kernel.arm(PEER, true).unwrap();
    let event = expect(&mut rig, EventKind::Unwatched);
    assert_eq!(event.peer, PEER.0);
    assert_eq!(rig.peer().watched, 0);
    // A controller that comes back finds it asleep, until it arms it.
    rig.shared.stamp_controller(BootTime(u64::MAX));
    let asleep = rig.peer();
    pause(150);
    assert_eq!(rig.peer(), asleep);
    let before = clock::now().ns();
    rig.kernel.arm(PEER, true).unwrap();
    let event = expect(&mut rig, EventKind::Dead);
    assert_eq!(event.cause, Cause::NeverHeard as u8);
    assert!(event.at_ns >= before + 60 * MS);
}

#[test]
fn a_watch_armed_anew_gives_the_peer_one_deadtime() {
    let (mut rig, _) = Rig::acquainted();
    rig.set_timing(PEER, [5, 20, 100, 10]);
    pause(150);
    rig.kernel.arm(PEER, false).unwrap();
    let started = rig.peer().started_ns;
    expect(&mut rig, EventKind::Link);
    expect(&mut rig, EventKind::Late);
    let event = expect(&mut rig, EventKind::Dead);
    assert_eq!((event.cause, event.due_ns), (Cause::Silence as u8, started + 100 * MS));
}

#[test]
fn the_daemons_own_engine_comes_to_the_same_verdicts() {
    let mut rig = Rig::new();
    rig.set_timing(PEER, [5, 20, 30, 60]);
    let judge = rig.kernel.judge().unwrap();
    rig.kernel.watch(PEER, true).unwrap();
    let started = rig.peer().started_ns;
    let judge_until = |rig: &mut Rig, kind| loop {
        judge.judge(PEER).unwrap();
        if let Some(event) = rig.pending_event() {
            assert_eq!(event.kind, kind as u8);
            break event;
        }
        pause(1);
    };
    let event = judge_until(&mut rig, EventKind::Dead);
    assert_eq!((event.cause, event.due_ns), (Cause::NeverHeard as u8, started + 60 * MS));
    assert!(event.at_ns >= event.due_ns);
    revive(&rig, &mut Sender::new());
    expect(&mut rig, EventKind::Up);
    judge_until(&mut rig, EventKind::Missed);
    judge_until(&mut rig, EventKind::Late);
    let event = judge_until(&mut rig, EventKind::Dead);
    assert_eq!(event.cause, Cause::Silence as u8);
    assert_eq!(event.due_ns, rig.peer().last_arrival_ns + 30 * MS);
    // Nothing happens by itself.
    let idle = rig.peer();
    pause(50);
    assert_eq!(rig.peer(), idle);
    assert!(judge.judge(NodeId(0)).is_err());
    assert!(judge.judge(NodeId(65)).is_err());
}

#[test]
fn a_peer_without_timing_is_not_armed() {
    let mut rig = Rig::new();
    assert!(rig.kernel.arm(PEER, true).is_err());
    assert!(rig.kernel.watch(PEER, true).is_err());
    assert_eq!(rig.peer().watched, 0);
    assert!(rig.kernel.arm(NodeId(0), true).is_err());
    assert!(rig.kernel.arm(NodeId(65), true).is_err());
}
