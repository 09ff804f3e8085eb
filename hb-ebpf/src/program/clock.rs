//! The clock of everything here.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// Returns `CLOCK_BOOTTIME` in nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: plain helper.
    unsafe { bpf_ktime_get_boot_ns() }
}
