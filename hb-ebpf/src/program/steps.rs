//! The steps of a frame once it is in the scratch entry of this CPU.
//!
//! Each is a function with global linkage that takes only numbers: so the verifier walks through
//! it once, and not once for every way that leads to it.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use hb_ebpf::{
    answer,
    arrival::{self, Arrival, News},
    maps::{EventKind, MAX_LINKS},
    pause::{self, Jump},
    refusal::Refusal,
    siphash::Key,
    wire::Kind,
};

use crate::{maps, report};

/// What [`note`] returns for a frame that is authentic and counts for nothing: no code of a
/// [`Refusal`].
pub(crate) const UNFRESH: u64 = 1 << 32;
/// What [`note`] returns for a frame that counts, and shows that our clock stood still.
pub(crate) const AHEAD: u64 = 1 << 33;
/// What [`note`] returns for a frame that counts, and shows that the peer's clock stood still.
pub(crate) const BEHIND: u64 = 1 << 34;

/// Returns the number of the link that a slot is of.
#[inline(always)]
fn link_of(slot: u32) -> u8 {
    (slot % MAX_LINKS as u32) as u8
}

/// Returns the tag of the frame under the key (low, high), as its eight bytes in memory order.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tag(low: u64, high: u64) -> u64 {
    let Some(frame) = maps::SCRATCH.get(0) else { return 0 };
    u64::from_ne_bytes(frame.expected_tag(&Key { words: [low, high] }))
}

/// Checks window and tag, and then whether we understand the frame. Returns 0 or the code of a
/// [`Refusal`]; [`Refusal::MustUnderstand`] means that the frame is authentic.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn authenticate(slot: u32) -> u64 {
    match try_authenticate(slot) {
        Ok(()) => 0,
        Err(refusal) => refusal as u64,
    }
}

#[inline(always)]
fn try_authenticate(slot: u32) -> Result<(), Refusal> {
    let index = slot / MAX_LINKS as u32;
    let frame = maps::SCRATCH.get(0).ok_or(Refusal::Length)?;
    let keys = maps::KEYS.get(index).ok_or(Refusal::Source)?;
    let (receive, _) = keys.of(frame.key_id).ok_or(Refusal::KeyId)?;
    let guard = maps::LOCKS.get_ptr_mut(index).ok_or(Refusal::Source)?;
    // SAFETY: array elements outlive the program. Read without the lock: a stale window lets a
    // frame through to the second look under the lock, or refuses a copy of one that is being
    // taken this instant.
    unsafe { arrival::screen(frame, (*guard).stream(link_of(slot), frame.kind))? };
    let [low, high] = receive.words;
    if tag(low, high) ^ u64::from_ne_bytes(frame.tag) != 0 {
        return Err(Refusal::Tag);
    }
    arrival::understand(frame)
}

/// Takes note of the authentic frame, which arrived at `now`, under the lock of its peer, and wakes
/// the daemon for what is new. A probe that is to be answered has its answer numbered. Returns 0,
/// [`AHEAD`], [`BEHIND`], [`UNFRESH`] or the code of a [`Refusal`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note(slot: u32, now: u64) -> u64 {
    match try_note(slot, now) {
        Ok(noted) => noted,
        Err(refusal) => refusal as u64,
    }
}

