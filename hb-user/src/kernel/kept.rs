//! What is pinned, kept in hand: pins that somebody else removed are made anew.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    chain,
    error::KernelError,
    gate_view::PinsLock,
    pins::{bpf, describe_link, open, path_of},
    program::{Kernel, unusable},
};
use crate::own_path;

/// `BPF_OBJ_PIN` of `linux/bpf.h`.
const OBJ_PIN: libc::c_int = 6;

/// The start of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// A map, a program or a link, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Map(u32),
    Program(u32),
    Link(u32),
}

impl Object {
    fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        chain::describe_map(map).map(|map| Self::Map(map.id))
    }

    fn program(program: BorrowedFd<'_>) -> io::Result<Self> {
        let program = chain::describe_program(program.try_clone_to_owned()?)?;
        Ok(Self::Program(program.id))
    }

    fn link(link: BorrowedFd<'_>) -> io::Result<Self> {
        describe_link(link).map(|link| Self::Link(link.id))
    }
}

/// Something that is pinned, with a descriptor of it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) pin: PathBuf,
    object: Object,
    fd: OwnedFd,
}

impl Kept {
    /// Keeps the map pinned at `pin`.
    pub(super) fn map(pin: PathBuf) -> io::Result<Self> {
        let fd = open(&pin)?;
        Ok(Self { object: Object::map(fd.as_fd())?, pin, fd })
    }

    /// Returns the id of the map, if it is one.
    pub(super) fn map_id(&self) -> Option<u32> {
        match self.object {
            Object::Map(id) => Some(id),
            Object::Program(_) | Object::Link(_) => None,
        }
    }

    /// Keeps the program pinned at `pin`.
    pub(super) fn program(pin: PathBuf) -> io::Result<Self> {
        let fd = open(&pin)?;
        Ok(Self { object: Object::program(fd.as_fd())?, pin, fd })
    }

    /// Keeps the link pinned at `pin`.
    pub(super) fn link(pin: PathBuf) -> io::Result<Self> {
        let fd = open(&pin)?;
        Ok(Self { object: Object::link(fd.as_fd())?, pin, fd })
    }
}

/// What has to be pinned, for whoever looks whether it is.
#[derive(Clone, Debug)]
pub struct Pinnings {
    directory: PathBuf,
    lock: PinsLock,
    objects: Vec<(PathBuf, Object)>,
}

/// What of it is not.
#[derive(Clone, Debug)]
pub struct Unpinned {
    /// The directory is gone, or another one is in its place.
    directory: bool,
    pins: Vec<PathBuf>,
}

impl Pinnings {
    /// Looks; `None` if everything is where it was pinned.
    #[must_use]
    pub fn look(&self) -> Option<Unpinned> {
        let is_there = |(pin, object): &(PathBuf, Object)| {
            let found = open(pin).and_then(|fd| match object {
                Object::Map(_) => Object::map(fd.as_fd()),
                Object::Program(_) => Object::program(fd.as_fd()),
                Object::Link(_) => Object::link(fd.as_fd()),
            });
            found.is_ok_and(|found| found == *object)
        };
        let missing = self.objects.iter().filter(|object| !is_there(object));
        let pins: Vec<_> = missing.map(|(pin, _)| pin.clone()).collect();
        let directory = !self.lock.is_of(&self.directory);
        (directory || !pins.is_empty()).then_some(Unpinned { directory, pins })
    }
}

impl Kernel {
    /// Returns what has to be pinned now, in the directory that `lock` is of.
    #[must_use]
    pub fn pinnings(&self, lock: &PinsLock) -> Pinnings {
        let objects = self.kept().map(|kept| (kept.pin.clone(), kept.object)).collect();
        Pinnings { directory: self.pins.clone(), lock: lock.clone(), objects }
    }

    /// Pins again what is not pinned any more, in a directory that nobody else can change. Returns how
    /// many pins that were, and the lock of the directory if it had to be made, or is another one.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotOurs`], [`KernelError::Pins`]: somebody put something else there, or there is
    /// no BPF file system any more; [`KernelError::PinsTaken`] if another process has the new directory.
    pub fn pin_again(&self, missing: &Unpinned) -> Result<(usize, Option<PinsLock>), KernelError> {
        own_path::make(&self.pins).map_err(|error| unusable(&self.pins, error))?;
        let lock = match missing.directory {
            true => Some(
                PinsLock::take(&self.pins)?
                    .ok_or_else(|| KernelError::PinsTaken { path: self.pins.clone() })?,
            ),
            false => None,
        };
        let mut count = 0;
        // Of an interface that is gone meanwhile nothing is kept.
        for kept in self.kept().filter(|kept| missing.pins.contains(&kept.pin)) {
            let failed = |source| KernelError::Pins { path: kept.pin.clone(), source };
            match fs::remove_file(&kept.pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            pin(kept.fd.as_fd(), &kept.pin).map_err(failed)?;
            count += 1;
        }
        Ok((count, lock))
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter().chain(self.attachments.iter().map(|attachment| &attachment.kept))
    }
}

fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = path_of(pin)?;
    let request = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd().unsigned_abs(),
        file_flags: 0,
    };
    // SAFETY: the request names a string that ends in zero and lives until the call returns.
    unsafe { bpf(OBJ_PIN, &request) }.map(drop)
}
