use super::*;
use crate::lease::{
    holder,
    start::{self, start},
    terms::tests::{AFTER, OTHER, WITNESS, terms},
};
use proptest::prelude::*;

fn asked(epoch: Epoch, lease_ns: u32) -> Request {
    Request { epoch, lease_ns, transmit_ns: 77, holds: false }
}

fn fresh() -> Record {
    Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() }
}

fn first(node: u8) -> Epoch {
    Epoch::floor(1).next(node).unwrap()
}

#[test]
fn a_promise_is_recorded_with_the_request_that_set_its_end() {
    let (mut record, terms) = (fresh(), terms());
    let verdict = request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    assert_eq!(verdict, Verdict::Promised);
    assert_eq!(record.promised, first(OTHER).0);
    assert_eq!(record.recorded, first(OTHER).0);
    assert_eq!(record.until_ns, AFTER + terms.promise_ns(100));
    assert_eq!((record.promise_t0_ns, record.promise_lease_ns), (77, 100));
}

#[test]
fn a_renewal_never_shortens_and_keeps_the_request_that_set_the_end() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    let before = record;
    let shorter = Request { transmit_ns: 78, ..asked(first(OTHER), 10) };
    let verdict = request(&mut record, &terms, OTHER, &shorter, AFTER + 1);
    assert_eq!(verdict, Verdict::Renewed);
    assert_eq!(record, before);
    let later = Request { transmit_ns: 79, ..asked(first(OTHER), 10) };
    request(&mut record, &terms, OTHER, &later, AFTER + 200);
    assert_eq!(record.until_ns, AFTER + 200 + terms.promise_ns(10));
    assert_eq!((record.promise_t0_ns, record.promise_lease_ns), (79, 10));
}

/// After the pause of another machine it is bound for as long as anybody could be; the holder is alive
/// and asks on.
#[test]
fn a_voter_that_is_bound_for_longer_still_renews() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    start::other_clock_jumped(&mut record, &terms, AFTER);
    let end = AFTER + terms.amnesia_ns();
    assert_eq!(record.until_ns, end);
    for (lease_ns, t0, renewed) in [(99, 78, (77, 100)), (100, 79, (79, 100)), (101, 80, (80, 101))]
    {
        let again = Request { transmit_ns: t0, ..asked(first(OTHER), lease_ns) };
        let now = AFTER + t0;
        assert!(now + terms.promise_ns(lease_ns.into()) < end);
        assert_eq!(request(&mut record, &terms, OTHER, &again, now), Verdict::Renewed);
        assert_eq!((record.promise_t0_ns, record.promise_lease_ns), renewed);
        assert_eq!(record.until_ns, end);
    }
}

#[test]
fn one_unexpired_promise_at_a_time() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    let rival = asked(Epoch(record.promised).next(4).unwrap(), 100);
    let end = record.until_ns;
    assert_eq!(request(&mut record, &terms, 4, &rival, end - 1), Verdict::Bound);
    assert_eq!(request(&mut record, &terms, 4, &rival, end), Verdict::Promised);
    let old = asked(first(OTHER), 100);
    let much_later = end + 10_000;
    assert_eq!(request(&mut record, &terms, OTHER, &old, much_later), Verdict::Low);
}

#[test]
fn nothing_is_taken_while_blocked() {
    let terms = terms();
    let mut record = start(&terms, 1, AFTER);
    let end = AFTER + terms.amnesia_ns();
    let wish = asked(first(OTHER), 100);
    assert_eq!(request(&mut record, &terms, OTHER, &wish, end - 1), Verdict::Blocked);
    assert!(!release(&mut record, &terms, OTHER, first(OTHER), end - 1));
    assert_eq!(request(&mut record, &terms, OTHER, &wish, end), Verdict::Promised);
}

