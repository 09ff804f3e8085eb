use super::*;
use crate::{
    epoch::Epoch,
    lease::{
        fence::Vow,
        gate,
        op::{self, DONE, NOTHING, Op, Order},
        terms::{
            Policy, Terms,
            tests::{AFTER, OTHER, terms},
        },
        word,
    },
    wire::{Be32, Be64},
};
use proptest::prelude::*;
use std::vec::Vec;

fn of(fingerprint: u32) -> GroupWord {
    GroupWord { fingerprint: Be32::new(fingerprint), ..GroupWord::default() }
}

#[test]
fn a_word_is_found_wherever_it_is() {
    let mut words = [GroupWord::default(); GROUPS];
    for (position, word) in words.iter_mut().enumerate().skip(1) {
        *word = of(100 + position as u32);
    }
    for position in 1..GROUPS {
        for hint in 0..2 * GROUPS {
            let found = find(&words, 100 + position as u32, hint);
            assert_eq!(found, Some(&words[position]), "at {position}, looked for at {hint}");
        }
    }
    assert_eq!(find(&words, 99, 1), None);
    assert_eq!(find(&words, 0, 0), None, "no group is not a group");
}

#[test]
fn the_word_of_another_group_is_for_no_lease() {
    let ours = Record { fingerprint: 7, generation: 9, ..Record::default() };
    let epoch = Epoch(Epoch::floor(1).0 | 1 << 8 | u64::from(OTHER));
    let asks = GroupWord {
        state: State::Seeking as u8,
        lease_ns: Be32::new(100),
        epoch: Be64::new(epoch.0),
        ..of(8)
    };
    for policy in [Policy::Witness, Policy::Safe, Policy::Available] {
        let terms = Terms { policy: policy as u8, ..terms() };
        let mut record = ours;
        for state in [State::Seeking, State::Holding, State::Released] {
            let word = GroupWord { state: state as u8, ..asks };
            let heard = word::hear(&mut record, &terms, OTHER, AFTER, &word, AFTER);
            assert_eq!((heard, record), (word::Heard::default(), ours), "{policy:?} {state:?}");
        }
        let same = GroupWord { fingerprint: Be32::new(7), ..asks };
        word::hear(&mut record, &terms, OTHER, AFTER, &same, AFTER);
        assert_ne!(record, ours, "{policy:?}");
    }
    let promised = GroupWord {
        promise_epoch: Be64::new(0x1_0000_0101),
        promise_t0_ns: Be64::new(AFTER),
        promise_lease_ns: Be32::new(100),
        ..of(8)
    };
    let terms = terms();
    let seeks = Record { state: State::Seeking as u8, epoch: 0x1_0000_0101, ..ours };
    let mut record = seeks;
    word::hear(&mut record, &terms, OTHER, AFTER, &promised, AFTER + 1);
    assert_eq!(record, seeks);
    let same = GroupWord { fingerprint: Be32::new(7), ..promised };
    word::hear(&mut record, &terms, OTHER, AFTER, &same, AFTER + 1);
    assert_eq!(record.state(), State::Holding);
}

#[test]
fn a_release_of_another_group_hands_nothing_over() {
    let terms = terms();
    let record = Record { fingerprint: 7, ..Record::default() };
    let given = GroupWord { state: State::Released as u8, successor: terms.own, ..of(7) };
    assert!(word::hands_over(&record, &terms, &given));
    let other = GroupWord { fingerprint: Be32::new(8), ..given };
    assert!(!word::hands_over(&record, &terms, &other));
}

#[test]
fn a_record_says_which_group_it_is_of() {
    let record = Record { fingerprint: 0x0102_0304, ..Record::default() };
    let mut word = GroupWord::default();
    word::speak(&record, &terms(), true, AFTER, &mut word);
    assert_eq!(word.fingerprint.get(), 0x0102_0304);
}

#[test]
fn a_record_is_dismissed_with_its_gate_closed_and_its_promise_in_it() {
    let terms = terms();
    for lease_end_ns in [AFTER + 100, crate::lease::ENDLESS] {
        let mut record = Record {
            fingerprint: 7,
            state: State::Holding as u8,
            epoch: 0x1_0000_0101,
            recorded: 0x1_0000_0101,
            lease_end_ns,
            fencing: 2,
            ..Record::default()
        };
        let mut order = Order::new(Op::Dismiss, 0);
        op::apply(&mut order, &mut record, &terms, AFTER);
        assert_eq!(order.code, DONE);
        assert_eq!((gate::until(&record), record.fingerprint, record.unclean), (gate::NEVER, 0, 1));
        assert!(record.closing().is_some() && record.fencing == 0);
        op::apply(&mut order, &mut record, &terms, AFTER);
        assert_eq!(order.code, NOTHING);
    }
    let bound = Record { fingerprint: 7, promised: 0x102, until_ns: 9, ..Record::default() };
    let mut record = bound;
    assert!(dismiss(&mut record, AFTER));
    assert_eq!(record, Record { fingerprint: 0, ..bound });
}

