use super::*;
use crate::{
    lease::{
        gate,
        holder::{self, SeekError, Taken},
        start,
        terms::tests::{AFTER, OTHER, terms as witnessed},
        voter::{Request, Verdict, request},
        word,
    },
    wire::Be64,
};

/// Node `own` of nodes 1 and 2.
fn terms(own: u8) -> Terms {
    let voters = [1, OTHER, 0, 0, 0];
    Terms { policy: Policy::Safe as u8, count: 2, own, voters, ..witnessed() }
}

fn fresh(generation: u32) -> Record {
    Record { recorded: Epoch::floor(generation).0, generation, ..Record::default() }
}

fn seeking() -> (Record, Terms, Epoch) {
    let (mut record, terms) = (fresh(1), terms(1));
    let epoch = holder::seek(&mut record, &terms, AFTER).unwrap();
    (record, terms, epoch)
}

/// Node 1, which holds without an end because node 2 was fenced.
fn alone() -> (Record, Terms, Epoch) {
    let (mut record, terms, epoch) = seeking();
    assert!(ask(&mut record, &terms));
    let confirmed = AFTER + 9 - terms.wait_ns();
    assert_eq!(report(&mut record, &terms, epoch, true, confirmed), Reported::Waits);
    assert_eq!(report(&mut record, &terms, epoch, true, AFTER + 10), Reported::Holds);
    (record, terms, epoch)
}

/// `from` says to `to`, whose terms are `terms`, what its record is.
fn tell(from: &Record, to: &mut Record, terms: &Terms, now: u64) {
    let speaker = self::terms(3 - terms.own);
    let mut said = GroupWord::default();
    word::speak(from, &speaker, true, now, &mut said);
    word::hear(to, terms, speaker.own, now, &said, now);
}

fn ask_for(epoch: Epoch) -> Request {
    Request { epoch, lease_ns: 200, transmit_ns: AFTER, holds: false }
}

#[test]
fn a_fence_opens_without_an_end_while_the_controller_lives() {
    let (record, _, epoch) = alone();
    assert_eq!(gate::open(&record, u64::MAX - 1), Some(epoch));
    assert!(gate::passes(gate::until(&record), AFTER, 10, AFTER + 10));
    assert!(!gate::passes(gate::until(&record), AFTER, 10, AFTER + 11));
}

#[test]
fn only_a_seeker_under_safe_asks_for_a_fence_and_only_once() {
    let (mut record, terms, _) = seeking();
    let mut idle = fresh(1);
    assert!(!ask(&mut idle, &terms));
    assert!(!ask(&mut record.clone(), &witnessed()));
    assert!(ask(&mut record, &terms));
    assert!(!ask(&mut record, &terms));
}

#[test]
fn nothing_is_promised_from_the_request_to_the_report() {
    let (mut record, terms, epoch) = seeking();
    let higher = epoch.next(OTHER).unwrap();
    assert!(ask(&mut record, &terms));
    assert_eq!(request(&mut record, &terms, OTHER, &ask_for(higher), AFTER), Verdict::Fencing);
    // Also after the seek was given up, and then no new one begins either.
    assert!(holder::give_up(&mut record, &terms, AFTER + terms.seek_ns));
    let later = AFTER + terms.seek_ns;
    assert_eq!(request(&mut record, &terms, OTHER, &ask_for(higher), later), Verdict::Fencing);
    assert_eq!(holder::seek(&mut record, &terms, later), Err(SeekError::Fencing));
    assert_eq!(report(&mut record, &terms, epoch, false, later), Reported::Dropped);
    assert_eq!(request(&mut record, &terms, OTHER, &ask_for(higher), later), Verdict::Promised);
}

#[test]
fn a_report_counts_once_and_in_its_epoch_only() {
    let (mut record, terms, epoch) = seeking();
    let after = AFTER + terms.wait_ns() + 1;
    let success = |record: &mut Record, epoch, now| report(record, &terms, epoch, true, now);
    assert_eq!(success(&mut record.clone(), epoch, AFTER), Reported::Dropped, "nobody asked");
    assert!(ask(&mut record, &terms));
    let mut failed = record;
    assert_eq!(report(&mut failed, &terms, epoch, false, AFTER), Reported::Dropped);
    assert_eq!(success(&mut failed, epoch, AFTER), Reported::Dropped, "it was reported already");
    let mut left = record;
    assert!(holder::give_up(&mut left, &terms, AFTER + terms.seek_ns));
    assert_eq!(success(&mut left, epoch, AFTER), Reported::Dropped);
    assert_eq!(left.state(), State::Idle);
    let mut other = record;
    assert_eq!(success(&mut other, epoch.next(1).unwrap(), AFTER), Reported::Dropped);
    assert_eq!(other.state(), State::Seeking);
    assert_eq!(success(&mut record, epoch, AFTER), Reported::Waits);
    assert_eq!(success(&mut record, epoch, after), Reported::Holds);
    assert_eq!(success(&mut record, epoch, after), Reported::Dropped);
}

