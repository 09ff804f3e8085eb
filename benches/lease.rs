//! Nanoseconds per transition of a group's record: what the kernel does under its lock for each frame
//! that is heard, and the gate's two compares for each packet.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Policy, Record, Terms, gate,
        holder::{self, Promise},
        start,
        terms::{RHO_DEFAULT, Timing},
        voter::{self, Request},
        word,
    },
    wire::GroupWord,
};

const MS: u64 = 1_000_000;
/// Long after the record was made: no wait of its start is left.
const NOW: u64 = 60_000 * MS;
/// Node, its peer, and a machine that only votes.
const VOTERS: [u8; 3] = [1, 2, 3];

fn terms(own: u8) -> Terms {
    let timing = Timing {
        lease_ns: 20 * MS,
        margin_ns: 2 * MS,
        drain_ns: 5 * MS,
        seek_ns: 60 * MS,
        rho: RHO_DEFAULT,
        interval_ns: MS,
        deadtime_ns: 5 * MS,
        controller_deadtime_ns: 50 * MS,
    };
    Terms::new(Policy::Witness, &timing, &VOTERS, own, Some(3)).expect("lengths that fit")
}

/// A record that seeks, and the epoch it seeks.
fn seeking(terms: &Terms) -> (Record, Epoch) {
    let mut record = start::start(terms, 1, 0);
    let epoch = holder::seek(&mut record, terms, NOW).expect("nobody holds");
    (record, epoch)
}

/// What the witness promised to a request of `t0_ns`.
fn promise(epoch: Epoch, t0_ns: u64) -> Promise {
    Promise { epoch, t0_ns, lease_ns: (20 * MS) as u32 }
}

fn transitions(criterion: &mut Criterion) {
    let (node, witness) = (terms(1), terms(3));
    let (sought, epoch) = seeking(&node);
    let fresh = start::start(&witness, 1, 0);
    let request =
        |transmit_ns| Request { epoch, lease_ns: (20 * MS) as u32, transmit_ns, holds: true };

    criterion.bench_function("request: a new promise", |bencher| {
        bencher.iter_batched_ref(
            || fresh,
            |record| voter::request(record, black_box(&witness), 1, &request(NOW), NOW),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("request: a renewal", |bencher| {
        let mut record = fresh;
        voter::request(&mut record, &witness, 1, &request(NOW), NOW);
        let mut now = NOW;
        bencher.iter(|| {
            now += MS;
            voter::request(black_box(&mut record), &witness, 1, &request(now), now)
        });
    });
    criterion.bench_function("promise: the majority", |bencher| {
        bencher.iter_batched_ref(
            || sought,
            |record| holder::promise(record, black_box(&node), 3, &promise(epoch, NOW), NOW + MS),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("promise: a renewal", |bencher| {
        let mut record = sought;
        let mut now = NOW;
        bencher.iter(|| {
            now += MS;
            holder::promise(black_box(&mut record), &node, 3, &promise(epoch, now - 1), now)
        });
    });
}

fn words(criterion: &mut Criterion) {
    let (node, witness) = (terms(1), terms(3));
    let (mut held, epoch) = seeking(&node);
    holder::promise(&mut held, &node, 3, &promise(epoch, NOW), NOW + 1);
    let mut asked = GroupWord::default();
    word::speak(&held, &node, true, NOW + 1, &mut asked);

    criterion.bench_function("speak of a group held", |bencher| {
        let mut said = GroupWord::default();
        bencher.iter(|| word::speak(black_box(&held), &node, true, NOW + 1, black_box(&mut said)));
    });
    criterion.bench_function("hear a word with a request", |bencher| {
        let mut record = start::start(&witness, 1, 0);
        let mut now = NOW;
        bencher.iter(|| {
            now += MS;
            word::hear(black_box(&mut record), &witness, 1, now, black_box(&asked), now)
        });
    });
    criterion.bench_function("majority_end", |bencher| {
        bencher.iter(|| gate::majority_end(black_box(&held), black_box(&node)));
    });
    criterion.bench_function("gate", |bencher| {
        let until = gate::until(&held);
        bencher.iter(|| gate::passes(black_box(until), NOW, 50 * MS, black_box(NOW + 1)));
    });
}

criterion_group!(benches, transitions, words);
criterion_main!(benches);
