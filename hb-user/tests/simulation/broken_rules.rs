//! Fast paths that break one rule each, and a daemon that takes its own for well: each is caught, by what the
//! simulation says of it. What takes more than chance to show is told of in `engine/takeover/tests.rs`.

use hb_user::engine::takeover::Rule;

use crate::{
    plan::Cluster,
    world::{Bent, World},
};

/// Runs until the first that goes wrong, which has to be by `sign`.
fn caught(bent: Bent, cluster: Cluster, sign: &str) {
    const RUNS: u64 = 1000;
    let wrong =
        |seed| World::new(cluster, seed, bent, false).run().err().map(|wrong| (seed, wrong));
    let found = (1..=RUNS).find_map(wrong);
    let (seed, wrong) = found.unwrap_or_else(|| panic!("{bent:?} was not caught in {RUNS} runs"));
    println!("{bent:?}: seed {seed} of {cluster:?}: {wrong}");
    assert!(wrong.contains(sign), "{bent:?} was caught by something else: {wrong}");
}

#[test]
fn a_stamp_for_a_fast_path_that_hangs() {
    caught(Bent::Answers, Cluster::Witness, "is taken to go round, and does not");
}

#[test]
fn a_round_shown_before_everything_was_heard() {
    let broken = Bent::Breaks(Rule::RoundShownAtItsEnd);
    caught(broken, Cluster::Witness, "shows that it went round, and has not heard everything");
}

#[test]
fn addresses_put_up_while_seeking() {
    let broken = Bent::Breaks(Rule::PutUpWhenHeld);
    caught(broken, Cluster::Three, "puts up group");
}

#[test]
fn addresses_taken_down_before_the_gate_closes() {
    let broken = Bent::Breaks(Rule::ReleasedFirst);
    caught(broken, Cluster::Witness, "behind an open gate");
}

#[test]
fn a_release_that_waits_for_the_next_probe() {
    let broken = Bent::Breaks(Rule::ReleaseSaid);
    caught(broken, Cluster::Witness, "gives a group away and does not say so");
}

#[test]
fn addresses_kept_after_a_lost_record() {
    let broken = Bent::Breaks(Rule::LostTakenDown);
    caught(broken, Cluster::Three, "not well");
}

#[test]
fn a_take_that_is_not_told_of_once_more() {
    let broken = Bent::Breaks(Rule::TookRepeated);
    caught(broken, Cluster::Available, "does not say that group");
}

#[test]
fn a_take_that_goes_on_after_the_group_was_given_away() {
    let broken = Bent::Breaks(Rule::TakeDownEndsATake);
    caught(broken, Cluster::Available, "puts up group");
}

#[test]
fn a_group_dropped_before_its_addresses_are_gone() {
    let broken = Bent::Breaks(Rule::DroppedAfterTheLast);
    caught(broken, Cluster::Witness, "dropped group");
}

#[test]
fn a_group_taken_without_an_address_where_all_are_needed() {
    let broken = Bent::Breaks(Rule::AllWhereAllAreNeeded);
    caught(broken, Cluster::Safe, "and of its addresses has");
}

#[test]
fn a_group_taken_in_silence() {
    let broken = Bent::Breaks(Rule::AnnouncedWhenUp);
    caught(broken, Cluster::Witness, "and announced");
}

#[test]
fn a_refusal_that_nobody_hears_of() {
    let broken = Bent::Breaks(Rule::RefusalsTold);
    caught(broken, Cluster::Witness, "does not say that an address");
}

#[test]
fn addresses_put_back_after_they_were_dropped() {
    let broken = Bent::Breaks(Rule::RestoredIfTaken);
    caught(broken, Cluster::Witness, "puts up group");
}

#[test]
fn addresses_cooled_that_are_taken() {
    let broken = Bent::Breaks(Rule::WarmedApart);
    caught(broken, Cluster::Witness, "behind an open gate");
}

#[test]
fn nobody_probes_while_the_kernel_is_waited_for() {
    let broken = Bent::Breaks(Rule::DeputyStandsIn);
    caught(broken, Cluster::Witness, "waits for the kernel, and nobody probes");
}

#[test]
fn a_deputy_that_never_stands_back() {
    let broken = Bent::Breaks(Rule::DeputyStandsBack);
    caught(broken, Cluster::Witness, "has the deputy probe beside it");
}

#[test]
fn probes_made_up_for_after_a_stall() {
    let broken = Bent::Breaks(Rule::MissedProbesLeftOut);
    caught(broken, Cluster::Witness, "makes up for probes that it missed");
}

#[test]
fn a_quiet_moment_that_swallows_reports() {
    let broken = Bent::Breaks(Rule::QuietEndsWithARing);
    caught(broken, Cluster::Witness, "keeps reports to itself");
}
