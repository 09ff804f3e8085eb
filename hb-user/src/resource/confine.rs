//! What a child must not inherit from a real-time daemon.

use std::io;

use tokio::process::Command;

/// The kernel's default of `RLIMIT_MEMLOCK` since 5.16, in bytes.
const MEMLOCK_BYTES: libc::rlim_t = 8 << 20;
/// First file descriptor that is not standard input, output or error.
const FIRST_FD: libc::c_uint = 3;

/// Makes `command` run in a process group of its own, at ordinary priority, with no signal
/// blocked, the usual soft limit of locked memory and no file descriptor but the standard three.
///
/// The hard limit of locked memory stays, so that a service that needs more may raise its own.
pub(crate) fn confine(command: &mut Command) {
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls may be made, since another thread
    // may have held a lock at the fork: `ordinary` makes bare system calls on memory of its own
    // stack, and `io::Error::last_os_error` only reads errno and allocates nothing.
    unsafe { command.pre_exec(ordinary) };
}

fn ordinary() -> io::Result<()> {
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a local that outlives the call; 0 is the calling thread, the only
    // one of a forked child.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) })?;

    // SAFETY: all zero is a valid value of `sigset_t`, and sigemptyset makes it a meaningful one.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is a local that outlives both calls; the old mask is not asked for.
    check(unsafe {
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    })?;

    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a local that outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max.min(MEMLOCK_BYTES);
    // SAFETY: as above; a soft limit at or below the hard one needs no privilege.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })?;

    // Marked and not closed: the standard library reports a failing exec through one of them.
    // SAFETY: closes nothing before the exec, so no owner of a descriptor is deceived.
    let code = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_FD, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