#[test]
fn the_gate_opens_when_the_last_packets_of_a_fenced_node_have_left() {
    let (mut record, terms, epoch) = seeking();
    let higher = epoch.next(OTHER).unwrap();
    assert!(ask(&mut record, &terms));
    let confirmed = AFTER + 50;
    let last = confirmed + terms.wait_ns();
    for now in [confirmed, confirmed + 1, last] {
        assert_eq!(report(&mut record, &terms, epoch, true, now), Reported::Waits);
        assert_eq!(gate::open(&record, now), None);
        assert_eq!(request(&mut record, &terms, OTHER, &ask_for(higher), now), Verdict::Fencing);
    }
    let mut failed = record;
    assert_eq!(report(&mut failed, &terms, epoch, false, last), Reported::Dropped);
    assert_eq!(report(&mut failed, &terms, epoch, true, last + 1), Reported::Dropped);
    assert_eq!(report(&mut record, &terms, epoch, true, last + 1), Reported::Holds);
    assert_eq!(gate::open(&record, last + 1), Some(epoch));
}

#[test]
fn a_node_that_is_back_makes_the_lease_an_ordinary_one() {
    let (mut a, terms_a, epoch) = alone();
    let terms_b = terms(2);
    let mut b = fresh(1);
    let now = AFTER + 100;
    tell(&a, &mut b, &terms_b, now);
    assert_eq!((b.promised, b.is_bound(now)), (epoch.0, true));
    tell(&b, &mut a, &terms_a, now + 1);
    assert_eq!(a.lease_end_ns, now + terms_a.lease_ns);
    assert!(gate::open(&a, now + terms_a.lease_ns).is_none());
}

#[test]
fn a_promise_from_before_the_fence_does_not_end_the_endless_lease() {
    let (mut a, terms_a, epoch) = alone();
    let old = Promise { epoch, t0_ns: AFTER + 9, lease_ns: 200 };
    holder::promise(&mut a, &terms_a, OTHER, &old, AFTER + 11);
    assert!(a.is_endless());
    // Nor does one that would have run out.
    let spent = Promise { epoch, t0_ns: AFTER + 11, lease_ns: 200 };
    holder::promise(&mut a, &terms_a, OTHER, &spent, AFTER + 211);
    assert!(a.is_endless());
}

#[test]
fn a_node_that_leaves_is_not_missed_and_binds_itself_until_it_is_back() {
    let (mut a, terms_a, epoch) = alone();
    let terms_b = terms(2);
    let mut b = fresh(1);
    let mut now = AFTER + 100;
    tell(&a, &mut b, &terms_b, now);
    tell(&b, &mut a, &terms_a, now);
    assert!(!a.is_endless());

    now += 50;
    tell(&a, &mut b, &terms_b, now);
    assert!(vow(&mut b, &terms_b, now));
    tell(&b, &mut a, &terms_a, now + 1);
    assert!(a.is_endless());

    // B is back, without its record and out of touch: it neither seeks nor promises another epoch.
    let mut b = start::start(&terms_b, 2, now);
    assert!(rejoin(&mut b, &terms_b, epoch));
    now += 10_000_000;
    assert_eq!(holder::seek(&mut b, &terms_b, now), Err(SeekError::Bound));

    // It hears A, which takes a number that B can promise, and its promise.
    for _ in 0..3 {
        now += 1;
        tell(&b, &mut a, &terms_a, now);
        a.generation = 2;
        tell(&a, &mut b, &terms_b, now);
    }
    assert_eq!((b.vow(), a.is_endless()), (Vow::None, false));
    assert_eq!(b.promised, a.epoch);
    assert!(b.until_ns <= now + terms_b.promise_ns(terms_b.lease_ns));
    assert!(a.lease_end_ns < b.until_ns);
}

