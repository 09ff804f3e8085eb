//! Programs of somebody else at an interface of a namespace, beside the gate (TCX, Linux 6.6).
//!
//! A program of two or four instructions returns one verdict for every packet; what it returns
//! decides whether programs behind it run at all.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Commands of bpf(2), `enum bpf_cmd` of `linux/bpf.h`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_XDP`, and `BPF_XDP`, where one is attached.
const XDP: u32 = 6;
const XDP_HOOK: u32 = 37;
/// `BPF_F_BEFORE`: without another program named, before all.
const BEFORE: u32 = 1 << 3;
/// Programs that one chain can have (`BPF_MPROG_MAX`).
const MOST: usize = 64;
/// Bytes of an attribute: more than any command here reads.
const ATTRIBUTE: usize = 128;

/// Which packets of an interface a chain looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those that arrive.
    In,
    /// Those that leave.
    Out,
}

impl Way {
    /// `BPF_TCX_INGRESS` or `BPF_TCX_EGRESS`.
    const fn code(self) -> u32 {
        match self {
            Self::In => 46,
            Self::Out => 47,
        }
    }
}

/// What a program says of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next program decides.
    Next,
    /// It passes, and no program behind this one is asked.
    Pass,
    /// It leaves by the interface of this index instead, and no program behind this one is asked.
    Redirect(u32),
}

/// Where in a chain a program is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all that are there.
    First,
    /// Behind them.
    Last,
}

/// A program in a chain. It stays there until this is dropped or the interface goes.
#[derive(Debug)]
pub struct Foreign {
    /// Its id.
    pub id: u32,
    program: OwnedFd,
    /// A link goes with its last descriptor; without one the program is taken off by name.
    _link: Option<OwnedFd>,
}

impl Foreign {
    /// Puts a program of this name (15 characters at most) into a chain, by a link.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or the kernel refuses.
    pub fn put(
        netns: &Netns,
        interface: &str,
        way: Way,
        place: Place,
        verdict: Verdict,
        name: &str,
    ) -> Result<Self> {
        let what = || format!("cannot put a program {} {interface}", netns.name());
        netns.enter(|| put(interface, way, place, verdict, name, true))?.with_context(what)
    }

    /// Does the same without a link: the program stays when this is dropped, and when this process
    /// ends.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    pub fn leave(
        netns: &Netns,
        interface: &str,
        way: Way,
        place: Place,
        verdict: Verdict,
        name: &str,
    ) -> Result<Self> {
        let what = || format!("cannot leave a program at {} {interface}", netns.name());
        netns.enter(|| put(interface, way, place, verdict, name, false))?.with_context(what)
    }

    /// Puts the same program, taken off meanwhile or not, before all others again. Only for one
    /// that was [left](Self::leave).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn put_first_again(&self, netns: &Netns, interface: &str, way: Way) -> Result<()> {
        netns
            .enter(|| {
                let index = index(interface)?;
                // It may not be there any more.
                drop(take_off(&self.program, index, way));
                attach(&self.program, index, way, Place::First)
            })?
            .context("cannot put a program first again")
    }
}

