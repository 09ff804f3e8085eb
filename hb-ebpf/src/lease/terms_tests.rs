use super::*;
use proptest::prelude::*;
use std::string::ToString;

/// An instant of a machine that has been up for a while.
pub(crate) const AFTER: u64 = 1_000_000;
/// The other node.
pub(crate) const OTHER: u8 = 2;
/// The witness.
pub(crate) const WITNESS: u8 = 3;

/// Node 1 of two nodes, a witness and one more voter slot (4) that only stands in the list.
pub(crate) fn terms() -> Terms {
    Terms {
        lease_ns: 200,
        longest_lease_ns: 1000,
        margin_ns: 40,
        drain_ns: 60,
        seek_ns: 100,
        rho: RHO_DEFAULT,
        count: 3,
        own: 1,
        witness: 0,
        policy: Policy::Witness as u8,
        voters: [1, OTHER, WITNESS, 4, 0],
        padding: [0; 3],
    }
}

fn timing() -> Timing {
    Timing {
        lease_ns: 2_000_000,
        margin_ns: 200_000,
        drain_ns: 300_000,
        seek_ns: 1_000_000,
        rho: RHO_DEFAULT,
        interval_ns: 100_000,
        deadtime_ns: 300_000,
        controller_deadtime_ns: 5_000_000,
    }
}

#[test]
fn a_wait_is_longer_than_the_margin_by_what_clocks_may_differ() {
    let terms = Terms { margin_ns: 1_000_000, ..terms() };
    assert_eq!(terms.wait_ns(), stretch(1_000_000, RHO_DEFAULT));
    assert!(terms.wait_ns() > terms.margin_ns);
}

#[test]
fn good_lengths_pass() {
    let terms = Terms::new(Policy::Witness, &timing(), &[1, 2, 9], 2, Some(9)).unwrap();
    assert_eq!((terms.count, terms.own, terms.witness), (3, 2, 0));
    assert_eq!(terms.voters, [1, 2, 9, 0, 0]);
    assert_eq!(terms.longest_lease_ns, L_MAX_NS);
    assert_eq!(Terms::new(Policy::Witness, &timing(), &[1, 2, 9], 9, Some(9)).unwrap().witness, 1);
}

#[test]
fn lengths_are_checked_against_each_other_with_their_numbers() {
    let good = timing();
    let cases = [
        (Timing { rho: 1025, ..good }, "rho is 1025/1024"),
        (Timing { margin_ns: 0, ..good }, "margin is 0 ns"),
        (Timing { lease_ns: 200_000, ..good }, "lease 200000 ns is not longer than two intervals"),
        (Timing { interval_ns: 0, ..good }, "intervals of 0 ns"),
        (Timing { lease_ns: L_MAX_NS + 1, ..good }, "lease 2000000001 ns is above"),
        (Timing { margin_ns: L_MAX_NS + 1, ..good }, "margin 2000000001 ns is above"),
        (Timing { drain_ns: 240_040, ..good }, "margin (1 + rho) = 240040 ns"),
        (Timing { drain_ns: 2_640_431, ..good }, "(lease + margin) (1 + rho) = 2640430 ns"),
        (Timing { seek_ns: 199_999, ..good }, "a seek of 199999 ns"),
        (Timing { seek_ns: L_MAX_NS + 1, ..good }, "a seek of 2000000001 ns"),
        (Timing { deadtime_ns: 100_000, ..good }, "deadtime 100000 ns"),
        (Timing { controller_deadtime_ns: L_MAX_NS, ..good }, "controller_deadtime 2000000000 ns"),
    ];
    for (timing, said) in cases {
        let error =
            Terms::new(Policy::Witness, &timing, &[1, 2, 3], 1, Some(3)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(
        Terms::new(Policy::Witness, &Timing { drain_ns: 240_041, ..good }, &[1, 2], 1, None)
            .is_ok()
    );
}

#[test]
fn voters_are_checked() {
    let terms =
        |voters: &[u8], own, witness| Terms::new(Policy::Witness, &timing(), voters, own, witness);
    assert_eq!(terms(&[1], 1, None), Err(TermsError::Count { count: 1 }));
    assert_eq!(terms(&[1, 2, 3, 4, 5, 6], 1, None), Err(TermsError::Count { count: 6 }));
    assert_eq!(terms(&[1, 2, 1], 1, None), Err(TermsError::Voter { id: 1 }));
    assert_eq!(terms(&[0, 2], 2, None), Err(TermsError::Voter { id: 0 }));
    assert_eq!(terms(&[65, 2], 2, None), Err(TermsError::Voter { id: 65 }));
    assert_eq!(terms(&[1, 2], 3, None), Err(TermsError::Stranger { id: 3 }));
    assert_eq!(terms(&[1, 2], 1, Some(3)), Err(TermsError::Stranger { id: 3 }));
}

#[test]
fn ranks_do_not_seek_at_once() {
    let terms = terms();
    for rank in 0..4 {
        // A whole seek of the one ends before the other begins.
        assert!(retry_ns(terms.seek_ns, rank) + terms.seek_ns < retry_ns(terms.seek_ns, rank + 1));
    }
}

proptest! {
    /// A wait of `stretch(ns)` on the fastest clock covers `ns` on the slowest, and no more than
    /// rounding beyond it.
    #[test]
    fn stretching_rounds_up(ns in 0..=u64::from(u32::MAX), rho in 0..=RHO_ONE) {
        let one = u128::from(RHO_ONE);
        let exact = u128::from(ns) * (one + u128::from(rho));
        let stretched = u128::from(stretch(ns, rho)) * one;
        prop_assert!(stretched >= exact);
        prop_assert!(stretched < exact + one);
    }

    #[test]
    fn stretching_saturates(ns: u64, rho: u32) {
        let stretched = stretch(ns, rho);
        prop_assert!(stretched >= ns);
        prop_assert_eq!(stretched == u64::MAX, ns > u64::from(u32::MAX));
    }

    #[test]
    fn places_are_those_of_the_list(id: u8) {
        let terms = terms();
        let listed = terms.voters.iter().position(|voter| *voter == id).filter(|_| id != 0);
        prop_assert_eq!(terms.place(id), listed);
    }
}
