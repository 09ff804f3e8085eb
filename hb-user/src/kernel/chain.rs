//! The chain of programs that traffic control runs at an interface, one way (TCX, Linux 6.6).
//!
//! The gate is attached there without a link: so it stays until it is taken off or the interface
//! goes, whatever becomes of pins and processes.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use super::{pins::bpf, program::Way};

/// `BPF_PROG_ATTACH` of `linux/bpf.h`.
const ATTACH: libc::c_int = 8;
/// `BPF_PROG_DETACH`.
const DETACH: libc::c_int = 9;
/// `BPF_PROG_GET_FD_BY_ID`.
const PROGRAM_BY_ID: libc::c_int = 13;
/// `BPF_MAP_GET_FD_BY_ID`.
const MAP_BY_ID: libc::c_int = 14;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const GET_INFO: libc::c_int = 15;
/// `BPF_PROG_QUERY`.
const QUERY: libc::c_int = 16;
/// `BPF_F_REPLACE`: in the place of the program named.
const REPLACE: u32 = 1 << 2;
/// `BPF_F_BEFORE`: where no other program is named, before all.
const BEFORE: u32 = 1 << 3;
/// Programs that a chain can have (`BPF_MPROG_MAX`).
const MOST: usize = 64;
/// Maps of a program that are looked at; the gate has fewer.
const MOST_MAPS: usize = 64;
/// Bytes of a name (`BPF_OBJ_NAME_LEN`), the zero at its end among them.
const NAME: usize = 16;

/// The part of `union bpf_attr` for attaching and detaching.
#[repr(C)]
#[derive(Default)]
struct Attach {
    interface: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
    relative: u32,
    revision: u64,
}

/// The part for a query.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The part for a descriptor by id.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// The part for what the kernel knows of an object.
#[repr(C)]
struct GetInfo {
    object: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    loaded_ns: u64,
    uid: u32,
    maps_count: u32,
    maps: u64,
    name: [u8; NAME],
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; NAME],
}

impl Way {
    /// `BPF_TCX_INGRESS` or `BPF_TCX_EGRESS`.
    const fn kind(self) -> u32 {
        match self {
            Self::In => 46,
            Self::Out => 47,
        }
    }
}

