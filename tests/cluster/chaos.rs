//! A short series of random faults under each policy, and the proof that the judge can fail:
//! `cargo xtask chaos` does longer ones.

use std::{sync::Arc, time::Duration};

use lab::{
    Lab, Options,
    addresses::Machine,
    chaos::{Chaos, Lengths, Plan, RunReport},
    config::Settings,
    faults::{Fault, Kind, NETWORK, Planned},
};

use super::{support::options, turn::Turn};

/// Runs of each series; a run lasts about a second, with a voter that forgets three.
const RUNS: u64 = 4;
/// Every machine that runs this test makes the same choices.
const SEED: u64 = 20_000;

/// A series, the lab for it, and the machine: a fault is over in a few milliseconds.
type Ready = (Chaos, Lab, Arc<Turn>);

fn start(policy: &str, gate: Option<&str>) -> Ready {
    start_with(Lengths::of(policy).settings(policy, gate))
}

fn start_with(settings: Settings) -> Ready {
    let kinds = Chaos::all_kinds(&settings);
    start_among(settings, kinds)
}

fn start_among(settings: Settings, kinds: Vec<Kind>) -> Ready {
    let lengths = Lengths::of(&settings.policy);
    let options = Options { disks: true, ..options(settings) };
    let turn = Turn::alone();
    (Chaos { lengths, kinds }, Chaos::start(options).unwrap(), turn)
}

fn assert_good(report: &RunReport) {
    assert!(report.failures.is_empty(), "{}\n{}", report.line(), report.timeline.join("\n"));
}

fn series(policy: &str) {
    go_through(start(policy, None));
}

fn go_through(lab: Ready) {
    go_through_some(lab, RUNS);
}

fn go_through_some((chaos, mut lab, _turn): Ready, runs: u64) {
    let mut answers = 0;
    for seed in SEED..SEED + runs {
        let report = chaos.run(&mut lab, seed).unwrap();
        assert_good(&report);
        answers += report.answers;
    }
    // The judge saw a service, and not an empty wire.
    assert!(answers > 1000, "{answers} answers in {runs} runs");
}

#[test]
fn never_two_servers_with_a_witness() {
    series("witness");
}

/// Here nothing but the gate tells the nodes apart.
#[test]
fn never_two_servers_with_the_addresses_on_both_nodes() {
    let settings = Lengths::default().settings("witness", None);
    go_through(start_with(Settings { warm: true, ..settings }));
}

#[test]
fn never_two_servers_with_a_fence() {
    series("safe");
}

/// A run lasts up to eight seconds.
#[test]
fn what_fails_in_the_network_leaves_the_service_where_it_can_be_reached() {
    let settings = Lengths::of("witness").settings("witness", None);
    go_through_some(start_among(settings, NETWORK.to_vec()), 3);
}

#[test]
fn two_servers_in_partitions_only_with_policy_available() {
    series("available");
}

/// One fault that lasts until the other node serves.
fn plan(kind: Kind) -> Plan {
    let (from, until) = (Duration::from_millis(10), Duration::from_millis(400));
    let faults = vec![Planned { fault: Fault::of(kind, Machine::A), from, until }];
    Plan { faults, broken: Vec::new() }
}

#[test]
fn without_the_gate_the_judge_finds_two_servers_under_each_fault() {
    let (chaos, mut lab, _turn) = start("witness", Some("bypass"));
    for kind in [Kind::Freeze, Kind::Kill, Kind::Partition] {
        let report = chaos.run_plan(&mut lab, 0, &plan(kind)).unwrap();
        assert!(report.violations > 0, "{kind}: {}", report.line());
        // An answer, or another packet from the address: whichever left first.
        assert!(report.failures[0].starts_with("two servers: a "), "{}", report.line());
    }
}

#[test]
fn with_the_gate_the_same_faults_are_takeovers() {
    let (chaos, mut lab, _turn) = start("witness", None);
    for kind in [Kind::Freeze, Kind::Kill, Kind::Partition] {
        let report = chaos.run_plan(&mut lab, 0, &plan(kind)).unwrap();
        assert_good(&report);
        // The other node served meanwhile: the fault was longer than any silence.
        let silence = Duration::from_nanos(report.silence_ns);
        assert!(silence < Duration::from_millis(300), "{kind}: {}", report.line());
    }
}
