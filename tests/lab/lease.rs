//! The application-visible leases of the lab's groups, as the kernel half of a node publishes them,
//! and which group a service address is of.
//!
//! Read here from its layout alone, and not with the library of `hb`, so that whoever judges does
//! not lean on what is judged.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    net::IpAddr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addresses::is_vip;

/// One entry of map `LEASES`; the group's number is its index.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Lease {
    /// Odd while the entry is being written.
    pub sequence: u32,
    /// Id of the node that holds, as far as this node knows; 0 for none.
    pub holder: u8,
    /// What this node is to the group; [`HOLDING`] is what matters here.
    pub state: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Epoch that this node seeks, holds or released, or did last; 0 for none.
    pub epoch: u64,
    /// When the lease ends; 0 if this node does not hold.
    pub expires_ns: u64,
    /// Zero.
    pub reserved2: u64,
}

/// State of a node that holds the group; its lease may have run out.
pub const HOLDING: u8 = 2;

impl Lease {
    /// Returns whether it lets this node serve at `now`, if its controller lives.
    #[must_use]
    pub const fn is_open(&self, now: BootTime) -> bool {
        now.ns() < self.expires_ns
    }
}

/// Entries of the map: `GROUPS` of a frame.
const ENTRIES: usize = 8;
const BYTES: usize = ENTRIES * size_of::<Lease>();
/// Name of the map, and of its pin.
pub const MAP: &str = "LEASES";
/// Attempts to read an entry between two writes of it; one lasts some nanoseconds.
const ATTEMPTS: u32 = 10_000;

/// The leases of one node, mapped.
#[derive(Debug)]
pub struct Leases {
    entries: NonNull<Lease>,
}

// SAFETY: the memory is mapped until the drop and only read, one volatile read at a time.
unsafe impl Send for Leases {}

impl Leases {
    /// Maps a pinned map, or a file of the same layout.
    ///
    /// # Errors
    ///
    /// If there is none, or the kernel refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        let handle = object(path)?;
        // SAFETY: a fresh mapping of a descriptor that is open; it outlives the descriptor.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED,
                handle.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { entries })
    }

    /// Reads the lease of the group of that number; `None` if it was never at rest, or there is no
    /// such group.
    #[must_use]
    pub fn read(&self, group: u8) -> Option<Lease> {
        if usize::from(group) >= ENTRIES {
            return None;
        }
        // SAFETY: the entry lies in the mapping, by the line above.
        let place = unsafe { self.entries.as_ptr().add(group.into()) };
        for _ in 0..ATTEMPTS {
            // SAFETY: the entry lies in the mapping, which is aligned to a page, and any
            // bytes are a lease.
            let before = unsafe { (&raw const (*place).sequence).read_volatile() };
            fence(Ordering::Acquire);
            // SAFETY: as above; a torn read is noticed by the sequence.
            let lease = unsafe { place.read_volatile() };
            fence(Ordering::Acquire);
            // SAFETY: as above.
            let after = unsafe { (&raw const (*place).sequence).read_volatile() };
            if before == after && before % 2 == 0 {
                return Some(lease);
            }
        }
        None
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // SAFETY: mapped with this length by `open`, and nothing refers to it any more.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), BYTES) };
    }
}

/// Names of the maps that say which group a service address is of, and of their pins.
const ADDRESSES: [&str; 2] = ["VIPS4", "VIPS6"];

/// The maps of service addresses of one node.
#[derive(Debug)]
struct Addresses([OwnedFd; 2]);

impl Addresses {
    /// Opens what is pinned beside the leases; `None` where a file stands in for those. What is not
    /// pinned yet is an error: without it every address would be taken for one of the first group.
    fn open(leases: &Path) -> io::Result<Option<Self>> {
        let [v4, v6] = ADDRESSES.map(|name| leases.with_file_name(name));
        if !is_pinned(leases)? {
            return Ok(None);
        }
        Ok(Some(Self([object(&v4)?, object(&v6)?])))
    }

    /// Returns the number of the group of an address, if it is one of a group.
    fn group(&self, address: IpAddr) -> Option<u8> {
        let [v4, v6] = &self.0;
        let (handle, key) = match address {
            IpAddr::V4(address) => (v4, &address.octets()[..]),
            IpAddr::V6(address) => (v6, &address.octets()[..]),
        };
        // The group, the address's number, and what does not matter here.
        let mut value = [0_u8; 4];
        let request = LookUp {
            map_fd: handle.as_raw_fd() as u32,
            reserved: 0,
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: key and value are as long as those of the map, and live until the call returns.
        let found = unsafe {
            libc::syscall(libc::SYS_bpf, LOOK_UP, &raw const request, size_of::<LookUp>())
        };
        (found == 0).then_some(value[0])
    }
}

/// What is mapped and open of a node.
#[derive(Debug)]
struct Opened {
    /// Of the leases, to notice that another map lies there.
    inode: u64,
    leases: Leases,
    addresses: Option<Addresses>,
}

/// The leases at a path, mapped anew whenever another map lies there: a node that starts without
/// its record pins a new one.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    opened: Option<Opened>,
    /// The newest epoch at which the node itself held the group of an address.
    held: BTreeMap<IpAddr, u64>,
}

