//! The lease of a group as an application sees it.
//!
//! This file uses nothing but the standard library, so that an application may copy it. The kernel
//! half keeps one record of 32 bytes per group in an array map, pinned and read-only for others at
//! `/sys/fs/bpf/hb/<cluster>/<node>/LEASES`. [`LeaseView`] maps it into memory; a look costs some
//! nanoseconds and no system call. Layout and the same in C: `packaging/hb_lease.h` and
//! `docs/application-lease.md`.
//!
//! ```
//! use std::io::ErrorKind;
//!
//! use hb_user::lease_view::{LeaseView, now_ns};
//!
//! match LeaseView::open(&LeaseView::path("pair", "a")) {
//!     Ok(leases) => match leases.read(0)?.held_at(now_ns()?) {
//!         Some(epoch) => println!("node a holds the group in epoch {epoch}"),
//!         None => println!("node a does not hold the group"),
//!     },
//!     Err(error) if error.kind() == ErrorKind::NotFound => println!("no hb runs as a of pair"),
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **A look is a hint.** Between it and what is done upon it, the lease may end: the process may be
//! preempted, the machine stopped. It saves work that would be in vain; what protects data is the
//! storage that refuses a lower epoch than it has seen. Give it [`Lease::epoch`] with each write.

use std::{
    ffi::{CString, c_int, c_long, c_void},
    fmt, fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};

/// Groups in the map.
pub const GROUPS: usize = 8;
/// [`Lease::expires_ns`] of a lease without an end of its own.
pub const ENDLESS: u64 = u64::MAX;

/// Looks at one record before it is given up: the kernel writes it in some ten nanoseconds.
const TRIES: u32 = 10_000;

/// `BPF_OBJ_GET` (`linux/bpf.h`).
const OBJ_GET: c_int = 7;
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

/// One record of the map, 32 bytes. All in the byte order of the machine.
#[derive(Debug)]
#[repr(C)]
struct Slot {
    /// Odd while the kernel writes what follows.
    sequence: AtomicU32,
    holder: AtomicU8,
    state: AtomicU8,
    reserved: [u8; 2],
    epoch: AtomicU64,
    expires_ns: AtomicU64,
    fingerprint: AtomicU32,
    reserved2: u32,
}

const _: () = assert!(size_of::<Slot>() == 32);
const _: () = assert!(std::mem::offset_of!(Slot, holder) == 4);
const _: () = assert!(std::mem::offset_of!(Slot, state) == 5);
const _: () = assert!(std::mem::offset_of!(Slot, epoch) == 8);
const _: () = assert!(std::mem::offset_of!(Slot, expires_ns) == 16);
const _: () = assert!(std::mem::offset_of!(Slot, fingerprint) == 24);

/// What a node is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not hold the group.
    Idle,
    /// It seeks to hold it.
    Seeking,
    /// It holds it, as long as its lease lasts.
    Holding,
    /// It held it and gave it to the successor.
    Released,
}

/// The lease of a group, as the kernel of this node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Id of the node that holds the group as far as this one knows; 0 for nobody.
    pub holder: u8,
    /// What this node is to the group.
    pub state: State,
    /// Epoch that this node seeks, holds or released; 0 for none. It grows with each new holder.
    pub epoch: u64,
    /// When this node's lease ends, exclusive, in nanoseconds of `CLOCK_BOOTTIME`. 0 if it does not
    /// hold. [`ENDLESS`] if it ends with the life of this node's daemon: after a fence of the
    /// other node, and with policy `available`.
    pub expires_ns: u64,
    /// Which group this is of, 0 for none: the fingerprint that `hb status --json` shows.
    pub fingerprint: u32,
}

impl Lease {
    /// Returns the epoch if this node held the group at `now_ns`, as [`now_ns`] tells it.
    #[must_use]
    pub fn held_at(&self, now_ns: u64) -> Option<u64> {
        (self.state == State::Holding && now_ns < self.expires_ns).then_some(self.epoch)
    }

    /// Returns how many nanoseconds are left at `now_ns`; 0 if none, [`ENDLESS`] if no end is known.
    #[must_use]
    pub fn left_ns(&self, now_ns: u64) -> u64 {
        match self.expires_ns {
            ENDLESS => ENDLESS,
            end => end.saturating_sub(now_ns),
        }
    }
}