/// A machine that promises nothing says nothing else that is new, and its words count by what changed.
#[test]
fn a_record_that_is_of_another_group_says_something_new() {
    let terms = terms();
    let mut record = Record { fingerprint: 7, generation: 1, changes: 5, ..Record::default() };
    op::apply(&mut Order::new(Op::Dismiss, 0), &mut record, &terms, AFTER);
    assert_eq!(record.changes, 6);
    let mut begin = Order { fingerprint: 8, generation: 1, ..Order::new(Op::Start, 0) };
    op::apply(&mut begin, &mut record, &terms, AFTER);
    assert_eq!((begin.code, record.fingerprint), (DONE, 8));
    assert!(record.changes > 6, "{}", record.changes);
}

#[test]
fn a_group_begins_in_the_place_of_another_as_after_a_lost_record() {
    let terms = terms();
    let mut record = Record {
        fingerprint: 7,
        state: State::Holding as u8,
        epoch: 0x1_0000_0101,
        vow: Vow::Given as u8,
        lease_end_ns: AFTER + 100,
        ..Record::default()
    };
    dismiss(&mut record, AFTER);
    let mut order = Order { fingerprint: 8, generation: 3, ..Order::new(Op::Start, 0) };
    op::apply(&mut order, &mut record, &terms, AFTER);
    assert_eq!(record.blocked_until_ns, AFTER + terms.amnesia_ns());
    assert_eq!((record.recorded, record.vow, record.unclean), (Epoch::floor(3).0, 0, 1));
    assert_eq!(record.fingerprint, 8);
    // Begun anew, it is still of that group.
    let mut order = Order { generation: 4, ..Order::new(Op::Start, 0) };
    op::apply(&mut order, &mut record, &terms, AFTER);
    assert_eq!(record.fingerprint, 8);
    let mut order = Order { node: 1, fingerprint: 9, ..Order::new(Op::Start, 0) };
    let mut clean = Record::default();
    op::apply(&mut order, &mut clean, &terms, AFTER);
    assert_eq!(clean.unclean, 1);
}

fn distinct(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::btree_set(1u32..20, 0..=most)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

proptest! {
    #[test]
    fn what_both_files_have_stays_where_it_is(
        before in distinct(GROUPS), wanted in distinct(GROUPS), holes in any::<[bool; GROUPS]>(),
    ) {
        let mut found = [0; GROUPS];
        for ((place, hole), before) in found.iter_mut().zip(holes).zip(before) {
            *place = if hole { 0 } else { before };
        }
        let places = Places::new(&found, &wanted);
        let mut seen = 0u8;
        for (index, wanted) in wanted.iter().enumerate() {
            let place = places.of(index).unwrap();
            prop_assert_eq!(seen & 1 << place, 0, "two groups at one place");
            seen |= 1 << place;
            prop_assert!(place < places.end());
            let kept = places.kept().any(|kept| kept == place);
            prop_assert_eq!(kept, found[usize::from(place)] == *wanted);
            prop_assert_eq!(kept, found.contains(wanted));
            prop_assert_eq!(places.begun().any(|begun| begun == place), !kept);
        }
        prop_assert_eq!(places.of(wanted.len()), None);
        for place in 0..GROUPS as u8 {
            let kept = places.kept().any(|kept| kept == place);
            let gone = !kept && found[usize::from(place)] != 0;
            prop_assert_eq!(places.dismissed().any(|dismissed| dismissed == place), gone);
        }
        // The same file again changes nothing.
        let mut then = [0; GROUPS];
        for (index, wanted) in wanted.iter().enumerate() {
            then[usize::from(places.of(index).unwrap())] = *wanted;
        }
        let again = Places::new(&then, &wanted);
        prop_assert_eq!(again.begun().count(), 0);
        prop_assert_eq!(again.at, places.at);
    }

    #[test]
    fn a_new_file_is_laid_out_as_it_is_written(wanted in distinct(GROUPS)) {
        let places = Places::new(&[0; GROUPS], &wanted);
        for index in 0..wanted.len() {
            prop_assert_eq!(places.of(index), Some(index as u8));
        }
        prop_assert_eq!(usize::from(places.end()), wanted.len());
    }
}
