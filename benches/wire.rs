//! Nanoseconds per frame: signing, checking, building, finding it in a packet, the replay window.

use std::hint::black_box;

use benches::packets::{self, MY_V4, MY_V6, PEER_V4, PEER_V6};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hb_ebpf::{
    answer,
    maps::{Node, Transport},
    packet,
    siphash::{self, Key},
    window::Window,
    wire::{Frame, Kind},
};
use zerocopy::FromZeros;

fn frame(criterion: &mut Criterion) {
    let key = Key { words: [1, 2] };
    let mut frame = Frame::default();
    criterion.bench_function("sign", |bencher| {
        bencher.iter(|| black_box(&mut frame).sign(black_box(&key)));
    });
    criterion.bench_function("check", |bencher| {
        bencher.iter(|| black_box(&frame).is_signed_by(black_box(&key)));
    });
}

/// What each further byte costs is the slope of these.
fn siphash(criterion: &mut Criterion) {
    fn of<const WORDS: usize>(criterion: &mut Criterion, key: &Key) {
        let words = [0x0123_4567_89ab_cdef_u64; WORDS];
        let bytes = WORDS * 8;
        let mut group = criterion.benchmark_group("siphash");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |bencher| {
            bencher.iter(|| siphash::tag(black_box(key), black_box(&words)));
        });
    }
    let key = Key { words: [1, 2] };
    of::<12>(criterion, &key);
    of::<26>(criterion, &key);
    of::<52>(criterion, &key);
}

fn build(criterion: &mut Criterion) {
    let key = Key { words: [1, 2] };
    let node = Node::new_zeroed();
    let mut probe = Frame::default();
    criterion.bench_function("build a probe", |bencher| {
        bencher.iter(|| {
            let stamp = answer::Stamp {
                receiver_nonce: 2,
                sequence: 3,
                echo_ns: 4,
                echo_age_ns: 5,
                last_answer_ns: 6,
                now: 7,
                refused: 0,
            };
            let probe = black_box(&mut probe);
            answer::address(probe, black_box(&node), 2, (0, 8), 1);
            answer::fill(probe, Kind::Probe, &node, &stamp);
            probe.sign(&key);
        });
    });
    let reply = answer::Reply::default();
    criterion.bench_function("turn a probe into an answer", |bencher| {
        bencher.iter(|| {
            let frame = black_box(&mut probe);
            answer::answer(frame, black_box(&node), &reply, 8, 7, 0);
            frame.sign(&key);
        });
    });
}

fn find(criterion: &mut Criterion) {
    let frame = Frame::default();
    for (name, packet) in [
        ("find a heartbeat, ethernet", packets::heartbeat(Transport::Ethernet, &frame)),
        ("find a heartbeat, udp4", packets::heartbeat(Transport::Udp4, &frame)),
        ("find a heartbeat, udp6", packets::heartbeat(Transport::Udp6, &frame)),
        ("pass a foreign packet, ARP", packets::arp(MY_V4)),
        ("pass a foreign packet, IPv4", packets::tcp4(PEER_V4, MY_V4, 64)),
        ("pass a foreign packet, IPv6", packets::tcp6(PEER_V6, MY_V6, 64)),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| packet::find(black_box(&packet[..])));
        });
    }
}

fn window(criterion: &mut Criterion) {
    let mut window = Window::EMPTY;
    let mut sequence = 0;
    criterion.bench_function("window", |bencher| {
        bencher.iter(|| {
            sequence += 1;
            if black_box(&window).admits(sequence) {
                window.take(sequence);
            }
        });
    });
}

criterion_group!(benches, frame, siphash, build, find, window);
criterion_main!(benches);
