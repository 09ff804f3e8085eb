//! Nanoseconds per decision of the core.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hb_ebpf::{
    deadline::{Others, decide as decide_silence},
    maps::{Cause, Peer, Timing},
    time::BootTime,
    wire::{Be64, Health, State},
};

use hb_user::{
    core::{Aside, Bounds, Core, GroupSetup, Input, Life, PeerFacts, Setup},
    id::{GroupId, NodeId},
};
use zerocopy::FromZeros;

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
        fence: None,
        fence_retry: second,
        contend: second,
        take: second,
        drop: second,
        retry: second,
        patience: second,
        hold_down: Duration::from_millis(500),
        route_loss: Duration::from_millis(500),
        linger: second,
    };
    let group = GroupSetup {
        id: GroupId(0),
        preferred: Some(A),
        auto_failback: None,
        failure_timeout: None,
        links: 1,
        resources: None,
        resumed: None,
    };
    let setup = Setup {
        me: B,
        nodes: vec![A, B],
        groups: vec![group],
        witness: None,
        promises: true,
        aside: Aside::Nothing,
        bounds,
    };
    let mut core = Core::new(setup, NOW).expect("two nodes and a group are a cluster");
    let mut facts = PeerFacts { life: Life::Alive, incarnation: 1, ..PeerFacts::default() };
    facts.words[0].state = State::Holding as u8;
    facts.words[0].health = Health::Healthy as u8;
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
    criterion.bench_function("core: nothing new", |bencher| {
        let mut core = core.clone();
        bencher.iter(|| core.handle(Input::Peer { peer: A, facts: black_box(facts) }, NOW));
    });
    let mut dead = facts;
    dead.life = Life::Dead(Cause::Silence);
    criterion.bench_function("core: the holder dies", |bencher| {
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

/// What the timer's callback asks each time it is due.
fn silence(criterion: &mut Criterion) {
    let ms = 1_000_000;
    let mut peer = Peer::new_zeroed();
    peer.timing = Timing {
        interval_ns: ms,
        warn_ns: 3 * ms,
        dead_ns: 5 * ms,
        init_dead_ns: 1000 * ms,
        doubt_max_ns: 100 * ms,
        late_ns: ms,
    };
    peer.life = 1;
    peer.started_ns = 1;
    peer.last_arrival_ns = NOW.ns();
    peer.probe_ns = NOW.ns();
    for (name, ms_later) in [("a deadline that moved", 0), ("a miss", 2), ("a death", 6)] {
        let now = NOW.ns() + ms_later * ms;
        peer.probe_ns = now;
        peer.due_ns = now;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| decide_silence(black_box(&peer), Others::None, black_box(now)));
        });
    }
}

criterion_group!(benches, decide, silence);
criterion_main!(benches);