/// A program of somebody else in the hook of XDP, which lets everything pass. It stays there until this is
/// dropped or the interface goes.
#[derive(Debug)]
pub struct Occupant {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Occupant {
    /// Puts one at an interface, in the driver (`native`) or behind it.
    ///
    /// # Errors
    ///
    /// If there is no such interface, the hook is taken, or the kernel refuses.
    pub fn put(netns: &Netns, interface: &str, native: bool) -> Result<Self> {
        let what = || format!("cannot occupy the hook of {} {interface}", netns.name());
        netns.enter(|| occupy(interface, native))?.with_context(what)
    }
}

fn occupy(interface: &str, native: bool) -> io::Result<Occupant> {
    /// `XDP_PASS`.
    const PASS: i32 = 2;
    /// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
    const MODES: [u32; 2] = [1 << 1, 1 << 2];
    let index = index(interface)?;
    let program = [instruction(SET, 0, PASS), instruction(EXIT, 0, 0)];
    let program = load_program(XDP, XDP_HOOK, &program, "occupant")?;
    let mut attribute = Attribute::default();
    attribute.put(0, program.as_raw_fd() as u32).put(4, index).put(8, XDP_HOOK);
    attribute.put(12, MODES[usize::from(native)]);
    let link = attribute.call(LINK_CREATE)?;
    // SAFETY: just made, and nobody else's.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    Ok(Occupant { _program: program, _link: link })
}

fn put(
    interface: &str,
    way: Way,
    place: Place,
    verdict: Verdict,
    name: &str,
    link: bool,
) -> io::Result<Foreign> {
    let index = index(interface)?;
    let program = load(verdict, way, name)?;
    let id = info(&program)?.0;
    if !link {
        attach(&program, index, way, place)?;
        return Ok(Foreign { id, program, _link: None });
    }
    let flags = if place == Place::First { BEFORE } else { 0 };
    let mut attribute = Attribute::default();
    attribute.put(0, program.as_raw_fd() as u32).put(4, index).put(8, way.code()).put(12, flags);
    let link = attribute.call(LINK_CREATE)?;
    // SAFETY: just made, and nobody else's.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    Ok(Foreign { id, program, _link: Some(link) })
}

fn attach(program: &OwnedFd, index: u32, way: Way, place: Place) -> io::Result<()> {
    let flags = if place == Place::First { BEFORE } else { 0 };
    let mut attribute = Attribute::default();
    attribute.put(0, index).put(4, program.as_raw_fd() as u32).put(8, way.code()).put(12, flags);
    attribute.call(PROG_ATTACH).map(drop)
}

fn take_off(program: &OwnedFd, index: u32, way: Way) -> io::Result<()> {
    let mut attribute = Attribute::default();
    attribute.put(0, index).put(4, program.as_raw_fd() as u32).put(8, way.code());
    attribute.call(PROG_DETACH).map(drop)
}

/// Returns the programs of a chain in their order, each with its id and its name.
///
/// # Errors
///
/// If there is no such interface, or the kernel refuses.
pub fn chain(netns: &Netns, interface: &str, way: Way) -> Result<Vec<(u32, String)>> {
    let read = || chain_here(interface, way);
    netns.enter(read)?.with_context(|| format!("cannot read a chain of {interface}"))
}

/// Does the same in the namespace of the calling thread.
///
/// # Errors
///
/// As for [`chain`].
pub fn chain_here(interface: &str, way: Way) -> io::Result<Vec<(u32, String)>> {
    let index = index(interface)?;
    ids(index, way)?.into_iter().map(|id| info(&open(id)?)).collect()
}

/// Takes every program off every chain of the namespace, as the loss of power does; those that a
/// link holds stay.
///
/// # Errors
///
/// If the kernel refuses to list them.
pub fn clear(netns: &Netns) -> Result<()> {
    let clear =
        || -> io::Result<()> { each(|index, way, program| drop(take_off(program, index, way))) };
    netns.enter(clear)?.context("cannot take programs off")
}

/// Tells whether a program of this name is in a chain of the namespace.
///
/// # Errors
///
/// If the kernel refuses to list them.
pub fn has(netns: &Netns, name: &str) -> Result<bool> {
    let look = || -> io::Result<bool> {
        let mut found = false;
        each(|_, _, program| found |= info(program).is_ok_and(|(_, its)| its == name))?;
        Ok(found)
    };
    netns.enter(look)?.context("cannot look at programs")
}

/// Does something with every program in the chains of the calling thread's namespace.
fn each(mut work: impl FnMut(u32, Way, &OwnedFd)) -> io::Result<()> {
    for index in 1..=indexes()? {
        for way in [Way::In, Way::Out] {
            for id in ids(index, way)? {
                // It may be gone by now.
                if let Ok(program) = open(id) {
                    work(index, way, &program);
                }
            }
        }
    }
    Ok(())
}

/// Returns the highest index of an interface of this thread's namespace.
fn indexes() -> io::Result<u32> {
    let mut highest = 0;
    // SAFETY: the list ends with an entry of index 0, and is freed once.
    unsafe {
        let list = libc::if_nameindex();
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut entry = list;
        while (*entry).if_index != 0 {
            highest = highest.max((*entry).if_index);
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    Ok(highest)
}

fn index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: a string that ends in zero and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

fn ids(index: u32, way: Way) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST];
    let mut attribute = Attribute::default();
    attribute.put(0, index).put(4, way.code()).put(24, MOST as u32);
    attribute.put_address(16, ids.as_mut_ptr() as u64);
    match attribute.call(PROG_QUERY) {
        // No chain was ever made there, or no interface has this index.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        result => result?,
    };
    let count = attribute.get(24) as usize;
    Ok(ids[..count.min(MOST)].to_vec())
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let mut attribute = Attribute::default();
    attribute.put(0, id);
    let program = attribute.call(PROG_GET_FD_BY_ID)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Returns the id and the name of a program.
fn info(program: &OwnedFd) -> io::Result<(u32, String)> {
    // `struct bpf_prog_info`: the id at 4, 16 bytes of name at 64.
    let mut info = [0u8; 80];
    let mut attribute = Attribute::default();
    attribute.put(0, program.as_raw_fd() as u32).put(4, info.len() as u32);
    attribute.put_address(8, info.as_mut_ptr() as u64);
    attribute.call(OBJ_GET_INFO)?;
    let id = u32::from_ne_bytes([info[4], info[5], info[6], info[7]]);
    let name = info[64..].iter().take_while(|byte| **byte != 0).copied().collect::<Vec<_>>();
    Ok((id, String::from_utf8_lossy(&name).into_owned()))
}

/// Sets a register to a number; calls a helper; ends.
const SET: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

fn instruction(code: u8, register: u8, number: i32) -> u64 {
    let [a, b, c, d] = number.to_ne_bytes();
    u64::from_ne_bytes([code, register, 0, 0, a, b, c, d])
}

fn load(verdict: Verdict, way: Way, name: &str) -> io::Result<OwnedFd> {
    /// `bpf_redirect`.
    const REDIRECT: i32 = 23;
    let program = match verdict {
        Verdict::Next => vec![instruction(SET, 0, -1), instruction(EXIT, 0, 0)],
        Verdict::Pass => vec![instruction(SET, 0, 0), instruction(EXIT, 0, 0)],
        Verdict::Redirect(index) => vec![
            instruction(SET, 1, index.cast_signed()),
            instruction(SET, 2, 0),
            instruction(CALL, 0, REDIRECT),
            instruction(EXIT, 0, 0),
        ],
    };
    load_program(SCHED_CLS, way.code(), &program, name)
}

fn load_program(kind: u32, hook: u32, program: &[u64], name: &str) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attribute = Attribute::default();
    attribute.put(0, kind).put(4, program.len() as u32).put(68, hook);
    attribute.put_address(8, program.as_ptr() as u64);
    attribute.put_address(16, license.as_ptr() as u64);
    attribute.put_name(48, name);
    let program = attribute.call(PROG_LOAD)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// `union bpf_attr`, field by field.
#[repr(align(8))]
struct Attribute([u8; ATTRIBUTE]);

impl Default for Attribute {
    fn default() -> Self {
        Self([0; ATTRIBUTE])
    }
}

impl Attribute {
    fn put(&mut self, at: usize, value: u32) -> &mut Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn put_address(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_name(&mut self, at: usize, name: &str) {
        let name = &name.as_bytes()[..name.len().min(15)];
        self.0[at..at + name.len()].copy_from_slice(name);
    }

    fn get(&self, at: usize) -> u32 {
        let bytes = &self.0[at..at + 4];
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<i32> {
        // SAFETY: the attribute is as long as said; addresses in it are of what outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTRIBUTE) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
    }
}
