//! Whether a holder keeps what it holds, by a good schedule.
//!
//! From a state that the adversary made and in which a gate is open, it lets go, as for
//! [`recovery`](crate::recovery), and nobody seeks: the gate has to stay open. Once every wait is
//! over, any one other machine is lost, and it has to stay open still: every voter has to be bound to
//! the holder by then, whatever it did before. Or the holder gives the group to another node, which has
//! to see that, and hold as soon as the release has drained.

use hb_ebpf::{
    lease::{holder, word},
    wire::{GroupWord, State as Holds},
};

use crate::{
    recovery::exchange,
    rules::Rules,
    setup::MACHINES,
    system::{Protocol, System},
    time::NOW,
};

/// Tells whether the gate that is open in `system` stays open as it should.
pub fn stays_held<R: Rules>(protocol: &Protocol<R>, system: &System) -> bool {
    let nodes = 1..=protocol.setup.nodes;
    let Some(id) = nodes.clone().find(|id| protocol.open(system, *id).is_some()) else {
        return true;
    };
    let mut system = system.clone();
    system.network.clear();
    let terms = protocol.terms(&system, id);
    let (settled, lost) = (terms.amnesia_ns(), terms.promise_ns(terms.lease_ns));
    if !keeps(protocol, &mut system, id, None, settled) {
        return false;
    }
    let others = 1..=protocol.setup.machines();
    others
        .filter(|other| *other != id)
        .all(|other| keeps(protocol, &mut system.clone(), id, Some(other), lost))
        && nodes.filter(|other| *other != id).all(|other| is_taken(protocol, &system, id, other))
}

/// Ticks in which each clock passes `span`, and one more.
fn ticks(system: &System, span: u64) -> u64 {
    let slowest = system.rates.iter().min().copied().unwrap_or(1);
    span.div_ceil(u64::from(slowest)) + 1
}

/// Tells whether the gate of `id` stays open for longer than `span`, without one other machine.
fn keeps<R: Rules>(
    protocol: &Protocol<R>,
    system: &mut System,
    id: u8,
    without: Option<u8>,
    span: u64,
) -> bool {
    for _ in 0..ticks(system, span) {
        // What one frame starts, the answers to it finish.
        for _ in 0..2 {
            exchange(protocol, system, without);
        }
        if protocol.open(system, id).is_none() {
            return false;
        }
        for other in (1..=protocol.setup.nodes).filter(|other| *other != id) {
            settle(protocol, system, other);
        }
        protocol.pass(system, &mut [0; MACHINES]);
    }
    protocol.open(system, id).is_some()
}

/// Ends what a node seeks, or held before.
fn settle<R: Rules>(protocol: &Protocol<R>, system: &mut System, id: u8) {
    let terms = protocol.terms(system, id);
    let record = &mut system.machines[usize::from(id) - 1].record;
    protocol.rules.give_up(record, &terms, NOW);
    protocol.rules.step_down(record, NOW);
    holder::cleaned(record);
}

/// Tells whether `other` holds soon after `id` released the group to it.
fn is_taken<R: Rules>(protocol: &Protocol<R>, system: &System, id: u8, other: u8) -> bool {
    let mut system = system.clone();
    let (terms, others) = (protocol.terms(&system, id), protocol.terms(&system, other));
    exchange(protocol, &mut system, None);
    let record = &mut system.machines[usize::from(id) - 1].record;
    if protocol.rules.release(record, &terms, other, NOW).is_none() {
        return false;
    }
    let mut word = GroupWord::default();
    protocol.rules.speak(record, &terms, true, NOW, &mut word);
    protocol.hear_whole(&mut system, id, &word, other);
    if !word::hands_over(&system.machines[usize::from(other) - 1].record, &others, &word) {
        return false;
    }
    for _ in 0..=ticks(&system, terms.drain_ns) {
        for _ in 0..2 {
            exchange(protocol, &mut system, None);
        }
        if protocol.open(&system, other).is_some() {
            return true;
        }
        let record = &mut system.machines[usize::from(other) - 1].record;
        if record.state() != Holds::Seeking {
            // Refused while its own promise drains: then the next round tries again.
            let _refused = protocol.rules.seek(record, &others, NOW);
        }
        for _ in 0..2 {
            exchange(protocol, &mut system, None);
        }
        protocol.pass(&mut system, &mut [0; MACHINES]);
    }
    false
}
