//! Taking a program off its interface now.
//!
//! Removing the pin of a link detaches it too, but only after the kernel's next grace period; what
//! is attached to the interface before that is refused.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2), from `linux/bpf.h`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The head of `union bpf_attr` for `BPF_OBJ_GET`; the kernel takes what is missing for zero.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link pinned at `pin`. The pin stays, and leads to a link to nothing; one whose
/// interface is gone is such a link already.
///
/// # Errors
///
/// What the kernel says, if there is no such pin or it is not of a link.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let pathname = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: pathname.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute is of the layout that the command takes, and the path it points to
    // outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &get)? };
    // SAFETY: the kernel has just made it, and nothing else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let attribute = LinkDetach { link_fd: link.as_raw_fd().unsigned_abs() };
    // SAFETY: as above; there is nothing pointed to.
    unsafe { bpf(BPF_LINK_DETACH, &attribute) }.map(drop)
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attribute` has to be what `command` takes, with every pointer in it valid.
unsafe fn bpf<T>(command: libc::c_long, attribute: &T) -> io::Result<i32> {
    // SAFETY: the caller vouches for the attribute, whose size goes along.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
