//! What a program must not inherit from a real-time daemon.
//!
//! It is started as by `vfork`, which the standard library does as long as nothing has to run
//! between fork and exec. A `fork` would copy the page tables of the daemon while it holds the locks
//! of its memory: the real-time threads would wait for whoever forks at ordinary priority, and take
//! page faults afterwards. So what is not to be inherited is arranged beforehand: priorities by the
//! [thread](crate::background) that starts programs, descriptors by [`keep_descriptors`]. What cannot be is
//! put right as soon as the program runs: [`restore_limit`].

use std::{io, sync::OnceLock};

use tokio::process::Command;

/// First file descriptor that is not standard input, output or error.
const FIRST_FD: libc::c_uint = 3;

/// Makes `command` run in a process group of its own. The standard library sees to it that no
/// signal is blocked.
pub(crate) fn confine(command: &mut Command) {
    command.process_group(0);
}

/// How many descriptors this process may have open, as it was started.
static INHERITED: OnceLock<libc::rlimit> = OnceLock::new();

/// Most descriptors that this process needs: a few for each of some thousand interfaces.
const DESCRIPTORS: libc::rlim_t = 65_536;

/// Allows this process as many descriptors as its hard limit does (getrlimit(2)): a host may have more
/// interfaces than most are allowed by default. Returns how many it may have.
///
/// # Errors
/// The kernel's.
pub fn raise_limit() -> io::Result<u64> {
    // SAFETY: all zero is a valid limit.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: the limit is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = limit.rlim_max.min(DESCRIPTORS);
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    INHERITED.get_or_init(|| limit);
    let raised = libc::rlimit { rlim_cur: wanted, ..limit };
    // SAFETY: the limit is readable.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(wanted)
}

/// Gives a program that was just started the limit of descriptors that this process was started with: some
/// cannot use one above 1023 (select(2)). A program that ended meanwhile needs none.
pub(crate) fn restore_limit(pid: Option<u32>) {
    let (Some(limit), Some(pid)) = (INHERITED.get(), pid) else { return };
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: the limit is readable, and nothing is asked back. The program is a child that is not waited
    // for before this returns, so its id is nobody else's.
    unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, limit, std::ptr::null_mut()) };
}

/// Marks what this process inherited beside standard input, output and error, so that programs it
/// starts do not: whatever it opens itself is marked from the beginning.
///
/// # Errors
/// The kernel's own (`close_range(2)`; `CLOSE_RANGE_CLOEXEC` came with Linux 5.11).
pub fn keep_descriptors() -> io::Result<()> {
    // SAFETY: closes nothing before an exec, so no owner of a descriptor is deceived.
    let code = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_FD, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
