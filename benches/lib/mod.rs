//! What the micro-benchmarks beside this directory and `cargo xtask bench` share: a kernel half of
//! its own, packets for it, a stand-in for the peers it talks to, and the kernel's own clock around
//! its programs.
//!
//! Needs root, and only namespaces and BPF objects of its own are touched.

pub mod bpf;
pub mod cable;
pub mod cost;
pub mod crowd;
pub mod half;
pub mod packets;
pub mod stand_in;
pub mod votes;
