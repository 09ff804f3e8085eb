use super::*;
use crate::lease::{
    holder::seek,
    terms::tests::{AFTER, OTHER, WITNESS, terms},
};
use proptest::prelude::*;
use zerocopy::FromBytes;

fn fresh() -> Record {
    Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() }
}

fn of(own: u8) -> Terms {
    Terms { own, witness: u8::from(own == WITNESS), ..terms() }
}

fn said(record: &Record, terms: &Terms, now: u64) -> GroupWord {
    let mut word = GroupWord::default();
    speak(record, terms, true, now, &mut word);
    word
}

/// Three machines whose clocks are far apart and run alike.
#[test]
fn request_promise_hold_release_and_hand_over() {
    let (one, two, witness) = (terms(), of(OTHER), of(WITNESS));
    let (mut a, mut b, mut w) = (fresh(), fresh(), fresh());
    let w_clock = |now: u64| now + 5_000_000;
    let b_clock = |now: u64| now + 70_000;
    let epoch = seek(&mut a, &one, AFTER).unwrap();

    let heard = hear(&mut w, &witness, one.own, AFTER, &said(&a, &one, AFTER), w_clock(AFTER + 3));
    assert_eq!(heard.request, Some(Verdict::Promised));
    let promised = said(&w, &witness, w_clock(AFTER + 4));
    assert_eq!(promised.promise_t0_ns.get(), AFTER);
    assert_eq!(promised.holder, one.own);
    // Another machine learns from it which epoch there is, and nothing else.
    let heard = hear(&mut b, &two, WITNESS, 1, &promised, b_clock(AFTER + 5));
    assert_eq!(heard.promise, Some(Taken::Other));
    assert_eq!(b.heard, epoch.0);

    let heard = hear(&mut a, &one, WITNESS, 1, &promised, AFTER + 6);
    assert_eq!(heard.promise, Some(Taken::Won));
    assert_eq!(gate::open(&a, AFTER + 7), Some(epoch));
    assert_eq!(said(&a, &one, AFTER + 7).holder, one.own);

    holder::release(&mut a, &one, OTHER, AFTER + 10).unwrap();
    let farewell = said(&a, &one, AFTER + 10);
    assert_eq!((farewell.state(), farewell.successor), (State::Released, OTHER));
    assert_eq!(farewell.lease_ns.get(), 0);
    for (record, terms, now) in
        [(&mut b, &two, b_clock(AFTER + 11)), (&mut w, &witness, w_clock(AFTER + 11))]
    {
        assert!(hear(record, terms, one.own, AFTER + 10, &farewell, now).released);
        assert!(!hear(record, terms, one.own, AFTER + 10, &farewell, now).released);
    }

    let next = seek(&mut b, &two, b_clock(AFTER + 12)).unwrap();
    assert!(next > epoch);
    let wish = said(&b, &two, b_clock(AFTER + 12));
    let early = w_clock(AFTER + 11 + terms().drain_ns);
    let heard = hear(&mut w, &witness, OTHER, b_clock(AFTER + 12), &wish, early - 1);
    assert_eq!(heard.request, Some(Verdict::Bound));
    let heard = hear(&mut w, &witness, OTHER, b_clock(AFTER + 12), &wish, early);
    assert_eq!(heard.request, Some(Verdict::Promised));
    let now = b_clock(AFTER + 12) + terms().drain_ns;
    let heard = hear(&mut b, &two, WITNESS, 2, &said(&w, &witness, early), now);
    assert_eq!(heard.promise, Some(Taken::Won));
}

#[test]
fn a_dead_controller_asks_for_nothing() {
    let (mut a, one) = (fresh(), terms());
    seek(&mut a, &one, AFTER).unwrap();
    let mut word = GroupWord::default();
    speak(&a, &one, false, AFTER, &mut word);
    assert_eq!(word.lease_ns.get(), 0);
    let mut w = fresh();
    let heard = hear(&mut w, &of(WITNESS), one.own, AFTER, &word, AFTER);
    assert_eq!(heard.request, None);
    assert_eq!(w.promised, 0);
}

