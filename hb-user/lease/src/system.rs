//! The functions of the C library that are called. The standard library links it, so nothing is added.

use std::{
    ffi::{CStr, c_int, c_long, c_void},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
};

/// `BPF_OBJ_GET` and `BPF_OBJ_GET_INFO_BY_FD` (`linux/bpf.h`).
const OBJ_GET: c_int = 7;
const OBJ_GET_INFO: c_int = 15;
/// `CLOCK_BOOTTIME` (`linux/time.h`).
const CLOCK_BOOTTIME: c_int = 7;
/// `PROT_READ` and `MAP_SHARED` (`sys/mman.h`).
const PROT_READ: c_int = 1;
const MAP_SHARED: c_int = 1;
/// The number of bpf(2).
#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const SYS_BPF: c_long = 280;

/// The start of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The start of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct ObjGetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct MapInfo {
    /// A `BPF_MAP_TYPE_*`.
    pub(crate) kind: u32,
    id: u32,
    key_size: u32,
    /// Bytes of a value.
    pub(crate) value_size: u32,
    /// Values.
    pub(crate) max_entries: u32,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn mmap(
        address: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
}

/// Opens what is pinned at `name`.
///
/// # Errors
///
/// The kernel's own: `ENOENT`, `EACCES`, `EPERM`.
pub(crate) fn open_pin(name: &CStr) -> io::Result<OwnedFd> {
    // Not with `BPF_F_RDONLY`: a file that is open for reading alone has no shared mappings,
    // and maps have no others. The map is frozen instead, so nobody can write it this way.
    let request = ObjGet { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the request names a string that ends in zero, and both live until the call
    // returns; the kernel reads no more than the size given.
    let fd = unsafe { syscall(SYS_BPF, OBJ_GET, &raw const request, size_of::<ObjGet>()) };
    match c_int::try_from(fd) {
        // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Describes a map.
///
/// # Errors
///
/// The kernel's own: `EINVAL` if the descriptor is of no object of BPF.
pub(crate) fn describe(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut request = ObjGetInfo {
        bpf_fd: map.as_raw_fd().unsigned_abs(),
        info_len: size_of::<MapInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes no more than `info_len` bytes at `info`, and that length into the
    // request; both live until the call returns.
    let result =
        unsafe { syscall(SYS_BPF, OBJ_GET_INFO, &raw mut request, size_of::<ObjGetInfo>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// Memory of the kernel, mapped for reading until dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: it hands out an address and nothing else; who reads there says why that is sound.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of a map. The mapping keeps the map alive by itself.
    ///
    /// # Errors
    ///
    /// The kernel's own: `EINVAL` if the map is shorter, `EPERM` or `EACCES` if the descriptor may not.
    pub(crate) fn new(map: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let fd = map.as_raw_fd();
        // SAFETY: asks for a new mapping of a descriptor that is open; replaces none.
        let start = unsafe { mmap(ptr::null_mut(), length, PROT_READ, MAP_SHARED, fd, 0) };
        // `MAP_FAILED` is -1.
        if start.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, length })
    }

    /// Returns where it begins: at a page.
    pub(crate) fn start(&self) -> NonNull<c_void> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing borrows from it any more.
        unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

/// Returns the time of `CLOCK_BOOTTIME`, in nanoseconds.
///
/// # Errors
///
/// None that a Linux since 2.6.39 would give.
pub(crate) fn boot_time_ns() -> io::Result<u64> {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` is a local of the layout that 64-bit systems have.
    if unsafe { clock_gettime(CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.seconds.unsigned_abs() * 1_000_000_000 + time.nanoseconds.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn numbers_are_those_of_the_system() {
        assert_eq!(libc::SYS_bpf, SYS_BPF);
        assert_eq!(libc::CLOCK_BOOTTIME, CLOCK_BOOTTIME);
        assert_eq!((libc::PROT_READ, libc::MAP_SHARED), (PROT_READ, MAP_SHARED));
        assert_eq!(libc::MAP_FAILED.addr(), usize::MAX);
        assert_eq!(size_of::<libc::timespec>(), size_of::<Timespec>());
    }

    #[test]
    fn a_file_is_no_map() {
        let file = File::open("/proc/self/status").unwrap();
        describe(file.as_fd()).unwrap_err();
    }
}
