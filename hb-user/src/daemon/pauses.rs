//! Pauses of machines, as their clocks told: one for all the frames that speak of it.
//!
//! Every frame that waited while a machine stood still tells of the pause anew, and so does every
//! other machine.

use std::{collections::BTreeSet, time::Duration};

use hb_ebpf::time::BootTime;

use super::Daemon;
use crate::{clock, id::NodeId};

/// What is told within this time of the first word is of the same pause.
const SAME: Duration = Duration::from_secs(1);

/// One pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// When it was found.
    pub(super) at: BootTime,
    /// The longest that was told, in microseconds.
    pub(super) us: u64,
    /// Whose clocks told of it.
    pub(super) by: BTreeSet<NodeId>,
}

/// What a word of a pause was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The first of this pause.
    First,
    /// Another machine says so too: it was not that one's clock.
    Confirmed,
    /// Nothing new.
    Again,
}

/// The pauses of one machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses {
    /// The last one.
    pub(super) latest: Option<Pause>,
    /// How many there were.
    pub(super) total: u64,
}

impl Pauses {
    /// Takes note that the clock of `by` tells of a pause of `us` microseconds, found at `at`.
    pub(super) fn note(&mut self, by: NodeId, at: BootTime, us: u64) -> News {
        match &mut self.latest {
            Some(latest) if at.since(latest.at) <= SAME => {
                latest.us = latest.us.max(us);
                let alone = latest.by.len() == 1;
                if latest.by.insert(by) && alone { News::Confirmed } else { News::Again }
            }
            _ => {
                self.latest = Some(Pause { at, us, by: BTreeSet::from([by]) });
                self.total += 1;
                News::First
            }
        }
    }
}

impl Daemon {
    /// What an operator should know of that is over.
    pub(super) fn past(&self) -> Vec<String> {
        let mut past = Vec::new();
        if let Some(pause) = &self.pauses.latest {
            let perhaps = if pause.by.len() > 1 {
                "the clocks of several machines say so"
            } else {
                "its clock stood still, or that of another machine was set"
            };
            past.push(format!(
                "this node was paused for {} ms, {} s ago: {perhaps}",
                pause.us.div_ceil(1000),
                clock::now().since(pause.at).as_secs()
            ));
        }
        if self.lost_events > 0 {
            past.push(format!("{} events of the kernel half were lost", self.lost_events));
        }
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeId = NodeId(2);
    const W: NodeId = NodeId(3);
    const MS: u64 = 1_000_000;

    #[test]
    fn all_words_of_a_pause_are_one() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.note(B, BootTime(100 * MS), 40_000), News::First);
        assert_eq!(pauses.note(B, BootTime(101 * MS), 41_000), News::Again);
        assert_eq!(pauses.note(W, BootTime(102 * MS), 39_000), News::Confirmed);
        assert_eq!(pauses.note(W, BootTime(103 * MS), 39_000), News::Again);
        let latest = pauses.latest.clone().unwrap();
        assert_eq!((latest.at, latest.us), (BootTime(100 * MS), 41_000));
        assert_eq!(latest.by, BTreeSet::from([B, W]));
        assert_eq!(pauses.total, 1);
    }

    #[test]
    fn the_next_pause_is_another() {
        let mut pauses = Pauses::default();
        pauses.note(B, BootTime(100 * MS), 40_000);
        pauses.note(W, BootTime(100 * MS), 40_000);
        assert_eq!(pauses.note(B, BootTime(1101 * MS), 7), News::First);
        let latest = pauses.latest.clone().unwrap();
        assert_eq!((latest.us, latest.by.len(), pauses.total), (7, 1, 2));
    }
}
