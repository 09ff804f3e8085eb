//! What the fast path's thread asks of the kernel: to run first, and never to wait for memory.
//!
//! None of it is needed for being right, all of it for being quick; so nothing here fails the
//! start. What was refused is returned with its reason, for status and log.

mod memory;
mod mutex;
mod reason;

use std::{fmt, io, time::Duration};

pub use memory::{LockError, StackError, lock_memory, prefault_stack};
pub(crate) use mutex::{Guard, Mutex};

/// `SCHED_FLAG_RESET_ON_FORK` of `linux/sched.h`: what the thread starts is scheduled as usual.
/// Without it a thread under `SCHED_DEADLINE` cannot start any.
const RESET_ON_FORK: u64 = 1;

/// What the fast path wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// CPU time needed in each `period`, at least 1024 ns.
    pub runtime: Duration,
    /// Within which time of a wake-up, from `runtime` to `period`.
    pub deadline: Duration,
    /// Shortest time between two wake-ups that need `runtime` each. The kernel takes 100 us to
    /// 4.19 s unless told otherwise (`kernel.sched_deadline_period_min_us` and `_max_us`).
    pub period: Duration,
    /// Priority under `SCHED_FIFO`, 1 to 99, where deadlines are refused. Above 50 run before the
    /// threads of interrupts.
    pub fifo_priority: u8,
}

impl Demand {
    /// Priority under `SCHED_FIFO` if nobody asked for another.
    pub const DEFAULT_FIFO_PRIORITY: u8 = 50;

    /// What a thread that probes each `interval` wants: half of one CPU at most, the rest is for the
    /// machine. The budget is counted over a millisecond or more, so that a takeover, which takes longer
    /// than a probe, is not cut in two.
    #[must_use]
    pub fn of_prober(interval: Duration) -> Self {
        let period = interval.clamp(Duration::from_millis(1), Duration::from_secs(4));
        Self {
            runtime: (period / 2).min(Duration::from_millis(1)),
            deadline: period,
            period,
            fifo_priority: Self::DEFAULT_FIFO_PRIORITY,
        }
    }

    /// Returns the reservation.
    #[must_use]
    pub const fn policy(self) -> Policy {
        let Self { runtime, deadline, period, .. } = self;
        Policy::Deadline { runtime, deadline, period }
    }
}

/// A scheduling policy (sched(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_DEADLINE`: a reserved share of a CPU, before everything else.
    Deadline {
        /// CPU time per period.
        runtime: Duration,
        /// Within which time of a wake-up.
        deadline: Duration,
        /// Length of the period.
        period: Duration,
    },
    /// `SCHED_FIFO`: before everything ordinary, for 95 % of the time.
    Fifo {
        /// 1 to 99.
        priority: u8,
    },
    /// Whatever the thread had before.
    Ordinary,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline { runtime, deadline, period } => {
                write!(f, "SCHED_DEADLINE ({runtime:?} within {deadline:?} every {period:?})")
            }
            Self::Fifo { priority } => write!(f, "SCHED_FIFO priority {priority}"),
            Self::Ordinary => write!(f, "ordinary scheduling"),
        }
    }
}

/// A policy the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The policy asked for.
    pub policy: Policy,
    /// The kernel's error number.
    pub errno: i32,
    /// The likely reason and what to do.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(f, "{} refused: {error}: {}", self.policy, self.hint)
    }
}

/// How a thread is scheduled, and what better was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// The policy in force.
    pub policy: Policy,
    /// Better policies, best first.
    pub refused: Vec<Refusal>,
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.policy)?;
        self.refused.iter().try_for_each(|refusal| write!(f, "; {refusal}"))
    }
}

/// Gives the calling thread the best policy the kernel lets it have: `SCHED_DEADLINE`, else
/// `SCHED_FIFO`, else what it has. Under `SCHED_DEADLINE` the thread cannot be pinned to CPUs.
#[must_use]
pub fn prefer_deadline(demand: Demand) -> Scheduling {
    prefer(&[demand.policy(), Policy::Fifo { priority: demand.fifo_priority }])
}

/// Changes what is reserved for the calling thread, which has `SCHED_DEADLINE`. Where the kernel refuses, the
/// thread has `SCHED_FIFO` from then on, else ordinary scheduling: an earlier reservation that is too small
/// would hold it up. Takes no memory. Returns what it has, and the error number of the refusal, 0 for none.
pub fn reserve_anew(demand: Demand) -> (Policy, i32) {
    let wanted = demand.policy();
    let Err(error) = set_policy(wanted) else { return (wanted, 0) };
    let fifo = Policy::Fifo { priority: demand.fifo_priority };
    let policy = if set_policy(fifo).is_ok() {
        fifo
    } else {
        // Every thread may have that.
        let _ = be_ordinary();
        Policy::Ordinary
    };
    (policy, error.raw_os_error().unwrap_or(libc::EINVAL))
}

/// Gives the calling thread `SCHED_FIFO` at `priority`, 1 to 99, if the kernel lets it.
#[must_use]
pub fn prefer_fifo(priority: u8) -> Scheduling {
    prefer(&[Policy::Fifo { priority }])
}

fn prefer(policies: &[Policy]) -> Scheduling {
    let mut refused = Vec::new();
    for &policy in policies {
        match set_policy(policy) {
            Ok(()) => return Scheduling { policy, refused },
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                let hint = reason::explain(policy, errno, &reason::Facts::gather());
                refused.push(Refusal { policy, errno, hint });
            }
        }
    }
    Scheduling { policy: Policy::Ordinary, refused }
}

/// Gives the calling thread ordinary scheduling, whatever policy it inherited, at the nice value it
/// has.
///
/// # Errors
/// The kernel's own.
pub fn be_ordinary() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a local that outlives the call; 0 is the calling thread.
    crate::socket::check(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter)
    })
}

/// `struct sched_attr` of `linux/sched/types.h`, in its first size.
#[derive(Default)]
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

const _: () = assert!(size_of::<Attributes>() == 48);

fn set_policy(policy: Policy) -> io::Result<()> {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        flags: RESET_ON_FORK,
        ..Attributes::default()
    };
    match policy {
        Policy::Deadline { runtime, deadline, period } => {
            attributes.policy = libc::SCHED_DEADLINE as u32;
            attributes.runtime_ns = ns(runtime);
            attributes.deadline_ns = ns(deadline);
            attributes.period_ns = ns(period);
        }
        Policy::Fifo { priority } => {
            attributes.policy = libc::SCHED_FIFO as u32;
            attributes.priority = u32::from(priority);
        }
        Policy::Ordinary => return Ok(()),
    }
    // SAFETY: `attributes` is readable for the size it names; thread 0 is the calling one.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0_u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread's timers fire as exactly as they can: by default an ordinary thread's
/// are put off by up to 50 us to save wake-ups (`PR_SET_TIMERSLACK`). Real-time policies need no
/// such request.
///
/// # Errors
/// The kernel's own.
pub fn tighten_timers() -> io::Result<()> {
    const SLACK_NS: libc::c_ulong = 1;
    // SAFETY: takes integers only and changes nothing but the thread's timer slack.
    crate::socket::check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0) })
}

#[cfg(test)]
mod tests;
