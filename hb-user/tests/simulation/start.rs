//! A machine on which a daemon starts, as `daemon/start.rs` reaches it.

use hb_ebpf::{
    lease::{
        Policy, Record, Terms,
        identity::Places,
        op::{Op, Order},
        start,
    },
    time::BootTime,
    wire::GROUPS,
};
use hb_user::engine::controller::start::{Found, Numbers, Records};

use crate::{machine::Machine, plan::Plan};

/// What became of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// It runs, and found a kernel half.
    Found,
    /// It runs, with a new one.
    New,
    /// It ended in the middle of it.
    Struck,
    /// It did what it must not.
    Wrong(String),
}

/// The process, or its machine, has ended.
#[derive(Debug)]
pub(crate) struct Struck;

/// A machine on which a daemon starts.
pub(crate) struct Birth<'a> {
    pub(crate) machine: Machine<'a>,
    pub(crate) terms: Terms,
    pub(crate) fingerprints: [u32; GROUPS],
    pub(crate) wrong: Option<String>,
}

/// The groups of the file beside the records of a kernel half, and whether its terms are others.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    pub(crate) places: Places,
    pub(crate) new_terms: bool,
}

impl Birth<'_> {
    /// One call more, which has an effect or not; it is the last if the process is struck.
    fn call<T>(&mut self, effect: impl FnOnce(&mut Self) -> T) -> Result<T, Struck> {
        let done = self.machine.calls().then(|| effect(self));
        done.filter(|_| !self.machine.is_struck()).ok_or(Struck)
    }

    fn check(&mut self, holds: bool, wrong: impl FnOnce() -> String) {
        if !holds {
            self.wrong.get_or_insert_with(wrong);
        }
    }

    pub(crate) fn found(&self, plan: &Plan, records: bool) -> Found {
        let kernel = &*self.machine.kernel;
        let learns = |record: &Record| record.fingerprint != 0 && start::is_learner(record);
        Found {
            records,
            incarnation: kernel.node.incarnation,
            learns: kernel.records.iter().any(learns),
            lacks: kernel.places(plan.fingerprints()).begun().next().is_some(),
        }
    }

    /// Returns what of the records is there before.
    pub(crate) fn before(&self) -> Before {
        let kernel = &*self.machine.kernel;
        let new_terms = kernel.terms != self.terms;
        Before { places: kernel.places(self.fingerprints), new_terms }
    }
}

impl Numbers for Birth<'_> {
    type Error = Struck;

    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, Struck> {
        self.call(|birth| {
            let disk = &mut *birth.machine.disk;
            disk.incarnation = disk.incarnation.max(earlier) + 1;
            disk.incarnation
        })
    }

    fn take_note(&mut self) -> Result<Option<BootTime>, Struck> {
        self.call(|birth| birth.machine.disk.parted.take().map(BootTime))
    }

    fn voters(&mut self) -> Result<Option<String>, Struck> {
        Ok(self.machine.disk.voters.clone())
    }

    fn store_voters(&mut self, set: &str) -> Result<(), Struck> {
        self.call(|birth| birth.machine.disk.voters = Some(set.to_owned()))
    }

    fn generation(&mut self) -> Result<u32, Struck> {
        Ok(self.machine.disk.generation)
    }

    fn reserve_generation(&mut self) -> Result<u32, Struck> {
        self.call(|birth| {
            birth.machine.disk.generation += 1;
            birth.machine.disk.generation
        })
    }
}

impl Records for Birth<'_> {
    type Error = Struck;

    fn order(&mut self, order: Order) -> Result<Order, Struck> {
        self.call(|birth| {
            let begins = matches!(Op::from_code(order.op), Some(Op::Start | Op::Learner));
            let noted = birth.machine.disk.parted.is_some();
            birth.check(!(begins && noted), || "begins records beside its note".to_owned());
            let stored = birth.machine.disk.generation;
            birth.check(order.generation <= stored, || {
                format!("begins at generation {}, which is not stored", order.generation)
            });
            birth.machine.kernel.order_to_begin(order, birth.machine.now)
        })
    }

    fn set_terms(&mut self) -> Result<(), Struck> {
        self.call(|birth| {
            let (kernel, now) = (&mut *birth.machine.kernel, birth.machine.now);
            let blocked = now + kernel.terms.amnesia_ns();
            // An endless lease is left alone; of a group that nobody had nothing was promised.
            let free = |record: &&Record| {
                record.fingerprint != 0 && !record.is_endless() && record.blocked_until_ns < blocked
            };
            let free = kernel.terms.policy() != Policy::Available
                && kernel.node.incarnation != 0
                && kernel.records.iter().any(|record| free(&record));
            kernel.terms = birth.terms;
            birth.check(!free, || "takes new terms while promises of the old ones bind".to_owned());
        })
    }

    fn set_addresses(&mut self) -> Result<(), Struck> {
        self.call(|_| ())
    }
}
