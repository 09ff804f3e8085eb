//! What a daemon may ask of a record: the transitions by number, as they travel to the kernel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    available,
    fence::{self, Reported},
    holder, identity,
    record::Record,
    start,
    terms::{Policy, Terms},
};
use crate::{epoch::Epoch, wire::Standing};

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Begin without a record, at [`Order::generation`].
    Start = 1,
    /// Begin without a record and without a generation on disk.
    Learner = 2,
    /// Seek the group.
    Seek = 3,
    /// Seek it no longer.
    GiveUp = 4,
    /// Hold it no longer after the lease ran out.
    StepDown = 5,
    /// Sockets and addresses of the epoch left last are gone.
    Cleaned = 6,
    /// Give it to [`Order::node`], 0 for whoever seeks it.
    Release = 7,
    /// [`Order::generation`] is on disk.
    GenerationStored = 8,
    /// The configuration changed: what was promised counts from now, and no wait gets shorter.
    TermsChanged = 9,
    /// A fence of the other node begins; only while this one seeks.
    FenceAsk = 10,
    /// The other node was fenced, asked for in [`Order::epoch`]; given again while it is [`WAIT`].
    Fenced = 11,
    /// It was not, or nobody knows.
    FenceFailed = 12,
    /// The promise to the holder shall have no end: this node leaves.
    Vow = 13,
    /// Nothing: only tell what the record is.
    Read = 14,
    /// A node that left is back; it had promised [`Order::epoch`] without an end, 0 for the one in
    /// the record.
    Rejoin = 15,
    /// An operator says that the node it was promised to serves no more.
    Absolve = 16,
    /// This node leaves, and its records with it: take no part any more.
    Part = 17,
    /// The configuration has this group no more: be the record of none.
    Dismiss = 18,
    /// This node is placed as [`Order::node`] says, the code of a [`Standing`].
    Placed = 19,
}

impl Op {
    /// Returns the operation of a code from an order.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Start,
            2 => Self::Learner,
            3 => Self::Seek,
            4 => Self::GiveUp,
            5 => Self::StepDown,
            6 => Self::Cleaned,
            7 => Self::Release,
            8 => Self::GenerationStored,
            9 => Self::TermsChanged,
            10 => Self::FenceAsk,
            11 => Self::Fenced,
            12 => Self::FenceFailed,
            13 => Self::Vow,
            14 => Self::Read,
            15 => Self::Rejoin,
            16 => Self::Absolve,
            17 => Self::Part,
            18 => Self::Dismiss,
            19 => Self::Placed,
            _ => return None,
        })
    }
}

/// [`Order::code`]: done as asked.
pub const DONE: u8 = 0;
/// [`Order::code`]: nothing to do, or not in this state.
pub const NOTHING: u8 = 255;
/// [`Order::code`]: of [`Op::Fenced`]: the report counts, and is to be given again until it is
/// [`DONE`], after `margin (1 + rho)`.
pub const WAIT: u8 = 253;
/// [`Order::code`]: no such operation or group.
pub const UNKNOWN: u8 = 254;

/// An order to change a record, and what came of it: 192 bytes, in host order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Order {
    /// An [`Op`].
    pub op: u8,
    /// The group.
    pub group: u8,
    /// Successor, for [`Op::Release`]. For [`Op::Start`], 1 if sockets and addresses of an earlier epoch
    /// may be here. For [`Op::Placed`], the code of a [`Standing`].
    pub node: u8,
    /// Out: [`DONE`], [`NOTHING`], [`WAIT`], [`UNKNOWN`] or a [`holder::SeekError`].
    pub code: u8,
    /// Generation, for [`Op::Start`] and [`Op::GenerationStored`].
    pub generation: u32,
    /// Epoch the order is about, where it needs one; out: that of the record.
    pub epoch: u64,
    /// For [`Op::Start`], when everything promised before has run out, if that is known and sooner
    /// than by the terms, else 0. Out: when it was carried out; of [`Op::Part`] that instant.
    pub now_ns: u64,
    /// Which cluster's record, on a machine that keeps several.
    pub home: u32,
    /// Which group the record is of from now on, for [`Op::Start`] and [`Op::Learner`]; 0 for the one it
    /// is of.
    pub fingerprint: u32,
    /// Out: the record as it is then.
    pub record: Record,
}

