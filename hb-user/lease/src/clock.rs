//! The clock of all leases, and whether this process has it.

use std::{fs, io, path::Path};

use crate::system;

/// Returns the time in nanoseconds of `CLOCK_BOOTTIME`, the clock of all leases.
///
/// # Errors
///
/// None that a Linux since 2.6.39 would give.
pub fn now_ns() -> io::Result<u64> {
    system::boot_time_ns()
}

/// Checks that `CLOCK_BOOTTIME` of this process is the kernel's.
///
/// # Errors
///
/// `Unsupported` in a time namespace that sets it off.
pub(crate) fn check() -> io::Result<()> {
    let ahead_ns = ahead_ns();
    if ahead_ns == 0 {
        return Ok(());
    }
    let what = format!(
        "CLOCK_BOOTTIME of this process is {ahead_ns} ns ahead of the kernel's, by which leases end: \
         it is in a time namespace (time_namespaces(7))"
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, what))
}

/// Returns by how many nanoseconds `CLOCK_BOOTTIME` of this process is ahead of the kernel's, 0 where
/// the system does not say.
fn ahead_ns() -> i128 {
    let namespace = |name: &str| fs::read_link(Path::new("/proc/self/ns").join(name)).ok();
    // The file tells of the namespace that children will be in, which may be a new one.
    if namespace("time") != namespace("time_for_children") {
        return 0;
    }
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    boottime_of(&offsets).unwrap_or(0)
}

/// Reads the line `boottime SECONDS NANOSECONDS`.
fn boottime_of(offsets: &str) -> Option<i128> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i128>);
    let (seconds, ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_off_is_read() {
        let offsets = "monotonic           1         0\nboottime      -100000         500\n";
        assert_eq!(boottime_of(offsets), Some(-100_000_000_000_000 + 500));
        assert_eq!(boottime_of("monotonic 1 0\n"), None);
        assert_eq!(boottime_of("boottime 1\n"), None);
        assert_eq!(ahead_ns(), 0, "tests run outside of a time namespace");
    }

    #[test]
    fn the_clock_is_the_time_since_the_boot() {
        let uptime_s = || {
            let text = fs::read_to_string("/proc/uptime").unwrap();
            text.split_whitespace().next().unwrap().parse::<f64>().unwrap()
        };
        let before_s = uptime_s();
        let now_s = now_ns().unwrap() as f64 / 1e9;
        // The file has hundredths.
        assert!(before_s - 0.01 <= now_s && now_s <= uptime_s() + 0.01, "{before_s} {now_s}");
    }
}
