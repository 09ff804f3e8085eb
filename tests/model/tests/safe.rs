//! Policy `safe` as it is: fences that take effect late, or unknown, or never, and nodes that leave.

mod common;

use common::{full, holds};
use hb_model::{
    rules::{Production, Unreduced},
    setup::Setup,
};

fn safe() -> Setup {
    Setup { recovery: true, ..Setup::even().safe() }
}

#[test]
fn fail_back_by_fences() {
    let setup = Setup { fences: 2, seeks: 3, ..safe() };
    assert!(
        holds("two fences, three seeks", Production, &setup).fail_back,
        "no node came to hold again"
    );
}

#[test]
fn fences_and_a_restart() {
    let setup = Setup { fences: 2, restarts: 1, restarting: &[1, 2], ..safe() };
    holds("two fences and a restart", Production, &setup);
}

#[test]
fn a_fence_a_release_and_a_give_up() {
    let setup = Setup { fences: 1, releases: 1, give_ups: 1, ..safe() };
    holds("a fence, a release and a give-up", Production, &setup);
}

#[test]
fn a_fence_with_uneven_clocks() {
    for rates in [[2, 3, 3, 3, 3], [3, 2, 3, 3, 3]] {
        let setup = Setup { fences: 1, rates: vec![rates], ..Setup::uneven().safe() };
        holds("a fence, uneven clocks", Production, &Setup { recovery: true, ..setup });
    }
}

#[test]
fn leaving_in_order() {
    let setup = Setup { vows: 1, restarts: 1, restarting: &[1, 2], ..safe() };
    holds("a leaving and a restart", Production, &setup);
}

#[test]
fn leaving_twice() {
    let setup = Setup { vows: 2, ..safe() };
    holds("two leavings", Production, &setup);
}

#[test]
fn leaving_and_a_fence() {
    let setup = Setup { vows: 1, fences: 1, ..safe() };
    holds("a leaving and a fence", Production, &setup);
}

/// Dropping spent frames hides nothing here either.
#[test]
fn spent_frames_do_nothing() {
    let setup = Setup { vows: 1, fences: 1, seeks: 1, ..safe() };
    let reduced = holds("spent frames dropped", Production, &setup);
    let whole = holds("every frame kept", Unreduced, &setup);
    assert!(whole.states > reduced.states);
}

#[test]
fn full_all_clock_rates() {
    let setup = Setup {
        fences: 1,
        restarts: 1,
        restarting: &[1, 2],
        recovery: true,
        ..Setup::any_rates().safe()
    };
    full("a fence and a restart, all clock rates", &setup);
}

#[test]
fn full_leaving_with_uneven_clocks() {
    let setup = Setup {
        vows: 1,
        restarts: 1,
        restarting: &[1, 2],
        recovery: true,
        ..Setup::any_rates().safe()
    };
    full("a leaving and a restart, all clock rates", &setup);
}

#[test]
fn full_leaving_a_fence_and_a_restart() {
    let setup = Setup { vows: 1, fences: 1, restarts: 1, restarting: &[1, 2], ..safe() };
    full("a leaving, a fence and a restart", &setup);
}

#[test]
fn full_leaving_and_two_fences() {
    full("a leaving and two fences", &Setup { vows: 1, fences: 2, ..safe() });
}
