//! Telling the daemon: events and counters.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use hb_ebpf::{
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

/// Puts an event into the ring and wakes the reader. One that does not fit is counted; the daemon
/// reads the maps from time to time, so its loss delays and does not deceive.
#[inline(always)]
pub(crate) fn push(event: Event) {
    match maps::EVENTS.reserve(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
        }
        None => lost(),
    }
}

#[inline(always)]
fn lost() {
    if let Some(lost) = maps::LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, and the program is not preempted by itself.
        unsafe { *lost += 1 };
    }
}

/// Counts a refused frame on this CPU.
#[inline(always)]
pub(crate) fn refused(slot: u32, reason: usize) {
    if let Some(counters) = maps::REFUSED.get_ptr_mut(slot) {
        // SAFETY: this CPU's own entry, and the program is not preempted by itself. The mask shows the
        // verifier that the index is in range: Linux 6.1 forgets a comparison with what it keeps on the stack.
        unsafe { (*counters)[reason & (COUNTERS - 1)] += 1 };
    }
}