const _: () = assert!(size_of::<Order>() == 192);

impl Order {
    /// An order without argument.
    #[must_use]
    pub fn new(op: Op, group: u8) -> Self {
        Self { op: op as u8, group, ..Self::default() }
    }

    /// Tells a record how well this node is placed.
    #[must_use]
    pub fn placed(group: u8, standing: Standing) -> Self {
        Self { node: standing.code(), ..Self::new(Op::Placed, group) }
    }
}

/// Carries out `order` on `record` at `now`. What came of it is in the order.
#[inline(always)]
pub fn apply(order: &mut Order, record: &mut Record, terms: &Terms, now: u64) {
    let before = *record;
    let available = matches!(terms.policy(), Policy::Available);
    let known = order.now_ns;
    order.now_ns = now;
    order.code = match Op::from_code(order.op) {
        Some(Op::Start) => {
            *record = start::start(terms, order.generation, now);
            start::follow(record, &before);
            record.fingerprint = named(order, &before);
            record.unclean = before.unclean | u8::from(order.node != 0);
            if available {
                // Nothing was promised before that could bind.
                record.blocked_until_ns = 0;
            } else if known != 0 && known < record.blocked_until_ns {
                record.blocked_until_ns = known;
            }
            DONE
        }
        Some(Op::Learner) => {
            *record = start::start_as_learner();
            start::follow(record, &before);
            record.fingerprint = named(order, &before);
            record.unclean = before.unclean;
            DONE
        }
        Some(Op::Seek) => {
            let sought = if available {
                available::seek(record, terms, now)
            } else {
                holder::seek(record, terms, now)
            };
            match sought {
                Ok(_) => DONE,
                Err(error) => error as u8,
            }
        }
        Some(Op::GiveUp) => code(holder::give_up(record, terms, now)),
        Some(Op::StepDown) => code(holder::step_down(record, now)),
        Some(Op::Cleaned) => code(holder::cleaned(record)),
        Some(Op::Release) => code(holder::release(record, terms, order.node, now).is_some()),
        Some(Op::GenerationStored) => code(start::generation_stored(record, order.generation)),
        Some(Op::TermsChanged) => {
            start::terms_changed(record, terms, now);
            DONE
        }
        Some(Op::FenceAsk) => code(fence::ask(record, terms)),
        Some(Op::Fenced) => match fence::report(record, terms, Epoch(order.epoch), true, now) {
            Reported::Holds => DONE,
            Reported::Waits => WAIT,
            Reported::Dropped => NOTHING,
        },
        Some(Op::FenceFailed) => {
            let awaited = record.fencing != 0;
            fence::report(record, terms, Epoch(order.epoch), false, now);
            code(awaited)
        }
        Some(Op::Vow) => code(fence::vow(record, terms, now)),
        Some(Op::Rejoin) => code(fence::rejoin(record, terms, Epoch(order.epoch))),
        Some(Op::Absolve) => code(fence::absolve(record, now)),
        Some(Op::Part) => match start::part(record, terms, now) {
            Some(end) => {
                order.now_ns = end;
                DONE
            }
            None => NOTHING,
        },
        Some(Op::Dismiss) => code(identity::dismiss(record, now)),
        Some(Op::Placed) => {
            record.standing = Standing::from_code(order.node).code();
            code(record.standing != before.standing)
        }
        Some(Op::Read) => DONE,
        None => UNKNOWN,
    };
    record.count_change(&before);
    order.epoch = record.epoch;
    order.record = *record;
}

/// Returns which group a record that was `before` is of after `order`.
#[inline(always)]
const fn named(order: &Order, before: &Record) -> u32 {
    if order.fingerprint != 0 { order.fingerprint } else { before.fingerprint }
}

#[inline(always)]
const fn code(done: bool) -> u8 {
    if done { DONE } else { NOTHING }
}
