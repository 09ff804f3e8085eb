//! Holders that extend, or pass packets, wrongly.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms, gate, holder,
        word::{self, Heard},
    },
    wire::{GroupWord, State},
};

use crate::rules::Rules;

/// Whatever echoes a transmit time extends the lease of the machine that sent it.
#[derive(Clone, Copy, Debug)]
pub struct EchoExtends;

impl Rules for EchoExtends {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let holds = record.state() == State::Holding;
        if holds && word.promise_epoch.get() == 0 && word.promise_t0_ns.get() != 0 {
            let mut echo = *word;
            echo.promise_epoch = hb_ebpf::wire::Be64::new(record.epoch);
            echo.promise_lease_ns = hb_ebpf::wire::Be32::new(terms.lease_ns as u32);
            return word::hear(record, terms, source, transmit_ns, &echo, now);
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }

    fn minds_echoes(&self) -> bool {
        true
    }
}

/// The gate is open up to and including the end of the lease.
#[derive(Clone, Copy, Debug)]
pub struct GateLate;

impl Rules for GateLate {
    fn open(&self, record: &Record, _terms: &Terms, now: u64) -> Option<Epoch> {
        gate::open(record, now.saturating_sub(1))
    }
}

/// One other vote is enough, however many voters there are.
#[derive(Clone, Copy, Debug)]
pub struct OneOtherVote;

impl Rules for OneOtherVote {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        word::hear(record, &Terms { count: 3, ..*terms }, source, transmit_ns, word, now)
    }
}

/// Once there was a majority, any of its voters extends the lease as a whole.
#[derive(Clone, Copy, Debug)]
pub struct CommonExpiry;

impl Rules for CommonExpiry {
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
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        if record.state() == State::Holding {
            record.lease_end_ns = record.expires_ns.into_iter().fold(0, u64::max);
        }
        heard
    }
}

/// The holder's own `L` counts, whatever was promised.
#[derive(Clone, Copy, Debug)]
pub struct OwnLease;

impl Rules for OwnLease {
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
        let mut word = *word;
        if word.promise_lease_ns.get() != 0 {
            word.promise_lease_ns = hb_ebpf::wire::Be32::new(terms.lease_ns as u32);
        }
        word::hear(record, terms, source, transmit_ns, &word, now)
    }
}

/// A promise for the epoch that the node released makes it hold again.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseUndone;

impl Rules for ReleaseUndone {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let late = record.state() == State::Released && word.promise_epoch.get() == record.epoch;
        if late && word.promise_lease_ns.get() != 0 {
            record.state = State::Holding as u8;
        }
        word::hear(record, terms, source, transmit_ns, word, now)
    }
}

/// The gate counts as closed when the program looked at the clock, and not when it was closed.
#[derive(Clone, Copy, Debug)]
pub struct ClosedAsRead;

impl Rules for ClosedAsRead {
    fn release(
        &self,
        record: &mut Record,
        terms: &Terms,
        successor: u8,
        now: u64,
    ) -> Option<Epoch> {
        let released = holder::release(record, terms, successor, now);
        if let Some(changes) = record.closing() {
            record.closed(changes, now);
        }
        released
    }
}
