//! Whole clusters of cores under a virtual clock, with faults drawn from a seed.
//!
//! `HB_SIM_SEEDS=100000` runs more of them, `HB_SIM_FIRST` says where to begin; a failure prints
//! its seed and everything that happened.

mod judge;
mod node;
mod rng;
mod schedule;
mod world;

use world::{Stats, World};

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect("a number of seeds"),
        Err(_) => default,
    }
}

fn run_seeds(nodes: usize, default: u64) -> Stats {
    let first = number("HB_SIM_FIRST", 1);
    let mut total = Stats::default();
    for seed in first..first + number("HB_SIM_SEEDS", default) {
        let mut world = World::new(seed, nodes, false);
        if let Err(wrong) = world.run() {
            let mut again = World::new(seed, nodes, true);
            assert_eq!(again.run(), Err(wrong.clone()), "seed {seed} is not repeatable");
            let trace = again.trace.unwrap_or_default().join("\n");
            panic!("{trace}\nseed {seed}, {nodes} nodes: {wrong}");
        }
        total.add(&world.stats);
    }
    println!("{nodes} nodes: {total:?}");
    total
}

#[test]
fn two_nodes_keep_their_promises() {
    let stats = run_seeds(2, 1500);
    // The seeds did reach what they are there to reach.
    assert!(stats.fast_takeovers > 0 && stats.hand_overs > 0 && stats.conflicts > 0, "{stats:?}");
    assert!(stats.failures > 0 && stats.exits > 0 && stats.resumes > 0, "{stats:?}");
}

#[test]
fn three_nodes_keep_their_promises() {
    let stats = run_seeds(3, 400);
    assert!(stats.fast_takeovers > 0 && stats.hand_overs > 0, "{stats:?}");
}
