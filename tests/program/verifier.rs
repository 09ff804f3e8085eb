//! What the verifier walks through before a program runs. It is most of what the start of a daemon
//! takes, and past a million instructions a program is refused.

use std::fs;

use hb_user::kernel::{WITNESS_OBJECT, Witness};

use super::rig::{Pins, Rig};

/// A fifth of what is refused, for kernels that walk further than this one.
const MOST: u64 = 200_000;

/// How many instructions each program that this process has open took.
fn walked() -> Vec<u64> {
    let programs = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|entry| {
        // The descriptor of the listing itself is gone by now.
        let text = fs::read_to_string(entry.unwrap().path()).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("verified_insns:"))?;
        Some(line.trim().parse().unwrap())
    });
    programs.collect()
}

#[test]
fn every_program_is_walked_through_soon() {
    let (rig, _) = Rig::acquainted();
    rig.kernel.timers().unwrap();
    let of_a_node = walked();
    assert!(of_a_node.iter().any(|walked| *walked > 10_000), "no `heartbeat` in {of_a_node:?}");
    let pins = Pins::new();
    let _witness = Witness::open(WITNESS_OBJECT, pins.path()).unwrap();
    let all = walked();
    assert!(all.len() > of_a_node.len(), "no program of a witness: {all:?}");
    assert!(all.iter().all(|walked| *walked < MOST), "{all:?}");
}
