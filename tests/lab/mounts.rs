//! The kernel's file systems that systemd mounts on real machines and nobody in a container.

use std::{ffi::CString, io, mem::MaybeUninit, path::Path};

use anyhow::{Context, Result};

/// A file system, where it belongs, and its magic number (`linux/magic.h`).
const WANTED: [(&str, &str, i64); 2] =
    [("bpf", "/sys/fs/bpf", 0xcafe_4a11), ("tracefs", "/sys/kernel/tracing", 0x7472_6163)];

/// Mounts what is missing and says what that was, one line each; empty when all was there.
///
/// # Errors
///
/// If the kernel refuses: no `CAP_SYS_ADMIN`, or no such file system.
pub fn ensure() -> Result<Vec<String>> {
    let mut done = Vec::new();
    for (kind, place, magic) in WANTED {
        if magic_of(Path::new(place))? == magic {
            continue;
        }
        mount(kind, place).with_context(|| format!("cannot mount {kind} on {place}"))?;
        done.push(format!("mounted {kind} on {place}, which stays mounted"));
    }
    Ok(done)
}

fn magic_of(place: &Path) -> Result<i64> {
    let path = CString::new(place.as_os_str().as_encoded_bytes())?;
    let mut facts = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends in zero and `facts` is as large as the call expects.
    if unsafe { libc::statfs(path.as_ptr(), facts.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot look at {}", place.display()));
    }
    // SAFETY: the call filled it in; all-zero would be valid as well.
    Ok(unsafe { facts.assume_init() }.f_type)
}

fn mount(kind: &str, place: &str) -> Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: three strings that end in zero, and no options.
    let result =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}