#[test]
fn malformed_requests_change_nothing() {
    let (mut record, terms) = (fresh(), terms());
    let cases = [
        (OTHER, asked(first(4), 100)),
        (terms.own, asked(first(terms.own), 100)),
        (60, asked(first(60), 100)),
        (OTHER, asked(first(OTHER), 0)),
        (OTHER, asked(first(OTHER), terms.longest_lease_ns as u32 + 1)),
    ];
    for (source, wish) in cases {
        let verdict = request(&mut record, &terms, source, &wish, AFTER);
        assert_eq!(verdict, Verdict::Malformed, "{source} {wish:?}");
        assert_eq!(record, fresh());
    }
}

#[test]
fn a_generation_is_stored_before_it_is_voted_for() {
    let (mut record, terms) = (fresh(), terms());
    let wish = asked(Epoch::floor(5).next(OTHER).unwrap(), 100);
    assert_eq!(request(&mut record, &terms, OTHER, &wish, AFTER), Verdict::Generation);
    assert_eq!(record.promised, 0);
    assert_eq!(record.heard, wish.epoch.0);
    assert!(start::generation_stored(&mut record, 5));
    assert_eq!(request(&mut record, &terms, OTHER, &wish, AFTER), Verdict::Promised);
}

/// A node that holds its first epoch with the witness's vote until `AFTER + lease`.
fn holding() -> Record {
    let (mut record, terms) = (fresh(), terms());
    let epoch = holder::seek(&mut record, &terms, AFTER).unwrap();
    let promise = holder::Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    let taken = holder::promise(&mut record, &terms, WITNESS, &promise, AFTER);
    assert_eq!(taken, holder::Taken::Won);
    record
}

#[test]
fn a_holder_gives_its_vote_only_after_its_packets_have_left() {
    let terms = terms();
    let end = AFTER + terms.lease_ns;
    for (now, verdict) in [
        (end - 1, Verdict::Sending),
        (end, Verdict::Sending),
        (end + terms.wait_ns() - 1, Verdict::Sending),
        (end + terms.wait_ns(), Verdict::Promised),
    ] {
        let mut record = holding();
        let wish = asked(Epoch(record.epoch).next(OTHER).unwrap(), 100);
        assert_eq!(request(&mut record, &terms, OTHER, &wish, now), verdict, "at {now}");
        let holds = record.state() == State::Holding;
        assert_eq!(holds, verdict != Verdict::Promised);
        assert_eq!(record.unclean, u8::from(!holds));
    }
}

#[test]
fn a_holder_that_released_waits_as_long() {
    let terms = terms();
    let mut record = holding();
    holder::release(&mut record, &terms, OTHER, AFTER + 1).unwrap();
    assert!(record.closed(record.closing().unwrap(), AFTER + 1));
    let wish = asked(Epoch(record.epoch).next(OTHER).unwrap(), 100);
    // A packet may have passed at the instant of the release itself.
    let end = AFTER + 2 + terms.wait_ns();
    assert_eq!(request(&mut record, &terms, OTHER, &wish, end - 1), Verdict::Sending);
    assert_eq!(request(&mut record, &terms, OTHER, &wish, end), Verdict::Promised);
}

#[test]
fn a_lapsed_holder_keeps_to_its_epoch_against_lower_ones() {
    let terms = terms();
    let mut record = holding();
    let wish = asked(Epoch(record.epoch - 0x100 - u64::from(terms.own) + 2), 100);
    let now = AFTER + 100_000;
    assert_eq!(request(&mut record, &terms, OTHER, &wish, now), Verdict::Low);
    assert_eq!(record.state(), State::Holding);
}

#[test]
fn a_seeker_makes_way_for_a_higher_epoch_only() {
    let terms = terms();
    let mut record = fresh();
    let low = asked(first(OTHER), 100);
    record.heard = first(OTHER).0;
    let sought = holder::seek(&mut record, &terms, AFTER).unwrap();
    assert_eq!(request(&mut record, &terms, OTHER, &low, AFTER), Verdict::Seeking);
    let high = asked(sought.next(OTHER).unwrap(), 100);
    assert_eq!(request(&mut record, &terms, OTHER, &high, AFTER), Verdict::Promised);
    assert_eq!(record.state(), State::Idle);
}

