//! The rules as they are, against everything the adversary of each setup can do.
//!
//! The searches of a plain run are small enough to be complete within a minute or so together. With
//! `HB_MODEL=full` the larger ones run as well: minutes, and some GiB.

mod common;

use common::{full, holds};
use hb_model::{
    rules::{Production, Unreduced},
    setup::Setup,
};

#[test]
fn fail_back() {
    let setup = Setup { seeks: 3, recovery: true, ..Setup::even() };
    assert!(holds("fail-back", Production, &setup).fail_back, "no node came to hold again");
}

#[test]
fn restart_and_release() {
    let setup =
        Setup { restarts: 1, restarting: &[2], releases: 1, recovery: true, ..Setup::even() };
    holds("a restart of the other node and a release", Production, &setup);
}

#[test]
fn full_restart_of_any_and_release() {
    let setup =
        Setup { restarts: 1, restarting: &[1, 2, 3], releases: 1, recovery: true, ..Setup::even() };
    full("a restart of any machine and a release", &setup);
}

/// A node that leaves in order waits for no longer than what it promised when it starts again.
#[test]
fn leaving_in_order() {
    let setup = Setup { restarts: 1, renewing: &[1, 2], recovery: true, ..Setup::even() };
    holds("a leaving in order", Production, &setup);
}

#[test]
fn full_leaving_in_order_and_release() {
    let setup =
        Setup { restarts: 1, renewing: &[1, 2], releases: 1, recovery: true, ..Setup::even() };
    full("a leaving in order and a release", &setup);
}

#[test]
fn full_leaving_in_order_and_restart() {
    let setup =
        Setup { restarts: 2, restarting: &[1, 3], renewing: &[1], recovery: true, ..Setup::even() };
    full("a leaving in order, a restart", &setup);
}

#[test]
fn full_leaving_in_order_with_uneven_clocks() {
    let setup = Setup { restarts: 1, renewing: &[1, 2], recovery: true, ..Setup::uneven() };
    full("a leaving in order, uneven clocks", &setup);
}

#[test]
fn clocks_within_rho() {
    let setup = Setup { recovery: true, ..Setup::any_rates() };
    holds("clocks within rho", Production, &setup);
}

#[test]
fn release_by_a_program_that_stood_still() {
    let setup = Setup { releases: 1, stall: 3, recovery: true, ..Setup::even() };
    holds("a release by a program that stood still", Production, &setup);
}

#[test]
fn release_and_give_up() {
    let setup = Setup { releases: 1, give_ups: 1, recovery: true, ..Setup::even() };
    holds("a release and a give-up", Production, &setup);
}

#[test]
fn full_release_and_give_up_with_uneven_clocks() {
    let setup = Setup { releases: 1, give_ups: 1, recovery: true, ..Setup::uneven() };
    full("a release and a give-up, uneven clocks", &setup);
}

#[test]
fn three_nodes() {
    let setup = Setup { nodes: 3, witnesses: 0, recovery: true, ..Setup::even() };
    holds("three nodes", Production, &setup);
}

#[test]
fn two_nodes_alone() {
    let setup = Setup {
        witnesses: 0,
        give_ups: 1,
        restarts: 1,
        restarting: &[1, 2],
        releases: 1,
        recovery: true,
        ..Setup::any_rates()
    };
    holds("two nodes alone", Production, &setup);
}

#[test]
fn lease_reconfigured() {
    for (lease, next_lease) in [(1, 3), (3, 1)] {
        let next_lease = Some(next_lease);
        let setup = Setup { lease, next_lease, held: true, recovery: true, ..Setup::even() };
        holds("another lease", Production, &setup);
    }
}

/// Dropping spent frames hides nothing: with and without it the same is true, and the states that
/// are told apart only by spent frames are all there is between them.
#[test]
fn spent_frames_do_nothing() {
    let setup = Setup { releases: 1, recovery: true, ..Setup::uneven() };
    let setup = Setup { seeks: 1, ..setup };
    let reduced = holds("spent frames dropped", Production, &setup);
    let whole = holds("every frame kept", Unreduced, &setup);
    assert!(whole.states > reduced.states);
}

/// A witness stores no generation while it runs: it votes for those that it reserved at its start.
#[test]
fn witness_with_headroom() {
    let setup =
        Setup { headroom: 1, restarts: 1, restarting: &[3], recovery: true, ..Setup::even() };
    holds("a witness with headroom, its restart", Production, &setup);
}

#[test]
fn full_witness_with_headroom() {
    let setup =
        Setup { headroom: 1, restarts: 2, restarting: &[1, 3], recovery: true, ..Setup::even() };
    full("a witness with headroom, two restarts", &setup);
}

#[test]
fn full_fail_back_with_uneven_clocks() {
    full("fail-back, uneven clocks", &Setup { seeks: 3, recovery: true, ..Setup::uneven() });
}

#[test]
fn full_restart_and_release_with_uneven_clocks() {
    let setup = Setup {
        restarts: 1,
        restarting: &[1, 2, 3],
        releases: 1,
        recovery: true,
        ..Setup::uneven()
    };
    full("a restart and a release, uneven clocks", &setup);
}

#[test]
fn full_two_restarts() {
    let setup = Setup { restarts: 2, restarting: &[1, 2, 3], recovery: true, ..Setup::even() };
    full("two restarts", &setup);
}

#[test]
fn full_fail_back_with_restart_and_release() {
    let setup = Setup {
        seeks: 3,
        restarts: 1,
        restarting: &[1, 2, 3],
        releases: 1,
        recovery: true,
        ..Setup::even()
    };
    full("fail-back, a restart of any machine and a release", &setup);
}

#[test]
fn full_three_nodes_and_witness() {
    let setup = Setup { nodes: 3, recovery: true, ..Setup::even() };
    full("three nodes and a witness", &setup);
}

#[test]
fn full_three_nodes_with_release() {
    let setup = Setup { nodes: 3, witnesses: 0, releases: 1, recovery: true, ..Setup::even() };
    full("three nodes and a release", &setup);
}

/// A voter that starts again, standby or witness, is bound to the holder again, and no gate closes.
#[test]
fn what_is_held_stays_held() {
    let setup = Setup { restarts: 1, restarting: &[2, 3], steady: true, ..Setup::even() };
    let held = Setup { seeks: 1, held: true, ..setup };
    holds("held, a restart of another", Production, &held);
    let headroom = Setup { headroom: 1, ..held };
    holds("held, a restart of another, a witness with headroom", Production, &headroom);
}
