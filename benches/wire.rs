//! Nanoseconds per frame: signing and checking.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hb_ebpf::{siphash::Key, wire::Frame};

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

criterion_group!(benches, frame);
criterion_main!(benches);
