//! A gate that is closed by a program that stood still between its look at the clock and the lock.

use super::*;
use crate::lease::{
    available, gate,
    holder::{self, Promise, Taken},
    op::{self, Op, Order},
    start,
    terms::{
        Policy,
        tests::{AFTER, OTHER, WITNESS, terms},
    },
    voter::{self, Request, Verdict},
};
use crate::wire::{Be64, GroupWord};
use proptest::prelude::*;

/// What the closing program reads of the clock, long before it has the lock.
const READ: u64 = AFTER + 1;
/// When the record is published: until then a gate on another CPU goes by what it was.
const PUBLISHED: u64 = AFTER + 190;

fn holding(terms: &Terms) -> Record {
    let mut record = Record { recorded: Epoch::floor(1).0, generation: 1, ..Record::default() };
    if terms.policy() == Policy::Available {
        available::seek(&mut record, terms, AFTER).unwrap();
        return record;
    }
    let epoch = holder::seek(&mut record, terms, AFTER).unwrap();
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    let taken = holder::promise(&mut record, terms, WITNESS, &given, AFTER);
    assert_eq!(taken, Taken::Won);
    record
}

fn order(record: &mut Record, terms: &Terms, op: Op) {
    let mut order = Order { generation: 2, ..Order::new(op, 0) };
    op::apply(&mut order, record, terms, READ);
}

/// Every transition that closes an open gate, by the name of what does it.
type Closing = (&'static str, Policy, fn(&mut Record, &Terms));

const CLOSINGS: [Closing; 8] = [
    ("release", Policy::Witness, |record, terms| order(record, terms, Op::Release)),
    ("abandon", Policy::Witness, |record, terms| {
        assert!(holder::abandon(record, terms, READ));
    }),
    ("jump", Policy::Witness, |record, terms| start::clock_jumped(record, terms, READ)),
    ("terms", Policy::Witness, |record, terms| order(record, terms, Op::TermsChanged)),
    ("start", Policy::Witness, |record, terms| order(record, terms, Op::Start)),
    ("learner", Policy::Witness, |record, terms| order(record, terms, Op::Learner)),
    ("abandon", Policy::Available, |record, terms| {
        assert!(holder::abandon(record, terms, READ));
    }),
    ("higher epoch", Policy::Available, |record, terms| {
        let epoch = Epoch(record.epoch).next(OTHER).unwrap();
        let word = GroupWord {
            state: State::Holding as u8,
            epoch: Be64::new(epoch.0),
            ..GroupWord::default()
        };
        assert!(available::hear(record, terms, OTHER, &word, READ));
    }),
];

#[test]
fn what_passes_until_the_closing_is_published_has_left_before_the_vote_is_free() {
    for (name, policy, close) in CLOSINGS {
        let terms = Terms { policy: policy as u8, ..terms() };
        let mut record = holding(&terms);
        assert!(gate::passes(gate::until(&record), PUBLISHED, 50, PUBLISHED), "{name}");
        close(&mut record, &terms);
        assert_eq!(gate::until(&record), gate::NEVER, "{name}");
        let far = AFTER * 1000;
        assert!(record.may_still_send(&terms, far), "{name}: nobody knows yet until when");
        let changes = record.closing().unwrap();
        assert!(record.closed(changes, PUBLISHED), "{name}");
        assert_eq!(record.closing(), None, "{name}");
        // The last packet passed at that very instant.
        let left = PUBLISHED + 1 + terms.wait_ns();
        assert!(record.may_still_send(&terms, left - 1), "{name}");
        assert!(!record.may_still_send(&terms, left), "{name}");
    }
}

#[test]
fn a_record_that_is_closing_promises_nothing_and_tells_no_end() {
    let terms = terms();
    let mut record = holding(&terms);
    holder::release(&mut record, &terms, OTHER, READ).unwrap();
    let epoch = Epoch(record.epoch).next(OTHER).unwrap();
    let wish = Request { epoch, lease_ns: 100, transmit_ns: 77, holds: false };
    let locked = AFTER + 1000;
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, locked), Verdict::Sending);
    assert_eq!(start::part(&mut record, &terms, locked), None);
    assert!(record.closed(record.closing().unwrap(), locked));
    let left = locked + 1 + terms.wait_ns();
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, left - 1), Verdict::Sending);
    assert_eq!(voter::request(&mut record, &terms, OTHER, &wish, left), Verdict::Promised);
}