#[test]
fn only_who_is_bound_to_a_holder_can_vow() {
    let (mut record, terms, _) = seeking();
    assert!(!vow(&mut record, &terms, AFTER), "it seeks itself");
    assert!(!vow(&mut fresh(1), &terms, AFTER), "nobody was promised anything");
    let mut bound = Record { promised: 0x1_0000_0102, until_ns: AFTER + 1, ..fresh(1) };
    assert!(!vow(&mut bound.clone(), &witnessed(), AFTER));
    assert!(!vow(&mut bound.clone(), &terms, AFTER + 1), "the promise has run out");
    assert!(!vow(&mut Record { released: 1, ..bound }, &terms, AFTER));
    assert!(vow(&mut bound, &terms, AFTER));
}

#[test]
fn an_operator_may_end_the_vow_and_the_node_still_has_to_seek() {
    let terms = terms(2);
    let mut record = fresh(1);
    assert!(!absolve(&mut record, AFTER));
    assert!(rejoin(&mut record, &terms, Epoch(0x1_0000_0101)));
    assert!(absolve(&mut record, AFTER));
    assert_eq!((record.state(), gate::open(&record, AFTER)), (State::Idle, None));
    assert!(holder::seek(&mut record, &terms, AFTER).is_ok());
}

#[test]
fn a_release_ends_the_vow() {
    let terms = terms(2);
    let mut record = fresh(1);
    let epoch = Epoch(0x1_0000_0101);
    rejoin(&mut record, &terms, epoch);
    record.recorded = epoch.0;
    let released = GroupWord {
        state: State::Released as u8,
        epoch: Be64::new(epoch.0),
        ..GroupWord::default()
    };
    assert!(word::hear(&mut record, &terms, 1, AFTER, &released, AFTER).released);
    assert_eq!((record.vow(), record.until_ns), (Vow::None, AFTER + terms.drain_ns));
}

#[test]
fn a_holder_renumbers_itself_above_what_it_meets_and_its_gate_is_as_it_was() {
    let (mut a, terms_a, epoch) = alone();
    // Back from the fence, B promises nothing below its new generation.
    let terms_b = terms(2);
    let mut b = start::start(&terms_b, 2, 0);
    b.blocked_until_ns = 0;
    let now = AFTER + 100;
    tell(&a, &mut b, &terms_b, now);
    assert_eq!(b.promised, 0);
    tell(&b, &mut a, &terms_a, now);
    assert_eq!(a.epoch, epoch.0, "its generation is not on A's disk yet");
    assert!(start::generation_stored(&mut a, 2));
    tell(&b, &mut a, &terms_a, now);
    let asked = a.asks_for(now);
    assert!(asked.0 > b.recorded && asked.node() == 1);
    assert!(a.epoch == epoch.0 && a.is_endless(), "nobody has promised it");
    tell(&a, &mut b, &terms_b, now);
    assert_eq!(b.promised, asked.0);
    tell(&b, &mut a, &terms_a, now);
    assert_eq!((a.epoch, a.recorded, a.next), (asked.0, asked.0, 0));
    assert_eq!(gate::open(&a, now), Some(asked));
}

#[test]
fn a_clock_that_jumped_ends_no_endless_lease() {
    let (mut record, terms, epoch) = alone();
    start::clock_jumped(&mut record, &terms, AFTER + 500);
    assert_eq!(gate::open(&record, AFTER + 500), Some(epoch));
}

#[test]
fn an_old_promise_without_an_end_does_not_make_an_ordinary_lease_endless_again() {
    let (mut a, terms_a, epoch) = alone();
    let t0 = AFTER + 100;
    let ordinary = Promise { epoch, t0_ns: t0, lease_ns: 200 };
    holder::promise(&mut a, &terms_a, OTHER, &ordinary, t0 + 5);
    assert!(!a.is_endless());
    // Asked for before the lease turned.
    let old = Promise { epoch, t0_ns: t0 + 4, lease_ns: UNLIMITED };
    assert_eq!(holder::promise(&mut a, &terms_a, OTHER, &old, t0 + 6), Taken::Stale);
    assert!(!a.is_endless());
    let new = Promise { t0_ns: t0 + 5, ..old };
    assert_eq!(holder::promise(&mut a, &terms_a, OTHER, &new, t0 + 6), Taken::Extended);
    assert!(a.is_endless());
}

