//! A disk takes as long as it takes, or does not answer at all. That is no fault of a node's whose
//! kernel half and daemon go on: it votes for nothing newer meanwhile, and keeps what it has.

use std::{fs, process::Stdio, thread, time::Duration};

use aya::maps::{Array, Map, MapData};
use hb_ebpf::{lease::Record, maps::Recorded};
use hb_lease::{LeaseView, State, now_ns};
use lab::{
    Options,
    addresses::{Machine, NODES, VIP4},
    clock,
    config::Settings,
    disk::Disk,
};
use zerocopy::FromBytes;

use super::support::{Cluster, PATIENCE, options, slow, wait_for};

/// Several times what makes a daemon look dead, and each thing that is stored takes it twice.
const LONG: Duration = Duration::from_secs(1);
/// No answer for so long is an interruption; a busy machine stalls for less.
const GAP: Duration = Duration::from_millis(900);

fn cluster(policy: &str) -> Cluster {
    let settings = Settings { policy: policy.into(), resource: false, ..slow() };
    let mut cluster = Cluster::of(Options { disks: true, ..options(settings) });
    cluster.start_both();
    cluster
}

fn disk(cluster: &Cluster, machine: Machine) -> Disk {
    cluster.lab.disk(machine).unwrap().clone()
}

/// The record of the group, as the kernel half of a node has it.
fn record(cluster: &Cluster, node: Machine) -> Record {
    const WORDS: usize = size_of::<Recorded>() / 8;
    let pin = cluster.lab.pins(node).join("RECORDS");
    let map = MapData::from_pin(pin).unwrap();
    let records: Array<_, [u64; WORDS]> = Map::Array(map).try_into().unwrap();
    let bytes: Vec<u8> =
        records.get(&0, 0).unwrap().into_iter().flat_map(u64::to_ne_bytes).collect();
    Recorded::read_from_bytes(&bytes).unwrap().record
}

/// The generation that a record has heard of.
fn heard(record: &Record) -> u32 {
    record.highest().generation()
}

fn stored(cluster: &Cluster, node: Machine) -> u32 {
    let state = cluster.lab.files().directory.join("state");
    let mut directories = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let suffix = format!("-{}", node.name());
    let own = directories.find(|path| path.to_str().unwrap().ends_with(&suffix)).unwrap();
    fs::read_to_string(own.join("generation")).unwrap().trim().parse().unwrap()
}

/// Has the daemon of `node` leave in order and starts it again; its numbers grow by that.
fn restart(cluster: &mut Cluster, node: Machine) {
    cluster.lab.signal(node, libc::SIGTERM).unwrap();
    cluster.wait_for_end(node);
    cluster.lab.start_daemon(node).unwrap();
}

/// Nobody ever gave up the daemon of `node`, or took its group for that.
fn assert_never_given_up(cluster: &Cluster, node: Machine) {
    let peer = node.peer();
    for said in ["peer's controller is dead, its kernel half answers", "takeover"] {
        let lines = cluster.logged(peer, said);
        assert!(lines.is_empty(), "{peer}: {lines:?}");
    }
}

#[test]
fn a_slow_disk_makes_no_daemon_look_dead_and_moves_nothing() {
    let mut cluster = cluster("witness");
    for node in NODES {
        disk(&cluster, node).take(LONG);
    }
    let client = cluster.client(VIP4.into());
    let disk = disk(&cluster, Machine::A);
    let (before, asked) = (stored(&cluster, Machine::A), disk.asked());
    restart(&mut cluster, Machine::B);
    cluster.lab.wait_for_standby(Machine::B, PATIENCE * 2).unwrap();
    wait_for("the holder knows the new generation", || {
        let record = record(&cluster, Machine::A);
        (record.generation > before && record.generation == heard(&record)).then_some(())
    });
    // It is on the disk by then, and the disk was slow.
    assert!(stored(&cluster, Machine::A) > before);
    assert!(disk.asked() > asked);
    cluster.wait_until_serving(Machine::A);
    assert_never_given_up(&cluster, Machine::A);
    let seen = client.finish().unwrap();
    assert!(seen.longest_gap().unwrap() < GAP, "{:?}", seen.longest_gap());
    assert!(seen.answers.iter().all(|answer| answer.node == Machine::A));
}

#[test]
fn a_group_moves_and_a_node_leaves_at_once_on_a_slow_disk() {
    for policy in ["witness", "available"] {
        let mut cluster = cluster(policy);
        for node in NODES {
            disk(&cluster, node).take(LONG);
        }
        let client = cluster.client(VIP4.into());
        let moved = cluster.ask(Machine::A, &["move", "web", "b"]);
        assert!(moved.status.success(), "{moved:?}");
        cluster.wait_until_serving(Machine::B);
        cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
        cluster.wait_until_alone(Machine::A);
        let seen = client.finish().unwrap();
        assert!(seen.longest_gap().unwrap() < GAP, "{policy}: {:?}", seen.longest_gap());
        cluster.wait_for_end(Machine::B);
        cluster.assert_nothing_left(Machine::B);
    }
}

