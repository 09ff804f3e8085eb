//! Whole clusters under a virtual time, with faults drawn from a seed: the real core, the real
//! transitions of the records, frames and deadlines, and a model of what lies between.
//!
//! `cargo xtask simulate --seeds 100000` runs more of each kind, and `--seed` says where to begin; a failure
//! prints its seed and everything that happened, and `--show` the same of runs that pass.

mod auditor;
mod broken_rules;
mod clock;
mod daemon;
mod fast;
mod hands;
mod host;
mod judge;
mod kernel;
mod leaving;
mod machine;
mod mutants;
mod network;
mod plan;
mod rng;
mod schedule;
mod start;
mod stats;
mod upkeep;
mod world;

use mutants::Mutant;
use plan::Cluster;
use stats::Stats;
use world::{Bent, World};

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    }
}

/// Tells whether somebody chose the seeds: then not everything need happen that a usual run sees.
fn chosen() -> bool {
    ["HB_SIM_SEED", "HB_SIM_RUNS"].iter().any(|variable| std::env::var_os(variable).is_some())
}

fn run(cluster: Cluster, runs: u64) -> Stats {
    let first = number("HB_SIM_SEED", 1);
    let mut total = Stats::default();
    for seed in first..first + number("HB_SIM_RUNS", runs) {
        let mut world = World::new(cluster, seed, Bent::Nothing, false);
        if let Err(wrong) = world.run() {
            let mut again = World::new(cluster, seed, Bent::Nothing, true);
            assert_eq!(again.run(), Err(wrong.clone()), "seed {seed} is not repeatable");
            let plan = again.plan.clone();
            panic!("{}\n{plan:?}\nseed {seed} of {cluster:?}: {wrong}", again.timeline());
        }
        if std::env::var("HB_SIM_SHOW").is_ok() {
            let mut again = World::new(cluster, seed, Bent::Nothing, true);
            again.run().expect("as before");
            println!("{}", again.timeline());
        }
        total.add(&world.stats);
    }
    println!("{cluster:?}: {total:?}");
    total
}

/// Returns in how many runs the judge finds that two served.
fn caught(cluster: Cluster, bent: Bent, runs: u64) -> usize {
    let two = |seed: &u64| {
        let wrong = World::new(cluster, *seed, bent, false).run();
        wrong.is_err_and(|wrong| wrong.contains("serves group"))
    };
    (1..=runs).filter(two).count()
}

#[test]
fn two_nodes_and_a_witness_never_serve_twice_and_always_again() {
    let stats = run(Cluster::Witness, 600);
    assert!(chosen() || (stats.blocked > 0 && stats.lost_and_run > 0), "{stats:?}");
    assert!(chosen() || (stats.armed > 0 && stats.releases > 0 && stats.resumed > 0), "{stats:?}");
    assert!(chosen() || stats.jumps > 0, "{stats:?}");
    assert!(chosen() || (stats.struck > 0 && stats.struck_starting > 0), "{stats:?}");
    assert!(chosen() || (stats.lapses > 0 && stats.regained > 0 && stats.vain > 0), "{stats:?}");
    assert!(chosen() || (stats.hung > 0 && stats.partial > 0), "{stats:?}");
    assert!(chosen() || (stats.lost > 0 && stats.restored > 0), "{stats:?}");
    assert!(chosen() || (stats.overlooked > 0 && stats.restarts > 0), "{stats:?}");
    assert!(chosen() || (stats.asides > 0 && stats.given_aside > 0), "{stats:?}");
}

#[test]
fn three_nodes_never_serve_twice_and_always_again() {
    let stats = run(Cluster::Three, 600);
    assert!(chosen() || (stats.armed > 0 && stats.releases > 0 && stats.resumed > 0), "{stats:?}");
}

#[test]
fn two_nodes_with_fences_never_serve_twice_and_always_again() {
    let stats = run(Cluster::Safe, 600);
    assert!(chosen() || (stats.armed > 0 && stats.releases > 0 && stats.fences > 0), "{stats:?}");
}

#[test]
fn two_nodes_alone_serve_twice_only_while_they_cannot_hear_each_other() {
    let stats = run(Cluster::Available, 600);
    assert!(
        chosen() || (stats.armed > 0 && stats.releases > 0 && stats.conflicts > 0),
        "{stats:?}"
    );
}

#[test]
fn a_bypassed_gate_is_caught() {
    for cluster in [Cluster::Witness, Cluster::Three] {
        let caught = caught(cluster, Bent::Bypass, 60);
        assert!(caught > 5, "{cluster:?}: {caught}");
    }
}

#[test]
fn clocks_beyond_rho_are_caught() {
    let caught = caught(Cluster::Witness, Bent::Clocks, 100);
    assert!(caught > 0);
}

#[test]
fn a_changed_group_that_does_not_wait_is_caught() {
    let caught = caught(Cluster::Witness, Bent::Unwaited, 400);
    assert!(caught > 0);
}