#[test]
fn a_release_shortens_once_and_for_all() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 1000), AFTER);
    assert!(release(&mut record, &terms, OTHER, first(OTHER), AFTER + 5));
    assert_eq!(record.until_ns, AFTER + 5 + terms.drain_ns);
    let released = record;
    assert!(!release(&mut record, &terms, OTHER, first(OTHER), AFTER + 7));
    let late = asked(first(OTHER), 1000);
    assert_eq!(request(&mut record, &terms, OTHER, &late, AFTER + 8), Verdict::Released);
    assert_eq!(record, released);
}

#[test]
fn a_release_does_not_lengthen_a_promise_about_to_end() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    let end = record.until_ns;
    assert!(release(&mut record, &terms, OTHER, first(OTHER), end - 1));
    assert_eq!(record.until_ns, end);
}

#[test]
fn a_release_never_promised_is_remembered_and_binds_nobody() {
    let (mut record, terms) = (fresh(), terms());
    assert!(release(&mut record, &terms, OTHER, first(OTHER), AFTER));
    assert!(!record.is_bound(AFTER));
    let late = asked(first(OTHER), 100);
    assert_eq!(request(&mut record, &terms, OTHER, &late, AFTER), Verdict::Released);
}

#[test]
fn a_strangers_release_changes_nothing() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    let before = record;
    assert!(!release(&mut record, &terms, 4, first(OTHER), AFTER));
    assert_eq!(record, before);
}

proptest! {
    /// Whatever is asked, by whom and when: a promise to one node ends before one to another
    /// begins, no number of it shortens it, and recorded epochs only grow.
    #[test]
    fn promises_never_overlap(
        steps in prop::collection::vec((2u8..=4, 0u64..6, 1u32..500, 0u64..300, 0u8..3), 1..60)
    ) {
        let (mut record, terms) = (fresh(), terms());
        let mut now = AFTER;
        for (source, counter, lease_ns, passed, kind) in steps {
            now += passed;
            let epoch = Epoch(Epoch::floor(1).0 | (counter + 1) << 8 | u64::from(source));
            let before = record;
            if kind == 2 {
                release(&mut record, &terms, source, epoch, now);
            } else {
                let wish = Request { epoch, lease_ns, transmit_ns: now, holds: kind == 1 };
                let verdict = request(&mut record, &terms, source, &wish, now);
                let given = matches!(verdict, Verdict::Promised | Verdict::Renewed);
                if given {
                    prop_assert_eq!(record.promised, epoch.0);
                    prop_assert!(record.until_ns >= now + terms.promise_ns(u64::from(lease_ns)));
                }
                prop_assert_eq!(verdict == Verdict::Renewed, given && before.promised == epoch.0);
            }
            prop_assert!(record.recorded >= before.recorded);
            let same = Epoch(record.promised).node() == Epoch(before.promised).node();
            if record.promised != before.promised {
                prop_assert!(record.promised > before.recorded);
                let renumbered = same && kind != 0 && before.released == 0;
                prop_assert!(!before.is_bound(now) || renumbered || (same && kind == 2));
            }
            if before.is_bound(now) && record.until_ns < before.until_ns {
                prop_assert!(record.released > before.released);
                prop_assert!(record.until_ns >= now + terms.drain_ns);
            }
        }
    }
}

/// A request of a node that holds.
fn held(epoch: Epoch, lease_ns: u32) -> Request {
    Request { holds: true, transmit_ns: 78, ..asked(epoch, lease_ns) }
}

