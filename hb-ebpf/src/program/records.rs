//! The groups' records: a word heard, a word spoken, an order carried out. The only code that holds
//! a group's lock.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::{
        bpf_spin_lock as lock, bpf_spin_unlock as unlock, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use hb_ebpf::{
    answer,
    lease::{
        Record, Terms, holder, identity,
        op::{self, Order},
        start, word,
    },
    maps::{EventKind, GroupLock, Lease, LeaseNews, Recorded},
    wire::{GROUPS, Kind, State},
};

use crate::{clock, maps, report};

/// A group's locked entry and its published copies.
struct Entry {
    guard: *mut GroupLock,
    copy: *mut Recorded,
    lease: *mut Lease,
}

impl Entry {
    #[inline(always)]
    fn of(index: u32) -> Option<Self> {
        Some(Self {
            guard: maps::GROUPS.get_ptr_mut(index)?,
            copy: maps::RECORDS.get_ptr_mut(index)?,
            lease: maps::LEASES.get_ptr_mut(index)?,
        })
    }

    #[inline(always)]
    fn lock(&self) {
        // SAFETY: the element outlives the program, and the lock is its first field.
        unsafe { lock(addr_of_mut!((*self.guard).lock).cast::<bpf_spin_lock>()) };
    }

    #[inline(always)]
    fn unlock(&self) {
        // SAFETY: as above; `lock` was called before.
        unsafe { unlock(addr_of_mut!((*self.guard).lock).cast::<bpf_spin_lock>()) };
    }

    /// Says in the record when what was published of it as of `changes` was: by an instant read here.
    #[inline(always)]
    fn close(&self, terms: &Terms, changes: u32) {
        // What was published under the lock is seen by every CPU before the lock can be taken again, and
        // so before the clock is read.
        self.lock();
        self.unlock();
        let now = clock::now();
        self.lock();
        // SAFETY: the element outlives the program, and its lock is held.
        unsafe {
            if (*self.guard).record.closed(changes, now) {
                self.publish(terms, (*self.lease).holder, now);
            }
        }
        self.unlock();
    }

    /// Copies the record to where userspace and the gate read it. `heard` is the node last heard to
    /// hold the group. To be called under the lock.
    #[inline(always)]
    unsafe fn publish(&self, terms: &Terms, heard: u8, now: u64) {
        const WORDS: usize = size_of::<Record>() / 8;
        // SAFETY: the elements outlive the program, and the lock guards the copies against other
        // writers; a record is a whole number of aligned words. The stores are volatile, since
        // userspace reads meanwhile.
        unsafe {
            let sequence = addr_of_mut!((*self.copy).sequence);
            let count = sequence.read_volatile();
            sequence.write_volatile(count.wrapping_add(1));
            let from = addr_of!((*self.guard).record).cast::<u64>();
            let to = addr_of_mut!((*self.copy).record).cast::<u64>();
            for word in 0..WORDS {
                to.add(word).write_volatile(*from.add(word));
            }
            sequence.write_volatile(count.wrapping_add(2));

            let sequence = addr_of_mut!((*self.lease).sequence);
            let count = sequence.read_volatile();
            sequence.write_volatile(count.wrapping_add(1));
            let lease = Lease::of(&(*self.guard).record, terms, heard, count.wrapping_add(1), now);
            addr_of_mut!((*self.lease).holder).write_volatile(lease.holder);
            addr_of_mut!((*self.lease).state).write_volatile(lease.state);
            addr_of_mut!((*self.lease).epoch).write_volatile(lease.epoch);
            addr_of_mut!((*self.lease).fingerprint).write_volatile(lease.fingerprint);
            // One store: the gate reads nothing else.
            addr_of_mut!((*self.lease).expires_ns).write_volatile(lease.expires_ns);
            sequence.write_volatile(count.wrapping_add(2));
        }
    }
}

/// Returns where in the frame of the scratch entry the word of the group with that fingerprint is, which
/// is most often at `group`; past all words if there is none. A function of its own, so that the verifier
/// does not walk through a transition once for each place.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn said_at(fingerprint: u32, group: u32) -> u64 {
    let found = maps::SCRATCH
        .get(0)
        .and_then(|frame| identity::place_of(&frame.groups, fingerprint, group as usize));
    found.unwrap_or(GROUPS) as u64
}

/// Takes what the frame in the scratch entry, which arrived at `now`, says of `group`, and notes what
/// the answer to a probe has to say of it. The frame is authentic and fresh. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn listen(slot: u32, group: u32, now: u64) -> u64 {
    try_listen(slot, group, now).is_none().into()
}

