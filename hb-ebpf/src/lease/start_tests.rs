use proptest::prelude::*;

use super::*;
use crate::lease::{
    gate,
    holder::{self, Promise},
    op::{self, Op, Order},
    terms::tests::{AFTER, OTHER, WITNESS, terms},
    voter::{self, Request, Verdict},
};

#[test]
fn begins_at_the_floor_of_its_generation() {
    let record = start(&terms(), 4, AFTER);
    assert_eq!(record.recorded, Epoch::floor(4).0);
    assert_eq!(record.generation, 4);
    assert!(record.is_blocked(AFTER));
    assert_eq!(record.state(), State::Idle);
}

#[test]
fn epochs_of_an_earlier_life_are_low() {
    let terms = terms();
    let mut record = start(&terms, 2, AFTER);
    let now = record.blocked_until_ns;
    let old = Epoch(Epoch::floor(1).0 | 0xffff_ff00 | u64::from(OTHER));
    let wish = Request { epoch: old, lease_ns: 100, transmit_ns: 1, holds: false };
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, now), Verdict::Low);
}

#[test]
fn a_learner_hears_and_takes_no_part() {
    let terms = terms();
    let mut record = start_as_learner();
    let epoch = Epoch::floor(6).next(OTHER).unwrap();
    record.note(epoch);
    let wish = Request { epoch, lease_ns: 100, transmit_ns: 1, holds: false };
    let far = u64::MAX - 1;
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, far), Verdict::Blocked);
    assert_eq!(holder::seek(&mut record, &terms, far), Err(holder::SeekError::Blocked));
    clock_jumped(&mut record, &terms, AFTER);
    assert!(record.is_blocked(far));
    assert_eq!(learned_generation(&record), Some(7));
    record.heard = u64::MAX;
    assert_eq!(learned_generation(&record), None);
}

#[test]
fn a_generation_only_grows() {
    let mut record = start(&terms(), 4, AFTER);
    assert_eq!(generation_wanted(&record), None);
    record.heard = Epoch::floor(6).0;
    assert_eq!(generation_wanted(&record), Some(6));
    assert!(!generation_stored(&mut record, 4));
    assert!(generation_stored(&mut record, 6));
    assert_eq!(generation_wanted(&record), None);
}

/// A jump of either sign: `after` is what the clock reads then.
fn jump(record: &mut Record, after: u64) {
    let terms = terms();
    clock_jumped(record, &terms, after);
    let end = after + terms.amnesia_ns();
    for now in [after, end - 1] {
        assert_eq!(gate::open(record, now), None);
        assert_eq!(holder::seek(record, &terms, now), Err(holder::SeekError::Blocked));
    }
    assert!(!record.is_blocked(end));
    assert!(!record.is_bound(end));
}

#[test]
fn a_jump_closes_the_gate_and_restarts_promises() {
    let terms = terms();
    for after in [AFTER / 2, AFTER, AFTER * 9] {
        let mut record = Record { generation: 1, ..Record::default() };
        let epoch = Epoch::floor(1).next(OTHER).unwrap();
        let wish = Request { epoch, lease_ns: 100, transmit_ns: 1, holds: false };
        voter::request(&mut record, &terms, OTHER, &wish, AFTER);
        jump(&mut record, after);
        assert!(record.is_bound(after + terms.amnesia_ns() - 1));

        let mut record = Record { generation: 1, ..Record::default() };
        let epoch = holder::seek(&mut record, &terms, AFTER).unwrap();
        let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
        holder::promise(&mut record, &terms, WITNESS, &given, AFTER);
        jump(&mut record, after);
        assert!(record.may_still_send(&terms, after));
        assert_eq!(record.unclean, 1);

        let mut record = Record { generation: 1, ..Record::default() };
        holder::seek(&mut record, &terms, AFTER).unwrap();
        jump(&mut record, after);
        assert_eq!(record.state(), State::Idle);
    }
}

#[test]
fn other_terms_shorten_no_wait() {
    let long = terms();
    let short = Terms { longest_lease_ns: 100, margin_ns: 1, ..long };
    let promised = Record { promised: 0x102, until_ns: AFTER + 5, ..Record::default() };
    let end = AFTER + long.amnesia_ns();
    for order in [[&long, &short], [&short, &long]] {
        let mut record = promised;
        for (later, terms) in order.into_iter().enumerate() {
            terms_changed(&mut record, terms, AFTER + later as u64);
        }
        let end = end.max(if order[1] == &long { end + 1 } else { end });
        assert_eq!((record.until_ns, record.blocked_until_ns), (end, end));
        // Nor does a second change soon after.
        terms_changed(&mut record, &short, AFTER + 2);
        assert_eq!((record.until_ns, record.blocked_until_ns), (end, end));
    }
}

