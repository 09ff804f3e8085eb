//! How the fast path sleeps: until something rings or the next deadline, to the nanosecond.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// Waits for descriptors with nanosecond time-outs.
pub(crate) struct Poller(OwnedFd);

impl Poller {
    /// Waits for whatever of `descriptors` rings.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn new(descriptors: &[RawFd]) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let poller = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        for descriptor in descriptors {
            // Edges: what rang need not be hushed, which saves a system call.
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events, u64: 0 };
            // SAFETY: the event outlives the call.
            let added =
                unsafe { libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, *descriptor, &raw mut event) };
            if added < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(poller)
    }

    /// Waits for an edge, at most `timeout_ns`. Spurious wake-ups are harmless to the caller.
    pub(crate) fn wait(&self, timeout_ns: u64) {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: the array and the time outlive the call, and its length is given.
        unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
    }
}