/// A program, wherever it is.
#[derive(Debug)]
pub(super) struct Program {
    /// Its id.
    pub(super) id: u32,
    /// Its name.
    pub(super) name: String,
    /// Who loaded it.
    pub(super) uid: u32,
    /// Ids of its maps.
    pub(super) maps: Vec<u32>,
    fd: OwnedFd,
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A map, by whichever way it was found.
#[derive(Debug)]
pub(super) struct Map {
    /// Its id.
    pub(super) id: u32,
    /// Its name.
    pub(super) name: String,
    /// The sizes of keys and values.
    pub(super) sizes: (u32, u32),
}

/// Returns the ids of the programs of a chain in their order, and the chain's revision; an empty one
/// if there is no such interface.
///
/// # Errors
///
/// The kernel's: `EINVAL` before Linux 6.6.
pub(super) fn query(interface: u32, way: Way) -> io::Result<(Vec<u32>, u64)> {
    let mut ids = [0u32; MOST];
    let mut request = Query {
        interface,
        kind: way.kind(),
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: the request names room for as many ids as it says, which outlives the call.
    match unsafe { bpf_mut(QUERY, &mut request) } {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            Ok((Vec::new(), 0))
        }
        result => {
            result?;
            let count = (request.count as usize).min(MOST);
            Ok((ids[..count].to_vec(), request.revision))
        }
    }
}

/// Puts a program before all others of a chain that has `revision` still; 0 for any.
///
/// # Errors
///
/// The kernel's: `ESTALE` if the chain has changed, `ERANGE` if it is full, `EEXIST` if the program is
/// in it, `ENODEV` if there is no such interface.
pub(super) fn put_first(
    program: BorrowedFd<'_>,
    interface: u32,
    way: Way,
    revision: u64,
) -> io::Result<()> {
    let request = Attach {
        interface,
        program: program.as_raw_fd().unsigned_abs(),
        kind: way.kind(),
        flags: BEFORE,
        revision,
        ..Attach::default()
    };
    // SAFETY: the request holds descriptors and no address.
    unsafe { bpf(ATTACH, &request) }.map(drop)
}

/// Puts a program in the place of another that is in the chain without a link.
///
/// # Errors
///
/// As for [`put_first`]; `ENOENT` if `old` is not in the chain.
pub(super) fn replace(
    program: BorrowedFd<'_>,
    old: BorrowedFd<'_>,
    interface: u32,
    way: Way,
) -> io::Result<()> {
    let request = Attach {
        interface,
        program: program.as_raw_fd().unsigned_abs(),
        kind: way.kind(),
        flags: REPLACE,
        replaced: old.as_raw_fd().unsigned_abs(),
        ..Attach::default()
    };
    // SAFETY: the request holds descriptors and no address.
    unsafe { bpf(ATTACH, &request) }.map(drop)
}

/// Takes a program off a chain; it is no error if it is not there, or the interface is gone.
///
/// # Errors
///
/// The kernel's: `EBUSY` if a link holds it there.
pub(super) fn take_off(program: BorrowedFd<'_>, interface: u32, way: Way) -> io::Result<()> {
    let request = Attach {
        interface,
        program: program.as_raw_fd().unsigned_abs(),
        kind: way.kind(),
        ..Attach::default()
    };
    // SAFETY: the request holds descriptors and no address.
    match unsafe { bpf(DETACH, &request) } {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        result => result.map(drop),
    }
}

/// Opens a program; `None` if it is gone by now.
///
/// # Errors
///
/// The kernel's.
pub(super) fn program(id: u32) -> io::Result<Option<Program>> {
    match by_id(PROGRAM_BY_ID, id)? {
        Some(fd) => describe_program(fd).map(Some),
        None => Ok(None),
    }
}

/// Returns what the kernel knows of the program behind a descriptor.
///
/// # Errors
///
/// The kernel's.
pub(super) fn describe_program(fd: OwnedFd) -> io::Result<Program> {
    let mut maps = [0u32; MOST_MAPS];
    let mut info = ProgramInfo {
        maps_count: MOST_MAPS as u32,
        maps: maps.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    // SAFETY: the information names room for as many ids as it says; what is asked for besides has
    // length 0.
    unsafe { get_info(fd.as_fd(), &mut info)? };
    let count = (info.maps_count as usize).min(MOST_MAPS);
    let (id, uid) = (info.id, info.uid);
    Ok(Program { id, name: text(&info.name), uid, maps: maps[..count].to_vec(), fd })
}

/// Opens a map; `None` if it is gone by now.
///
/// # Errors
///
/// The kernel's.
pub(super) fn map(id: u32) -> io::Result<Option<OwnedFd>> {
    by_id(MAP_BY_ID, id)
}

/// Returns what the kernel knows of the map behind a descriptor.
///
/// # Errors
///
/// The kernel's.
pub(super) fn describe_map(map: BorrowedFd<'_>) -> io::Result<Map> {
    let mut info = MapInfo::default();
    // SAFETY: there is no address in it.
    unsafe { get_info(map, &mut info)? };
    let MapInfo { id, key_size, value_size, name, .. } = info;
    Ok(Map { id, name: text(&name), sizes: (key_size, value_size) })
}

fn by_id(command: libc::c_int, id: u32) -> io::Result<Option<OwnedFd>> {
    let request = ById { id, ..ById::default() };
    // SAFETY: the request has no address in it.
    match unsafe { bpf(command, &request) } {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // SAFETY: the descriptor was just made and is nobody else's.
        result => result.map(|fd| Some(unsafe { OwnedFd::from_raw_fd(fd) })),
    }
}

/// # Safety
///
/// `info` has to be the start of what the kernel tells of this kind of object, and addresses in it
/// valid.
unsafe fn get_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let request = GetInfo {
        object: object.as_raw_fd().unsigned_abs(),
        length: size_of::<T>() as u32,
        info: (&raw mut *info) as u64,
    };
    // SAFETY: the request names room of the length given, which outlives the call; the rest is the
    // caller's promise.
    unsafe { bpf(GET_INFO, &request) }.map(drop)
}

/// Makes a call that writes into the request.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn bpf_mut<T>(command: libc::c_int, request: &mut T) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no more than the size given; the rest is the caller's
    // promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *request, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn text(name: &[u8; NAME]) -> String {
    CStr::from_bytes_until_nul(name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Returns the indexes of the interfaces of this thread's network namespace.
///
/// # Errors
///
/// The kernel's.
pub(super) fn interfaces() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    // SAFETY: the list ends with an entry of index 0; it is freed once, after the last look.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut entry = list;
        while (*entry).if_index != 0 {
            found.push((*entry).if_index);
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(found)
}
