//! Memory that is there when it is needed.

use std::{hint::black_box, io, mem::MaybeUninit};

/// Left alone at the end of a stack, for the frames below the one that is touching.
const STACK_RESERVE_BYTES: usize = 16 * 1024;
const PAGE_BYTES: usize = 4096;

/// The process's memory could not be locked.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock memory, so page faults may delay a takeover: {}", hint(source))]
pub struct LockError {
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOMEM | libc::EAGAIN) => {
            "give the service CAP_IPC_LOCK or raise its LimitMEMLOCK (RLIMIT_MEMLOCK)"
        }
        Some(libc::EINVAL) => "the kernel does not know MCL_ONFAULT (Linux 4.4)",
        _ => "see mlockall(2)",
    }
}

/// Keeps every page of the process in memory once it was touched, now and in future. Pages never
/// touched cost nothing (`MCL_ONFAULT`).
///
/// # Errors
/// [`LockError`], with what to do.
pub fn lock_memory() -> Result<(), LockError> {
    // What the start read and dropped, the kernel's own types above all, would be locked as well.
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back to the kernel what no allocation is in; others stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: takes flags only; locked memory stays as valid as it was.
    crate::socket::check(unsafe { libc::mlockall(flags) }).map_err(|source| LockError { source })
}

/// A stack cannot be touched as far down as asked.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// It ends before that.
    #[error(
        "cannot touch {asked_bytes} bytes of stack, {left_bytes} are left: start the thread with a \
         larger one"
    )]
    TooSmall {
        /// Bytes to be touched.
        asked_bytes: usize,
        /// Bytes left that may be touched.
        left_bytes: usize,
    },
    /// Where it ends is unknown.
    #[error("cannot find out where the thread's stack ends")]
    Unknown {
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Touches the next `bytes` of the calling thread's stack, so that no later call has to wait for
/// a page.
///
/// # Errors
/// [`StackError`], and nothing touched.
pub fn prefault_stack(bytes: usize) -> Result<(), StackError> {
    let mark = 0_u8;
    let here = &raw const *black_box(&mark) as usize;
    let end = stack_end().map_err(|source| StackError::Unknown { source })?;
    let left_bytes = here.saturating_sub(end).saturating_sub(STACK_RESERVE_BYTES);
    if bytes > left_bytes {
        return Err(StackError::TooSmall { asked_bytes: bytes, left_bytes });
    }
    touch(here - bytes);
    Ok(())
}

/// Writes to one page after the other, until the stack reaches down to the address `until`.
#[inline(never)]
fn touch(until: usize) {
    let mut page = [0_u8; PAGE_BYTES];
    let here = black_box(&mut page).as_ptr() as usize;
    if here > until {
        touch(until);
    }
    // Used after the call, so that it is no tail call in the same frame.
    black_box(&mut page);
}

/// Returns the lowest address of the calling thread's stack.
fn stack_end() -> io::Result<usize> {
    let failed = |code| if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut end = std::ptr::null_mut();
    let mut size = 0;
    // SAFETY: fills in `attributes` for the calling thread.
    failed(unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) })?;
    // SAFETY: the call before succeeded, so `attributes` is filled in; the rest are places for a
    // pointer and a size.
    let code =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut end, &raw mut size) };
    // SAFETY: filled in above, and not used after this.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    failed(code)?;
    Ok(end as usize)
}