/// The lease without an end passes packets until the one with an end is published, by then perhaps
/// after that end.
#[test]
fn an_end_that_comes_nearer_is_a_closing_as_well() {
    let terms = Terms { policy: Policy::Safe as u8, ..terms() };
    let mut record = holding(&terms);
    (record.lease_end_ns, record.sought_ns) = (ENDLESS, AFTER);
    let epoch = Epoch(record.epoch);
    let given = Promise { epoch, t0_ns: AFTER + 1, lease_ns: terms.lease_ns as u32 };
    holder::promise(&mut record, &terms, OTHER, &given, AFTER + 2);
    let end = AFTER + 1 + terms.lease_ns;
    assert_eq!(record.lease_end_ns, end);
    let published = end + 5 * terms.wait_ns();
    assert!(record.may_still_send(&terms, published));
    assert!(record.closed(record.closing().unwrap(), published));
    assert!(record.may_still_send(&terms, published + terms.wait_ns()));
    assert!(!record.may_still_send(&terms, published + 1 + terms.wait_ns()));
}

#[test]
fn a_lease_that_ran_out_closed_its_gate_by_itself() {
    let terms = terms();
    let end = AFTER + terms.lease_ns;
    let mut record = holding(&terms);
    assert!(holder::step_down(&mut record, end));
    assert_eq!((record.closing(), record.open_until_ns), (None, end));
    let mut record = holding(&terms);
    holder::release(&mut record, &terms, 0, end).unwrap();
    assert_eq!((record.closing(), record.open_until_ns), (None, end));
}

/// Whoever stood still after the closing of one epoch knows nothing of the next one's.
#[test]
fn a_reading_from_before_the_next_closing_says_nothing_of_that() {
    let terms = terms();
    let mut record = holding(&terms);
    order(&mut record, &terms, Op::Release);
    let first = record.closing().unwrap();
    order(&mut record, &terms, Op::Cleaned);
    order(&mut record, &terms, Op::Seek);
    let epoch = Epoch(record.epoch);
    let given = Promise { epoch, t0_ns: AFTER, lease_ns: terms.lease_ns as u32 };
    holder::promise(&mut record, &terms, WITNESS, &given, READ);
    assert!(holder::abandon(&mut record, &terms, READ));
    let second = record.closing().unwrap();
    assert!(!record.closed(first, READ));
    assert_eq!(record.closing(), Some(second));
    assert!(record.closed(second, PUBLISHED));
    assert!(!record.closed(second, PUBLISHED + 1), "it is known");
}

proptest! {
    /// Whatever instants the clock is read at: if a packet passed at the last instant before the
    /// publication, no vote is given within margin (1 + rho) of it.
    #[test]
    fn no_vote_within_margin_of_the_publication(
        read in AFTER..AFTER + 400, stall in 0u64..1000, later in 0u64..1000, asked in 0u64..3000,
    ) {
        let terms = terms();
        let mut record = holding(&terms);
        let open_until = gate::until(&record);
        holder::release(&mut record, &terms, 0, read).unwrap();
        let published = read + stall;
        if let Some(changes) = record.closing() {
            record.closed(changes, published + later);
        }
        let last = published.min(open_until - 1);
        let epoch = Epoch(record.epoch).next(OTHER).unwrap();
        let wish = Request { epoch, lease_ns: 100, transmit_ns: 77, holds: false };
        let now = read + asked;
        let promised = voter::request(&mut record, &terms, OTHER, &wish, now) == Verdict::Promised;
        prop_assert!(!promised || now > last + terms.wait_ns());
    }
}
