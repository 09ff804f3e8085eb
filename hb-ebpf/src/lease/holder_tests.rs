use super::*;
use crate::lease::{
    start::start,
    terms::tests::{AFTER, OTHER, WITNESS, terms},
};
use proptest::prelude::*;

fn fresh() -> Record {
    Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() }
}

fn seeking() -> (Record, Terms, Epoch) {
    let (mut record, terms) = (fresh(), terms());
    let epoch = seek(&mut record, &terms, AFTER).unwrap();
    (record, terms, epoch)
}

#[test]
fn seeks_above_everything_known() {
    for field in 0..3 {
        let (mut record, terms) = (fresh(), terms());
        let known = Epoch::floor(1).next(OTHER).unwrap().next(OTHER).unwrap();
        match field {
            0 => record.heard = known.0,
            1 => record.recorded = known.0,
            _ => record.epoch = known.0,
        }
        assert_eq!(seek(&mut record, &terms, AFTER), Ok(known.next(terms.own).unwrap()));
    }
}

#[test]
fn seeks_only_with_its_own_vote_free() {
    let terms = terms();
    let refused = |change: &dyn Fn(&mut Record), error| {
        let mut record = fresh();
        change(&mut record);
        let before = record;
        assert_eq!(seek(&mut record, &terms, AFTER), Err(error));
        assert_eq!(record, before);
    };
    refused(&|record| record.until_ns = AFTER + 1, SeekError::Bound);
    refused(&|record| record.blocked_until_ns = AFTER + 1, SeekError::Blocked);
    refused(&|record| record.unclean = 1, SeekError::Unclean);
    refused(&|record| record.state = State::Seeking as u8, SeekError::Busy);
    refused(&|record| record.state = State::Holding as u8, SeekError::Busy);
    refused(&|record| record.heard = Epoch::floor(2).0, SeekError::Generation);
    refused(
        &|record| {
            record.heard = u64::MAX;
            record.generation = u32::MAX;
        },
        SeekError::Exhausted,
    );
    let witness = Terms { witness: 1, ..terms };
    assert_eq!(seek(&mut fresh(), &witness, AFTER), Err(SeekError::Witness));
    let mut free = fresh();
    free.until_ns = AFTER;
    assert!(seek(&mut free, &terms, AFTER).is_ok());
}

#[test]
fn gives_up_after_a_while() {
    let (mut record, terms, epoch) = seeking();
    assert!(!give_up(&mut record, &terms, AFTER + terms.seek_ns - 1));
    assert!(give_up(&mut record, &terms, AFTER + terms.seek_ns));
    assert_eq!(record.state(), State::Idle);
    let late = Promise { epoch, t0_ns: AFTER, lease_ns: 100 };
    assert_eq!(promise(&mut record, &terms, WITNESS, &late, AFTER), Taken::Other);
    assert!(seek(&mut record, &terms, AFTER).unwrap() > epoch);
}

#[test]
fn holds_with_a_majority_and_no_longer() {
    let (mut record, terms, epoch) = seeking();
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    assert_eq!(gate::open(&record, AFTER), None);
    assert_eq!(promise(&mut record, &terms, WITNESS, &given, AFTER + 1), Taken::Won);
    let end = AFTER + terms.lease_ns;
    assert_eq!(gate::open(&record, end - 1), Some(epoch));
    assert_eq!(gate::open(&record, end), None);
    assert!(!step_down(&mut record, end - 1));
    assert!(step_down(&mut record, end));
    assert_eq!((record.state(), record.open_until_ns, record.unclean), (State::Idle, end, 1));
    assert_eq!(seek(&mut record, &terms, end), Err(SeekError::Unclean));
    assert!(cleaned(&mut record));
    assert!(seek(&mut record, &terms, end).is_ok());
}

#[test]
fn takes_only_promises_for_its_own_epoch() {
    let (mut record, terms, epoch) = seeking();
    let before = record;
    for (source, epoch) in [
        (WITNESS, Epoch(epoch.0 - 0x100)),
        (WITNESS, Epoch(epoch.0 + 0x100)),
        (WITNESS, Epoch(epoch.0 + 1)),
        (terms.own, epoch),
        (60, epoch),
        (0, epoch),
    ] {
        let given = Promise { epoch, t0_ns: AFTER, lease_ns: 100 };
        assert_eq!(promise(&mut record, &terms, source, &given, AFTER), Taken::Other);
        assert_eq!(record, before);
    }
}

#[test]
fn takes_the_smaller_lease() {
    let (mut record, terms, epoch) = seeking();
    let short = Promise { epoch, t0_ns: AFTER, lease_ns: 10 };
    promise(&mut record, &terms, WITNESS, &short, AFTER);
    assert_eq!(record.lease_end_ns, AFTER + 10);
    let long = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 + 50 };
    promise(&mut record, &terms, WITNESS, &long, AFTER);
    assert_eq!(record.lease_end_ns, AFTER + terms.lease_ns);
}

