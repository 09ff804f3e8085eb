//! The program of a machine that only votes: it answers heartbeats of many clusters, and promises.
//!
//! The steps of a frame are those of a node ([`hear`], [`steps`], [`records`]); only what is kept,
//! and where, differs ([`maps`]). There are no timers and nobody reads events: once configured, the
//! witness needs no process. [`heartbeat`] or [`hear_ingress`] is attached to the interfaces; [`order`] is never
//! attached, the command runs it when it wants a record changed under the kernel's own lock.
#![no_std]
#![no_main]

#[path = "../program/clock.rs"]
mod clock;
#[path = "../program/hear.rs"]
mod hear;
mod maps;
#[path = "../program/records.rs"]
mod records;
mod report;
#[path = "../program/skb.rs"]
mod skb;
#[path = "../program/steps.rs"]
mod steps;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Answers probes of the clusters it votes in, passes everything else untouched.
#[xdp(frags)]
pub(crate) fn heartbeat(ctx: XdpContext) -> u32 {
    match hear::hear(hear::Packet(&ctx)) {
        hear::Heard::NotOurs => XDP_PASS,
        hear::Heard::Answered => XDP_TX,
        hear::Heard::Taken | hear::Heard::Refused => XDP_DROP,
    }
}

/// Answers probes where the hook of [`heartbeat`] is somebody else's; leaves everything else to the next
/// program.
#[classifier]
pub(crate) fn hear_ingress(ctx: TcContext) -> i32 {
    skb::hear(&ctx)
}

/// Carries out a [`hb_ebpf::lease::op::Order`], and leaves in its place what came of it.
#[xdp]
pub(crate) fn order(ctx: XdpContext) -> u32 {
    match records::order(&ctx) {
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
