//! Numbers of one node that must survive its restarts.
//!
//! The directory holds `incarnation` and `generation`, each a decimal number; `voters`, the
//! [set of voters](crate::config::Config::voter_set) this node took part in last; `promised-<group>`, the
//! epoch that a node that left had promised without an end, 0 for none; `parted`, see `parting.rs`;
//! `aside`, of which groups an operator wants the node to stand aside, in a word of [`Aside`];
//! and `lock`, which the daemon locks for as long as it runs and into which it writes its process id.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use hb_ebpf::epoch::Epoch;

use crate::{
    clock,
    core::Aside,
    durable,
    own_path::{self, NotOurs},
};

/// Bytes of a file that are looked at; the longest number has 10 digits.
const MAX_FILE_BYTES: u64 = 64;

const VOTERS: &str = "voters";
const ASIDE: &str = "aside";

/// For so long the lock of a daemon that was killed may stay behind: with a program that it was just
/// about to run, until that program runs.
const INHERITED: Duration = Duration::from_secs(2);
/// Between two tries.
const STEP: Duration = Duration::from_millis(2);

/// A node's state directory, locked against a second daemon until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The directory cannot be made, or others can change it.
    #[error("cannot use the state directory: {0}")]
    NotOurs(#[from] NotOurs),
    /// Another daemon works there.
    #[error("state directory {path} is in use by {holder}; stop that daemon first")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds it.
        holder: Holder,
    },
    /// A file cannot be read.
    #[error("cannot read {path}; check the disk and who may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}; check the disk's space and who may write there")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than a number.
    #[error(
        "{path} holds {content:?}, not a number up to {}; write a number there that is higher than \
         any {what} this node ever had (its peers show the last one)",
        u32::MAX
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the number counts.
        what: Counter,
        /// Its first bytes.
        content: String,
    },
    /// A file holds something else than an epoch.
    #[error(
        "{path} holds {content:?}, not an epoch; write 0 there only if the other node does not \
         serve, else the epoch that its `hb status` shows"
    )]
    CorruptVow {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        content: String,
    },
    /// A file holds something else than of which groups this node stands aside.
    #[error(
        "{path} holds {content:?}, not a word that tells of which groups this node stands aside; write \
         all, local or foreign there as `hb standby` was last asked for, or remove the file if the node \
         is to take every group"
    )]
    CorruptAside {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        content: String,
    },
    /// The numbers are used up.
    #[error(
        "{what} {} in {path} is the last there is; give the node a new id and remove the file",
        u32::MAX
    )]
    UsedUp {
        /// The file.
        path: PathBuf,
        /// What the number counts.
        what: Counter,
    },
}

/// Who holds the lock of a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The process of this id.
    Process(u32),
    /// A process that has not written its id.
    Unknown,
}

impl Holder {
    /// Returns whether it is a process that is there no more.
    fn is_gone(self) -> bool {
        matches!(self, Self::Process(pid) if !Path::new(&format!("/proc/{pid}")).exists())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Unknown => f.write_str("another process"),
        }
    }
}

/// What a stored number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Starts of the daemon.
    Incarnation,
    /// Starts without a record of promises.
    Generation,
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Incarnation => "incarnation",
            Self::Generation => "generation",
        })
    }
}

impl StateDir {
    /// Opens a node's own directory, `<state_dir>/<cluster>-<node>`, and locks it; makes it first,
    /// open to its owner alone, if it is not there. Nobody but root and whoever runs this may own it
    /// or a directory above it, or write there.
    ///
    /// # Errors
    ///
    /// [`StateDirError::Locked`] names the process that has it; others if the directory cannot be
    /// made, can be written by others, or cannot be locked.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        own_path::make(path)?;
        let lock = lock(path)?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// Returns the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next incarnation: one more than the stored number, or than `known`, the newest that
    /// is known otherwise, since the directory may have been lost or be an old copy; from 1. It is
    /// on the disk when this returns, so no other start ever gets it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, holds no number, or holds the last one.
    pub fn reserve_incarnation(&mut self, known: u32) -> Result<u32, StateDirError> {
        self.reserve(Counter::Incarnation, known)
    }

    /// Returns the stored generation, 0 if none was ever reserved.
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds no number.
    pub fn generation(&self) -> Result<u32, StateDirError> {
        self.read(Counter::Generation)
    }

    /// Takes the next generation: one more than the stored number, from 1. It is on the disk when
    /// this returns.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, holds no number, or holds the last one.
    pub fn reserve_generation(&mut self) -> Result<u32, StateDirError> {
        self.reserve(Counter::Generation, 0)
    }

    /// Stores `generation` unless a higher one is stored already. It is on the disk when this
    /// returns.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, or holds no number.
    pub fn raise_generation(&mut self, generation: u32) -> Result<(), StateDirError> {
        if self.generation()? >= generation {
            return Ok(());
        }
        self.write(Counter::Generation, generation)
    }

