//! A packet has arrived, by whichever hook.

use core::ptr;

use aya_ebpf::{
    helpers::{bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use hb_ebpf::{
    maps::MAX_LINKS,
    packet::{self, Bytes, Envelope, Ethernet},
    refusal::Refusal,
    wire::{FRAME_LEN, Frame, GROUPS, Kind},
    words,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{clock, maps, records, report, steps};

/// What became of a packet.
pub(crate) enum Heard {
    /// No heartbeat for this node.
    NotOurs,
    /// A heartbeat that counts for nothing.
    Refused,
    /// An answer.
    Taken,
    /// A probe, now an answer.
    Answered,
}

/// A packet in the hands of a hook.
pub(crate) trait Arrived: Bytes {
    /// Returns the index of the interface it came by.
    fn interface(&self) -> u32;

    /// Copies the frame at `offset` to `frame`; `None` where the packet ends first.
    ///
    /// # Safety
    ///
    /// `frame` must be valid for writes.
    unsafe fn load(&self, offset: usize, frame: *mut Frame) -> Option<()>;

    /// Turns it round with `answer` in the place of its frame. `None`, with the packet half turned, only
    /// where it is no probe that was checked.
    fn answer(&mut self, envelope: Envelope, answer: &Frame) -> Option<()>;
}

/// The linear part of a packet before the stack.
pub(crate) struct Packet<'a>(pub(crate) &'a XdpContext);

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn at<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, offset: usize) -> Option<&T> {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: the check above keeps the whole `T` inside the packet; `Unaligned` allows any
        // address and `FromBytes` any content.
        Some(unsafe { &*(start as *const T) })
    }

    #[inline(always)]
    fn at_mut<T>(&mut self, offset: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned,
    {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: as in `at`; `&mut self` and the absence of other writers in this program make
        // the reference unique.
        Some(unsafe { &mut *(start as *mut T) })
    }
}

impl Arrived for Packet<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        self.0.ingress_ifindex() as u32
    }

    #[inline(always)]
    unsafe fn load(&self, offset: usize, frame: *mut Frame) -> Option<()> {
        let length = FRAME_LEN as u32;
        // SAFETY: the helper writes `FRAME_LEN` bytes, the size of the frame; it fails where the packet is
        // shorter.
        let loaded = unsafe { bpf_xdp_load_bytes(self.0.ctx, offset as u32, frame.cast(), length) };
        (loaded == 0).then_some(())
    }

    #[inline(always)]
    fn answer(&mut self, envelope: Envelope, answer: &Frame) -> Option<()> {
        packet::turn(self, envelope, answer)?;
        let (offset, frame) = (envelope.frame as u32, ptr::from_ref(answer).cast_mut().cast());
        // SAFETY: the helper reads `FRAME_LEN` bytes, the size of the frame.
        let stored = unsafe { bpf_xdp_store_bytes(self.0.ctx, offset, frame, FRAME_LEN as u32) };
        (stored == 0).then_some(())
    }
}

/// Looks for a heartbeat and deals with it.
#[inline(always)]
pub(crate) fn hear(mut packet: impl Arrived) -> Heard {
    let Some(envelope) = packet::find(&packet) else { return Heard::NotOurs };
    let Some(home) = maps::home_of(&packet, envelope) else { return Heard::NotOurs };
    let Some(node) = maps::NODE.get(home) else { return Heard::NotOurs };
    let Some(claim) = packet::claim(&packet, envelope, node) else { return Heard::NotOurs };
    let link = packet::link(&packet, envelope);
    let named = if claim.source == node.id {
        Err(Refusal::Source)
    } else {
        maps::slot(home, claim.source, claim.link)
            .map(|first| slot_of(first, link, packet.interface()))
    };
    let slot = match named {
        Ok(slot) => slot,
        Err(refusal) => {
            report::refused(maps::nowhere(home), refusal as usize);
            return Heard::Refused;
        }
    };
    match take(&mut packet, envelope, &claim, link, slot) {
        Ok(heard) => heard,
        Err(code) => {
            report::refused(slot, code as usize);
            Heard::Refused
        }
    }
}

