//! A packet in traffic control, where heartbeats are heard if the hook of XDP is somebody else's.
//!
//! Nothing is written to a packet but by helpers, and only to one that becomes an answer: with one direct
//! write in the program the verifier has it begin with a copy of every packet that somebody else has at
//! hand as well, and drop it where there is no memory for that.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    helpers::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use hb_ebpf::{
    maps::Transport,
    packet::{Bytes, Envelope, Ethernet, Ipv4, Ipv6, LONGEST, UDP_LEN, Udp, VLAN_MASK},
    wire::{FRAME_LEN, Frame},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hear::{self, Arrived, Heard};

/// Lets the next program decide, `TCX_NEXT` in `linux/bpf.h`.
pub(crate) const TCX_NEXT: i32 = -1;

/// Looks for a heartbeat in a packet and deals with it; returns the verdict.
#[inline(always)]
pub(crate) fn hear(ctx: &TcContext) -> i32 {
    let Some(packet) = Skb::of(ctx) else { return TCX_NEXT };
    match hear::hear(packet) {
        Heard::NotOurs => TCX_NEXT,
        // Back by where it came from.
        // SAFETY: takes numbers only.
        Heard::Answered => unsafe { bpf_redirect(interface(ctx), 0) as i32 },
        Heard::Taken | Heard::Refused => TC_ACT_SHOT as i32,
    }
}

/// A packet that is all in the linear part, if a heartbeat can be so long.
struct Skb<'a>(&'a TcContext);

impl<'a> Skb<'a> {
    /// Takes a packet; `None` for one that is on its way to the interface of a VLAN. The kernel has its
    /// outer tag beside it by now, also a tag that names no VLAN (IEEE 802.1Q, 9.6); with that it leaves
    /// again.
    #[inline(always)]
    fn of(ctx: &'a TcContext) -> Option<Self> {
        // SAFETY: the context is the kernel's, for as long as the program runs.
        let (tagged, tag) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
        if tagged != 0 && tag as u16 & VLAN_MASK != 0 {
            return None;
        }
        let length = ctx.len();
        if length <= LONGEST as u32 && ctx.data() + length as usize > ctx.data_end() {
            // One that stays apart is none of ours to read.
            let _ = ctx.pull_data(length);
        }
        Some(Self(ctx))
    }

    /// Stores `value` at `offset`.
    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: &T, flags: u64) -> Option<()> {
        let (skb, at) = (self.0.skb.skb.cast(), offset as u32);
        let (from, length) = (ptr::from_ref(value).cast(), size_of::<T>() as u32);
        // SAFETY: the helper reads `length` bytes, the size of the value.
        let stored = unsafe { bpf_skb_store_bytes(skb, at, from, length, flags) };
        (stored == 0).then_some(())
    }

    /// Returns what is to be added to a checksum when `answer` takes the place of the frame at `offset`.
    #[inline(always)]
    fn change(&self, offset: usize, answer: &Frame) -> Option<u64> {
        let before = ptr::from_ref(self.at::<[u8; FRAME_LEN]>(offset)?).cast_mut();
        let after = ptr::from_ref(answer).cast_mut();
        let (none, length) = (ptr::null_mut(), FRAME_LEN as u32);
        // In two steps: before Linux 6.13 the two may have 512 bytes together.
        // SAFETY: the helper reads `FRAME_LEN` bytes, the size of a frame.
        let removed = unsafe { bpf_csum_diff(before.cast(), length, none, 0, 0) };
        // SAFETY: as above.
        let change = unsafe { bpf_csum_diff(none, 0, after.cast(), length, removed as u32) };
        (removed >= 0 && change >= 0).then_some(change as u64)
    }
}

#[inline(always)]
fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's, for as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
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
    fn at_mut<T>(&mut self, _: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned,
    {
        None
    }
}

impl Arrived for Skb<'_> {
    #[inline(always)]
    fn interface(&self) -> u32 {
        interface(self.0)
    }

    #[inline(always)]
    unsafe fn load(&self, offset: usize, frame: *mut Frame) -> Option<()> {
        let (skb, length) = (self.0.skb.skb.cast(), FRAME_LEN as u32);
        // SAFETY: the helper writes `FRAME_LEN` bytes, the size of the frame; it fails where the packet is
        // shorter.
        let loaded = unsafe { bpf_skb_load_bytes(skb, offset as u32, frame.cast(), length) };
        (loaded == 0).then_some(())
    }

    /// The checksum of UDP is not computed: where the interface that sends is to complete it, the field
    /// holds the sum of the pseudo-header alone, which is the same for the answer. What the frame's change
    /// makes of it the kernel does, which knows (`inet_proto_csum_replace_by_diff`). Addresses and ports
    /// that change places change no sum.
    #[inline(always)]
    fn answer(&mut self, envelope: Envelope, answer: &Frame) -> Option<()> {
        let mut ethernet: Ethernet = *self.at(0)?;
        ethernet.turn();
        if let Transport::Ethernet = envelope.transport {
            self.store(0, &ethernet, 0)?;
            return self.store(envelope.frame, answer, BPF_F_RECOMPUTE_CSUM.into());
        }
        let at_udp = envelope.frame - size_of::<Udp>();
        let mut udp: Udp = *self.at(at_udp)?;
        // Else the sums are others.
        if u16::from_be_bytes(udp.length) != UDP_LEN {
            return None;
        }
        udp.turn();
        let change = self.change(envelope.frame, answer)?;
        if let Transport::Udp4 = envelope.transport {
            let mut ip: Ipv4 = *self.at(envelope.network)?;
            ip.turn();
            self.store(envelope.network, &ip, 0)?;
        } else {
            let mut ip: Ipv6 = *self.at(envelope.network)?;
            ip.turn();
            // No checksum of its own makes up for the hop limit in the sum of all.
            self.store(envelope.network, &ip, BPF_F_RECOMPUTE_CSUM.into())?;
        }
        self.store(0, &ethernet, 0)?;
        self.store(at_udp, &udp, 0)?;
        // Without a checksum there is none afterwards, and nothing makes up for the frame in the sum of
        // all.
        let flags = if udp.checksum == [0; 2] { BPF_F_RECOMPUTE_CSUM.into() } else { 0 };
        self.store(envelope.frame, answer, flags)?;
        let (skb, at) = (self.0.skb.skb.cast(), envelope.frame as u32 - 2);
        // SAFETY: takes the context and numbers.
        let replaced =
            unsafe { bpf_l4_csum_replace(skb, at, 0, change, BPF_F_MARK_MANGLED_0.into()) };
        (replaced == 0).then_some(())
    }
}
