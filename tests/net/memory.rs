//! Locked memory, seen from outside.

use std::fs;

use hb_user::realtime::lock_memory;

fn locked_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
fn memory_is_locked() {
    assert_eq!(locked_kib(), 0);
    lock_memory().unwrap();
    let locked = locked_kib();
    // SAFETY: takes nothing; locks nobody's memory any more.
    unsafe { libc::munlockall() };
    assert!(locked > 1024, "{locked} KiB");
}