/// The leases of one node's groups, mapped read-only.
#[derive(Debug)]
pub struct LeaseView {
    slots: NonNull<Slot>,
    pin: PathBuf,
    /// Device and number of the pin, which change when it is made anew.
    identity: (u64, u64),
}

// SAFETY: the mapping belongs to this value alone and is only read, by atomic loads.
unsafe impl Send for LeaseView {}
// SAFETY: as above.
unsafe impl Sync for LeaseView {}

impl LeaseView {
    /// Returns the path of the pinned map of `node` of `cluster`.
    #[must_use]
    pub fn path(cluster: &str, node: &str) -> PathBuf {
        Path::new("/sys/fs/bpf/hb").join(cluster).join(node).join("LEASES")
    }

    /// Maps the map pinned at `pin`.
    ///
    /// # Errors
    ///
    /// The kernel's own: `NotFound` while the node has no kernel half, `PermissionDenied` where the
    /// process may not open the pin for reading and writing, or not enter its directory.
    /// `Unsupported` in a time namespace that sets `CLOCK_BOOTTIME` off: leases end by the kernel's.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let found = fs::metadata(pin)?;
        let ahead_ns = clock_ahead_ns();
        if ahead_ns != 0 {
            let what = format!(
                "CLOCK_BOOTTIME of this process is {ahead_ns} ns ahead of the kernel's, by which \
                 leases end: it is in a time namespace (time_namespaces(7))"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let name = CString::new(pin.as_os_str().as_bytes())?;
        let request = ObjGet { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        // Not with `BPF_F_RDONLY`: a file that is open for reading alone has no shared mappings,
        // and maps have no others. The map is frozen instead, so nobody can write it this way.
        // SAFETY: the request names a string that ends in zero, and both live until the call
        // returns; the kernel reads no more than the size given.
        let fd = unsafe { syscall(SYS_BPF, OBJ_GET, &raw const request, size_of::<ObjGet>()) };
        let fd = match c_int::try_from(fd) {
            // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
            Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
            _ => return Err(io::Error::last_os_error()),
        };
        let length = size_of::<[Slot; GROUPS]>();
        // SAFETY: asks for a new mapping of a descriptor that is open; replaces none. The mapping
        // keeps the map alive by itself.
        let mapped =
            unsafe { mmap(std::ptr::null_mut(), length, PROT_READ, MAP_SHARED, fd.as_raw_fd(), 0) };
        // `MAP_FAILED` is -1.
        if mapped.addr() == usize::MAX {
            return Err(io::Error::last_os_error());
        }
        let slots = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { slots, pin: pin.to_owned(), identity: (found.dev(), found.ino()) })
    }

    /// Returns at which index the record of the group with that fingerprint is; `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`ReadError::Unsteady`], which is not to be expected.
    pub fn find(&self, fingerprint: u32) -> Result<Option<usize>, ReadError> {
        for group in 0..GROUPS {
            if fingerprint != 0 && self.read(group)?.fingerprint == fingerprint {
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    /// Reads the lease at index `group`. In a kernel half that was set up with this configuration that is
    /// the place of the group in it, from 0; see [`find`](Self::find) where the file was changed since.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; neither is to be expected.
    pub fn read(&self, group: usize) -> Result<Lease, ReadError> {
        if group >= GROUPS {
            return Err(ReadError::Group { group });
        }
        // SAFETY: below `GROUPS`, so within the mapping, which lives as long as this value and is
        // aligned to a page.
        let slot = unsafe { self.slots.add(group).as_ref() };
        for _ in 0..TRIES {
            let before = slot.sequence.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let lease = Lease {
                    holder: slot.holder.load(Ordering::Relaxed),
                    state: match slot.state.load(Ordering::Relaxed) {
                        1 => State::Seeking,
                        2 => State::Holding,
                        3 => State::Released,
                        _ => State::Idle,
                    },
                    epoch: slot.epoch.load(Ordering::Relaxed),
                    expires_ns: slot.expires_ns.load(Ordering::Relaxed),
                    fingerprint: slot.fingerprint.load(Ordering::Relaxed),
                };
                fence(Ordering::Acquire);
                if slot.sequence.load(Ordering::Relaxed) == before {
                    return Ok(lease);
                }
            }
            std::hint::spin_loop();
        }
        Err(ReadError::Unsteady)
    }

    /// Tells whether the pin still leads to what is mapped here. After `hb detach`, or an upgrade
    /// that changed the layout, it does not: what is mapped is never written again, and the view
    /// has to be opened anew. One system call; once a second will do.
    #[must_use]
    pub fn is_current(&self) -> bool {
        fs::metadata(&self.pin).is_ok_and(|now| (now.dev(), now.ino()) == self.identity)
    }
}

impl Drop for LeaseView {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and nothing borrows from it any more.
        unsafe { munmap(self.slots.as_ptr().cast(), size_of::<[Slot; GROUPS]>()) };
    }
}

/// Why a lease could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is no such group.
    Group {
        /// The place asked for.
        group: usize,
    },
    /// The record changed, or was being written, at every look.
    Unsteady,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { group } => {
                write!(f, "there is no group {group}: they are numbered from 0 to {}", GROUPS - 1)
            }
            Self::Unsteady => f.write_str("the lease was being written at every look: try again"),
        }
    }
}

