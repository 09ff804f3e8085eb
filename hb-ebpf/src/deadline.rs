//! A peer's timer is due: is it a miss, a warning, a death, or our own fault?
//!
//! Deadtime counts from the last arrival on any link (for a peer never heard, initdead from the
//! start of the watch). A miss is an interval of silence, counted half an interval after it ended
//! so that ordinary jitter is none.

use crate::maps::{Cause, Life, Peer};

/// What our other peers say of ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// There is no other live peer to ask.
    None,
    /// One was heard within two intervals: we hear well.
    Fresh,
    /// All are overdue as well.
    Overdue,
}

/// What the timer has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The peer's new life.
    pub life: Life,
    /// Cause, when `life` has just become [`Life::Dead`].
    pub cause: Cause,
    /// Intervals of silence now.
    pub misses: u32,
    /// Of these, how many are new and count as misses.
    pub new_misses: u32,
    /// How many are new and count as doubts: no probe left, or a verdict was put off.
    pub new_doubts: u32,
    /// Since when doubt puts off the verdict, 0 for no doubt.
    pub doubt_since_ns: u64,
    /// When the timer has to fire next.
    pub due_ns: u64,
    /// When the verdict was due.
    pub verdict_due_ns: u64,
    /// Silence now.
    pub silence_ns: u64,
}

/// Decides what `now` brings for a peer whose timer was to fire at `peer.due_ns`. Pure; late,
/// early and repeated calls are harmless.
#[inline(always)]
#[must_use]
pub fn decide(peer: &Peer, others: Others, now: u64) -> Decision {
    let timing = &peer.timing;
    let life = Life::from_code(peer.life);
    let interval = if timing.interval_ns == 0 { 1 } else { timing.interval_ns };
    let heard = peer.last_arrival_ns > peer.started_ns;
    let base = if heard { peer.last_arrival_ns } else { peer.started_ns };
    let silence = now.saturating_sub(base);
    let patience = match life {
        Life::Unheard => timing.init_dead_ns,
        _ => timing.dead_ns,
    };
    let verdict_due = base.saturating_add(patience);
    let mut decision = Decision {
        life,
        cause: Cause::None,
        misses: peer.misses,
        new_misses: 0,
        new_doubts: 0,
        doubt_since_ns: peer.doubt_since_ns,
        due_ns: now.saturating_add(interval),
        verdict_due_ns: verdict_due,
        silence_ns: silence,
    };
    if let Life::Dead = life {
        return decision;
    }

    let unprobed = now.saturating_sub(peer.probe_ns) > interval.saturating_add(interval);
    if let Life::Alive | Life::Late = life {
        let missed = (silence.saturating_add(interval / 2) / interval).saturating_sub(1);
        let missed = if silence >= patience { silence / interval } else { missed };
        let missed = if missed > u64::from(u32::MAX) { u32::MAX } else { missed as u32 };
        let new = missed.saturating_sub(peer.misses);
        if new > 0 {
            decision.misses = missed;
            if unprobed {
                decision.new_doubts = new;
            } else {
                decision.new_misses = new;
            }
        }
    }

    let late = now.saturating_sub(peer.due_ns) > timing.late_ns;
    if silence >= patience {
        let since = if peer.doubt_since_ns == 0 { now } else { peer.doubt_since_ns };
        // What arrived while we were stalled is still being taken in.
        let stalled = peer.doubt_since_ns != 0 && now.saturating_sub(since) < interval;
        let sick = late || unprobed || matches!(others, Others::Overdue);
        let doubt = sick || stalled;
        if doubt && now.saturating_sub(since) < timing.doubt_max_ns {
            decision.doubt_since_ns = since;
            decision.new_doubts = decision.new_doubts.saturating_add(1);
            if !sick {
                decision.due_ns = since.saturating_add(interval);
            }
            decision.due_ns = min(decision.due_ns, since.saturating_add(timing.doubt_max_ns));
            return decision;
        }
        decision.life = Life::Dead;
        decision.doubt_since_ns = 0;
        decision.cause = match life {
            _ if doubt => Cause::DoubtExhausted,
            Life::Unheard => Cause::NeverHeard,
            _ => Cause::Silence,
        };
        return decision;
    }

    if late && silence >= interval {
        decision.doubt_since_ns = now;
    }
    let mut due = verdict_due;
    if let Life::Unheard = life {
        // The first arrival brings a deadline far nearer than initdead, and moves no timer.
        due = min(due, now.saturating_add(interval));
    }
    if let Life::Alive | Life::Late = life {
        if silence >= timing.warn_ns {
            decision.life = Life::Late;
        } else {
            decision.life = Life::Alive;
            due = min(due, base.saturating_add(timing.warn_ns));
        }
        let since_miss = silence.saturating_add(interval / 2) % interval;
        due = min(due, now.saturating_add(interval - since_miss));
    }
    decision.due_ns = due;
    decision
}

#[inline(always)]
const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests;
