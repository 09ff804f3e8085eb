//! A packet has arrived.

use aya_ebpf::{
    helpers::{bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use hb_ebpf::{
    packet::{self, Bytes, Envelope, Ethernet},
    refusal::Refusal,
    wire::{FRAME_LEN, GROUPS, Kind},
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

/// The linear part of a packet.
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

/// Looks for a heartbeat and deals with it.
#[inline(always)]
pub(crate) fn hear(ctx: &XdpContext) -> Heard {
    let packet = Packet(ctx);
    let Some(envelope) = packet::find(&packet) else { return Heard::NotOurs };
    let Some(home) = maps::home_of(&packet, envelope) else { return Heard::NotOurs };
    let Some(node) = maps::NODE.get(home) else { return Heard::NotOurs };
    let Some(claim) = packet::claim(&packet, envelope, node) else { return Heard::NotOurs };
    let named = if claim.source == node.id {
        Err(Refusal::Source)
    } else {
        maps::slot(home, claim.source, claim.link)
    };
    let slot = match named {
        Ok(slot) => slot,
        Err(refusal) => {
            report::refused(maps::nowhere(home), refusal as usize);
            return Heard::Refused;
        }
    };
    match take(ctx, envelope, &claim, slot) {
        Ok(heard) => heard,
        Err(code) => {
            report::refused(slot, code as usize);
            Heard::Refused
        }
    }
}

/// Takes a frame for us through its steps; an error is the code of a [`Refusal`].
#[inline(always)]
fn take(
    ctx: &XdpContext,
    envelope: Envelope,
    claim: &packet::Claim,
    slot: u32,
) -> Result<Heard, u64> {
    let mut packet = Packet(ctx);
    let path = maps::PATHS.get(slot).ok_or(Refusal::Link as u64)?;
    let interface = ctx.ingress_ifindex() as u32;
    let kind = packet::check(&packet, envelope, claim, path, interface)
        .map_err(|refusal| refusal as u64)?;
    let frame = maps::SCRATCH.get_ptr_mut(0).ok_or(Refusal::Length as u64)?;
    let offset = envelope.frame as u32;
    // SAFETY: the helper writes `FRAME_LEN` bytes, the size of the entry, which belongs to this
    // CPU while the program runs; it fails where the packet is shorter.
    let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, offset, frame.cast(), FRAME_LEN as u32) };
    if loaded != 0 {
        return Err(Refusal::Length as u64);
    }

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
        remember_sender(&packet, slot);
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
    packet::turn(&mut packet, envelope, unsafe { &*frame }).ok_or(Refusal::Length as u64)?;
    // SAFETY: the helper reads `FRAME_LEN` bytes, the size of the frame.
    let stored = unsafe { bpf_xdp_store_bytes(ctx.ctx, offset, frame.cast(), FRAME_LEN as u32) };
    if stored != 0 {
        return Err(Refusal::Length as u64);
    }
    Ok(Heard::Answered)
}

/// Notes which MAC address the frame came from: what is handed over to its sender may be sent on to
/// there.
#[inline(always)]
fn remember_sender(packet: &Packet<'_>, slot: u32) {
    if let (Some(ethernet), Some(link)) = (packet.at::<Ethernet>(0), maps::LINKS.get_ptr_mut(slot))
    {
        // SAFETY: the element outlives the program; nobody else writes these bytes, but for another
        // CPU that has a frame of the same sender at hand.
        unsafe { words::copy_mac(&mut (*link).mac, ethernet.source) };
    }
}