impl std::error::Error for ReadError {}

/// Returns the time in nanoseconds of `CLOCK_BOOTTIME`, the clock of all leases.
///
/// # Errors
///
/// None that a Linux since 2.6.39 would give.
pub fn now_ns() -> io::Result<u64> {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` is a local of the layout that 64-bit systems have.
    if unsafe { clock_gettime(CLOCK_BOOTTIME, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.seconds.unsigned_abs() * 1_000_000_000 + time.nanoseconds.unsigned_abs())
}

/// Returns by how many nanoseconds `CLOCK_BOOTTIME` of this process is ahead of the kernel's, 0 where
/// the system does not say.
fn clock_ahead_ns() -> i128 {
    let namespace = |name: &str| fs::read_link(Path::new("/proc/self/ns").join(name)).ok();
    // The file tells of the namespace that children will be in, which may be a new one.
    if namespace("time") != namespace("time_for_children") {
        return 0;
    }
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    boottime_of(&offsets).unwrap_or(0)
}

/// Reads the line `boottime SECONDS NANOSECONDS`.
fn boottime_of(offsets: &str) -> Option<i128> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("boottime"))?;
    let mut numbers = line.split_whitespace().map(str::parse::<i128>);
    let (seconds, ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_off_is_read() {
        let offsets = "monotonic           1         0\nboottime      -100000         500\n";
        assert_eq!(boottime_of(offsets), Some(-100_000_000_000_000 + 500));
        assert_eq!(boottime_of("monotonic 1 0\n"), None);
        assert_eq!(boottime_of("boottime 1\n"), None);
        assert_eq!(clock_ahead_ns(), 0, "tests run outside of a time namespace");
    }

    #[test]
    fn numbers_are_those_of_the_kernel_half() {
        assert_eq!(hb_ebpf::wire::GROUPS, GROUPS);
        assert_eq!(hb_ebpf::lease::ENDLESS, ENDLESS);
        assert_eq!(hb_ebpf::wire::State::Holding as u8, 2);
        assert_eq!(libc::SYS_bpf, SYS_BPF);
    }

    #[test]
    fn the_end_is_exclusive() {
        let lease =
            Lease { holder: 1, state: State::Holding, epoch: 9, expires_ns: 100, fingerprint: 7 };
        assert_eq!((lease.held_at(99), lease.held_at(100)), (Some(9), None));
        assert_eq!((lease.left_ns(99), lease.left_ns(101)), (1, 0));
        let endless = Lease { expires_ns: ENDLESS, ..lease };
        assert_eq!((endless.held_at(u64::MAX - 1), endless.left_ns(7)), (Some(9), ENDLESS));
        assert_eq!(Lease { state: State::Released, ..endless }.held_at(0), None);
    }

    #[test]
    fn the_clock_is_that_of_the_daemon() {
        let before = crate::clock::now().ns();
        let now = now_ns().unwrap();
        assert!((before..before + 10_000_000_000).contains(&now));
    }

    #[test]
    fn nothing_there_is_an_error() {
        let path = LeaseView::path("no-such", "node");
        assert_eq!(path, Path::new("/sys/fs/bpf/hb/no-such/node/LEASES"));
        assert_eq!(LeaseView::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = tempfile::NamedTempFile::new().unwrap();
        LeaseView::open(file.path()).unwrap_err();
    }
}
