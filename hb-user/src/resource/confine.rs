//! What a program must not inherit from a real-time daemon.
//!
//! It is started as by `vfork`, which the standard library does as long as nothing has to run
//! between fork and exec. A `fork` would copy the page tables of the daemon while it holds the locks
//! of its memory: the real-time threads would wait for whoever forks at ordinary priority, and take
//! page faults afterwards. So what is not to be inherited is arranged beforehand: priorities by the
//! [thread](crate::background) that starts programs, descriptors by [`keep_descriptors`].

use std::io;

use tokio::process::Command;

/// First file descriptor that is not standard input, output or error.
const FIRST_FD: libc::c_uint = 3;

/// Makes `command` run in a process group of its own. The standard library sees to it that no
/// signal is blocked.
pub(crate) fn confine(command: &mut Command) {
    command.process_group(0);
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
