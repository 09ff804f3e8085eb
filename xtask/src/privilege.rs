//! What this process may do, and what the kernel under it can.

use std::fs;

use anyhow::{Context, Result, bail};

/// A capability by the number that `linux/capability.h` gives it.
pub(crate) struct Capability {
    /// The name as in capabilities(7).
    pub(crate) name: &'static str,
    bit: u32,
}

/// What the tests need: to set up links and addresses, to enter network namespaces and mount the
/// BPF filesystem, and to load programs.
pub(crate) const NEEDED: [Capability; 3] = [
    Capability { name: "CAP_NET_ADMIN", bit: 12 },
    Capability { name: "CAP_SYS_ADMIN", bit: 21 },
    Capability { name: "CAP_BPF", bit: 39 },
];

/// The oldest kernel that is supported, as (major, minor).
pub(crate) const OLDEST_KERNEL: (u32, u32) = (6, 6);

/// The part of `/proc/self/status` that speaks of privilege.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    effective_user: u32,
    effective_capabilities: u64,
}

impl Status {
    /// Reads `/proc/self/status`.
    ///
    /// # Errors
    ///
    /// When it cannot be read or lacks a line.
    pub(crate) fn of_this_process() -> Result<Status> {
        let path = "/proc/self/status";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Status::parse(&text).with_context(|| format!("{path} has no usable Uid and CapEff lines"))
    }

    fn parse(text: &str) -> Option<Status> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Status {
            // Real, effective, saved and filesystem user, in this order: proc_pid_status(5).
            effective_user: value("Uid:")?.split_whitespace().nth(1)?.parse().ok()?,
            effective_capabilities: u64::from_str_radix(value("CapEff:")?.trim(), 16).ok()?,
        })
    }

    /// Whether the effective user is root.
    pub(crate) fn is_root(&self) -> bool {
        self.effective_user == 0
    }

    /// The names of the needed capabilities that this process lacks.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let has =
            |capability: &&Capability| self.effective_capabilities & (1_u64 << capability.bit) == 0;
        NEEDED.iter().filter(has).map(|capability| capability.name).collect()
    }
}

/// Checks that the running kernel is new enough and has the BPF filesystem.
///
/// # Errors
///
/// When it is not, or does not say.
pub(crate) fn check_kernel() -> Result<()> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let version = parse_kernel(release)
        .with_context(|| format!("cannot read a version from kernel release {release:?}"))?;
    let (major, minor) = OLDEST_KERNEL;
    if version < OLDEST_KERNEL {
        bail!("kernel {release} is older than {major}.{minor}, which the tests need");
    }
    // Mounting it is the lab's work; here only whether that can succeed.
    if !lists_bpffs(&read("/proc/filesystems")?) {
        bail!("kernel {release} has no bpf filesystem: it was built without CONFIG_BPF_SYSCALL");
    }
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn lists_bpffs(filesystems: &str) -> bool {
    filesystems.lines().any(|line| line.split_whitespace().last() == Some("bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_with_everything_lacks_nothing() {
        let status = Status::parse("Name:\tx\nUid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n");
        let status = status.unwrap();
        assert!(status.is_root());
        assert!(status.missing().is_empty());
    }

    #[test]
    fn missing_capabilities_are_named() {
        // Root of a plain container: no CAP_SYS_ADMIN, CAP_NET_ADMIN or CAP_BPF.
        let status = Status::parse("Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n").unwrap();
        assert_eq!(status.missing(), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF"]);
        let only_net = Status::parse("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t1000\n").unwrap();
        assert!(!only_net.is_root());
        assert_eq!(only_net.missing(), ["CAP_SYS_ADMIN", "CAP_BPF"]);
    }

    #[test]
    fn the_effective_user_counts() {
        assert!(Status::parse("Uid:\t1000\t0\t0\t0\nCapEff:\t0\n").unwrap().is_root());
        assert_eq!(Status::parse("Uid:\t1000\nCapEff:\t0\n"), None);
    }

    #[test]
    fn kernel_releases_are_ordered_as_numbers() {
        assert_eq!(parse_kernel("6.18.44-cloud"), Some((6, 18)));
        assert_eq!(parse_kernel("6.1-rc3"), Some((6, 1)));
        assert!(parse_kernel("5.15.0").unwrap() < OLDEST_KERNEL);
        assert!(parse_kernel("6.18.0").unwrap() > OLDEST_KERNEL);
        assert_eq!(parse_kernel("linux"), None);
    }

    #[test]
    fn bpffs_is_found_by_its_whole_name() {
        assert!(lists_bpffs("nodev\tsysfs\nnodev\tbpf\n\text4\n"));
        assert!(!lists_bpffs("nodev\tbpfx\n"));
    }
}
