//! Liveness, by a good schedule.
//!
//! From a state that the adversary made, it lets go: every machine is up, every frame arrives at
//! once, daemons do what daemons do. Some gate has to open within a bound; under policy `safe` by a
//! lease with an end, without a fence, and with no promise left that has none. This is stronger than
//! "a way to a holder exists", and, unlike an `eventually` property on the adversary's own paths,
//! says nothing of schedules in which every frame is lost for ever, where no rule could help.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        fence::{self, Vow},
        holder,
        terms::retry_ns,
    },
    wire::{GroupWord, State as Holds},
};

use crate::{
    rules::Rules,
    setup::MACHINES,
    system::{Protocol, System},
    time::NOW,
};

/// Ticks until a gate has to be open: time for a blocked start, a promise and a few seeks.
const TICKS: u32 = 80;

/// Tells whether the good schedule leads from `system` to an open gate.
pub fn finds_a_holder<R: Rules>(protocol: &Protocol<R>, system: &System) -> bool {
    let mut system = system.clone();
    system.network.clear();
    for id in 1..=protocol.setup.machines() {
        begin(protocol, &mut system, id);
    }
    let mut waits = [0; MACHINES];
    for _ in 0..TICKS {
        // What one frame starts, the answers to it finish.
        for _ in 0..2 {
            exchange(protocol, &mut system, None);
        }
        let ids = 1..=protocol.setup.nodes;
        if ids.clone().any(|id| protocol.open(&system, id).is_some()) && is_whole(protocol, &system)
        {
            return true;
        }
        for id in ids {
            daemon(protocol, &mut system, id, &mut waits[usize::from(id) - 1]);
        }
        for _ in 0..2 {
            exchange(protocol, &mut system, None);
        }
        protocol.pass(&mut system, &mut waits);
    }
    false
}

/// A machine that was off starts, a daemon that left is back, and one that waits for a fence gives it
/// up.
fn begin<R: Rules>(protocol: &Protocol<R>, system: &mut System, id: u8) {
    let terms = protocol.terms(system, id);
    let machine = &mut system.machines[usize::from(id) - 1];
    if !machine.up {
        protocol.start(machine, &terms);
    }
    if machine.record.vow() == Vow::Given {
        fence::rejoin(&mut machine.record, &terms, machine.left);
    }
    let epoch = Epoch(machine.record.epoch);
    protocol.rules.report(&mut machine.record, &terms, epoch, false, NOW);
}

/// Tells whether no fence and no leaving has left a trace, so that either node can hold next. Under
/// other policies there is none to leave.
fn is_whole<R: Rules>(protocol: &Protocol<R>, system: &System) -> bool {
    !protocol.setup.is_safe()
        || system
            .machines
            .iter()
            .all(|machine| !machine.record.is_endless() && machine.record.vow() == Vow::None)
}

/// Everyone but `without` says everything, and everyone else hears it.
pub(crate) fn exchange<R: Rules>(protocol: &Protocol<R>, system: &mut System, without: Option<u8>) {
    let heard = || (1..=protocol.setup.machines()).filter(|id| Some(*id) != without);
    for from in heard() {
        let terms = protocol.terms(system, from);
        let mut word = GroupWord::default();
        let machine = &mut system.machines[usize::from(from) - 1];
        if let Some(record) = machine.pending.take() {
            machine.record = *record;
        }
        protocol.rules.speak(&machine.record, &terms, true, NOW, &mut word);
        for to in heard().filter(|to| *to != from) {
            protocol.hear_whole(system, from, &word, to);
        }
    }
}

/// What a daemon does between two ticks: the wait before the next seek is by rank.
fn daemon<R: Rules>(protocol: &Protocol<R>, system: &mut System, id: u8, wait: &mut u64) {
    let terms = protocol.terms(system, id);
    let record = &mut system.machines[usize::from(id) - 1].record;
    let rules = &protocol.rules;
    if record.state() == Holds::Seeking && rules.give_up(record, &terms, NOW) {
        *wait = retry_ns(terms.seek_ns, id - 1);
    }
    rules.step_down(record, NOW);
    holder::cleaned(record);
    if *wait == 0 {
        // Refused while bound or blocked: then the next round tries again.
        let _refused = rules.seek(record, &terms, NOW);
    }
}
