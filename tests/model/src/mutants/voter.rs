//! Voters that promise wrongly.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        holder::{self, SeekError},
        start,
        word::{self, Heard},
    },
    wire::{GroupWord, State},
};

use super::asks;
use crate::rules::Rules;

/// A promise names the newest transmit time heard, not that of the request that set its end.
#[derive(Clone, Copy, Debug)]
pub struct NewestTransmit;

impl Rules for NewestTransmit {
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
        if Epoch(record.promised).node() == source && transmit_ns > record.promise_t0_ns {
            record.promise_t0_ns = transmit_ns;
        }
        heard
    }

    fn minds_silence(&self) -> bool {
        true
    }
}

/// The promise is sent first and recorded later.
#[derive(Clone, Copy, Debug)]
pub struct SpeaksFirst;

impl Rules for SpeaksFirst {
    fn speaks_first(&self) -> bool {
        true
    }
}

/// A start without a record, without the wait.
#[derive(Clone, Copy, Debug)]
pub struct AmnesiaSkipped;

impl Rules for AmnesiaSkipped {
    fn start(&self, terms: &Terms, disk: &mut u32, now: u64) -> Record {
        *disk += 1;
        Record { blocked_until_ns: 0, ..start::start(terms, *disk, now) }
    }
}

/// A machine that only votes starts with the generation it had.
#[derive(Clone, Copy, Debug)]
pub struct WitnessForgets;

impl Rules for WitnessForgets {
    fn start(&self, terms: &Terms, disk: &mut u32, now: u64) -> Record {
        *disk += u32::from(terms.witness == 0);
        start::start(terms, *disk, now)
    }
}

/// A renewal for a smaller lease shortens the promise.
#[derive(Clone, Copy, Debug)]
pub struct UntilShortened;

impl Rules for UntilShortened {
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
        if asks(word) && word.epoch.get() == record.promised && record.released == 0 {
            record.until_ns = now;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A promise is stretched without its margin: `L (1 + rho) + margin`.
#[derive(Clone, Copy, Debug)]
pub struct MarginAsIs;

impl Rules for MarginAsIs {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let before = record.until_ns;
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        if asks(word) && record.until_ns > before {
            record.until_ns -= terms.wait_ns() - terms.margin_ns;
        }
        heard
    }
}

/// A request of the same counter by a higher node id replaces the promise.
#[derive(Clone, Copy, Debug)]
pub struct EqualByNode;

impl Rules for EqualByNode {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let equal = word.epoch.get() >> 8 == record.promised >> 8;
        if asks(word) && equal && word.epoch.get() > record.promised {
            record.until_ns = 0;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A promise may go below an epoch recorded here, once it ran out.
#[derive(Clone, Copy, Debug)]
pub struct LowEpochTaken;

impl Rules for LowEpochTaken {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        if asks(word) && record.state() == State::Idle && word.epoch.get() != record.promised {
            record.recorded = Epoch::floor(1).0;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A release ends the promise at once.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseFreesVote;

impl Rules for ReleaseFreesVote {
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
        if heard.released {
            record.until_ns = now;
        }
        heard
    }
}

/// A released epoch is renewed by a late request.
#[derive(Clone, Copy, Debug)]
pub struct ReleasedRenewed;

impl Rules for ReleasedRenewed {
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
        if asks(word) && word.epoch.get() == record.promised {
            record.released = 0;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A node gives its vote away as soon as its own gate is closed.
#[derive(Clone, Copy, Debug)]
pub struct VoteWithinMargin;

impl Rules for VoteWithinMargin {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        if asks(word) {
            record.open_until_ns = 0;
            if record.state() == State::Holding && record.lease_end_ns <= now {
                record.lease_end_ns = 0;
            }
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// A node seeks, and so counts its own vote, while its promise to another binds it.
#[derive(Clone, Copy, Debug)]
pub struct OwnVoteTwice;

impl Rules for OwnVoteTwice {
    fn seek(&self, record: &mut Record, terms: &Terms, now: u64) -> Result<Epoch, SeekError> {
        let until_ns = core::mem::replace(&mut record.until_ns, 0);
        let sought = holder::seek(record, terms, now);
        record.until_ns = until_ns;
        sought
    }
}

/// A voter votes for an epoch whose generation is not on its disk.
#[derive(Clone, Copy, Debug)]
pub struct GenerationAhead;

impl Rules for GenerationAhead {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        // The record says what the disk does not.
        record.generation = record.generation.max(word.epoch().generation());
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}
