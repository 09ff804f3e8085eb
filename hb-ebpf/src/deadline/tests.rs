use super::*;
use crate::maps::Timing;
use proptest::prelude::*;
use std::vec::Vec;
use zerocopy::FromZeros;

const MS: u64 = 1_000_000;
/// When the watch began.
const START: u64 = 1_000_000 * MS;

const TIMING: Timing = Timing {
    interval_ns: 10 * MS,
    warn_ns: 30 * MS,
    dead_ns: 50 * MS,
    init_dead_ns: 500 * MS,
    doubt_max_ns: 100 * MS,
    late_ns: 2 * MS,
};

/// A peer last heard at `START + heard`, looked at on time while probes leave on time.
fn peer(life: Life, heard: u64, now: u64) -> Peer {
    Peer {
        timing: TIMING,
        life: life as u8,
        watched: 1,
        started_ns: START,
        last_arrival_ns: START + heard,
        probe_ns: now,
        due_ns: now,
        ..Peer::new_zeroed()
    }
}

/// What silence of `silence_ms` brings to a peer that is otherwise well.
fn silent(life: Life, silence_ms: u64) -> Decision {
    let now = START + MS + silence_ms * MS;
    decide(&peer(life, MS, now), Others::None, now)
}

#[test]
fn silence_makes_late_and_then_dead() {
    // A miss is counted half an interval after the interval ended: at 15, 25, 35 and 45 ms.
    for (silence, life, misses) in [
        (0, Life::Alive, 0),
        (14, Life::Alive, 0),
        (15, Life::Alive, 1),
        (20, Life::Alive, 1),
        (25, Life::Alive, 2),
        (29, Life::Alive, 2),
        (30, Life::Late, 2),
        (35, Life::Late, 3),
        (49, Life::Late, 4),
        (50, Life::Dead, 5),
        (400, Life::Dead, 40),
    ] {
        let decision = silent(Life::Alive, silence);
        assert_eq!((decision.life, decision.misses), (life, misses), "{silence} ms");
        assert_eq!(decision.new_misses, misses, "{silence} ms");
        assert_eq!(decision.silence_ns, silence * MS);
        assert_eq!(decision.verdict_due_ns, START + MS + 50 * MS);
        let cause = if life == Life::Dead { Cause::Silence } else { Cause::None };
        assert_eq!(decision.cause, cause, "{silence} ms");
    }
}

#[test]
fn a_stall_just_before_the_verdict_is_our_own() {
    // The tick due at 45 ms of silence comes 4 ms late: what arrived meanwhile is not taken in yet.
    let base = START + MS;
    let mut peer = peer(Life::Late, MS, base + 45 * MS);
    let stalled = decide(&peer, Others::None, base + 49 * MS);
    assert_eq!((stalled.life, stalled.due_ns), (Life::Late, base + 50 * MS));
    peer.doubt_since_ns = stalled.doubt_since_ns;
    peer.due_ns = stalled.due_ns;
    peer.probe_ns = stalled.due_ns;
    let doubted = decide(&peer, Others::None, base + 50 * MS);
    assert_eq!((doubted.life, doubted.due_ns), (Life::Late, base + 59 * MS));
    peer.due_ns = doubted.due_ns;
    peer.probe_ns = doubted.due_ns;
    let decided = decide(&peer, Others::None, base + 59 * MS);
    assert_eq!((decided.life, decided.cause), (Life::Dead, Cause::Silence));
}

#[test]
fn wakes_for_the_next_thing_that_can_happen() {
    let base = START + MS;
    for (silence, next) in [(0, 5), (5, 15), (14, 15), (15, 25), (25, 30), (30, 35), (45, 50)] {
        assert_eq!(silent(Life::Alive, silence).due_ns, base + next * MS, "after {silence} ms");
    }
}

