//! What is pinned, and taking a program off its interface at once.
//!
//! Removing the last pin and descriptor of a link detaches it too, but only when the kernel gets
//! round to it: after a grace period of RCU (`bpf_link_put` and the inode's release in
//! `kernel/bpf`). Until then the interface refuses a program in another mode.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use super::{
    chain,
    error::KernelError,
    owner::{self, Wanted},
};
use crate::{id::NodeId, own_path};

/// How names of the pins of attachments begin, by the hook of XDP.
pub(super) const XDP_PIN: &str = "xdp-";
/// How they begin in traffic control.
pub(super) const TCX_PIN: &str = "tcx-";
/// The map that the gate goes by.
pub(super) const GATE_MAP: &str = "GATE";

/// `BPF_OBJ_GET` of `linux/bpf.h`.
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_DETACH` of `linux/bpf.h`, Linux 5.9.
const LINK_DETACH: libc::c_int = 34;
/// `BPF_MAP_FREEZE` of `linux/bpf.h`, Linux 5.2.
const MAP_FREEZE: libc::c_int = 22;
/// `BPF_OBJ_GET_INFO_BY_FD` of `linux/bpf.h`.
const OBJ_GET_INFO: libc::c_int = 15;

/// The start of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The start of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The start of `union bpf_attr` for `BPF_MAP_FREEZE`.
#[repr(C)]
struct MapFreeze {
    map_fd: u32,
}

/// Opens what is pinned at `pin`.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = path_of(pin)?;
    let get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `get` names a string that ends in zero and lives until the call returns.
    let object = unsafe { bpf(OBJ_GET, &get)? };
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// Returns a path as the kernel wants it.
///
/// # Errors
///
/// If there is a zero in it.
pub(super) fn path_of(pin: &Path) -> io::Result<CString> {
    Ok(CString::new(pin.as_os_str().as_bytes())?)
}

/// Sees to it that no process can write the map pinned at `pin` any more, for as long as the map lives;
/// programs of the kernel can. It may be frozen already.
///
/// The flag `BPF_F_RDONLY` alone does not do that: it binds the descriptor that made the map, and
/// none that is opened by the pin.
///
/// # Errors
///
/// The kernel's own: `EBUSY` while a process has the map mapped for writing.
pub(super) fn freeze(pin: &Path) -> io::Result<()> {
    let map = open(pin)?;
    if is_frozen(&map)? {
        return Ok(());
    }
    let freeze = MapFreeze { map_fd: map.as_raw_fd() as u32 };
    // SAFETY: the request has no address in it, and the descriptor is open.
    unsafe { bpf(MAP_FREEZE, &freeze) }.map(|_| ())
}

/// Tells whether a map is frozen: a second freeze is refused in the same words as one by somebody who
/// may not.
fn is_frozen(map: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(path)?;
    Ok(text
        .lines()
        .any(|line| line.strip_prefix("frozen:").is_some_and(|value| value.trim() == "1")))
}

/// Detaches the link pinned at `pin`; the pin stays, and leads to a link without an interface.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let request = LinkDetach { link_fd: link.as_raw_fd().unsigned_abs() };
    // SAFETY: the request holds a descriptor and no address.
    unsafe { bpf(LINK_DETACH, &request) }.map(drop)
}

/// The start of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, of a link to an interface.
#[repr(C)]
#[derive(Default)]
pub(super) struct LinkInfo {
    kind: u32,
    /// Its id.
    pub(super) id: u32,
    program: u32,
    padding: u32,
    /// Index of the interface; 0 if it is attached no more.
    pub(super) interface: u32,
    /// Room that the kernel may use for other kinds.
    rest: [u32; 7],
}

/// Returns the size of the keys of the map pinned at `pin`, in bytes.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn key_size(pin: &Path) -> io::Result<usize> {
    let map = open(pin)?;
    chain::describe_map(map.as_fd()).map(|map| map.sizes.0 as usize)
}

/// Returns the index of the interface at which the link pinned at `pin` is attached; 0 if it is
/// attached no more.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn attached_to(pin: &Path) -> io::Result<u32> {
    describe_link(open(pin)?.as_fd()).map(|link| link.interface)
}

/// Returns what the kernel knows of a link.
///
/// # Errors
///
/// The kernel's own.
pub(super) fn describe_link(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let request = GetInfo {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the request names room of the length given, which outlives the call.
    unsafe { bpf(OBJ_GET_INFO, &request) }?;
    Ok(info)
}

/// Makes the system call bpf(2).
///
/// # Safety
///
/// `request` has to be the start of `union bpf_attr` for `command`, and any address in it valid.
pub(super) unsafe fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads no more than the size given; the rest is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw const *request, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// Removes what a daemon left pinned at `pins`, and with it the programs on its interfaces, the gate
/// last.
///
/// # Errors
///
/// [`KernelError::NotOurs`] if others can change what is there, and nothing is done;
/// [`KernelError::Chain`] if the gate cannot be taken off, and then it stays, as the pins do;
/// [`KernelError::Pins`]; [`KernelError::Detach`] if a program may go on answering for a moment.
pub fn remove_pins(pins: &Path) -> Result<(), KernelError> {
    let unusable = |source| KernelError::Pins { path: pins.to_owned(), source };
    match own_path::open(pins) {
        Err(error) if error.is_absent() => return Ok(()),
        Err(error) => return Err(super::program::unusable(pins, error)),
        Ok(_) => {}
    }
    let mut detached = Ok(());
    for pin in link_pins(pins).map_err(unusable)? {
        if let Err(source) = detach(&pin) {
            detached = Err(KernelError::Detach { pin, source });
        }
    }
    match id_of_map(&pins.join(GATE_MAP)) {
        Ok(map) => drop(owner::remove(Wanted::Over(map))?),
        // A witness has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(unusable(source)),
    }
    fs::remove_dir_all(pins).map_err(unusable)?;
    detached
}

/// Removes the gate of node `me` of `cluster` from all interfaces of this network namespace, whether or
/// not anything of it is pinned. Its addresses and sockets have to be gone. Returns how many
/// interfaces had one.
///
/// # Errors
///
/// [`KernelError::Chain`]; then some of it is where it was.
pub fn remove_gate(cluster: u32, me: NodeId) -> Result<usize, KernelError> {
    owner::remove(Wanted::Of((cluster, me)))
}

/// Returns the id of the map pinned at `pin`.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn id_of_map(pin: &Path) -> io::Result<u32> {
    let map = open(pin)?;
    chain::describe_map(map.as_fd()).map(|map| map.id)
}

/// Returns the pins of attachments.
///
/// # Errors
///
/// The system's.
pub(super) fn link_pins(pins: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        let name = entry.file_name();
        if [XDP_PIN, TCX_PIN].iter().any(|pin| name.as_encoded_bytes().starts_with(pin.as_bytes()))
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}
