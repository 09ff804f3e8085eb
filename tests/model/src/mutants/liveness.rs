//! Nodes that stand in each other's way for ever.

use hb_ebpf::{
    lease::{
        Record, Terms, gate,
        voter::Verdict,
        word::{self, Heard},
    },
    wire::{GroupWord, State},
};

use super::asks;
use crate::rules::Rules;

/// Refuses what `word` asks for, and hears the rest.
fn refuse(
    record: &mut Record,
    terms: &Terms,
    source: u8,
    word: &GroupWord,
    now: u64,
    verdict: Verdict,
) -> Heard {
    let mut rest = *word;
    rest.state = State::Idle as u8;
    Heard { request: Some(verdict), ..word::hear(record, terms, source, 0, &rest, now) }
}

/// A seeker neither gives up nor makes way for a higher epoch.
#[derive(Clone, Copy, Debug)]
pub struct SeekerStays;

impl Rules for SeekerStays {
    fn give_up(&self, _record: &mut Record, _terms: &Terms, _now: u64) -> bool {
        false
    }

    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        if record.state() == State::Seeking && asks(word) {
            return refuse(record, terms, source, word, now, Verdict::Seeking);
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A holder whose lease ran out neither promises nor seeks.
#[derive(Clone, Copy, Debug)]
pub struct LapsedStays;

impl Rules for LapsedStays {
    fn step_down(&self, _record: &mut Record, _now: u64) -> bool {
        false
    }

    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let lapsed = record.state() == State::Holding && gate::open(record, now).is_none();
        if lapsed && asks(word) {
            return refuse(record, terms, source, word, now, Verdict::Sending);
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}
