//! Nanoseconds per packet in the programs, as the kernel measures them. Needs root.

use std::time::Duration;

use benches::cost::Cases;
use criterion::{Criterion, criterion_group, criterion_main};

/// Repeats in one system call at most; a signal ends a longer one.
const MOST: u64 = 100_000;

fn packets(criterion: &mut Criterion) {
    let cases = Cases::new().expect("the kernel half cannot be loaded (needs root)");
    let mut group = criterion.benchmark_group("kernel");
    for case in &cases.all {
        group.bench_function(&case.name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut left = iterations;
                let mut sum = Duration::ZERO;
                while left > 0 {
                    let repeat = left.min(MOST);
                    let each = case.run(repeat as u32).expect("a test run");
                    sum += each.mul_f64(repeat as f64);
                    left -= repeat;
                }
                // The kernel rounds down: nothing is not a time that can be compared.
                sum.max(Duration::from_nanos(1))
            });
        });
    }
}

criterion_group!(benches, packets);
criterion_main!(benches);
