//! Why the kernel refused a policy. It says `EPERM` for five reasons; this tells them apart.

use std::fs;

use super::Policy;

/// `CAP_SYS_NICE` of `linux/capability.h`.
const CAP_SYS_NICE: u32 = 23;

/// What is known of thread and machine at the refusal; `None` is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The thread has `CAP_SYS_NICE`.
    pub(super) may_nice: Option<bool>,
    /// The thread's system calls are filtered.
    pub(super) filtered: Option<bool>,
    /// CPUs the thread may run on, and CPUs on line.
    pub(super) cpus: Option<(usize, usize)>,
    /// `kernel.sched_rt_runtime_us`.
    pub(super) runtime_us: Option<i64>,
    /// The cgroup that CPU time is accounted to.
    pub(super) cgroup: Option<String>,
    /// Shortest and longest period of a deadline, in microseconds.
    pub(super) periods_us: Option<(u64, u64)>,
}

impl Facts {
    /// Looks them up for the calling thread.
    pub(super) fn gather() -> Self {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let cgroups = fs::read_to_string("/proc/thread-self/cgroup").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let capabilities =
            field("CapEff:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let sysctl = |name: &str| -> Option<i64> {
            fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
        };
        let period = |name: &str| sysctl(name).and_then(|us| u64::try_from(us).ok());
        Self {
            may_nice: capabilities.map(|mask| mask >> CAP_SYS_NICE & 1 == 1),
            filtered: field("Seccomp:").map(|mode| mode.trim() == "2"),
            cpus: cpus(),
            runtime_us: sysctl("sched_rt_runtime_us"),
            cgroup: cpu_cgroup(&cgroups),
            periods_us: period("sched_deadline_period_min_us")
                .zip(period("sched_deadline_period_max_us")),
        }
    }
}

fn cpus() -> Option<(usize, usize)> {
    // SAFETY: all zero is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable for the size given.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    // SAFETY: takes an integer.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    // SAFETY: reads `set`, which the call above filled in.
    let allowed = unsafe { libc::CPU_COUNT(&set) };
    (result == 0).then_some((usize::try_from(allowed).ok()?, usize::try_from(online).ok()?))
}

/// Finds the cgroup of the cpu controller in `/proc/thread-self/cgroup` (cgroups(7)).
pub(super) fn cpu_cgroup(text: &str) -> Option<String> {
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.split(',').any(|controller| controller == "cpu") {
            return Some(path.to_owned());
        }
        if controllers.is_empty() {
            unified = Some(path.to_owned());
        }
    }
    unified
}

/// Returns the likely reason for `errno` and what to do.
pub(super) fn explain(policy: Policy, errno: i32, facts: &Facts) -> String {
    match (errno, policy) {
        (libc::EPERM, Policy::Fifo { priority }) if facts.may_nice == Some(false) => format!(
            "CAP_SYS_NICE is missing: give it to the service (AmbientCapabilities=CAP_SYS_NICE), \
             or raise its LimitRTPRIO to {priority}"
        ),
        (libc::EPERM, _) if facts.may_nice == Some(false) => {
            "CAP_SYS_NICE is missing: give it to the service (AmbientCapabilities=CAP_SYS_NICE)"
                .into()
        }
        (libc::EPERM, _) if facts.runtime_us == Some(0) => {
            "kernel.sched_rt_runtime_us is 0, which leaves real-time threads no time: set it to \
             950000"
                .into()
        }
        (libc::EPERM, Policy::Deadline { .. }) => match facts.cpus {
            Some((allowed, online)) if allowed < online => format!(
                "the thread may run on {allowed} of {online} CPUs, and deadlines need all of them: \
                 drop CPUAffinity or the cpuset"
            ),
            _ => filter_hint(facts),
        },
        (libc::EPERM, Policy::Fifo { .. }) => match facts.cgroup.as_deref().unwrap_or("/") {
            "/" if facts.filtered == Some(true) => filter_hint(facts),
            // Also "/" inside a cgroup namespace may be a child of the real root.
            path => format!(
                "the cpu cgroup {path} has no real-time runtime (CONFIG_RT_GROUP_SCHED: its \
                 cpu.rt_runtime_us is 0): run hb in the root cgroup, give this one a runtime \
                 (cgroup v1), or boot with rt_group_sched=0"
            ),
        },
        (libc::EBUSY, _) => "the CPUs have not that much time left for deadlines, counting all \
                             threads that have one: lower the runtime, or stop another such thread"
            .into(),
        (libc::EINVAL, Policy::Deadline { runtime, deadline, period }) => {
            let (min, max) = facts.periods_us.unwrap_or((100, 4_194_304));
            format!(
                "the kernel takes 1.024us <= runtime <= deadline <= period, and periods of {min} \
                 to {max} us; asked were {runtime:?}, {deadline:?} and {period:?}: lengthen the \
                 interval, or lower kernel.sched_deadline_period_min_us"
            )
        }
        (libc::EINVAL, Policy::Fifo { priority }) => {
            format!("priorities run from 1 to 99, asked was {priority}: configure one of them")
        }
        (libc::ENOSYS, _) => "the kernel has no sched_setattr, or a filter hides it (Linux 3.14; \
                              RestrictRealtime= and SystemCallFilter= of the unit)"
            .into(),
        _ => "see sched_setattr(2)".into(),
    }
}

fn filter_hint(facts: &Facts) -> String {
    if facts.filtered == Some(true) {
        "a system call filter is in force: set RestrictRealtime=no in the unit".into()
    } else {
        "see sched_setattr(2) for what else it asks".into()
    }
}