#[test]
fn a_peer_never_heard_has_initdead() {
    let unheard = |now: u64| {
        decide(&Peer { last_arrival_ns: 0, ..peer(Life::Unheard, 0, now) }, Others::None, now)
    };
    let decision = unheard(START + 499 * MS);
    assert_eq!((decision.life, decision.misses), (Life::Unheard, 0));
    assert_eq!(decision.due_ns, START + 500 * MS);
    let decision = unheard(START + 500 * MS);
    assert_eq!((decision.life, decision.cause), (Life::Dead, Cause::NeverHeard));
}

/// An arrival makes the peer alive without waking the timer, which therefore may not sleep past
/// the deadtime that begins with it.
#[test]
fn the_timer_of_an_unheard_peer_does_not_sleep_until_initdead() {
    let now = START + 10 * MS;
    assert!(decide(&peer(Life::Unheard, 0, now), Others::None, now).due_ns <= now + 10 * MS);
}

#[test]
fn a_watch_begun_anew_gives_one_deadtime() {
    let now = START + 49 * MS;
    let before = Peer { last_arrival_ns: START - 900 * MS, ..peer(Life::Alive, 0, now) };
    assert_eq!(decide(&before, Others::None, now).life, Life::Late);
    let now = START + 50 * MS;
    let before = Peer { probe_ns: now, due_ns: now, ..before };
    assert_eq!(decide(&before, Others::None, now).cause, Cause::Silence);
}

#[test]
fn each_doubt_puts_the_verdict_off_until_it_is_exhausted() {
    let now = START + 51 * MS;
    let sound = peer(Life::Late, MS, now);
    let doubtful = [
        ("late callback", Peer { due_ns: now - 2 * MS - 1, ..sound }, Others::None),
        ("no probe left", Peer { probe_ns: now - 20 * MS - 1, ..sound }, Others::None),
        ("no probe ever left", Peer { probe_ns: 0, ..sound }, Others::Fresh),
        ("others overdue too", sound, Others::Overdue),
    ];
    for (doubt, peer, others) in doubtful {
        let first = decide(&peer, others, now);
        assert_eq!((first.life, first.cause), (Life::Late, Cause::None), "{doubt}");
        assert_eq!(first.doubt_since_ns, now, "{doubt}");
        assert!(first.new_doubts >= 1, "{doubt}");
        assert_eq!(first.due_ns, now + 10 * MS, "{doubt}");
        // Still in doubt when the bound is reached.
        let end = now + 100 * MS;
        let shift = |at: u64| if at == 0 { 0 } else { at + (end - 1 - now) };
        let held = Peer {
            doubt_since_ns: now,
            due_ns: shift(peer.due_ns),
            probe_ns: shift(peer.probe_ns),
            ..peer
        };
        let last = decide(&held, others, end - 1);
        assert_eq!((last.life, last.due_ns), (Life::Late, end), "{doubt}");
        let over = Peer { due_ns: held.due_ns + 1, probe_ns: held.probe_ns + 1, ..held };
        let verdict = decide(&over, others, end);
        assert_eq!((verdict.life, verdict.doubt_since_ns), (Life::Dead, 0), "{doubt}");
        assert_eq!(verdict.cause, Cause::DoubtExhausted, "{doubt}");
    }
    // At the thresholds there is no doubt.
    let edge = Peer { due_ns: now - 2 * MS, probe_ns: now - 20 * MS, ..sound };
    assert_eq!(decide(&edge, Others::Fresh, now).cause, Cause::Silence);
}

#[test]
fn doubt_that_is_dispelled_leaves_plain_silence() {
    let now = START + 61 * MS;
    let peer = Peer { doubt_since_ns: now - 10 * MS, ..peer(Life::Late, MS, now) };
    assert_eq!(decide(&peer, Others::None, now).cause, Cause::Silence);
}

#[test]
fn intervals_without_a_probe_are_doubts_and_not_misses() {
    let now = START + 36 * MS;
    let peer = Peer { probe_ns: now - 21 * MS, ..peer(Life::Alive, MS, now) };
    let decision = decide(&peer, Others::None, now);
    assert_eq!((decision.new_misses, decision.new_doubts, decision.misses), (0, 3, 3));
}