#[test]
fn a_holder_s_higher_number_renews_what_is_promised_to_it() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 1000), AFTER);
    let (bound, higher) = (record, first(OTHER).next(OTHER).unwrap());
    // Not one that seeks again, not another's, and not after a release.
    let again = request(&mut record, &terms, OTHER, &asked(higher, 1000), AFTER + 1);
    assert_eq!((again, record.promised), (Verdict::Bound, bound.promised));
    let other = held(Epoch(higher.0 + 2), 1000);
    assert_eq!(request(&mut record, &terms, 4, &other, AFTER + 1), Verdict::Bound);
    let mut released = bound;
    release(&mut released, &terms, OTHER, first(OTHER), AFTER + 1);
    assert_eq!(
        request(&mut released, &terms, OTHER, &held(higher, 1000), AFTER + 2),
        Verdict::Bound
    );
    // For less than before: the end stays, and what is said of it stays covered.
    assert_eq!(
        request(&mut record, &terms, OTHER, &held(higher, 10), AFTER + 1),
        Verdict::Promised
    );
    assert_eq!((record.promised, record.recorded), (higher.0, higher.0));
    assert_eq!((record.until_ns, record.promise_lease_ns), (bound.until_ns, 1000));
    assert_eq!(record.promise_t0_ns, bound.promise_t0_ns);
}

#[test]
fn a_number_that_cannot_be_promised_yet_renews_the_lower_one() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 100), AFTER);
    let higher = Epoch::floor(2).next(OTHER).unwrap();
    let verdict = request(&mut record, &terms, OTHER, &asked(higher, 100), AFTER + 50);
    assert_eq!(verdict, Verdict::Generation, "a node that seeks holds nothing to be kept");
    let verdict = request(&mut record, &terms, OTHER, &held(higher, 100), AFTER + 50);
    assert_eq!((verdict, record.promised), (Verdict::Renewed, first(OTHER).0));
    assert_eq!(record.until_ns, AFTER + 50 + terms.promise_ns(100));
    assert_eq!(record.promise_t0_ns, 78);
    let verdict = request(&mut record, &terms, 4, &held(Epoch(higher.0 + 2), 100), AFTER + 60);
    assert_eq!(verdict, Verdict::Generation);
    start::generation_stored(&mut record, 2);
    let verdict = request(&mut record, &terms, OTHER, &held(higher, 100), AFTER + 70);
    assert_eq!((verdict, record.promised), (Verdict::Promised, higher.0));
    // Nor after a release, nor while its own vote is in use.
    release(&mut record, &terms, OTHER, higher, AFTER + 80);
    let above = Epoch::floor(3).next(OTHER).unwrap();
    let verdict = request(&mut record, &terms, OTHER, &held(above, 100), AFTER + 81);
    assert_eq!(verdict, Verdict::Generation);
}

#[test]
fn a_release_of_a_higher_number_ends_the_promise_of_a_lower_one() {
    let (mut record, terms) = (fresh(), terms());
    request(&mut record, &terms, OTHER, &asked(first(OTHER), 1000), AFTER);
    let higher = first(OTHER).next(OTHER).unwrap();
    let unknown = Epoch::floor(2).next(OTHER).unwrap();
    let mut behind = record;
    assert!(!release(&mut record, &terms, 4, Epoch(higher.0 + 2), AFTER + 5));
    assert!(release(&mut record, &terms, OTHER, higher, AFTER + 5));
    assert_eq!((record.promised, record.recorded), (higher.0, higher.0));
    assert_eq!((record.until_ns, record.released), (AFTER + 5 + terms.drain_ns, 1));
    assert!(!release(&mut record, &terms, OTHER, higher, AFTER + 6));
    // One that it may not record yet ends it all the same, and is news once.
    assert!(release(&mut behind, &terms, OTHER, unknown, AFTER + 5));
    assert_eq!((behind.promised, behind.until_ns), (first(OTHER).0, record.until_ns));
    assert!(!release(&mut behind, &terms, OTHER, unknown, AFTER + 6));
}

#[test]
fn a_release_below_the_floor_of_a_new_start_is_news_once() {
    let terms = terms();
    let mut record = Record { recorded: Epoch::floor(2).0, generation: 2, ..Record::default() };
    assert!(release(&mut record, &terms, OTHER, first(OTHER), AFTER));
    assert_eq!((record.recorded, record.is_bound(AFTER)), (Epoch::floor(2).0, false));
    assert!(!release(&mut record, &terms, OTHER, first(OTHER), AFTER + 1));
    let late = held(first(OTHER), 100);
    assert_eq!(request(&mut record, &terms, OTHER, &late, AFTER + 2), Verdict::Low);
}