#[test]
fn a_voter_without_record_tells_of_its_floor() {
    let one = terms();
    let w = crate::lease::start::start(&of(WITNESS), 9, AFTER);
    let mut a = fresh();
    hear(&mut a, &one, WITNESS, AFTER, &said(&w, &of(WITNESS), AFTER), AFTER);
    assert_eq!(a.highest(), Epoch::floor(9));
}

fn record() -> impl Strategy<Value = Record> {
    prop::collection::vec(any::<u8>(), size_of::<Record>())
        .prop_map(|bytes| Record::read_from_bytes(&bytes).unwrap())
}

proptest! {
    /// Any bytes as record and word: no panic, and an open gate needs a holder's record.
    #[test]
    fn takes_anything(
        mut record in record(), bytes in prop::collection::vec(any::<u8>(), 40),
        source: u8, transmit_ns: u64, now: u64, count in 0u8..=9, rho: u32,
    ) {
        let word = GroupWord::read_from_bytes(&bytes).unwrap();
        let terms = Terms { count, rho, ..terms() };
        record.fingerprint = word.fingerprint.get();
        let before = record;
        hear(&mut record, &terms, source, transmit_ns, &word, now);
        prop_assert!(record.recorded >= before.recorded);
        prop_assert!(record.heard >= before.heard);
        if gate::open(&record, now).is_some() && gate::open(&before, now).is_none() {
            let promised = word.promise_epoch.get();
            prop_assert!(before.epoch <= promised && promised <= record.epoch);
        }
        let _answer = said(&record, &terms, now);
        holder::give_up(&mut record, &terms, now);
        holder::step_down(&mut record, now);
        let _epoch = holder::release(&mut record, &terms, source, now);
        let _sought = seek(&mut record, &terms, now);
        crate::lease::start::clock_jumped(&mut record, &terms, now);
        prop_assert_eq!(gate::open(&record, now), None);
    }

    /// `health` belongs to somebody else.
    #[test]
    fn speaks_of_leases_only(record in record(), health: u8, now: u64) {
        let mut word = GroupWord { health, ..GroupWord::default() };
        speak(&record, &terms(), true, now, &mut word);
        prop_assert_eq!(word.health, health);
    }
}

#[test]
fn an_old_release_hands_nothing_over() {
    let terms = terms();
    let released = Epoch(0x1_0000_0100 | u64::from(OTHER));
    let word = GroupWord {
        state: State::Released as u8,
        successor: terms.own,
        epoch: Be64::new(released.0),
        ..GroupWord::default()
    };
    let heard = Record { heard: released.0, ..Record::default() };
    assert!(hands_over(&heard, &terms, &word));
    let newer = Record { epoch: released.next(terms.own).unwrap().0, ..heard };
    assert!(!hands_over(&newer, &terms, &word));
    // Started under the hold that is released now, and told so of others' starts.
    let floor = Record { recorded: Epoch::floor(3).0, heard_generation: 4, ..heard };
    assert!(floor.highest() > released && hands_over(&floor, &terms, &word));
    assert!(!hands_over(&heard, &terms, &GroupWord { successor: OTHER, ..word }));
    assert!(!hands_over(&heard, &terms, &GroupWord { state: State::Idle as u8, ..word }));
}

#[test]
fn what_something_newer_overtook_is_given_to_nobody() {
    let terms = terms();
    let epoch = Epoch(0x1_0000_0101);
    let released = Record {
        epoch: epoch.0,
        recorded: epoch.0,
        successor: OTHER,
        state: State::Released as u8,
        ..fresh()
    };
    assert_eq!(said(&released, &terms, AFTER).successor, OTHER);
    let floor = Record { heard_generation: 7, ..released };
    assert_eq!(said(&floor, &terms, AFTER).successor, OTHER);
    let taken = Record { heard: epoch.next(OTHER).unwrap().0, ..released };
    assert_eq!(said(&taken, &terms, AFTER).successor, 0);
}
