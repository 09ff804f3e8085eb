//! An interface of this node loses its carrier.
//!
//! The kernel tells of that by netlink once its link watch comes round to it, up to a second later, and
//! holds back what came shortly after an earlier one (`net/core/link_watch.c`, `linkwatch_urgent_event`).

use aya_ebpf::{Global, programs::FEntryContext};
use hb_ebpf::maps::EventKind;

use crate::{clock, report};

// Set before the program is loaded: the verifier takes no offsets that it does not know.

/// This node's network namespace, as `struct ns_common` has its `inum`.
#[unsafe(no_mangle)]
static NAMESPACE: Global<u64> = Global::new(0);
/// Offset of `ifindex` in `struct net_device`.
#[unsafe(no_mangle)]
static DEVICE_IFINDEX: Global<u64> = Global::new(0);
/// Offset of `nd_net`, which is a pointer to a `struct net`, in `struct net_device`.
#[unsafe(no_mangle)]
static DEVICE_NET: Global<u64> = Global::new(0);
/// Offset of `ns.inum` in `struct net`.
#[unsafe(no_mangle)]
static NET_INUM: Global<u64> = Global::new(0);

/// At the entry of `void netif_carrier_off(struct net_device *dev)` (`net/sched/sch_generic.c`). The
/// interface may have had no carrier before.
#[inline(always)]
pub(crate) fn lost(ctx: &FEntryContext) {
    let device: *const u8 = ctx.arg(0);
    // SAFETY: the offsets are those of this kernel's own types, and the verifier refuses one at which no
    // field of that size lies. A read through a pointer that leads nowhere yields zero.
    let (namespace, interface) = unsafe {
        let net = device.add(DEVICE_NET.load() as usize).cast::<*const u8>().read_volatile();
        let namespace = net.add(NET_INUM.load() as usize).cast::<u32>().read_volatile();
        let index = device.add(DEVICE_IFINDEX.load() as usize).cast::<u32>().read_volatile();
        (namespace, index)
    };
    if u64::from(namespace) == NAMESPACE.load() {
        let mut event = report::event(EventKind::Carrier, 0, 0, clock::now());
        event.interface = interface;
        report::push(event);
    }
}
