//! The map of leases, mapped into this process.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use crate::{
    clock,
    lease::Lease,
    record::Record,
    system::{self, Mapping},
};

/// Groups in the map.
pub const GROUPS: usize = 8;

/// `BPF_MAP_TYPE_ARRAY` (`linux/bpf.h`).
const ARRAY: u32 = 2;

/// The leases of one node's groups, mapped read-only.
#[derive(Debug)]
pub struct LeaseView {
    records: Mapping,
    pin: Option<Pin>,
}

#[derive(Debug)]
struct Pin {
    path: PathBuf,
    /// Device and number of the file, which change when it is made anew.
    identity: (u64, u64),
}

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
    /// process may not open the pin for reading and writing, or not enter its directory; those of
    /// [`of_descriptor`](Self::of_descriptor).
    pub fn open(pin: &Path) -> io::Result<Self> {
        let found = fs::metadata(pin)?;
        let map = system::open_pin(&CString::new(pin.as_os_str().as_bytes())?)?;
        let view = Self::of_descriptor(map.as_fd())?;
        let identity = (found.dev(), found.ino());
        Ok(Self { pin: Some(Pin { path: pin.to_owned(), identity }), ..view })
    }

    /// Maps a map that somebody else opened, for a process that may not open the pin. The descriptor
    /// may be closed afterwards.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is not a map of leases of this version. `Unsupported` in a time namespace
    /// that sets `CLOCK_BOOTTIME` off: leases end by the kernel's. The kernel's own, such as
    /// `PermissionDenied` for a descriptor opened with `BPF_F_RDONLY`.
    pub fn of_descriptor(map: BorrowedFd<'_>) -> io::Result<Self> {
        clock::check()?;
        let (bytes, info) = (size_of::<Record>(), system::describe(map)?);
        let found = (info.kind, info.value_size as usize, info.max_entries as usize);
        if found != (ARRAY, bytes, GROUPS) {
            let what = format!(
                "not a map of leases of this version, which is an array of {GROUPS} records of {bytes} \
                 bytes: type {} with {} of {} bytes",
                info.kind, info.max_entries, info.value_size
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self { records: Mapping::new(map, bytes * GROUPS)?, pin: None })
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
        // SAFETY: below `GROUPS`, so within the mapping, which begins at a page and lives as long as
        // this value. Any bytes are a `Record`, whose fields that change are atomic.
        let record = unsafe { self.records.start().cast::<Record>().add(group).as_ref() };
        record.read().ok_or(ReadError::Unsteady)
    }

    /// Tells whether the pin still leads to what is mapped here. After `hb detach`, or an upgrade
    /// that changed the layout, it does not: what is mapped is never written again, and the view
    /// has to be opened anew. One system call; once a second will do.
    ///
    /// `false` for a view made of a descriptor: it knows no pin, so ask whoever gave it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| {
            fs::metadata(&pin.path).is_ok_and(|now| (now.dev(), now.ino()) == pin.identity)
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_groups_as_in_the_kernel_half() {
        assert_eq!(hb_ebpf::wire::GROUPS, GROUPS);
    }

    #[test]
    fn nothing_there_is_an_error() {
        let path = LeaseView::path("no-such", "node");
        assert_eq!(path, Path::new("/sys/fs/bpf/hb/no-such/node/LEASES"));
        assert_eq!(LeaseView::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = tempfile::NamedTempFile::new().unwrap();
        LeaseView::open(file.path()).unwrap_err();
    }

    #[test]
    fn the_crate_depends_on_nothing() {
        let manifest = include_str!("../Cargo.toml");
        let (_, after) = manifest.split_once("\n[dependencies]\n").unwrap();
        let (dependencies, _) = after.split_once("\n[").unwrap();
        assert_eq!(dependencies.trim(), "");
        assert_eq!(manifest.matches("dependencies]").count(), 2, "these and those of tests");
    }
}