#[inline(always)]
fn try_listen(slot: u32, group: u32, now: u64) -> Option<()> {
    let home = maps::home(slot);
    let frame = maps::SCRATCH.get(0)?;
    let (source, transmit_ns) = (frame.source, frame.transmit_ns.get());
    let terms = maps::TERMS.get(home)?;
    let entry = Entry::of(maps::record(home, group))?;
    let node = maps::NODE.get(home)?;
    let reply = maps::REPLY.get_ptr_mut(0)?;
    let lives = answer::controller_lives(node, now);
    // SAFETY: one aligned word of an element that outlives the program; the transition compares again.
    let fingerprint = unsafe { addr_of!((*entry.guard).record.fingerprint).read_volatile() };
    // A group that the sender does not have: nothing is said of it.
    let said = frame.groups.get(said_at(fingerprint, group) as usize);
    entry.lock();
    // SAFETY: the element outlives the program, and its lock is held.
    let (news, closing) = unsafe {
        let record = &mut (*entry.guard).record;
        let before = record.state;
        if !lives {
            holder::abandon(record, terms, now);
        }
        let heard = match said {
            Some(said) => word::hear(record, terms, source, transmit_ns, said, now),
            None => word::Heard::default(),
        };
        let news = LeaseNews::of(State::from_code(before), record, heard.released);
        let last = (*entry.lease).holder;
        let holds = said.is_some_and(|said| matches!(said.state(), State::Holding));
        let holder = if holds {
            source
        } else if last == source {
            0
        } else {
            last
        };
        entry.publish(terms, holder, now);
        if frame.kind == Kind::Probe as u8 {
            (*reply).note(group as usize, &(*entry.guard).record, terms, lives, now);
        }
        (news, (*entry.guard).record.closing())
    };
    entry.unlock();
    if let Some(changes) = closing {
        close(home, group, changes);
    }
    if let Some(news) = news {
        let mut event = report::event(EventKind::Lease, source, group as u8, now);
        event.cause = news as u8;
        report::push(event);
    }
    Some(())
}

/// Notes in the record of `group` that this machine's clock stood still (`ours` is 1), or the other
/// one's, as a frame showed that arrived at `now`. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn jumped(slot: u32, group: u32, ours: u64, now: u64) -> u64 {
    try_jumped(slot, group, ours != 0, now).is_none().into()
}

#[inline(always)]
fn try_jumped(slot: u32, group: u32, ours: bool, now: u64) -> Option<()> {
    let home = maps::home(slot);
    let terms = maps::TERMS.get(home)?;
    let entry = Entry::of(maps::record(home, group))?;
    entry.lock();
    // SAFETY: the element outlives the program, and its lock is held.
    let closing = unsafe {
        let record = &mut (*entry.guard).record;
        let before = *record;
        if ours {
            start::clock_jumped(record, terms, now);
        } else {
            start::other_clock_jumped(record, terms, now);
        }
        record.count_change(&before);
        let closing = record.closing();
        entry.publish(terms, (*entry.lease).holder, now);
        closing
    };
    entry.unlock();
    if let Some(changes) = closing {
        close(home, group, changes);
    }
    Some(())
}

/// Says in the record of `group` when its gate closed, which was published before this is called. A gate
/// on another CPU goes by what is published, and this one may have stood still since it read the clock.
/// Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn close(home: u32, group: u32, changes: u32) -> u64 {
    try_close(home, group, changes).is_none().into()
}

#[inline(always)]
fn try_close(home: u32, group: u32, changes: u32) -> Option<()> {
    let terms = maps::TERMS.get(home)?;
    Entry::of(maps::record(home, group))?.close(terms, changes);
    Some(())
}

/// Says in the frame of the scratch entry what the record of `group` is, where the probe was not
/// listened to. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn speak(slot: u32, group: u32) -> u64 {
    try_speak(slot, group).is_none().into()
}

#[inline(always)]
fn try_speak(slot: u32, group: u32) -> Option<()> {
    let home = maps::home(slot);
    let frame = maps::SCRATCH.get_ptr_mut(0)?;
    let terms = maps::TERMS.get(home)?;
    let node = maps::NODE.get(home)?;
    let entry = Entry::of(maps::record(home, group))?;
    entry.lock();
    // SAFETY: the scratch entry belongs to this CPU while the program runs; the record's lock is
    // held.
    unsafe {
        let frame = &mut *frame;
        let now = frame.transmit_ns.get();
        let record = &(*entry.guard).record;
        answer::speak_of(frame, group as usize, record, terms, node, now);
    }
    entry.unlock();
    Some(())
}

/// Carries out the order that is the packet, and writes what came of it in its place.
#[inline(always)]
pub(crate) fn order(ctx: &XdpContext) -> Option<()> {
    const LEN: u32 = size_of::<Order>() as u32;
    let order = maps::ORDERS.get_ptr_mut(0)?;
    // SAFETY: the helper writes the size of the entry, which belongs to this CPU while the program
    // runs; it fails where the packet is shorter.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, order.cast(), LEN) } != 0 {
        return None;
    }
    if carry_out() != 0 {
        return None;
    }
    // SAFETY: the helper reads the size of the entry.
    if unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, order.cast(), LEN) } != 0 {
        return None;
    }
    Some(())
}

/// Carries out the order in its scratch entry. Returns 0 unless there is no such record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn carry_out() -> u64 {
    try_carry_out().is_none().into()
}

#[inline(always)]
fn try_carry_out() -> Option<()> {
    let order = maps::ORDERS.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU while the program runs.
    let order = unsafe { &mut *order };
    let home = order.home;
    if order.group as usize >= GROUPS {
        return None;
    }
    let terms = maps::TERMS.get(home)?;
    let entry = Entry::of(maps::record(home, u32::from(order.group)))?;
    let now = clock::now();
    entry.lock();
    // SAFETY: the element outlives the program, and its lock is held.
    let closing = unsafe {
        op::apply(order, &mut (*entry.guard).record, terms, now);
        let closing = (*entry.guard).record.closing();
        entry.publish(terms, (*entry.lease).holder, now);
        closing
    };
    entry.unlock();
    if let Some(changes) = closing {
        close(home, u32::from(order.group), changes);
    }
    Some(())
}
