//! Nanoseconds per decision of the core.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hb_ebpf::{maps::Cause, time::BootTime, wire::Be64};
use hb_user::{
    core::{Bounds, Core, GroupSetup, Input, Life, PeerFacts, Setup},
    id::{GroupId, NodeId},
};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const NOW: BootTime = BootTime(1_000_000_000);

/// Node b, standing by while a holds the only group.
fn standby() -> (Core, PeerFacts) {
    let second = Duration::from_secs(1);
    let bounds = Bounds {
        initdead: second,
        seek: second,
        promise: second,
        contend: second,
        take: second,
        drop: second,
        retry: second,
        patience: second,
        linger: second,
    };
    let group = GroupSetup {
        id: GroupId(0),
        preferred: Some(A),
        auto_failback: false,
        resources: None,
        resumed: None,
    };
    let setup = Setup { me: B, nodes: vec![A, B], groups: vec![group], witness: None, bounds };
    let mut core = Core::new(setup, NOW).expect("two nodes and a group are a cluster");
    let mut facts = PeerFacts { life: Life::Alive, incarnation: 1, ..PeerFacts::default() };
    facts.words[0].state = 2;
    facts.words[0].health = 1;
    facts.words[0].holder = A.0;
    facts.words[0].epoch = Be64::new(0x1_0000_0101);
    core.handle(Input::Dropped { group: GroupId(0), result: Ok(()) }, NOW);
    core.handle(Input::ResourcesStopped { group: GroupId(0), result: Ok(()) }, NOW);
    core.handle(Input::Peer { peer: A, facts }, NOW);
    while core.poll_action().is_some() {}
    (core, facts)
}

fn decide(criterion: &mut Criterion) {
    let (core, facts) = standby();
    criterion.bench_function("nothing new", |bencher| {
        let mut core = core.clone();
        bencher.iter(|| core.handle(Input::Peer { peer: A, facts: black_box(facts) }, NOW));
    });
    let mut dead = facts;
    dead.life = Life::Dead(Cause::Silence);
    criterion.bench_function("the holder dies", |bencher| {
        bencher.iter_batched(
            || core.clone(),
            |mut core| {
                core.handle(Input::Peer { peer: A, facts: black_box(dead) }, NOW);
                while core.poll_action().is_some() {}
                core
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, decide);
criterion_main!(benches);