#[test]
fn refuses_a_request_time_that_is_old_or_ahead() {
    let (record, terms, epoch) = seeking();
    let now = AFTER + 2 * terms.longest_lease_ns;
    for (t0_ns, fresh) in [
        (0, false),
        (now - terms.longest_lease_ns, false),
        (now - terms.lease_ns + 1, true),
        (now, true),
        (now + 1, false),
    ] {
        let mut record = record;
        let given = Promise { epoch, t0_ns, lease_ns: terms.lease_ns as u32 };
        let taken = promise(&mut record, &terms, WITNESS, &given, now);
        assert_eq!(taken, if fresh { Taken::Won } else { Taken::Stale }, "at {t0_ns}");
    }
}

#[test]
fn an_answer_too_late_wins_nothing() {
    let (mut record, terms, epoch) = seeking();
    let late = AFTER + terms.lease_ns;
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    assert_eq!(promise(&mut record, &terms, WITNESS, &given, late), Taken::Extended);
    assert_eq!(record.state(), State::Seeking);
}

#[test]
fn a_release_closes_at_once_and_no_promise_undoes_it() {
    let (mut record, terms, epoch) = seeking();
    assert_eq!(release(&mut record, &terms, OTHER, AFTER), None);
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    promise(&mut record, &terms, WITNESS, &given, AFTER);
    for stranger in [terms.own, 60] {
        assert_eq!(release(&mut record, &terms, stranger, AFTER), None);
    }
    assert_eq!(release(&mut record, &terms, OTHER, AFTER + 1), Some(epoch));
    assert_eq!(gate::open(&record, AFTER + 1), None);
    let renewed = Promise { t0_ns: AFTER + 1, ..given };
    assert_eq!(promise(&mut record, &terms, OTHER, &renewed, AFTER + 1), Taken::Other);
    assert_eq!(gate::open(&record, AFTER + 1), None);
    assert_eq!((record.state(), record.successor), (State::Released, OTHER));
}

#[test]
fn work_is_cleaned_away_before_the_next_hold() {
    let (mut record, terms, epoch) = seeking();
    assert!(!cleaned(&mut record));
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    promise(&mut record, &terms, WITNESS, &given, AFTER);
    assert!(!cleaned(&mut record));
    release(&mut record, &terms, 0, AFTER);
    assert_eq!(seek(&mut record, &terms, AFTER), Err(SeekError::Unclean));
    assert!(cleaned(&mut record));
    assert!(!cleaned(&mut record));
    assert!(seek(&mut record, &terms, AFTER).is_ok());
}

#[test]
fn a_blocked_start_seeks_after_the_wait() {
    let terms = terms();
    let mut record = start(&terms, 3, AFTER);
    let end = AFTER + terms.amnesia_ns();
    assert_eq!(seek(&mut record, &terms, end - 1), Err(SeekError::Blocked));
    assert_eq!(seek(&mut record, &terms, end).unwrap().generation(), 3);
}

proptest! {
    /// Each voter's vote ends by its own promises alone, and the gate by the majority of them.
    #[test]
    fn votes_are_kept_apart(
        promises in prop::collection::vec((2u8..=5, 0u64..400, 1u32..300, 0u64..50), 1..60)
    ) {
        let terms = Terms { count: 5, voters: [1, 2, 3, 4, 5], ..terms() };
        let mut record = fresh();
        let epoch = seek(&mut record, &terms, AFTER).unwrap();
        let mut ends = [0u64; 6];
        let mut now = AFTER + 500;
        for (source, age, lease_ns, passed) in promises {
            now += passed;
            let given = Promise { epoch, t0_ns: now - age, lease_ns };
            promise(&mut record, &terms, source, &given, now);
            if age < terms.longest_lease_ns {
                let end = now - age + u64::from(lease_ns).min(terms.lease_ns);
                let known = &mut ends[usize::from(source)];
                *known = end.max(*known);
            }
            let ahead = ends.iter().filter(|end| now < **end).count();
            // Holding begins at a promise, and so does being open again after a lapse.
            prop_assert_eq!(gate::open(&record, now).is_some(), ahead >= 2);
        }
    }
}

#[test]
fn a_holder_without_controller_closes_and_tells_at_once() {
    let (mut record, terms, epoch) = seeking();
    assert!(!abandon(&mut record, &terms, AFTER), "it holds nothing yet");
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: 200 };
    assert_eq!(promise(&mut record, &terms, WITNESS, &given, AFTER + 1), Taken::Won);
    let changes = record.changes;
    assert!(abandon(&mut record, &terms, AFTER + 2));
    assert_eq!((record.state(), record.successor, record.epoch), (State::Released, 0, epoch.0));
    assert_eq!(gate::open(&record, AFTER + 2), None);
    assert_ne!(record.changes, changes, "frames say so");
    assert!(record.may_still_send(&terms, AFTER + 2), "its vote has to wait");
    assert!(!abandon(&mut record, &terms, AFTER + 3));
}