#[test]
fn a_peer_that_stood_still_lengthens_what_was_promised_and_closes_no_gate() {
    let terms = terms();
    let mut record = Record { promised: 0x102, until_ns: AFTER + 5, ..Record::default() };
    other_clock_jumped(&mut record, &terms, AFTER);
    assert_eq!(record.until_ns, AFTER + terms.amnesia_ns());
    let mut free = Record { promised: 0x102, until_ns: AFTER, ..Record::default() };
    let before = free;
    other_clock_jumped(&mut free, &terms, AFTER);
    assert_eq!(free, before, "it had run out");
    let mut holder = Record {
        state: State::Holding as u8,
        epoch: 0x101,
        lease_end_ns: AFTER + 5,
        ..Record::default()
    };
    let before = holder;
    other_clock_jumped(&mut holder, &terms, AFTER);
    assert_eq!(holder, before);
}

#[test]
fn who_parts_takes_no_part_any_more_and_tells_until_when_it_is_bound() {
    let terms = terms();
    let mut record = Record { recorded: Epoch::floor(1).0, generation: 2, ..Record::default() };
    let epoch = Epoch::floor(1).next(OTHER).unwrap();
    let wish = Request { epoch, lease_ns: 100, transmit_ns: 1, holds: false };
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, AFTER), Verdict::Promised);
    let bound = record.until_ns;
    assert_eq!(part(&mut record, &terms, AFTER + 1), Some(bound));
    let later = Request { transmit_ns: 2, ..wish };
    assert_eq!(voter::request(&mut record, &terms, OTHER, &later, AFTER + 2), Verdict::Blocked);
    assert_eq!(holder::seek(&mut record, &terms, bound), Err(holder::SeekError::Blocked));
    assert_eq!(part(&mut record, &terms, AFTER + 3), None, "a second time");
    assert_eq!(record.until_ns, bound);
}

#[test]
fn a_part_has_no_end_that_is_known_while_there_is_something_to_lose() {
    let terms = terms();
    let epoch = Epoch::floor(1).next(OTHER).unwrap().0;
    for record in [
        start_as_learner(),
        Record { state: State::Seeking as u8, epoch, ..Record::default() },
        Record { state: State::Holding as u8, epoch, lease_end_ns: AFTER, ..Record::default() },
    ] {
        let mut parted = record;
        assert_eq!(part(&mut parted, &terms, AFTER), None);
        assert_eq!(parted, record);
    }
}

#[test]
fn a_start_waits_for_no_longer_than_it_has_to() {
    let terms = terms();
    let blocked = |known| {
        let mut record = Record::default();
        let mut order = Order { generation: 4, now_ns: known, ..Order::new(Op::Start, 0) };
        op::apply(&mut order, &mut record, &terms, AFTER);
        assert_eq!(order.now_ns, AFTER);
        record.blocked_until_ns
    };
    let longest = AFTER + terms.amnesia_ns();
    assert_eq!(blocked(0), longest);
    assert_eq!(blocked(AFTER + 5), AFTER + 5);
    assert_eq!(blocked(AFTER - 5), AFTER - 5);
    assert_eq!(blocked(u64::MAX), longest);
}

proptest! {
    /// From the instant that a parting tells, the record would hinder nobody if it were still there,
    /// so whoever starts without it then does nothing that it would have forbidden.
    #[test]
    fn nothing_of_a_record_matters_after_its_part(
        state in prop_oneof![Just(State::Idle), Just(State::Released)],
        ends in prop::array::uniform3(prop_oneof![Just(0), AFTER - 500..AFTER + 500]),
        vow: bool,
    ) {
        let terms = terms();
        let [blocked_until_ns, until_ns, open_until_ns] = ends;
        let before = Record {
            state: state as u8,
            blocked_until_ns,
            until_ns: if vow { u64::MAX } else { until_ns },
            vow: u8::from(vow),
            open_until_ns,
            ..Record::default()
        };
        let mut record = before;
        let end = part(&mut record, &terms, AFTER).unwrap();
        prop_assert!(end >= AFTER);
        prop_assert!(!before.is_blocked(end) && !before.may_still_send(&terms, end));
        prop_assert!(vow || !before.is_bound(end));
        let soon = end == AFTER;
        let last = end - 1;
        prop_assert!(
            soon || before.is_blocked(last) || before.may_still_send(&terms, last)
                || (!vow && before.is_bound(last)),
            "no longer than needed"
        );
    }
}
