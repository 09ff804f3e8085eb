//! Time: every clock reads the same for ever, and what is remembered grows older.

use hb_ebpf::{epoch::Epoch, lease::Record, wire::State as Holds};

/// What every clock reads.
pub const NOW: u64 = 1000;

/// Lets an instant grow older; one that never comes stays away.
pub(crate) fn age(time: &mut u64, by: u64) {
    if *time != u64::MAX {
        *time = time.saturating_sub(by);
    }
}

/// Lets a record grow older by `rate` of its own clock, and by that of the machine whose request
/// it answered.
pub(crate) fn older(record: &mut Record, rate: u64, rate_of: impl Fn(u8) -> u64) {
    let holder = Epoch(record.promised).node();
    for time in [
        &mut record.lease_end_ns,
        &mut record.open_until_ns,
        &mut record.until_ns,
        &mut record.blocked_until_ns,
        &mut record.sought_ns,
    ] {
        age(time, rate);
    }
    for time in &mut record.expires_ns {
        age(time, rate);
    }
    age(&mut record.promise_t0_ns, rate_of(holder));
}

/// What [`forget`] has to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matters {
    /// How long a node waits after its gate closed.
    pub wait: u64,
    /// For how long a request may be answered.
    pub longest: u64,
    /// How long it matters when a seek began.
    pub seek: u64,
    /// Whether an endless lease may turn into an ordinary one.
    pub turns: bool,
    /// Whether it matters which epoch an idle node sought last.
    pub left_epoch: bool,
}

/// Gives one form to records that no rule can tell apart.
pub(crate) fn forget(record: &mut Record, matters: Matters) {
    let Matters { wait, longest, seek, turns, left_epoch } = matters;
    let clear = |time: &mut u64, length: u64| {
        if time.saturating_add(length) < NOW {
            *time = 0;
        }
    };
    // A count for those who read the record; no rule looks at it.
    record.changes = 0;
    clear(&mut record.lease_end_ns, wait);
    clear(&mut record.open_until_ns, wait);
    clear(&mut record.until_ns, 0);
    clear(&mut record.blocked_until_ns, 0);
    clear(&mut record.promise_t0_ns, longest);
    for time in &mut record.expires_ns {
        clear(time, 0);
    }
    match record.state() {
        Holds::Seeking => record.sought_ns = record.sought_ns.max(NOW - seek),
        Holds::Holding if turns => clear(&mut record.sought_ns, longest.max(seek)),
        _ => record.sought_ns = 0,
    }
    // To whom a release is, and which of the numbers heard of is a floor, matters to daemons only.
    record.successor = 0;
    record.heard = record.highest().0;
    record.heard_generation = 0;
    if record.state() == Holds::Idle && !left_epoch {
        record.epoch = 0;
    }
    if record.heard <= record.recorded.max(record.epoch) {
        record.heard = 0;
    }
}