#[test]
fn packets_that_leave_after_margin_are_caught() {
    let caught = caught(Cluster::Witness, Bent::Margin, 60);
    assert!(caught > 5, "{caught}");
}

/// Tells that engines like this one are found out, for that reason, before so many runs have ended.
fn found(cluster: Cluster, mutant: fn() -> Box<dyn Mutant>, wrong: &str, runs: u64) {
    let mut others = Vec::new();
    for seed in 1..=runs {
        match World::new(cluster, seed, Bent::Engine(mutant), false).run() {
            Err(found) if found.contains(wrong) => {
                println!("{wrong}: found in run {seed} of {cluster:?}");
                return;
            }
            Err(other) => others.push(other),
            Ok(()) => {}
        }
    }
    panic!("not found in {runs} runs of {cluster:?}: {wrong}; but {others:?}");
}

/// One test for each engine that is wrong in one place.
macro_rules! found {
    ($($name:ident: $cluster:ident, $mutant:expr, $wrong:literal, $runs:literal;)*) => {
        $(#[test]
        fn $name() {
            found(Cluster::$cluster, || Box::new($mutant), $wrong, $runs);
        })*
    };
}

found! {
    a_generation_told_before_it_is_stored:
        Witness, mutants::ToldFirst, "which is not stored", 400;
    a_write_that_failed_and_is_believed:
        Witness, mutants::BelievesAnyWrite, "which is not stored", 2000;
    a_node_that_stands_aside_before_that_is_stored:
        Witness, mutants::BelievesAnyWrite, "stands aside by what is not stored", 4000;
    a_promise_without_an_end_before_it_is_stored:
        Safe, mutants::VowsFirst, "promises without an end what is not stored", 400;
    a_promise_taken_off_the_disk_while_it_binds:
        Safe, mutants::ForgetsEarly, "takes a promise off the disk that binds", 400;
    two_writes_at_once:
        Witness, mutants::WritesAtOnce, "writes while something is being written", 400;
    a_learner_at_the_generation_it_heard_of:
        Witness, mutants::LearnsEqual, "and knows of", 400;
    a_learner_that_did_not_hear_everybody:
        Three, mutants::LearnsUnheard, "not every machine is heard", 1000;
    records_looked_at_before_peers:
        Witness, mutants::RecordsFirst::default(), "looks at records before peers", 10;
    a_stamp_without_the_fast_path:
        Witness, mutants::StampsUnanswered, "the fast path did not answer", 200;
    a_fence_for_a_stale_epoch:
        Safe, mutants::FencesStale::default(), "an epoch that is not sought any more", 2000;
    a_fence_of_a_node_that_is_heard:
        Safe, mutants::FencesHeard::default(), "has a node fenced that is heard", 1000;
    a_fence_that_the_record_does_not_know:
        Safe, mutants::AskedForNothing, "and the record does not know", 200;
    a_failed_fence_reported_as_a_success:
        Safe, mutants::FailureCounts, "reports a fence that was none", 400;
    a_fence_reported_before_the_agent_is_done:
        Safe, mutants::ReportsFirst, "reports a fence that was none", 200;
    a_fence_reported_twice:
        Safe, mutants::ReportsTwice, "reports a fence that was none", 200;
    cleaned_before_work_is_ended:
        Witness, mutants::CleanedFirst, "work is open", 200;
    cleaned_though_work_cannot_be_ended:
        Witness, mutants::CleanedThoughNot, "work is open", 1000;
    warm_addresses_before_work_is_ended:
        Witness, mutants::WarmFirst, "puts addresses up while work of an epoch is open", 200;
    warm_addresses_where_there_is_no_gate:
        Witness, mutants::KeptUngated, "keeps addresses up where there is no gate", 1000;
    a_note_before_the_pins_are_gone:
        Witness, mutants::NotedFirst, "before its pins are gone", 200;
    a_note_without_asking_the_records:
        Witness, mutants::NoPart, "a note that is too early", 400;
    a_note_of_one_record_only:
        Witness, mutants::NotedEarly, "a note that is too early", 2000;
    a_note_that_stays:
        Witness, mutants::NoteKept, "begins records beside its note", 400;
    a_life_whose_number_is_not_stored:
        Witness, mutants::IncarnationUnstored, "whose number is not stored", 10;
    records_at_a_generation_that_is_not_stored:
        Witness, mutants::GenerationUnstored, "which is not stored", 10;
    new_voters_taken_for_known:
        Witness, mutants::VotersBelieved, "among voters that are new to it", 400;
    new_voters_that_are_not_stored:
        Witness, mutants::VotersUnstored, "among voters that are not stored", 1000;
    new_voters_that_not_everybody_knows:
        Witness, mutants::VotersUnheard, "among voters that not everybody knows", 1000;
    new_lengths_before_the_old_ones_are_waited_for:
        Witness, mutants::TermsFirst, "while promises of the old ones bind", 1000;
}
