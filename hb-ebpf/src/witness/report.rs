//! Counters. Nobody reads events on a witness, so there are none.

use hb_ebpf::{
    homes,
    maps::{Event, EventKind},
    refusal::COUNTERS,
};

use crate::maps;

/// Returns an event that was due when it happened.
#[inline(always)]
pub(crate) fn event(kind: EventKind, peer: u8, link: u8, now: u64) -> Event {
    Event {
        kind: kind as u8,
        peer,
        link,
        cause: 0,
        interface: 0,
        at_ns: now,
        due_ns: now,
        silence_ns: 0,
    }
}

/// Takes an event to nobody.
#[inline(always)]
pub(crate) fn push(_event: Event) {}

/// Counts a refused frame on this CPU, for the member that the slot is of.
#[inline(always)]
pub(crate) fn refused(slot: u32, reason: usize) {
    if let Some(counters) = maps::REFUSED.get_ptr_mut(homes::member_of(slot)) {
        // SAFETY: this CPU's own entry, and the program is not preempted by itself. The mask shows the
        // verifier that the index is in range: Linux 6.1 forgets a comparison with what it keeps on the stack.
        unsafe { (*counters)[reason & (COUNTERS - 1)] += 1 };
    }
}
