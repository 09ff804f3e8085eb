//! Holders that take a higher number wrongly, and voters that let them.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms, gate,
        word::{self, Heard},
    },
    wire::{Be64, GroupWord, State},
};

use super::asks;
use crate::rules::Rules;

/// A holder keeps its number, whatever it meets.
#[derive(Clone, Copy, Debug)]
pub struct KeepsItsNumber;

impl Rules for KeepsItsNumber {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let before = *record;
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        if record.next != 0 {
            record.next = 0;
            record.heard = before.heard.max(word.epoch.get()).max(word.promise_epoch.get());
        }
        heard
    }
}

/// Packets leave under the higher number as soon as it is asked for, whoever promised it.
#[derive(Clone, Copy, Debug)]
pub struct TakesItsNumberAtOnce;

impl Rules for TakesItsNumberAtOnce {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        if record.next != 0 {
            record.epoch = record.next;
            record.recorded = record.next;
            record.next = 0;
        }
        heard
    }
}

/// A holder asks for a higher number, and counts its promises, after its gate has closed as well.
#[derive(Clone, Copy, Debug)]
pub struct RenumbersWhenClosed;

impl RenumbersWhenClosed {
    /// `record` as if its gate were open, if it holds and the gate is not.
    fn opened(record: &Record, now: u64) -> Option<Record> {
        let lapsed = record.state() == State::Holding && gate::open(record, now).is_none();
        lapsed.then_some(Record { lease_end_ns: now + 1, ..*record })
    }
}

impl Rules for RenumbersWhenClosed {
    fn drops_spent_frames(&self) -> bool {
        true
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
        let opened = Self::opened(record, now).filter(|_| !asks(word));
        let Some(mut opened) = opened else {
            return word::hear(record, terms, source, transmit_ns, word, now);
        };
        let heard = word::hear(&mut opened, terms, source, transmit_ns, word, now);
        if opened.expires_ns == record.expires_ns {
            opened.lease_end_ns = record.lease_end_ns;
        }
        *record = opened;
        heard
    }

    fn speak(&self, record: &Record, terms: &Terms, lives: bool, now: u64, word: &mut GroupWord) {
        let opened = Self::opened(record, now);
        word::speak(opened.as_ref().unwrap_or(record), terms, lives, now, word);
    }
}

/// A promise by any number that the node ever sought counts, not only by those of this hold.
#[derive(Clone, Copy, Debug)]
pub struct CountsEarlierNumbers;

impl Rules for CountsEarlierNumbers {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let mut word = *word;
        let promised = Epoch(word.promise_epoch.get());
        if promised.node() == terms.own && promised.0 < record.epoch {
            word.promise_epoch = Be64::new(record.epoch);
        }
        word::hear(record, terms, source, transmit_ns, &word, now)
    }
}

/// A voter that is bound to one node lets another one take a higher number.
#[derive(Clone, Copy, Debug)]
pub struct RenumbersAnother;

impl Rules for RenumbersAnother {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        if asks(word) && word.epoch.get() > record.recorded {
            record.until_ns = 0;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A voter lets a node take a higher number though it released the lower one.
#[derive(Clone, Copy, Debug)]
pub struct RenumbersReleased;

impl Rules for RenumbersReleased {
    fn drops_spent_frames(&self) -> bool {
        true
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
        let same = Epoch(record.promised).node() == source;
        if asks(word) && same && word.epoch.get() > record.recorded {
            record.released = 0;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}