#[test]
fn the_dead_stay_dead_and_are_looked_at() {
    let decision = silent(Life::Dead, 4_000);
    assert_eq!((decision.life, decision.cause), (Life::Dead, Cause::None));
    assert_eq!((decision.new_misses, decision.new_doubts), (0, 0));
    assert_eq!(decision.due_ns, START + 4_011 * MS);
}

/// What the kernel half writes back.
fn apply(peer: &mut Peer, decision: &Decision) {
    peer.life = decision.life as u8;
    peer.misses = decision.misses;
    peer.misses_total += u64::from(decision.new_misses);
    peer.doubts_total += u64::from(decision.new_doubts);
    peer.doubt_since_ns = decision.doubt_since_ns;
    peer.due_ns = decision.due_ns;
}

/// A timer that is `late[n % len]` late each time, and the arrivals at the given instants; probes
/// leave on time. Returns when each new life began, up to death or `end`.
fn simulate(
    timing: Timing,
    arrivals: &[u64],
    late: &[u64],
    end: u64,
) -> (Peer, Vec<(u64, Decision)>) {
    let mut peer = Peer { timing, last_arrival_ns: 0, ..peer(Life::Unheard, 0, START) };
    peer.due_ns = START + timing.interval_ns;
    let mut changes = Vec::new();
    let mut arrivals = arrivals.iter().copied().peekable();
    for round in 0.. {
        let now = peer.due_ns + late[round % late.len()];
        while let Some(at) = arrivals.next_if(|at| *at <= now) {
            peer.life = Life::Alive as u8;
            peer.last_arrival_ns = at;
            peer.misses = 0;
            peer.doubt_since_ns = 0;
        }
        if now > end {
            break;
        }
        peer.probe_ns = now - now % timing.interval_ns;
        let before = peer.life;
        let decision = decide(&peer, Others::None, now);
        assert!(decision.due_ns > now, "asleep for no time at {now}");
        apply(&mut peer, &decision);
        if peer.life != before {
            changes.push((now, decision));
        }
        if decision.life == Life::Dead {
            break;
        }
    }
    (peer, changes)
}

#[test]
fn a_peer_that_dies_within_initdead_gets_its_verdict_in_deadtime() {
    let arrivals = [START + 25 * MS, START + 35 * MS];
    let (peer, changes) = simulate(TIMING, &arrivals, &[0], START + 1_000 * MS);
    let lives: Vec<_> = changes.iter().map(|(at, decision)| (at - START, decision.life)).collect();
    assert_eq!(lives, [(65 * MS, Life::Late), (85 * MS, Life::Dead)]);
    assert_eq!((peer.misses_total, peer.doubts_total), (5, 0));
}

fn timings() -> impl Strategy<Value = Timing> {
    (1u64..2_000, 2u64..6, 1u64..6, 1u64..20).prop_map(|(interval, warn, dead, doubt)| {
        let interval_ns = interval * 50_000;
        Timing {
            interval_ns,
            warn_ns: warn * interval_ns,
            dead_ns: (warn + dead) * interval_ns,
            init_dead_ns: 40 * interval_ns,
            doubt_max_ns: doubt * interval_ns / 2,
            late_ns: interval_ns,
        }
    })
}

