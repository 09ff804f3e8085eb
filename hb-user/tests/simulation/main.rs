//! Whole clusters under a virtual time, with faults drawn from a seed: the real core, the real
//! transitions of the records, frames and deadlines, and a model of what lies between.
//!
//! `cargo xtask simulate --seeds 100000` runs more of each kind, and `--seed` says where to begin; a failure
//! prints its seed and everything that happened, and `--show` the same of runs that pass.

mod broken_rules;
mod clock;
mod daemon;
mod fast;
mod host;
mod judge;
mod kernel;
mod network;
mod plan;
mod rng;
mod schedule;
mod stats;
mod upkeep;
mod world;

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
    assert!(chosen() || (stats.lapses > 0 && stats.regained > 0 && stats.vain > 0), "{stats:?}");
    assert!(chosen() || (stats.hung > 0 && stats.partial > 0), "{stats:?}");
    assert!(chosen() || (stats.lost > 0 && stats.restored > 0), "{stats:?}");
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
