//! Nanoseconds per frame: signing, checking, finding it in a packet, the replay window.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hb_ebpf::{
    packet,
    siphash::Key,
    window::Window,
    wire::{ETHERTYPE, FRAME_LEN, Frame},
};

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

fn find(criterion: &mut Criterion) {
    let mut heartbeat = vec![0u8; 14 + FRAME_LEN];
    heartbeat[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    let mut foreign = heartbeat.clone();
    foreign[12..14].copy_from_slice(&[0x08, 0x06]);
    criterion.bench_function("find a heartbeat", |bencher| {
        bencher.iter(|| packet::find(black_box(&heartbeat[..])));
    });
    criterion.bench_function("pass a foreign packet", |bencher| {
        bencher.iter(|| packet::find(black_box(&foreign[..])));
    });
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

criterion_group!(benches, frame, find, window);
criterion_main!(benches);
