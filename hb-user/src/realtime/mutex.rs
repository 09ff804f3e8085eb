//! A mutex for threads of different priority: whoever has it runs as the most urgent of those who
//! wait for it (`PTHREAD_PRIO_INHERIT`), so that nothing in between keeps both from running.
//!
//! The mutex of the standard library knows no priorities. Taken alone, this one costs as much: no
//! system call, no allocation.

use std::{
    cell::UnsafeCell,
    io,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
};

/// A value that one thread at a time has.
pub(crate) struct Mutex<T> {
    /// In one place for as long as it lives.
    raw: Box<UnsafeCell<libc::pthread_mutex_t>>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time, which the raw mutex sees to; that is made to
// be used by several.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The system's, if it does not know such mutexes.
    pub(crate) fn new(value: T) -> io::Result<Self> {
        let mut raw = Box::new(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
        let mut kind = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: the attributes are made before they are used, once; the mutex lies where it stays.
        unsafe {
            done(libc::pthread_mutexattr_init(kind.as_mut_ptr()))?;
            let made = done(libc::pthread_mutexattr_setprotocol(
                kind.as_mut_ptr(),
                libc::PTHREAD_PRIO_INHERIT,
            ))
            .and_then(|()| done(libc::pthread_mutex_init(raw.get_mut(), kind.as_ptr())));
            libc::pthread_mutexattr_destroy(kind.as_mut_ptr());
            made?;
        }
        Ok(Self { raw, value: UnsafeCell::new(value) })
    }

    /// Waits until no other thread has it. A thread must not take it twice.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // SAFETY: the mutex was made by `new` and lies where it lay then.
        let taken = unsafe { libc::pthread_mutex_lock(self.raw.get()) };
        // It fails for one that is none, and for a thread that has it: neither can go on.
        assert_eq!(taken, 0, "a mutex is broken");
        Guard { mutex: self }
    }
}

impl<T> Drop for Mutex<T> {
    fn drop(&mut self) {
        // SAFETY: no guard is left, since each borrows this.
        unsafe { libc::pthread_mutex_destroy(self.raw.get()) };
    }
}

/// The value, until this is dropped.
pub(crate) struct Guard<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this thread has the mutex, and the guard is borrowed.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed for changes.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this thread has it.
        unsafe { libc::pthread_mutex_unlock(self.mutex.raw.get()) };
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_has_the_value() {
        let mutex = Mutex::new(0_u64).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        *mutex.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*mutex.lock(), 40_000);
    }

    #[test]
    fn it_inherits_priorities() {
        let mutex = Mutex::new(()).unwrap();
        let _held = mutex.lock();
        // SAFETY: the mutex is initialized; its first word is the lock, which of this kind alone
        // names the thread that has it (futex(2), `FUTEX_LOCK_PI`).
        let word = unsafe { mutex.raw.get().cast::<libc::pid_t>().read_volatile() };
        // SAFETY: plain system call.
        assert_eq!(word, unsafe { libc::gettid() });
    }
}
