//! Nanoseconds of what a takeover is prepared with, and of what wakes it: netlink messages,
//! announcements, and the ring of events. The ring needs root.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use benches::{
    bpf::{Program, XDP_TX},
    half::Half,
    packets::{self, PEER_MAC},
    stand_in::StandIn,
};
use criterion::{Criterion, criterion_group, criterion_main};
use hb_ebpf::{
    maps::Transport,
    wire::{Be32, Kind},
};
use hb_user::{
    address::{Batch, Change, Vip},
    announce::{Announcement, Gateways},
    clock,
};

const LOOPBACK: u32 = 1;
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100));

fn messages(criterion: &mut Criterion) {
    for (name, address, prefix) in [("IPv4", V4, 32), ("IPv6", V6, 128)] {
        let vip = Vip::new(LOOPBACK, address, prefix).expect("an address that may be a VIP");
        criterion.bench_function(&format!("netlink message, {name}"), |bencher| {
            bencher.iter(|| {
                let mut batch = Batch::new();
                batch.push(black_box(Change::Add), black_box(vip)).expect("room for one");
                batch
            });
        });
        criterion.bench_function(&format!("announcement, {name}"), |bencher| {
            bencher.iter(|| {
                Announcement::new(black_box(address), black_box(PEER_MAC), Gateways::default())
            });
        });
    }
}

/// Events that wait at a time.
const WAITING: u64 = 64;

fn ring(criterion: &mut Criterion) {
    let mut half = Half::open(0, Transport::Udp4, LOOPBACK, PEER_MAC)
        .expect("the kernel half cannot be loaded (needs root)");
    let program = half.program("heartbeat").expect("it is loaded");
    let mut events = half.kernel.events().expect("the first reader");
    let mut peer = half.stand_in();
    let mut revision = 0;
    criterion.bench_function("drain the ring, per event", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut sum = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let count = left.min(WAITING);
                while events.take().is_some() {}
                for _ in 0..count {
                    revision += 1;
                    say(&program, &mut peer, revision);
                }
                let begin = clock::now();
                for _ in 0..count {
                    black_box(events.take().expect("each word was an event"));
                }
                sum += clock::now().since(begin);
                left -= count;
            }
            sum
        });
    });
}

/// Has the program take a probe that says something new.
fn say(program: &Program, peer: &mut StandIn, revision: u32) {
    let now = clock::now();
    peer.echo = (now.ns(), now);
    let mut frame = peer.frame(Kind::Probe, now);
    frame.revision = Be32::new(revision);
    frame.sign(&peer.key.1);
    let run = program.run(&packets::heartbeat(Transport::Udp4, &frame), Some(LOOPBACK), 1);
    assert_eq!(run.expect("a test run").verdict, XDP_TX);
}

criterion_group!(benches, messages, ring);
criterion_main!(benches);
