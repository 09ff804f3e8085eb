//! The gate: packets of a service address pass only while this node holds its group.

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    programs::{TcContext, XdpContext},
};
use hb_ebpf::{
    gate::{self, Address, Count, MAX_VIPS, Mode, Touched, Vip},
    lease,
    maps::EventKind,
    packet::{Bytes, Ethernet, MAX_TAGS},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{clock, hear::Packet, maps, report, skb::TCX_NEXT};

/// Bytes of a packet that the gate may have to look at: tags, IPv6, Neighbour Discovery.
const LOOKED_AT: u32 = 14 + 4 * MAX_TAGS as u32 + 40 + 24;
/// The daemon is told of claims of an address at most this often.
const TELL_EVERY_NS: u64 = 1_000_000_000;

/// Decides about a packet that arrives and is no heartbeat.
#[inline(always)]
pub(crate) fn arriving(ctx: &XdpContext) -> u32 {
    if bypassed() {
        return XDP_PASS;
    }
    let touched = gate::arriving(&Packet(ctx));
    if !is_found(&touched) {
        return XDP_DROP;
    }
    if let Some((address, mac)) = touched.claimed
        && let Some(vip) = find(address)
        && !claimed(vip, mac)
        && is_of_own(vip, address)
        && drops()
    {
        return XDP_DROP;
    }
    for address in [touched.address, touched.target] {
        if let Some(address) = address
            && let Some(vip) = find(address)
            && !passes(vip, false)
        {
            return stopped(ctx, vip);
        }
    }
    XDP_PASS
}

/// Decides about a packet that arrives where no heartbeats are heard: after XDP, before the stack.
#[inline(always)]
pub(crate) fn arriving_late(ctx: &TcContext) -> i32 {
    if bypassed() {
        return TCX_NEXT;
    }
    linearize(ctx);
    let touched = gate::arriving(&Linear(ctx));
    if !is_found(&touched) {
        return TC_ACT_SHOT as i32;
    }
    if let Some((address, mac)) = touched.claimed
        && let Some(vip) = find(address)
        && !claimed(vip, mac)
        && is_of_own(vip, address)
        && drops()
    {
        return TC_ACT_SHOT as i32;
    }
    if !may_pass([touched.address, touched.target], false) {
        return TC_ACT_SHOT as i32;
    }
    if let Some(ethertype) = gate::bare(&Linear(ctx), protocol(ctx)) {
        let touched = gate::arriving_at(&Linear(ctx), ethertype, 0);
        if !may_pass([touched.address, touched.target], false) {
            return TC_ACT_SHOT as i32;
        }
    }
    TCX_NEXT
}

/// Decides about a packet that leaves.
#[inline(always)]
pub(crate) fn leaving(ctx: &TcContext) -> i32 {
    if bypassed() {
        return TCX_NEXT;
    }
    linearize(ctx);
    let touched = gate::leaving(&Linear(ctx));
    if !is_found(&touched) {
        return TC_ACT_SHOT as i32;
    }
    if !may_pass([touched.address, touched.target], true) {
        return TC_ACT_SHOT as i32;
    }
    if let Some(ethertype) = gate::bare(&Linear(ctx), protocol(ctx)) {
        let touched = gate::leaving_at(&Linear(ctx), ethertype, 0);
        if !may_pass([touched.address, touched.target], true) {
            return TC_ACT_SHOT as i32;
        }
    }
    TCX_NEXT
}

/// Returns what the kernel takes the packet for.
#[inline(always)]
fn protocol(ctx: &TcContext) -> u16 {
    u16::from_be(ctx.skb.protocol() as u16)
}

/// Makes sure that the headers can be read: they need not lie in the linear part.
#[inline(always)]
fn linearize(ctx: &TcContext) {
    if ctx.data() + LOOKED_AT as usize > ctx.data_end() {
        // A packet shorter than that is all there is to look at.
        let _ = ctx.pull_data(LOOKED_AT.min(ctx.len()));
    }
}

/// Tells whether the gate could see what the packet touches, or has to let it pass all the same; counts
/// it if not.
#[inline(always)]
fn is_found(touched: &Touched) -> bool {
    if !touched.buried {
        return true;
    }
    if let Some(counter) = maps::BURIED.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, and the program is not preempted by itself.
        unsafe { *counter += 1 };
    }
    !drops()
}

#[inline(always)]
fn may_pass(addresses: [Option<Address>; 2], out: bool) -> bool {
    for address in addresses {
        if let Some(address) = address
            && let Some(vip) = find(address)
            && !passes(vip, out)
            && drops()
        {
            return false;
        }
    }
    true
}

#[inline(always)]
fn bypassed() -> bool {
    maps::GATE.get(0).is_none_or(|settings| settings.mode == Mode::Bypass as u8)
}

