//! A bounded queue with a bell.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use crossbeam::queue::ArrayQueue;

/// An eventfd (eventfd(2)): readable after each ring.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// Makes a bell.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Rings. One system call.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. It fails only where 2^64 - 2 rings went unheard, and then
        // the bell is ringing.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Silences it.
    pub fn hush(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes. It fails only where the bell is silent already.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A queue of fixed size that rings when something is put in.
#[derive(Debug)]
pub struct Queue<T> {
    entries: ArrayQueue<T>,
    bell: Bell,
}

impl<T> Queue<T> {
    /// Makes a queue for `capacity` entries.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no eventfd for us.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { entries: ArrayQueue::new(capacity), bell: Bell::new()? })
    }

    /// Puts in and rings.
    ///
    /// # Errors
    ///
    /// Gives the entry back if there is no room.
    pub fn push(&self, entry: T) -> Result<(), T> {
        self.put(entry)?;
        self.bell.ring();
        Ok(())
    }

    /// Puts in without ringing, which is to follow.
    ///
    /// # Errors
    ///
    /// Gives the entry back if there is no room.
    pub fn put(&self, entry: T) -> Result<(), T> {
        self.entries.push(entry)
    }

    /// Takes out the oldest entry.
    pub fn pop(&self) -> Option<T> {
        self.entries.pop()
    }

    /// Returns the bell.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}
