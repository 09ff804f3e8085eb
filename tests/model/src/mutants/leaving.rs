//! Nodes that leave in order and note too early an end.

use hb_ebpf::lease::{Record, Terms, start};

use crate::rules::Rules;

/// What was promised to another is not in the note.
#[derive(Clone, Copy, Debug)]
pub struct PromiseNotNoted;

impl Rules for PromiseNotNoted {
    fn part(&self, record: &mut Record, terms: &Terms, now: u64) -> Option<u64> {
        record.until_ns = 0;
        start::part(record, terms, now)
    }
}

/// That the node's own last packets may still be on their way is not in the note.
#[derive(Clone, Copy, Debug)]
pub struct LastPacketsNotNoted;

impl Rules for LastPacketsNotNoted {
    fn part(&self, record: &mut Record, terms: &Terms, now: u64) -> Option<u64> {
        record.open_until_ns = 0;
        start::part(record, terms, now)
    }
}

/// A wait that a start before began is not in the note.
#[derive(Clone, Copy, Debug)]
pub struct WaitNotNoted;

impl Rules for WaitNotNoted {
    fn part(&self, record: &mut Record, terms: &Terms, now: u64) -> Option<u64> {
        record.blocked_until_ns = 0;
        start::part(record, terms, now)
    }
}