#[inline(always)]
fn try_note(slot: u32, now: u64) -> Result<u64, Refusal> {
    let index = slot / MAX_LINKS as u32;
    let frame = maps::SCRATCH.get(0).ok_or(Refusal::Length)?;
    let node = maps::NODE.get(maps::home(slot)).ok_or(Refusal::Source)?;
    let guard = maps::LOCKS.get_ptr_mut(index).ok_or(Refusal::Source)?;
    let peer = maps::PEERS.get_ptr_mut(index).ok_or(Refusal::Source)?;
    let link = maps::LINKS.get_ptr_mut(slot).ok_or(Refusal::Link)?;
    let terms = maps::TERMS.get(maps::home(slot)).ok_or(Refusal::Source)?;
    let kind = Kind::from_code(frame.kind).ok_or(Refusal::Kind)?;
    let number = link_of(slot);
    let arrival = Arrival { kind, link: number, now };
    let reply = maps::REPLY.get_ptr_mut(0).ok_or(Refusal::Length)?;
    // SAFETY: the lock is the first field of the element and guards it, the peer and its links
    // against other CPUs; within, there are only loads and stores. Userspace reads the peer and
    // its links under the sequence count.
    let (noted, jump) = unsafe {
        let held = addr_of_mut!((*guard).lock).cast::<bpf_spin_lock>();
        lock(held);
        let noted = arrival::note(frame, arrival, node, &mut *guard, &mut *peer, &mut *link);
        let jump = match noted {
            Ok(news) if !news.has(News::UNFRESH) => {
                pause::judge(&mut (*link).clock, frame, terms, now)
            }
            _ => Jump::None,
        };
        if let (Ok(_), Kind::Probe) = (noted, kind) {
            (*reply).number(&mut *guard, &mut *link, number);
        }
        unlock(held);
        (noted, jump)
    };
    let news = noted?;
    if news.has(News::UNFRESH) {
        report::refused(slot, 0);
    }
    tell(news, frame.source, number, now);
    if news.has(News::UNFRESH) {
        return Ok(UNFRESH);
    }
    let (noted, by) = match jump {
        Jump::None => return Ok(0),
        Jump::Ahead(by) => (AHEAD, by),
        Jump::Behind(by) => (BEHIND, by),
    };
    let mut event = report::event(EventKind::Paused, frame.source, number, now);
    event.cause = u8::from(noted == AHEAD);
    event.silence_ns = by;
    report::push(event);
    Ok(noted)
}

/// Wakes the daemon for what changed.
#[inline(always)]
fn tell(news: News, peer: u8, link: u8, now: u64) {
    let kind = if news.has(News::UP) {
        EventKind::Up
    } else if news.has(News::CONTROLLER) {
        EventKind::Controller
    } else if news.has(News::SAID) {
        EventKind::Said
    } else if news.has(News::LINK) {
        EventKind::Link
    } else {
        return;
    };
    report::push(report::event(kind, peer, link, now));
}

/// Numbers the answer to a probe of which [`note`] takes no note. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn number(slot: u32) -> u64 {
    try_number(slot).is_none().into()
}

#[inline(always)]
fn try_number(slot: u32) -> Option<()> {
    let guard = maps::LOCKS.get_ptr_mut(slot / MAX_LINKS as u32)?;
    let link = maps::LINKS.get_ptr_mut(slot)?;
    let reply = maps::REPLY.get_ptr_mut(0)?;
    let number = link_of(slot);
    // SAFETY: the elements outlive the program; the lock guards the counters against other CPUs.
    unsafe {
        let held = addr_of_mut!((*guard).lock).cast::<bpf_spin_lock>();
        lock(held);
        (*reply).number(&mut *guard, &mut *link, number);
        unlock(held);
    }
    Some(())
}

/// Rewrites the probe, which arrived at `now`, into its answer with the number that is ready for it
/// and what was noted of the first `noted` groups, but for the tag; `refused` is the code of the
/// refusal to tell of, or 0. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn answer(slot: u32, refused: u64, noted: u32, now: u64) -> u64 {
    try_answer(slot, refused as u8, noted, now).is_none().into()
}

#[inline(always)]
fn try_answer(slot: u32, refused: u8, noted: u32, now: u64) -> Option<()> {
    let frame = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU while the program runs.
    let frame = unsafe { &mut *frame };
    let node = maps::NODE.get(maps::home(slot))?;
    answer::answer(frame, node, maps::REPLY.get(0)?, noted, now, refused);
    Some(())
}

/// Signs the frame for the peer. Returns 1, or 0 if there was no key.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sign(slot: u32) -> u64 {
    try_sign(slot).is_some().into()
}

#[inline(always)]
fn try_sign(slot: u32) -> Option<()> {
    let index = slot / MAX_LINKS as u32;
    let frame = maps::SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU while the program runs.
    let frame = unsafe { &mut *frame };
    let (_, transmit) = maps::KEYS.get(index)?.of(frame.key_id)?;
    let [low, high] = transmit.words;
    frame.tag = tag(low, high).to_ne_bytes();
    Some(())
}
