//! A thousand nodes, by arithmetic on what was measured.

use std::fmt::Write as _;

use hb_ebpf::{homes::HOMES, wire::FRAME_LEN};
use serde::Serialize;

use super::{engine::Engine, witness::Votes};

const NODES: u64 = 1000;
/// A frame on Ethernet with preamble, header, check sequence and gap (IEEE 802.3).
const WIRE_BYTES: u64 = FRAME_LEN as u64 + 8 + 14 + 4 + 12;

/// What one interval needs, with all nodes in pairs, two links each, and witnesses for all pairs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) interval_us: u64,
    /// Frames that a node takes in a second, and its part of a core for them and for its probes.
    pub(super) node_frames_per_s: f64,
    pub(super) node_core: f64,
    pub(super) node_map_bytes: u64,
    /// Machines that only vote, as many as their maps need.
    pub(super) witnesses: u64,
    /// Frames that each of them takes in a second, and cores for them.
    pub(super) witness_frames_per_s: f64,
    pub(super) witness_cores: f64,
    pub(super) witness_mbit_per_s: f64,
    pub(super) witness_map_bytes: u64,
}

/// Plans for several intervals.
pub(super) fn plan(engine: &Engine, votes: &Votes) -> Vec<Plan> {
    // What the thread took for one probe, all that it does besides included.
    let probe_s = engine.thread_core / engine.probes_per_s;
    let frame_s = engine.frame_ns / 1e9;
    let pairs = NODES / 2;
    let witnesses = pairs.div_ceil(HOMES as u64);
    let of_a_witness = 2 * pairs.div_ceil(witnesses);
    [100, 1000, 10_000]
        .into_iter()
        .map(|interval_us| {
            let per_s = 1e6 / interval_us as f64;
            // Two links to the peer and one to the witness; each probe is answered, and the peer
            // probes too.
            let probes = 3.0 * per_s;
            let frames = probes + 2.0 * per_s;
            let asked = of_a_witness as f64 * per_s;
            Plan {
                interval_us,
                node_frames_per_s: frames,
                node_core: probes * probe_s + frames * frame_s,
                node_map_bytes: engine.map_bytes,
                witnesses,
                witness_frames_per_s: asked,
                witness_cores: asked * votes.frame_ns / 1e9,
                witness_mbit_per_s: asked * (WIRE_BYTES * 8) as f64 / 1e6,
                witness_map_bytes: votes.map_bytes,
            }
        })
        .collect()
}

/// Returns the table for a person.
pub(super) fn table(plans: &[Plan]) -> String {
    let mut table = format!(
        "{NODES} nodes in pairs, two links each, a witness for each {HOMES} pairs; computed, not measured\n\
         {:>9}{:>15}{:>11}{:>11}{:>11}{:>15}{:>14}{:>13}{:>14}\n",
        "interval",
        "frames/s, node",
        "core, node",
        "maps, node",
        "witnesses",
        "frames/s, each",
        "cores, each",
        "Mbit/s, each",
        "maps, each"
    );
    for plan in plans {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:>9}{:>15.0}{:>11}{:>11}{:>11}{:>15.0}{:>14.2}{:>13.0}{:>14}",
            format!("{} us", plan.interval_us),
            plan.node_frames_per_s,
            format!("{:.1}%", plan.node_core * 100.0),
            format!("{} KiB", plan.node_map_bytes / 1024),
            plan.witnesses,
            plan.witness_frames_per_s,
            plan.witness_cores,
            plan.witness_mbit_per_s,
            format!("{} KiB", plan.witness_map_bytes / 1024)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_nodes_are_five_hundred_pairs() {
        let engine = Engine {
            peers: 10,
            interval_us: 1000,
            scheduling: String::new(),
            probes_per_s: 10_000.0,
            due_per_s: 10_000.0,
            answered: 1.0,
            frames_per_s: 20_000.0,
            frame_ns: 1000.0,
            thread_core: 0.1,
            program_core: 0.02,
            misses: 0,
            doubts: 0,
            deaths: 0,
            crowd_late_us: 0.0,
            map_bytes: 1,
        };
        let votes = Votes {
            clusters: 125,
            groups: 1000,
            promised: 1000,
            interval_us: 10_000,
            answers_per_s: 25_000.0,
            answered: 1.0,
            frame_ns: 2000.0,
            core: 0.05,
            map_bytes: 1,
        };
        let plans = plan(&engine, &votes);
        let ms = plans.iter().find(|plan| plan.interval_us == 1000).unwrap();
        assert_eq!(ms.witnesses, 4);
        assert_eq!(ms.witness_frames_per_s, 250_000.0);
        assert!((ms.witness_cores - 0.5).abs() < 1e-9, "{}", ms.witness_cores);
        // 3,000 probes of 10 us each and 5,000 frames of 1 us each.
        assert!((ms.node_core - 0.035).abs() < 1e-9, "{}", ms.node_core);
    }
}
