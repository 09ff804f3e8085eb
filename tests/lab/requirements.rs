//! What the lab needs of the machine, checked before anything is made.

use std::fs;

use anyhow::{Context, Result, bail};

/// Capabilities the lab and the daemons need (`linux/capability.h`), and what for.
const CAPABILITIES: [(u32, &str, &str); 6] = [
    (5, "CAP_KILL", "ends the daemons"),
    (12, "CAP_NET_ADMIN", "makes interfaces and attaches programs"),
    (13, "CAP_NET_RAW", "watches the client's wire"),
    (21, "CAP_SYS_ADMIN", "makes network namespaces and mounts"),
    (38, "CAP_PERFMON", "lets BPF programs read the clock and compare pointers"),
    (39, "CAP_BPF", "loads BPF programs"),
];

/// Checks the privileges of this process.
///
/// # Errors
///
/// With what is missing, what it is for and how to get it.
pub fn check_privileges() -> Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .context("/proc/self/status names no effective capabilities")?;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, ..)| held & (1 << bit) == 0)
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the lab lacks {}; run it as root, for instance `sudo -E env PATH=\"$PATH\" cargo xtask ...`, \
         in a container with --privileged or with --cap-add for each of them",
        missing.join(", ")
    )
}
