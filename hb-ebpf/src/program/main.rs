//! The program that answers heartbeats and counts their absence in the kernel.
//!
//! Only hooks, maps and helper calls: every decision is in the library. [`heartbeat`] or [`hear_ingress`], [`gate_ingress`]
//! and [`gate_egress`] are attached to the interfaces, [`carrier_lost`] to a function of the kernel; [`arm`], [`watch`], [`judge`] and [`order`] are
//! never attached, the daemon runs them when it wants something done under the kernel's own locks.
#![no_std]
#![no_main]

mod carrier;
mod clock;
mod gate;
mod hear;
mod maps;
mod records;
mod report;
mod silence;
mod skb;
mod steps;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    macros::{classifier, fentry, xdp},
    programs::{FEntryContext, TcContext, XdpContext},
};

/// Answers probes, takes answers, stops what is for a service address that this node may not serve,
/// passes everything else untouched.
#[xdp(frags)]
pub(crate) fn heartbeat(ctx: XdpContext) -> u32 {
    match hear::hear(hear::Packet(&ctx)) {
        hear::Heard::NotOurs => gate::arriving(&ctx),
        hear::Heard::Answered => XDP_TX,
        hear::Heard::Taken | hear::Heard::Refused => XDP_DROP,
    }
}

/// Answers probes and takes answers where the hook of [`heartbeat`] is somebody else's, behind
/// [`gate_ingress`]; leaves everything else to the next program.
#[classifier]
pub(crate) fn hear_ingress(ctx: TcContext) -> i32 {
    skb::hear(&ctx)
}

/// Stops what is for a service address that this node may not serve, where [`heartbeat`] does not sit.
#[classifier]
pub(crate) fn gate_ingress(ctx: TcContext) -> i32 {
    gate::arriving_late(&ctx)
}

/// Stops what is from a service address that this node may not serve.
#[classifier]
pub(crate) fn gate_egress(ctx: TcContext) -> i32 {
    gate::leaving(&ctx)
}

/// Tells of an interface that loses its carrier.
#[fentry(function = "netif_carrier_off")]
pub(crate) fn carrier_lost(ctx: FEntryContext) -> i32 {
    carrier::lost(&ctx);
    0
}

/// Begins to watch the peer of a [`hb_ebpf::maps::Request`] with a timer of the kernel.
#[xdp]
pub(crate) fn arm(ctx: XdpContext) -> u32 {
    verdict(silence::arm(&ctx))
}

/// Begins to watch the peer of a [`hb_ebpf::maps::Request`]; the daemon's own engine calls
/// [`judge`] when it is due.
#[xdp]
pub(crate) fn watch(ctx: XdpContext) -> u32 {
    verdict(silence::watch(&ctx))
}

/// Does what the timer of the peer of a [`hb_ebpf::maps::Request`] would do.
#[xdp]
pub(crate) fn judge(ctx: XdpContext) -> u32 {
    verdict(silence::judge(&ctx))
}

/// Carries out a [`hb_ebpf::lease::op::Order`], and leaves in its place what came of it.
#[xdp]
pub(crate) fn order(ctx: XdpContext) -> u32 {
    verdict(records::order(&ctx))
}

/// Tells the caller of `BPF_PROG_TEST_RUN` whether the request was carried out.
fn verdict(done: Option<()>) -> u32 {
    match done {
        Some(()) => XDP_PASS,
        None => XDP_ABORTED,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
