//! Parsers of bytes that outsiders reach, on inputs that are mutated at random, under plain `cargo test`.
//!
//! Each target has seeds that it takes. `HB_FUZZ=1000000` tries as many, `HB_FUZZ_SEED` others. A finding names
//! seed, number and bytes. Each target is also run with a panic planted where only a mutated input gets: one
//! that is not found fails the test, so that a target never tests nothing.

mod config;
mod frame;
mod random;
mod records;

use std::panic::{AssertUnwindSafe, catch_unwind};

use random::Random;

/// What breaks parsers more often than others do.
const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xff, b'0', b'\n'];

/// An input that `target` panics at.
#[derive(Debug)]
struct Finding {
    seed: u64,
    number: u64,
    input: Vec<u8>,
}

/// Runs `target` on mutated `seeds`, `usual` times or as often as is asked for.
///
/// # Panics
///
/// If it does, with the input.
pub(crate) fn holds<T>(usual: u64, seeds: &[Vec<u8>], target: impl Fn(&[u8]) -> T) {
    for seed in seeds {
        drop(target(seed));
    }
    let target = |input: &[u8]| drop(target(input));
    if let Some(finding) = search(random::seed(), random::count(usual), seeds, target) {
        let Finding { seed, number, input } = finding;
        let input = match str::from_utf8(&input) {
            Ok(text) if !text.contains('\0') => format!("{text:?}"),
            _ => input.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        panic!("HB_FUZZ_SEED={seed}, number {number}: {input}");
    }
}

/// Checks that a panic which is planted in `target` is found in `usual` tries, and not in a seed itself.
///
/// # Panics
///
/// If it is not.
pub(crate) fn finds(usual: u64, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    for seed in seeds {
        target(seed);
    }
    let found = search(1, usual, seeds, target);
    let found = found.unwrap_or_else(|| panic!("the planted panic was not found in {usual} tries"));
    assert!(!seeds.contains(&found.input));
}

fn search(seed: u64, count: u64, seeds: &[Vec<u8>], target: impl Fn(&[u8])) -> Option<Finding> {
    let mut random = Random(seed);
    for number in 0..count {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut random, &mut input, seeds);
        }
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            return Some(Finding { seed, number, input });
        }
    }
    None
}

/// Changes an input in one place.
fn mutate(random: &mut Random, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = (at + 1 + random.below(8)).min(input.len()).max(at);
    match random.below(12) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        // Something is there twice.
        2 => {
            let piece = input[at..end].to_vec();
            drop(input.splice(at..at, piece));
        }
        // A piece of another input, of any length.
        3 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            drop(input.splice(at..at, other[from..to].iter().copied()));
        }
        4 => {
            drop(input.splice(at..at, vec![EDGES[random.below(EDGES.len())]; 1 + random.below(8)]));
        }
        // A number of two or four bytes, in either order.
        5 | 6 => {
            let value = [0, 1, 0x7fff, 0xffff, 0x7fff_ffff, u32::MAX, random.below(256) as u32];
            let value = value[random.below(value.len())];
            let bytes = [value.to_be_bytes(), value.to_le_bytes()][random.below(2)];
            let width = [2, 4][random.below(2)];
            let bytes =
                if value.to_be_bytes() == bytes { &bytes[4 - width..] } else { &bytes[..width] };
            for (byte, new) in input.iter_mut().skip(at).zip(bytes) {
                *byte = *new;
            }
        }
        7 | 8 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = EDGES[random.below(EDGES.len())];
            }
        }
        // One up or down: another digit, another length.
        9 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add([1, 0xff][random.below(2)]);
            }
        }
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_leads_to_the_same_inputs() {
        let seeds = [b"one".to_vec(), b"another 12".to_vec()];
        let run = |seed| {
            let inputs = std::cell::RefCell::new(Vec::new());
            search(seed, 200, &seeds, |input| inputs.borrow_mut().push(input.to_vec()));
            inputs.into_inner()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    #[should_panic(expected = "was not found")]
    fn a_target_that_sees_nothing_is_found_out() {
        finds(200, &[b"any".to_vec()], |_| ());
    }

    #[test]
    #[should_panic(expected = "HB_FUZZ_SEED=")]
    fn a_finding_is_told_with_its_input() {
        holds(10_000, &[b"number 41".to_vec()], |input| assert!(!input.ends_with(b"42")));
    }
}