#[inline(always)]
fn drops() -> bool {
    maps::GATE.get(0).is_some_and(|settings| settings.mode == Mode::On as u8)
}

#[inline(always)]
fn find(address: Address) -> Option<Vip> {
    let settings = maps::GATE.get(0)?;
    // SAFETY: the entry is copied at once; the daemon replaces entries whole.
    unsafe {
        match address {
            Address::V4(address) if settings.excludes(gate::fold_v4(address)) => None,
            Address::V4(address) => maps::VIPS4.get(&address).copied(),
            Address::V6(address) if settings.excludes(gate::fold_v6(address)) => None,
            Address::V6(address) => maps::VIPS6.get(&address).copied(),
        }
    }
}

/// Tells whether packets of the address pass now, and counts this one.
#[inline(always)]
fn passes(vip: Vip, out: bool) -> bool {
    let Some(node) = maps::NODE.get(0) else { return false };
    let Some(entry) = maps::LEASES.get_ptr(u32::from(vip.group)) else { return false };
    // SAFETY: the element outlives the program. One aligned load: the writer stores it whole.
    let expires_ns = unsafe { core::ptr::addr_of!((*entry).expires_ns).read_volatile() };
    let (stamp, deadtime) = (node.controller_stamp_ns, node.controller_deadtime_ns);
    // What is not held passes at no time: no need to look at the clock, which costs most here.
    let passes = expires_ns != lease::gate::NEVER
        && lease::gate::passes(expires_ns, stamp, deadtime, clock::now());
    count(vip, Count::of(expires_ns, passes, out));
    passes
}

#[inline(always)]
fn count(vip: Vip, what: Count) {
    if let Some(counters) = maps::GATED.get_ptr_mut(u32::from(vip.number)) {
        // SAFETY: this CPU's own entry, and the program is not preempted by itself.
        if let Some(counter) = unsafe { (*counters).get_mut(what as usize) } {
            *counter += 1;
        }
    }
}

/// What becomes of a packet that may not pass.
#[inline(always)]
fn stopped(ctx: &XdpContext, vip: Vip) -> u32 {
    if !drops() {
        return XDP_PASS;
    }
    let mut packet = Packet(ctx);
    let interface = ctx.ingress_ifindex() as u32;
    if let Some(bounce) = maps::BOUNCES.get(u32::from(vip.number))
        && bounce.until_ns != 0
        && let Some(ethernet) = packet.at_mut::<Ethernet>(0)
        && gate::bounces(bounce, ethernet, interface, clock::now())
    {
        ethernet.destination = bounce.to;
        ethernet.source = bounce.own;
        count(vip, Count::Bounced);
        return XDP_TX;
    }
    XDP_DROP
}

/// Tells whether a claim that is no conflict would be one to the stack.
#[inline(always)]
fn is_of_own(vip: Vip, address: Address) -> bool {
    vip.warm != 0 && matches!(address, Address::V6(_))
}

/// Somebody claims the address. While this node serves it, that is somebody else, or an echo of its own
/// claim; tells whether it serves.
#[inline(always)]
fn claimed(vip: Vip, mac: [u8; 6]) -> bool {
    let Some(entry) = maps::LEASES.get(u32::from(vip.group)) else { return false };
    let Some(claims) = maps::CLAIMS.get_ptr_mut(u32::from(vip.number)) else { return false };
    let now = clock::now();
    let Some(node) = maps::NODE.get(0) else { return false };
    let (stamp, deadtime) = (node.controller_stamp_ns, node.controller_deadtime_ns);
    if !lease::gate::passes(entry.expires_ns, stamp, deadtime, now) {
        return false;
    }
    // SAFETY: the entry is only looked for.
    if unsafe { maps::MACS.get(mac) }.is_some() {
        // Its own announcement, come back: by a loop, a mirror, a bridge that reflects.
        return true;
    }
    count(vip, Count::Claims);
    // SAFETY: the element outlives the program. Two CPUs may write at once: then one of the two
    // claims is told of, which is what is asked for.
    unsafe {
        (*claims).mac = mac;
        if now.saturating_sub((*claims).told_ns) < TELL_EVERY_NS {
            return true;
        }
        (*claims).told_ns = now;
    }
    report::push(report::event(EventKind::Claim, 0, vip.number, now));
    true
}

const _: () = assert!(MAX_VIPS <= u8::MAX as usize);

/// The linear part of a packet in traffic control.
struct Linear<'a>(&'a TcContext);

impl Bytes for Linear<'_> {
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
    fn at_mut<T>(&mut self, _: usize) -> Option<&mut T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned,
    {
        // Nothing is changed here.
        None
    }
}