proptest! {
    #[test]
    fn heard_in_every_interval_means_neither_late_nor_dead_nor_missed(
        timing in timings(),
        jitter in prop::collection::vec(0.0f64..0.49, 40..80),
        late in prop::collection::vec(0.0f64..0.9, 1..9),
    ) {
        let interval = timing.interval_ns;
        let part = |share: f64| (interval as f64 * share) as u64;
        let arrivals: Vec<u64> = jitter.iter().enumerate()
            .map(|(n, share)| START + (n as u64 + 1) * interval + part(*share))
            .collect();
        let late: Vec<u64> = late.iter().map(|share| part(*share)).collect();
        let (peer, changes) = simulate(timing, &arrivals, &late, arrivals[arrivals.len() - 1]);
        prop_assert!(changes.is_empty(), "{:?}", changes);
        prop_assert_eq!((peer.misses_total, peer.doubts_total), (0, 0));
    }

    #[test]
    fn each_lost_interval_is_one_miss(timing in timings(), lost in 1u64..6, times in 1u64..6) {
        let interval = timing.interval_ns;
        prop_assume!((lost + 1) * interval < timing.dead_ns);
        let arrivals: Vec<u64> =
            (1..=times + 1).map(|n| START + n * (lost + 1) * interval).collect();
        let (peer, changes) = simulate(timing, &arrivals, &[0], arrivals[arrivals.len() - 1]);
        prop_assert_eq!(peer.misses_total, times * lost);
        prop_assert!(changes.iter().all(|(_, decision)| decision.life != Life::Dead));
    }

    #[test]
    fn the_verdict_is_never_early_and_late_by_no_more_than_doubt_allows(
        timing in timings(),
        gaps in prop::collection::vec(0.01f64..1.9, 1..40),
        late in prop::collection::vec(0.0f64..3.0, 1..9),
    ) {
        let mut at = START;
        let arrivals: Vec<u64> = gaps.iter().map(|gap| {
            at += (timing.interval_ns as f64 * gap) as u64;
            at
        }).collect();
        let late: Vec<u64> =
            late.iter().map(|share| (timing.interval_ns as f64 * share) as u64).collect();
        let latest = late.iter().copied().max().unwrap_or(0);
        let (_, changes) = simulate(timing, &arrivals, &late, u64::MAX >> 1);
        let (verdict, decision) = changes[changes.len() - 1];
        prop_assert_eq!(decision.life, Life::Dead);
        prop_assert!(verdict - at >= timing.dead_ns);
        let bound = timing.dead_ns + timing.doubt_max_ns + 2 * latest;
        prop_assert!(verdict - at <= bound, "{} over {}", verdict - at, bound);
        prop_assert_eq!(decision.silence_ns, verdict - at);
        prop_assert_eq!(decision.verdict_due_ns, at + timing.dead_ns);
    }

    /// Also with a timing that makes no sense: nothing panics, and the timer never fires again at
    /// once unless the watch is at its end.
    #[test]
    fn no_value_overflows_and_a_second_look_adds_nothing(
        numbers in prop::array::uniform12(prop_oneof![
            Just(0u64), Just(1), Just(u64::MAX), Just(u64::MAX / 2), any::<u64>(), START..START * 2,
        ]),
        misses: u32,
        life in 0u8..5,
        others in prop::sample::select(std::vec![Others::None, Others::Fresh, Others::Overdue]),
    ) {
        let [interval, warn, dead, init, doubt, late, probe, started, last, due, since, now] = numbers;
        let timing = Timing {
            interval_ns: interval, warn_ns: warn, dead_ns: dead, init_dead_ns: init,
            doubt_max_ns: doubt, late_ns: late,
        };
        let mut peer = Peer {
            timing, probe_ns: probe, started_ns: started, last_arrival_ns: last, due_ns: due,
            doubt_since_ns: since, life, misses, ..Peer::new_zeroed()
        };
        let first = decide(&peer, others, now);
        prop_assert!(first.misses >= misses, "misses only grow between arrivals");
        prop_assert!(first.due_ns > now || now == u64::MAX || first.due_ns == u64::MAX);
        prop_assert_eq!(decide(&peer, others, now), first, "pure");
        apply(&mut peer, &first);
        let second = decide(&peer, others, now);
        prop_assert_eq!(second.new_misses, 0);
        prop_assert_eq!(second.misses, first.misses);
        if first.life == Life::Dead {
            prop_assert_eq!((second.life, second.cause), (Life::Dead, Cause::None));
        }
    }
}
