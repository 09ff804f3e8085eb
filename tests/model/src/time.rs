//! Time: every clock reads the same for ever, and what is remembered grows older.

use hb_ebpf::{epoch::Epoch, lease::Record, wire::State as Holds};

/// What every clock reads.
pub const NOW: u64 = 1000;

/// Lets an instant grow older.
pub(crate) fn age(time: &mut u64, by: u64) {
    *time = time.saturating_sub(by);
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

/// Gives one form to records that no rule can tell apart.
pub(crate) fn forget(record: &mut Record, wait: u64, longest: u64, seek: u64) {
    let clear = |time: &mut u64, length: u64| {
        if *time + length < NOW {
            *time = 0;
        }
    };
    clear(&mut record.lease_end_ns, wait);
    clear(&mut record.open_until_ns, wait);
    clear(&mut record.until_ns, 0);
    clear(&mut record.blocked_until_ns, 0);
    clear(&mut record.promise_t0_ns, longest);
    for time in &mut record.expires_ns {
        clear(time, 0);
    }
    if record.promise_t0_ns == 0 {
        record.promise_lease_ns = 0;
    }
    match record.state() {
        Holds::Seeking => record.sought_ns = record.sought_ns.max(NOW - seek),
        _ => record.sought_ns = 0,
    }
    if record.state() == Holds::Idle {
        record.heard = record.highest().0;
        record.epoch = 0;
    }
    if record.heard <= record.recorded.max(record.epoch) {
        record.heard = 0;
    }
}