/// Holds by the witness's vote until `AFTER + lease`, and hears of the floor of generation 2.
fn meets_a_floor(count: u8) -> (Record, Terms, Epoch) {
    let (mut record, terms, epoch) = seeking();
    let terms = Terms { count, ..terms };
    for source in [WITNESS, 4].into_iter().take(usize::from(terms.others_needed())) {
        let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
        promise(&mut record, &terms, source, &given, AFTER);
    }
    record.note(Epoch::floor(2));
    assert_eq!(record.state(), State::Holding);
    (record, terms, epoch)
}

#[test]
fn a_holder_asks_for_a_number_above_what_it_hears_of_and_holds_by_its_own() {
    let (mut record, terms, epoch) = meets_a_floor(3);
    renumber(&mut record, &terms, AFTER + 1);
    assert_eq!(record.asks_for(AFTER + 1), epoch, "that generation is not on its disk");
    record.generation = 2;
    let before = record;
    renumber(&mut record, &terms, AFTER + 1);
    let next = Epoch::floor(2).next(terms.own).unwrap();
    assert_eq!(record.asks_for(AFTER + 1), next);
    assert_eq!((record.epoch, record.expires_ns), (before.epoch, before.expires_ns));
    assert_eq!(gate::open(&record, AFTER + 1), Some(epoch));
    // Its own number, and an echo of it, are nothing higher.
    let asked = record;
    record.note(next);
    renumber(&mut record, &terms, AFTER + 1);
    assert_eq!(record, asked);
    assert!(Epoch(record.highest().next(terms.own).unwrap().0) > next, "a later seek is above");
}

#[test]
fn promises_of_both_numbers_count_until_a_majority_promised_the_higher_one() {
    let (mut record, terms, epoch) = meets_a_floor(5);
    record.generation = 2;
    renumber(&mut record, &terms, AFTER + 1);
    let next = record.asks_for(AFTER + 1);
    let mut now = AFTER + 100;
    let given = |epoch, t0_ns| Promise { epoch, t0_ns, lease_ns: 200 };
    for source in [WITNESS, 4] {
        assert_eq!(promise(&mut record, &terms, source, &given(epoch, now), now), Taken::Extended);
    }
    assert_eq!(record.lease_end_ns, now + 200);
    now += 50;
    assert_eq!(promise(&mut record, &terms, WITNESS, &given(next, now), now), Taken::Extended);
    assert_eq!(promise(&mut record, &terms, WITNESS, &given(next, now), now), Taken::Stale);
    assert_eq!(gate::open(&record, now), Some(epoch), "one of two that are needed");
    assert_eq!(promise(&mut record, &terms, 4, &given(next, now), now), Taken::Extended);
    assert_eq!((gate::open(&record, now), record.recorded), (Some(next), next.0));
    assert_eq!((record.next, record.followers), (0, 0));
    // From here on the lower one is a number of the past.
    let late = given(epoch, now + 1);
    assert_eq!(promise(&mut record, &terms, WITNESS, &late, now + 1), Taken::Other);
}

#[test]
fn with_its_gate_closed_a_holder_neither_asks_for_a_number_nor_counts_what_it_asked_for() {
    let (mut record, terms, epoch) = meets_a_floor(3);
    record.generation = 2;
    let (end, mut closed) = (record.lease_end_ns, record);
    renumber(&mut closed, &terms, end);
    assert_eq!(closed, record);
    renumber(&mut record, &terms, end - 1);
    let next = record.asks_for(end - 1);
    assert_eq!((record.asks_for(end), next > epoch), (epoch, true));
    let late = Promise { epoch: next, t0_ns: end - 1, lease_ns: 200 };
    assert_eq!(promise(&mut record, &terms, WITNESS, &late, end), Taken::Other);
    assert_eq!(gate::open(&record, end), None);
    assert_eq!(release(&mut record, &terms, OTHER, end), Some(epoch));
}

#[test]
fn a_release_names_the_highest_number_asked_for() {
    let (mut record, terms, _) = meets_a_floor(3);
    record.generation = 2;
    renumber(&mut record, &terms, AFTER + 1);
    let next = record.asks_for(AFTER + 1);
    assert_eq!(release(&mut record, &terms, OTHER, AFTER + 2), Some(next));
    assert_eq!((record.state(), record.epoch, record.next), (State::Released, next.0, 0));
}
