//! What is pinned, and taking a program off its interface at once.
//!
//! Removing the last pin and descriptor of a link detaches it too, but only when the kernel gets
//! round to it: after a grace period of RCU (`bpf_link_put` and the inode's release in
//! `kernel/bpf`). Until then the interface refuses a program in another mode.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::error::KernelError;

/// How names of the pins of attachments begin.
pub(super) const LINK_PIN: &str = "xdp-";
/// How names of the pins of gates begin that are no part of an attachment.
pub(super) const GATE_PIN: &str = "gate-";

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
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `get` names a string that ends in zero and lives until the call returns.
    let object = unsafe { bpf(OBJ_GET, &get)? };
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
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
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    interface: u32,
    /// Room that the kernel may use for other kinds.
    rest: [u32; 7],
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    /// Room for the rest.
    rest: [u32; 13],
}

/// Returns the size of the keys of the map pinned at `pin`, in bytes.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn key_size(pin: &Path) -> io::Result<usize> {
    let map = open(pin)?;
    let mut info = MapInfo::default();
    let request = GetInfo {
        bpf_fd: map.as_raw_fd().unsigned_abs(),
        info_len: size_of::<MapInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the request names room of the length given, which outlives the call.
    unsafe { bpf(OBJ_GET_INFO, &request) }?;
    Ok(info.key_size as usize)
}

/// Returns the index of the interface at which the link pinned at `pin` is attached; 0 if it is
/// attached no more.
///
/// # Errors
///
/// The kernel's own: `ENOENT` if there is no pin.
pub(super) fn attached_to(pin: &Path) -> io::Result<u32> {
    let link = open(pin)?;
    let mut info = LinkInfo::default();
    let request = GetInfo {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the request names room of the length given, which outlives the call.
    unsafe { bpf(OBJ_GET_INFO, &request) }?;
    Ok(info.interface)
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

/// Removes what a daemon left pinned at `pins`, and with it the programs on its interfaces.
///
/// # Errors
///
/// [`KernelError::Pins`]; [`KernelError::Detach`] if a program may go on answering for a moment.
pub fn remove_pins(pins: &Path) -> Result<(), KernelError> {
    let unusable = |source| KernelError::Pins { path: pins.to_owned(), source };
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unusable)?,
    };
    let mut detached = Ok(());
    for entry in entries {
        let entry = entry.map_err(unusable)?;
        let name = entry.file_name();
        let begins = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        if begins(LINK_PIN) || begins(GATE_PIN) {
            let pin = entry.path();
            if let Err(source) = detach(&pin) {
                detached = Err(KernelError::Detach { pin, source });
            }
        }
    }
    fs::remove_dir_all(pins).map_err(unusable)?;
    detached
}
