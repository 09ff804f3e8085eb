//! Nodes that fence, or believe a fence, wrongly.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        fence::{self, Reported},
        holder::{self, SeekError},
        record::ENDLESS,
        word::{self, Heard},
    },
    wire::{GroupWord, State},
};

use crate::rules::Rules;

/// Holds the epoch sought last without an end, whatever came in between.
fn hold(record: &mut Record, now: u64) -> Reported {
    record.state = State::Holding as u8;
    record.recorded = record.recorded.max(record.epoch);
    record.lease_end_ns = ENDLESS;
    record.sought_ns = now;
    record.fencing = 0;
    Reported::Holds
}

/// A report is believed whenever it comes, and nothing waits for it: the node may have left the
/// epoch and promised another meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct LateReport;

impl Rules for LateReport {
    fn ask(&self, record: &mut Record, terms: &Terms) -> bool {
        let asked = fence::ask(record, terms);
        record.fencing = 0;
        asked
    }

    fn report(
        &self,
        record: &mut Record,
        _terms: &Terms,
        _epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        if fenced && record.epoch != 0 { hold(record, now) } else { Reported::Dropped }
    }

    fn minds_late_reports(&self) -> bool {
        true
    }
}

/// A report counts each time it is heard, as long as the node sought no other epoch.
#[derive(Clone, Copy, Debug)]
pub struct ReportTwice;

impl Rules for ReportTwice {
    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        match fence::report(record, terms, epoch, fenced, now) {
            Reported::Dropped if fenced && record.epoch == epoch.0 => hold(record, now),
            reported => reported,
        }
    }

    fn minds_late_reports(&self) -> bool {
        true
    }
}

/// The node holds whatever is reported.
#[derive(Clone, Copy, Debug)]
pub struct FailureCounts;

impl Rules for FailureCounts {
    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        _fenced: bool,
        now: u64,
    ) -> Reported {
        fence::report(record, terms, epoch, true, now)
    }
}

/// The node holds at the report, though the last packets of the other one may still leave.
#[derive(Clone, Copy, Debug)]
pub struct ReportOpensAtOnce;

impl Rules for ReportOpensAtOnce {
    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        fence::report(record, &Terms { margin_ns: 0, ..*terms }, epoch, fenced, now);
        fence::report(record, &Terms { margin_ns: 0, ..*terms }, epoch, fenced, now + 1)
    }
}

/// An endless lease stays endless, whoever is back.
#[derive(Clone, Copy, Debug)]
pub struct StaysEndless;

impl Rules for StaysEndless {
    fn hear(
        &self,
        record: &mut Record,
        terms: &Terms,
        source: u8,
        transmit_ns: u64,
        word: &GroupWord,
        now: u64,
    ) -> Heard {
        let endless = record.is_endless();
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        if endless && record.state() == State::Holding {
            record.lease_end_ns = ENDLESS;
        }
        heard
    }
}

/// A node promises while a fence it asked for is under way.
#[derive(Clone, Copy, Debug)]
pub struct PromisesWhileFencing;

impl Rules for PromisesWhileFencing {
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
        let fencing = core::mem::replace(&mut record.fencing, 0);
        let heard = word::hear(record, terms, source, transmit_ns, word, now);
        record.fencing = fencing;
        heard
    }
}

/// A report counts after the node gave its epoch up; nothing was promised since.
#[derive(Clone, Copy, Debug)]
pub struct ReportAfterGivingUp;

impl Rules for ReportAfterGivingUp {
    fn drops_spent_frames(&self) -> bool {
        true
    }

    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        if record.fencing != 0 && record.state() == State::Idle {
            record.state = State::Seeking as u8;
        }
        fence::report(record, terms, epoch, fenced, now)
    }

    fn minds_late_reports(&self) -> bool {
        true
    }
}

/// A node seeks, and has the other one fenced, before its own promise ran out.
#[derive(Clone, Copy, Debug)]
pub struct FencesWhileBound;

impl Rules for FencesWhileBound {
    fn drops_spent_frames(&self) -> bool {
        true
    }

    fn seek(&self, record: &mut Record, terms: &Terms, now: u64) -> Result<Epoch, SeekError> {
        let until_ns = core::mem::replace(&mut record.until_ns, 0);
        let sought = holder::seek(record, terms, now);
        record.until_ns = until_ns;
        sought
    }
}

/// The node that fenced waits for `margin` on its own clock, not for `margin (1 + rho)`: the last
/// packets leave by the other node's clock.
#[derive(Clone, Copy, Debug)]
pub struct WaitAsIs;

impl Rules for WaitAsIs {
    fn report(
        &self,
        record: &mut Record,
        terms: &Terms,
        epoch: Epoch,
        fenced: bool,
        now: u64,
    ) -> Reported {
        fence::report(record, &Terms { rho: 0, ..*terms }, epoch, fenced, now)
    }
}