#[test]
fn a_daemon_that_is_back_says_no_more_that_its_promise_has_no_end() {
    let terms_b = terms(2);
    let (mut a, terms_a, epoch) = alone();
    let mut b = fresh(1);
    let now = AFTER + 100;
    tell(&a, &mut b, &terms_b, now);
    tell(&b, &mut a, &terms_a, now);
    assert!(vow(&mut b, &terms_b, now));
    assert!(rejoin(&mut b, &terms_b, Epoch::NONE));
    // A holds by the promise from before, which is no reason to count on the one without an end.
    tell(&b, &mut a, &terms_a, now);
    assert!(!a.is_endless());
    let mut counted = GroupWord::default();
    word::speak(&a, &terms_a, false, now, &mut counted);
    word::hear(&mut b, &terms_b, 1, now, &counted, now);
    assert_eq!((b.vow(), b.until_ns), (Vow::Joining, u64::MAX), "nothing was asked since");
    tell(&a, &mut b, &terms_b, now);
    assert_eq!((b.vow(), b.promised), (Vow::None, epoch.0));
    assert!(b.until_ns <= now + terms_b.promise_ns(terms_b.lease_ns));
}

#[test]
fn a_record_that_was_kept_knows_more_than_the_disk() {
    let terms = terms(2);
    let (old, new) = (Epoch(0x1_0000_0101), Epoch(0x1_0000_0201));
    let kept = Record { promised: new.0, recorded: new.0, until_ns: AFTER, ..fresh(1) };
    // The holder took a higher number after this node had left.
    let mut left = Record { vow: Vow::Given as u8, until_ns: u64::MAX, ..kept };
    assert!(rejoin(&mut left, &terms, old));
    assert_eq!((left.vow(), left.promised), (Vow::Joining, new.0));
    assert_eq!(request(&mut left, &terms, 1, &ask_for(new), AFTER), Verdict::Renewed);
    // The promise had an end again, and the disk did not say so yet.
    for stale in [old, new] {
        let mut joined = kept;
        assert!(!rejoin(&mut joined, &terms, stale));
        assert_eq!(joined, kept);
    }
}

#[test]
fn a_vow_from_the_disk_is_heard_of_and_nothing_higher_is_forgotten() {
    let terms = terms(2);
    let vowed = Epoch(0x1_0000_0201);
    for (recorded, after) in [(0x1_0000_0101, vowed.0), (0x1_0000_0302, 0x1_0000_0302)] {
        let mut record = Record { recorded, ..fresh(1) };
        assert!(rejoin(&mut record, &terms, vowed));
        assert_eq!((record.promised, record.recorded), (vowed.0, after));
    }
}

#[test]
fn only_the_holder_that_counts_limited_promises_ends_a_vow() {
    let terms = terms(2);
    let epoch = Epoch(0x1_0000_0101);
    let bound = Record {
        vow: Vow::Joining as u8,
        promised: epoch.0,
        promise_lease_ns: 5,
        until_ns: u64::MAX,
        ..fresh(1)
    };
    let counts = GroupWord {
        state: State::Holding as u8,
        epoch: Be64::new(epoch.0),
        holder: 1,
        ..GroupWord::default()
    };
    let ends = |record: &Record, source: u8, word: GroupWord| {
        let mut record = *record;
        join(&mut record, &terms, source, &word, AFTER);
        matches!(record.vow(), Vow::None)
    };
    assert!(ends(&bound, 1, counts));
    let later = Be64::new(0x1_0000_0201);
    assert!(!ends(&bound, 1, GroupWord { state: State::Released as u8, ..counts }));
    assert!(!ends(&bound, 1, GroupWord { state: State::Seeking as u8, ..counts }));
    assert!(!ends(&bound, 1, GroupWord { epoch: later, ..counts }), "another epoch");
    assert!(!ends(&bound, 2, GroupWord { holder: 2, ..counts }), "a node that does not hold it");
    assert!(!ends(&bound, 1, GroupWord { holder: 0, ..counts }), "it counts nothing yet");
    assert!(!ends(&Record { promise_lease_ns: 0, ..bound }, 1, counts), "nothing was asked for");
    assert!(!ends(&Record { vow: Vow::Given as u8, ..bound }, 1, counts), "this node leaves");
}
