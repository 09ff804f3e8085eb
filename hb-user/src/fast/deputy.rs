//! Probes while the fast path waits for the kernel.
//!
//! To change an address is to wait for a lock that whoever changes interfaces holds, for
//! milliseconds as a rule and for seconds where many go at once (`RTNL`). Meanwhile the leases of
//! every group that this node holds would run out. So a second thread probes in the place of the
//! fast path, from one interval after it turned to the kernel until it is back. It renews nothing for
//! ever: without the fast path's rounds the daemon's stamp ends two seconds later.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::probe::Streams;
use crate::{clock, realtime};

/// Stack touched before the first wait.
const STACK: usize = 16 * 1024;

/// The second thread, by its timer.
pub(super) struct Deputy {
    timer: Arc<OwnedFd>,
    ended: Arc<AtomicBool>,
    interval_ns: u64,
    thread: Option<JoinHandle<()>>,
}

impl Deputy {
    /// Starts the thread, under `SCHED_FIFO` at `priority` if the kernel lets it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn start(streams: Arc<Streams>, interval_ns: u64, priority: u8) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let timer = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        let ended = Arc::new(AtomicBool::new(false));
        let (its_timer, its_end) = (Arc::clone(&timer), Arc::clone(&ended));
        let thread = std::thread::Builder::new().name("hb-deputy".to_owned()).spawn(move || {
            // The fast path says how it is scheduled itself, and why not better.
            let _ = realtime::prefer_fifo(priority);
            let _ = realtime::prefault_stack(STACK);
            while expires(&its_timer) && !its_end.load(Ordering::Acquire) {
                streams.probe();
            }
        })?;
        Ok(Self { timer, ended, interval_ns, thread: Some(thread) })
    }

    /// Has it probe at this interval the next time that it stands in.
    pub(super) const fn pace(&mut self, interval_ns: u64) {
        self.interval_ns = interval_ns;
    }

    /// Has it probe from one interval from now on, once each interval. One system call.
    pub(super) fn stand_in(&self) {
        self.set(clock::now().ns() + self.interval_ns, self.interval_ns);
    }

    /// Has it probe no more, but for a probe that is on its way. One system call.
    pub(super) fn stand_back(&self) {
        self.set(0, 0);
    }

    /// Has the timer expire at `first_ns` of boot time and then at each `interval_ns`; never at 0.
    fn set(&self, first_ns: u64, interval_ns: u64) {
        let time = |ns: u64| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (ns % 1_000_000_000) as libc::c_long,
        };
        let times = libc::itimerspec { it_interval: time(interval_ns), it_value: time(first_ns) };
        let (fd, absolute) = (self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME);
        // SAFETY: the times outlive the call. It fails only for descriptors and times that are none.
        let set = unsafe { libc::timerfd_settime(fd, absolute, &raw const times, ptr::null_mut()) };
        debug_assert_eq!(set, 0, "timerfd_settime failed");
    }
}

impl Drop for Deputy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.set(1, 0);
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already.
            drop(thread.join());
        }
    }
}

/// Waits until the timer expires; returns `false` if it is broken, which no timer is.
fn expires(timer: &OwnedFd) -> bool {
    let mut times = 0_u64;
    loop {
        // SAFETY: the buffer is writable for its length.
        let read =
            unsafe { libc::read(timer.as_raw_fd(), (&raw mut times).cast(), size_of::<u64>()) };
        if read > 0 {
            return true;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return false;
        }
    }
}