    /// Returns the epoch of `group` that this node promised to its holder without an end when it
    /// left, if it did and has not been released from that.
    ///
    /// # Errors
    ///
    /// The file cannot be read or holds no number.
    pub fn vow(&self, group: &str) -> Result<Option<Epoch>, StateDirError> {
        let path = self.vow_file(group);
        match read_number(&path) {
            Ok(Some(Ok(0))) | Ok(None) => Ok(None),
            Ok(Some(Ok(epoch))) => Ok(Some(Epoch(epoch))),
            Ok(Some(Err(content))) => Err(StateDirError::CorruptVow { path, content }),
            Err(source) => Err(StateDirError::Read { path, source }),
        }
    }

    /// Stores such an epoch, or that there is none. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn store_vow(&mut self, group: &str, epoch: Option<Epoch>) -> Result<(), StateDirError> {
        let path = self.vow_file(group);
        let number = epoch.unwrap_or(Epoch::NONE).0;
        durable::replace(&path, format!("{number}\n").as_bytes())
            .map_err(|source| StateDirError::Write { path, source })
    }

    /// Returns the set of voters that was stored last, `None` if none ever was.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn voters(&self) -> Result<Option<String>, StateDirError> {
        let path = self.path.join(VOTERS);
        match fs::read_to_string(&path) {
            Ok(set) => Ok(Some(set.trim_end_matches('\n').to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateDirError::Read { path, source }),
        }
    }

    /// Stores the set of voters. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn store_voters(&mut self, set: &str) -> Result<(), StateDirError> {
        let path = self.path.join(VOTERS);
        durable::replace(&path, format!("{set}\n").as_bytes())
            .map_err(|source| StateDirError::Write { path, source })
    }

    /// Returns of which groups an operator wants this node to stand aside.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds another word.
    pub fn aside(&self) -> Result<Aside, StateDirError> {
        let path = self.path.join(ASIDE);
        let Some(bytes) = first_bytes(&path)
            .map_err(|source| StateDirError::Read { path: path.clone(), source })?
        else {
            return Ok(Aside::Nothing);
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let word = text.strip_suffix('\n').unwrap_or(&text);
        word.parse().map_err(|()| StateDirError::CorruptAside { path, content: text })
    }

    /// Stores that. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn store_aside(&mut self, aside: Aside) -> Result<(), StateDirError> {
        let path = self.path.join(ASIDE);
        durable::replace(&path, format!("{}\n", aside.as_str()).as_bytes())
            .map_err(|source| StateDirError::Write { path, source })
    }

    fn vow_file(&self, group: &str) -> PathBuf {
        self.path.join(format!("promised-{group}"))
    }

    fn file(&self, what: Counter) -> PathBuf {
        self.path.join(what.to_string())
    }

    fn read(&self, what: Counter) -> Result<u32, StateDirError> {
        let path = self.file(what);
        match read_number(&path) {
            Ok(Some(Ok(number))) => Ok(number),
            Ok(None) => Ok(0),
            Ok(Some(Err(content))) => Err(StateDirError::Corrupt { path, what, content }),
            Err(source) => Err(StateDirError::Read { path, source }),
        }
    }

    fn reserve(&mut self, what: Counter, known: u32) -> Result<u32, StateDirError> {
        let Some(next) = self.read(what)?.max(known).checked_add(1) else {
            return Err(StateDirError::UsedUp { path: self.file(what), what });
        };
        self.write(what, next)?;
        Ok(next)
    }

    fn write(&self, what: Counter, value: u32) -> Result<(), StateDirError> {
        let path = self.file(what);
        durable::replace(&path, format!("{value}\n").as_bytes())
            .map_err(|source| StateDirError::Write { path, source })
    }
}

/// Returns the first bytes of a file; `None` if there is no such file.
fn first_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number in a file, or what is there instead; `None` if there is no such file.
fn read_number<N: FromStr>(path: &Path) -> io::Result<Option<Result<N, String>>> {
    let Some(bytes) = first_bytes(path)? else { return Ok(None) };
    let content = || String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some(number(&bytes).ok_or_else(content)))
}

/// Reads a decimal number and at most one line end.
fn number<N: FromStr>(bytes: &[u8]) -> Option<N> {
    let text = str::from_utf8(bytes).ok()?;
    let digits = text.strip_suffix('\n').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn lock(directory: &Path) -> Result<File, StateDirError> {
    let path = directory.join("lock");
    let write_error = |source| StateDirError::Write { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(write_error)?;
    let end = clock::now().after(INHERITED);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                if !holder.is_gone() || clock::now() >= end {
                    return Err(StateDirError::Locked { path: directory.into(), holder });
                }
                thread::sleep(STEP);
            }
            Err(TryLockError::Error(source)) => return Err(write_error(source)),
        }
    }
    file.rewind().map_err(write_error)?;
    file.set_len(0).map_err(write_error)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(write_error)?;
    Ok(file)
}

/// Returns whose id the lock file has.
fn holder(file: &mut File) -> Holder {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    let pid = read.ok().and_then(|_| number(&bytes)).filter(|pid| *pid != 0);
    pid.map_or(Holder::Unknown, Holder::Process)
}

#[cfg(test)]
mod tests;
