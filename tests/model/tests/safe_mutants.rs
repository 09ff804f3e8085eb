//! Each wrong rule of policy `safe` is caught, or is safe by another rule.

use hb_model::{
    mutants::{
        AmnesiaSkipped, FailureCounts, FencesWhileBound, KeepsItsNumber, LateReport,
        PromisesWhileFencing, ReportAfterGivingUp, ReportOpensAtOnce, ReportTwice, StaysEndless,
        WaitAsIs,
    },
    rules::{Production, Rules},
    search::search,
    setup::Setup,
};

const SAFETY: &str = "never two servers";
const LIVENESS: &str = "a holder can be found";

fn caught<R: Rules>(mutant: R, setup: &Setup, property: &str) {
    let outcome = search(setup, mutant, None);
    let violation = outcome.violation.as_deref().unwrap_or_default();
    println!("{mutant:?}: {outcome}; {violation}");
    assert!(violation.starts_with(property), "{mutant:?} was not caught: {outcome} {violation}");
    let sound = search(setup, Production, Some(outcome.depth));
    assert_eq!(sound.violation, None, "the setup is wrong by itself: {sound}");
}

/// Another rule says enough: the search is complete, and the mutant does move in it.
fn covered<R: Rules>(mutant: R, setup: &Setup) {
    let outcome = search(setup, mutant, None);
    println!("{mutant:?}: {outcome}");
    assert_eq!(outcome.violation, None, "{mutant:?}");
    assert!(outcome.complete);
    let sound = search(setup, Production, None);
    assert_ne!(outcome.states, sound.states, "{mutant:?} does nothing here");
}

fn fences(fences: u8) -> Setup {
    Setup { fences, ..Setup::even().safe() }
}

#[test]
fn a_late_report_counts() {
    caught(LateReport, &fences(1), SAFETY);
}

#[test]
fn a_report_counts_twice() {
    caught(ReportTwice, &Setup { give_ups: 1, ..fences(1) }, SAFETY);
}

#[test]
fn a_failed_fence_counts() {
    caught(FailureCounts, &fences(2), SAFETY);
}

#[test]
fn a_fence_opens_the_gate_at_once() {
    caught(ReportOpensAtOnce, &fences(2), SAFETY);
}

/// The two nodes have two clocks: the wait runs on one, the packets leave by the other.
#[test]
fn a_wait_after_a_fence_not_stretched() {
    let rates = vec![[2, 3, 3, 3, 3]];
    caught(WaitAsIs, &Setup { fences: 2, rates, ..Setup::uneven().safe() }, SAFETY);
}

#[test]
fn a_node_back_from_a_fence_takes_part_at_once() {
    let setup = Setup { restarts: 1, restarting: &[1], ..fences(1) };
    caught(AmnesiaSkipped, &setup, SAFETY);
}

#[test]
fn a_holder_never_renumbers() {
    caught(KeepsItsNumber, &Setup { recovery: true, ..fences(1) }, LIVENESS);
}

#[test]
fn an_endless_lease_never_becomes_ordinary() {
    caught(StaysEndless, &Setup { recovery: true, ..fences(1) }, LIVENESS);
}

/// The report names an epoch that the promise made the node leave.
#[test]
fn promises_while_fencing() {
    covered(PromisesWhileFencing, &Setup { give_ups: 1, ..fences(1) });
}

/// Nothing was promised since, and a fence of this node would have taken its record.
#[test]
fn a_report_after_giving_up() {
    covered(ReportAfterGivingUp, &Setup { give_ups: 1, ..fences(1) });
}

/// The fence says more than the promise: the other node is off.
#[test]
fn a_fence_before_the_own_promise_ran_out() {
    covered(FencesWhileBound, &Setup { give_ups: 1, ..fences(1) });
}
