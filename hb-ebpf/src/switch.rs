//! What the lab puts on each port of its switch: passes packets, or drops them when told to.
//!
//! It also makes the ports take `XDP_TX` frames at all: a veth end hands such a frame over only
//! when the other end runs an XDP program too.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, TC_ACT_SHOT, xdp_action},
    btf_maps::Array,
    helpers::bpf_get_prandom_u32,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use hb_ebpf::ports::{MAX_PORTS, Port};

/// Lets the next program decide, `TCX_NEXT` in `linux/bpf.h`.
const TCX_NEXT: i32 = -1;

#[btf_map]
static PORTS: Array<Port, MAX_PORTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What comes from the machine on the port.
#[xdp]
fn switch_in(ctx: XdpContext) -> u32 {
    let Some(port) = PORTS.get_ptr_mut(ctx.ingress_ifindex() as u32) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: an entry of an array map lives as long as the map. Userspace writes no counter, and
    // this program is the only writer of the two it touches.
    unsafe {
        if (&raw const (*port).drop_in).read_volatile() == 0 {
            (*port).passed_in += 1;
            xdp_action::XDP_PASS
        } else {
            (*port).dropped_in += 1;
            xdp_action::XDP_DROP
        }
    }
}

/// What goes to the machine on the port.
#[classifier]
fn switch_out(ctx: TcContext) -> i32 {
    // SAFETY: the kernel hands the program a live `__sk_buff`.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    let Some(port) = PORTS.get_ptr_mut(interface) else {
        return TCX_NEXT;
    };
    // SAFETY: as above; a lost increment of the counters is accepted and documented.
    unsafe {
        let deaf_to = (&raw const (*port).deaf_to).read_volatile();
        let loss = (&raw const (*port).loss).read_volatile();
        if (&raw const (*port).drop_out).read_volatile() == 0
            && !is_from(&ctx, deaf_to)
            && (loss == 0 || bpf_get_prandom_u32() >= loss)
        {
            (*port).passed_out += 1;
            TCX_NEXT
        } else {
            (*port).dropped_out += 1;
            TC_ACT_SHOT as i32
        }
    }
}

/// Tells whether the packet is from one of the machines in `mask`.
#[inline(always)]
fn is_from(ctx: &TcContext, mask: u32) -> bool {
    /// Where the last byte of the source address is in an Ethernet header.
    const LAST: usize = 11;
    if mask == 0 || ctx.data() + LAST >= ctx.data_end() {
        return false;
    }
    // SAFETY: the check above keeps the byte inside the packet.
    let id = unsafe { *((ctx.data() + LAST) as *const u8) };
    id < u32::BITS as u8 && mask & (1 << id) != 0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
