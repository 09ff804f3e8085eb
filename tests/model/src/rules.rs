//! The transitions as a trait, so that a wrong one can be tried; production's by default.

use std::fmt::Debug;

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        fence::{self, Reported},
        gate,
        holder::{self, SeekError},
        start,
        word::{self, Heard},
    },
    wire::GroupWord,
};

/// What a machine does with its record. Every method is production's unless a mutant says
/// otherwise; times are on the machine's own clock.
pub trait Rules: Copy + Debug + Send + Sync + 'static {
    /// Starts without a record; `disk` is the generation stored, to be counted up.
    fn start(&self, terms: &Terms, disk: &mut u32, now: u64) -> Record {
        *disk += 1;
        start::start(terms, *disk, now)
    }

    /// Leaves in order; tells when what it promised and sent is over.
    fn part(&self, record: &mut Record, terms: &Terms, now: u64) -> Option<u64> {
        start::part(record, terms, now)
    }

    /// Begins to seek.
    ///
    /// # Errors
    ///
    /// When it may not.
    fn seek(&self, record: &mut Record, terms: &Terms, now: u64) -> Result<Epoch, SeekError> {
        holder::seek(record, terms, now)
    }

    /// Gives up a seek.
    fn give_up(&self, record: &mut Record, terms: &Terms, now: u64) -> bool {
        holder::give_up(record, terms, now)
    }

    /// Stops holding after the lease ran out.
    fn step_down(&self, record: &mut Record, now: u64) -> bool {
        holder::step_down(record, now)
    }

    /// Gives the group to `successor`.
    fn release(
        &self,
        record: &mut Record,
        terms: &Terms,
        successor: u8,
        now: u64,
    ) -> Option<Epoch> {
        holder::release(record, terms, successor, now)
    }

    /// Begins to have the other node fenced.
    fn ask(&self, record: &mut Record, terms: &Terms) -> bool {
        fence::ask(record, terms)
    }

    /// Hears what came of the fence asked for in `epoch`.
    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        fence::report(record, terms, epoch, fenced, now)
    }

    /// Takes a frame.
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        word::hear(record, terms, source, transmit_ns, word, now)
    }

    /// Fills a frame.
    fn speak(&self, record: &Record, terms: &Terms, lives: bool, now: u64, word: &mut GroupWord) {
        word::speak(record, terms, lives, now, word);
    }

    /// Checks a packet at the gate.
    fn open(&self, record: &Record, _terms: &Terms, now: u64) -> Option<Epoch> {
        gate::open(record, now)
    }

    /// Whether a machine answers before it records what it answered.
    fn speaks_first(&self) -> bool {
        false
    }

    /// Whether frames that can do nothing under production's rules may be dropped to save states.
    fn drops_spent_frames(&self) -> bool {
        false
    }

    /// Whether frames that ask for nothing matter, as a node with a frozen daemon sends them. To
    /// production's rules they are lost requests, and would only cost states.
    fn minds_silence(&self) -> bool {
        false
    }

    /// Whether a report of success that can do nothing under production's rules may still come,
    /// and come again.
    fn minds_late_reports(&self) -> bool {
        false
    }

    /// Whether the echo in a frame matters; to production's rules it does not.
    fn minds_echoes(&self) -> bool {
        false
    }
}

/// The rules as they are.
#[derive(Clone, Copy, Debug)]
pub struct Production;

impl Rules for Production {
    fn drops_spent_frames(&self) -> bool {
        true
    }
}

/// The rules as they are, with every frame kept: to show that dropping spent ones hides nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unreduced;

impl Rules for Unreduced {}