#[test]
fn a_disk_that_does_not_answer_costs_a_vote_for_what_is_newer_and_nothing_else() {
    for hangs in NODES {
        let mut cluster = cluster("witness");
        let other = hangs.peer();
        if hangs == Machine::B {
            // It serves, and the other one comes back.
            cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
            cluster.wait_for_end(Machine::A);
            cluster.wait_until_alone(Machine::B);
            cluster.lab.start_daemon(Machine::A).unwrap();
            cluster.wait_until_serving(Machine::B);
        }
        let disk = disk(&cluster, hangs);
        wait_for("the disk is at rest", || {
            let record = record(&cluster, hangs);
            (disk.waiting() == 0 && record.generation >= heard(&record)).then_some(())
        });
        let known = record(&cluster, hangs).generation;
        disk.hang();
        let client = cluster.client(VIP4.into());
        restart(&mut cluster, other);
        wait_for("something newer was heard", || {
            (heard(&record(&cluster, hangs)) > known && disk.waiting() > 0).then_some(())
        });
        let warned = "the disk does not answer: what needs it waits";
        cluster.wait_for_log(hangs, warned, |_| true);
        let record_now = record(&cluster, hangs);
        assert_eq!(record_now.generation, known, "told before it was stored");
        assert_eq!(stored(&cluster, hangs), known);
        let status = cluster.status(hangs);
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("the disk has not answered"), "{warnings}");

        disk.mend();
        wait_for("it is stored", || {
            let record = record(&cluster, hangs);
            (record.generation == heard(&record)).then_some(())
        });
        assert!(stored(&cluster, hangs) > known);
        cluster.wait_for_log(hangs, "the disk answers again", |_| true);
        cluster.wait_until_serving(hangs);
        assert_never_given_up(&cluster, hangs);
        let seen = client.finish().unwrap();
        assert!(seen.longest_gap().unwrap() < GAP, "{hangs}: {:?}", seen.longest_gap());

        // Who leaves does not wait for its disk with what others wait for.
        disk.hang();
        cluster.lab.signal(hangs, libc::SIGTERM).unwrap();
        cluster.wait_until_alone(other);
        cluster.wait_for_end(hangs);
        let left = cluster.logged(hangs, "no note was left");
        assert_eq!(left.len(), 1);
        cluster.assert_nothing_left(hangs);
        disk.mend();
        cluster.lab.start_daemon(hangs).unwrap();
        cluster.wait_until_serving(other);
    }
}

#[test]
fn a_node_that_leaves_binds_itself_on_a_slow_disk_and_says_so_on_one_that_hangs() {
    let mut cluster = cluster("safe");
    let disk = disk(&cluster, Machine::B);
    disk.take(LONG);
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    let missed = "the holder did not say that it goes on alone: it may have this node fenced";
    assert!(cluster.logged(Machine::B, missed).is_empty());
    let status = cluster.status(Machine::A);
    assert_eq!(status["groups"][0]["lease"]["endless"], true, "{status:#}");
    cluster.wait_until_alone(Machine::A);

    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
    wait_for("the promise on the disk is gone", || {
        (disk.waiting() == 0 && record(&cluster, Machine::B).vow == 0).then_some(())
    });
    disk.hang();
    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    let said = "promise not stored before leaving: the holder may have this node fenced";
    cluster.wait_for_log(Machine::B, said, |_| true);
    // And so it has, which ends the daemon if nothing else does.
    cluster.lab.daemon_mut(Machine::B).unwrap().wait(PATIENCE).unwrap();
    cluster.wait_until_alone(Machine::A);
}

#[test]
fn a_witness_goes_on_voting_while_its_disk_does_not_answer() {
    let mut cluster = cluster("witness");
    let disk = disk(&cluster, Machine::Witness);
    // Its disk is a new one under records that are still there: all has to be stored again.
    let state = cluster.lab.files().directory.join("state");
    let mut directories = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let own = directories.find(|path| path.to_str().unwrap().ends_with("-w")).unwrap();
    let generation = own.join("generation");
    let known = fs::read_to_string(&generation).unwrap();
    fs::remove_file(&generation).unwrap();
    disk.hang();
    let mut command = cluster.lab.hb(Machine::Witness).unwrap();
    command.arg("witness").arg("--pins").arg(cluster.lab.pins(Machine::Witness));
    command.arg("--config").arg(&cluster.lab.files().config);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let plug = disk.plug(&mut command).unwrap();
    let mut running = command.spawn().unwrap();
    plug.serve().unwrap();
    wait_for("it writes", || (disk.waiting() > 0).then_some(()));

    // Only the witness votes for the holder now, beside itself.
    cluster.kill(Machine::B);
    cluster.lab.cut(Machine::B);
    let leases = LeaseView::open(&cluster.lab.leases(Machine::A)).unwrap();
    let epoch = cluster.epoch(Machine::A);
    let end = clock::now().after(Duration::from_secs(4));
    while clock::now() < end {
        let lease = leases.read(0).unwrap();
        assert!(lease.left_ns(now_ns().unwrap()) > 0, "{lease:?}");
        assert_eq!((lease.state, lease.epoch), (State::Holding, epoch));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(running.try_wait().unwrap().is_none(), "it waits for its disk");
    disk.mend();
    assert!(running.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&generation).unwrap(), known);
    cluster.wait_until_alone(Machine::A);
}