impl Source {
    /// Reads what lies at `path`, now or later.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, opened: None, held: BTreeMap::new() }
    }

    /// Returns the lease of the group of an address, of the first group for one that is no service
    /// address; `None` while there is no map, or the address is in no group.
    pub fn lease(&mut self, address: IpAddr) -> Option<Lease> {
        // Somebody may have removed the pin: the node goes by the map all the same.
        if let Ok(inode) = fs::metadata(&self.path).map(|facts| facts.ino())
            && self.opened.as_ref().is_none_or(|opened| opened.inode != inode)
        {
            let leases = Leases::open(&self.path).ok()?;
            let addresses = Addresses::open(&self.path).ok()?;
            self.opened = Some(Opened { inode, leases, addresses });
        }
        let Opened { leases, addresses, .. } = self.opened.as_ref()?;
        let group = match addresses {
            Some(addresses) if is_vip(address) => addresses.group(address)?,
            _ => 0,
        };
        let lease = leases.read(group)?;
        if lease.state == HOLDING && lease.epoch != 0 {
            self.held.insert(address, lease.epoch);
        }
        Some(lease)
    }

    /// Returns the newest epoch at which the node itself held an address, seen by this or an earlier
    /// call; 0 if none was. What is answered carries this: a node that answers although it no longer
    /// holds gives itself away.
    pub fn own_epoch(&mut self, address: IpAddr) -> u64 {
        self.lease(address);
        self.held.get(&address).copied().unwrap_or_default()
    }
}

/// Writes a file that stands in for the map where no kernel half publishes one.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(path: &Path, lease: Lease) -> Result<()> {
    let mut entries = [Lease::default(); ENTRIES];
    entries[0] = lease;
    // A new file each time, as a file that is written in place may be read half-written.
    let other = path.with_extension("new");
    fs::write(&other, entries.as_bytes())
        .and_then(|()| fs::rename(&other, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The start of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct LookUp {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_ELEM` of `linux/bpf.h`.
const LOOK_UP: libc::c_int = 1;
/// `BPF_OBJ_GET` of `linux/bpf.h`.
const OBJ_GET: libc::c_int = 7;
/// Magic number of the BPF file system (`linux/magic.h`).
const BPF_FS: i64 = 0xcafe_4a11;

/// Tells whether what lies at `path` is a pinned object, and no ordinary file.
fn is_pinned(path: &Path) -> io::Result<bool> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid `statfs`.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in zero and `facts` is as large as the call expects.
    if unsafe { libc::statfs(text.as_ptr(), &raw mut facts) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(facts.f_type == BPF_FS)
}

/// Opens a pinned object for reading, or an ordinary file.
fn object(path: &Path) -> io::Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    if !is_pinned(path)? {
        let file: File = OpenOptions::new().read(true).open(path)?;
        return Ok(file.into());
    }
    // Not for reading only: the kernel maps no descriptor that was opened so (`bpf_map_mmap` wants
    // a shared mapping, and `mmap` takes that from a file that cannot be written). The map itself
    // refuses to be written.
    let request = ObjGet { pathname: text.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the request names a string that ends in zero and lives until the call returns.
    let handle =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const request, size_of::<ObjGet>()) };
    if handle < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(handle as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::VIPS;

    const VIP: IpAddr = VIPS[0];

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("hb-lab-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_source_follows_the_path_and_keeps_what_the_node_held() {
        let path = place("lease");
        let mut source = Source::new(path.clone());
        assert_eq!(source.own_epoch(VIP), 0);
        let seeks = Lease { state: 1, epoch: 0x101, ..Lease::default() };
        write(&path, seeks).unwrap();
        assert_eq!(source.own_epoch(VIP), 0, "what is sought is not held");
        write(&path, Lease { state: HOLDING, epoch: 0x201, ..Lease::default() }).unwrap();
        assert_eq!(source.own_epoch(VIP), 0x201);
        write(&path, Lease { epoch: 0x301, ..seeks }).unwrap();
        assert_eq!(source.own_epoch(VIP), 0x201);
        assert_eq!(source.own_epoch(VIPS[1]), 0, "nobody looked while it was held");
        let other = path.with_extension("unpinned");
        fs::rename(&path, &other).unwrap();
        assert_eq!(source.own_epoch(VIP), 0x201);
        let held = Lease { state: HOLDING, epoch: 0x401, ..Lease::default() };
        let mut entries = [Lease::default(); ENTRIES];
        entries[0] = held;
        // In place: the map that is no longer at the path.
        fs::write(&other, entries.as_bytes()).unwrap();
        assert_eq!(source.own_epoch(VIP), 0x401, "what is mapped counts without its path");
        fs::remove_file(&other).unwrap();
    }

    #[test]
    fn an_entry_that_is_being_written_is_not_read() {
        let path = place("odd");
        write(&path, Lease { sequence: 1, ..Lease::default() }).unwrap();
        assert_eq!(Leases::open(&path).unwrap().read(0), None);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_lease_is_open_before_its_end() {
        let lease = Lease { expires_ns: 10, ..Lease::default() };
        assert!(lease.is_open(BootTime(9)));
        assert!(!lease.is_open(BootTime(10)));
    }
}