/// Returns the slot of the link with that fingerprint on that interface, to the machine that `first` is of a link
/// to: the other end may have it at another place of its file. `first` if there is no such link.
#[inline(always)]
fn slot_of(first: u32, fingerprint: u32, interface: u32) -> u32 {
    for place in 0..MAX_LINKS as u32 {
        // First where the sender has it.
        let slot = first ^ place;
        if let Some(path) = maps::PATHS.get(slot)
            && path.fingerprint == fingerprint
            && path.interface == interface
        {
            return slot;
        }
    }
    first
}

/// Takes a frame for us through its steps; an error is the code of a [`Refusal`].
#[inline(always)]
fn take(
    packet: &mut impl Arrived,
    envelope: Envelope,
    claim: &packet::Claim,
    link: u32,
    slot: u32,
) -> Result<Heard, u64> {
    let path = maps::PATHS.get(slot).ok_or(Refusal::Link as u64)?;
    let kind = packet::check(packet, envelope, claim, link, path, packet.interface())
        .map_err(|refusal| refusal as u64)?;
    let frame = maps::SCRATCH.get_ptr_mut(0).ok_or(Refusal::Length as u64)?;
    // SAFETY: the entry belongs to this CPU while the program runs.
    unsafe { packet.load(envelope.frame, frame) }.ok_or(Refusal::Length as u64)?;

    let authentic = steps::authenticate(slot);
    if authentic != 0 && authentic != Refusal::MustUnderstand as u64 {
        return Err(authentic);
    }
    // Whatever the frame leads to happens when it arrived. Read once: that takes as long as most of
    // the steps.
    let now = clock::now();
    let refused = if authentic == 0 {
        steps::note(slot, now)
    } else {
        report::refused(slot, authentic as usize);
        if let Kind::Probe = kind {
            steps::number(slot);
        }
        authentic
    };
    let (refused, jump) = match refused {
        steps::AHEAD | steps::BEHIND => (0, refused),
        refused => (refused, 0),
    };
    if refused != 0 && refused != Refusal::MustUnderstand as u64 && refused != steps::UNFRESH {
        return Err(refused);
    }
    let groups = maps::NODE.get(maps::home(slot)).map_or(0, |node| u32::from(node.groups));
    let listened = refused == 0;
    if listened {
        remember_sender(packet, slot);
        for group in 0..GROUPS as u32 {
            if group < groups {
                if jump != 0 {
                    // Before anything in this frame is believed.
                    records::jumped(slot, group, u64::from(jump == steps::AHEAD), now);
                }
                records::listen(slot, group, now);
            }
        }
    }
    let refused = if refused == steps::UNFRESH { 0 } else { refused };
    if let Kind::Answer = kind {
        return Ok(Heard::Taken);
    }
    let noted = if listened { groups } else { 0 };
    steps::answer(slot, refused, noted, now);
    if !listened {
        for group in 0..GROUPS as u32 {
            if group < groups {
                records::speak(slot, group);
            }
        }
    }
    if steps::sign(slot) == 0 {
        return Err(Refusal::KeyId as u64);
    }
    // SAFETY: the entry belongs to this CPU while the program runs, and nothing writes it here.
    packet.answer(envelope, unsafe { &*frame }).ok_or(Refusal::Length as u64)?;
    Ok(Heard::Answered)
}

/// Notes which MAC address the frame came from: what is handed over to its sender may be sent on to
/// there.
#[inline(always)]
fn remember_sender(packet: &impl Bytes, slot: u32) {
    if let (Some(ethernet), Some(link)) = (packet.at::<Ethernet>(0), maps::LINKS.get_ptr_mut(slot))
    {
        // SAFETY: the element outlives the program; nobody else writes these bytes, but for another
        // CPU that has a frame of the same sender at hand.
        unsafe { words::copy_mac(&mut (*link).mac, ethernet.source) };
    }
}
