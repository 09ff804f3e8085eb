//! The cluster's secret, and the keys of frames made of it.
//!
//! The key file is text: one line `<id> <64 hexadecimal digits>` for each of one or two secrets,
//! and `#` comments. Frames are sent under the first; both are taken. So secrets are changed
//! without a gap: add the new one as second everywhere, make it first everywhere, drop the old one
//! ([`rotate`]).

pub mod rotate;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hb_ebpf::{maps::PeerKeys, siphash::Key};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{durable, id::NodeId};

/// Bytes of a secret.
const SECRET_LEN: usize = 32;
/// Fewer different bytes than this are no accident: 32 random ones have 30 on average, and fewer
/// than 16 once in 10^15 keys.
const LEAST_DISTINCT: usize = 16;
/// Secrets a file may hold.
const MOST_KEYS: usize = 2;
/// Longer files are refused.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// What keys of frames are derived for.
const PURPOSE: &[u8] = b"hb frame key v1";

/// One secret of the cluster. Never printed; overwritten when dropped.
struct Secret {
    id: u8,
    bytes: [u8; SECRET_LEN],
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// The secrets of a cluster, one or two; the first is the one to send with.
pub struct ClusterKeys {
    secrets: Vec<Secret>,
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterKeys").field(&self.ids()).finish()
    }
}

/// Why a key file is refused or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("there is no key file {0}; run `hb key generate {0}` and copy it to every node")]
    Missing(PathBuf),
    /// Reading it failed.
    #[error("cannot read key file {path}; check that the daemon's user may")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device, or the like.
    #[error("key file {0} is no regular file; run `hb key generate` with another path")]
    NotAFile(PathBuf),
    /// Others than its owner may read or write it.
    #[error("key file {path} has mode {mode:04o}, so others can get at it; run `chmod 600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "key file {path} belongs to user {owner}, neither root nor user {euid} of this process; \
         run `chown root {path}`"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id it belongs to.
        owner: u32,
        /// Effective user id of this process.
        euid: u32,
    },
    /// Its content makes no sense.
    #[error("{path}:{line}: {fault}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// What is wrong.
        fault: KeyFault,
    },
    /// Which of its two keys is the newer cannot be told.
    #[error(
        "the ids {} and {} of the keys in {path} do not follow each other, so which one is the newer \
         cannot be told; give the new one the id {}, everywhere",
        ids[0], ids[1], rotate::successor(ids[0])
    )]
    Order {
        /// The file.
        path: PathBuf,
        /// The ids, in its order.
        ids: [u8; 2],
    },
    /// It will not be overwritten.
    #[error("{0} exists and is not overwritten; remove it first if no node uses it any more")]
    Exists(PathBuf),
    /// Writing it failed.
    #[error("cannot write key file {path}; check the directory and the disk")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no random numbers.
    #[error("cannot draw random numbers from /dev/urandom; mount /dev first")]
    Random(#[source] io::Error),
}

/// What is wrong with a line of a key file. Never shows any of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// No key at all.
    #[error("there is no key in it; `hb key generate` writes one")]
    Empty,
    /// A third key.
    #[error("a third key; keep the two in use")]
    TooMany,
    /// Not two words.
    #[error("not `<id> <64 hexadecimal digits>`; `hb key generate` writes such a line")]
    Form,
    /// Not an id.
    #[error("the id is no number from 1 to 255; choose one")]
    Id,
    /// Two keys of one id.
    #[error("id {0} is that of the first key; give each its own")]
    DuplicateId(u8),
    /// The secret has another length.
    #[error("the key has {0} hexadecimal digits, not 64; `hb key generate` writes such a key")]
    Length(usize),
    /// The secret has something else in it.
    #[error("the key holds something other than hexadecimal digits; copy it again")]
    Digits,
    /// Somebody made it up.
    #[error(
        "the key has only {0} different bytes among 32 and can be guessed; generate one with \
         `hb key generate`"
    )]
    Weak(usize),
}

impl ClusterKeys {
    /// Reads the key file at `path`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if there is none, if anybody but root and this process's user can get at it,
    /// or if its content is no key of use.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.into()),
            _ => KeyError::Read { path: path.into(), source },
        };
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(read_error)?;
        // Of the open file, not of the path: what is judged is what is read.
        let metadata = file.metadata().map_err(read_error)?;
        if !metadata.is_file() {
            return Err(KeyError::NotAFile(path.into()));
        }
        // SAFETY: takes nothing, cannot fail.
        let euid = unsafe { libc::geteuid() };
        check_access(path, metadata.mode(), metadata.uid(), euid)?;
        // Room for any usual file: growing would leave copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(4096));
        file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(read_error)?;
        Self::parse(&text).map_err(|(line, fault)| KeyError::Content {
            path: path.into(),
            line,
            fault,
        })
    }

    /// Reads the content of a key file; a fault comes with its line.
    fn parse(text: &[u8]) -> Result<Self, (usize, KeyFault)> {
        let mut secrets: Vec<Secret> = Vec::with_capacity(MOST_KEYS);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let fail = |fault| Err((index + 1, fault));
            let content = line.split(|byte| *byte == b'#').next().unwrap_or(line);
            let mut words = content.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let (id, digits) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(id), Some(digits), None) => (id, digits),
                _ => return fail(KeyFault::Form),
            };
            if secrets.len() == MOST_KEYS {
                return fail(KeyFault::TooMany);
            }
            let id = str::from_utf8(id).ok().filter(|id| id.bytes().all(|b| b.is_ascii_digit()));
            let Some(id) = id.and_then(|id| id.parse().ok()).filter(|id| *id != 0) else {
                return fail(KeyFault::Id);
            };
            if secrets.iter().any(|secret| secret.id == id) {
                return fail(KeyFault::DuplicateId(id));
            }
            match secret(id, digits) {
                Ok(secret) => secrets.push(secret),
                Err(fault) => return fail(fault),
            }
        }
        if secrets.is_empty() { Err((1, KeyFault::Empty)) } else { Ok(Self { secrets }) }
    }

    /// Returns the ids of the keys; the first is the one to send with.
    #[must_use]
    pub fn ids(&self) -> Vec<u8> {
        self.secrets.iter().map(|secret| secret.id).collect()
    }
}

fn secret(id: u8, digits: &[u8]) -> Result<Secret, KeyFault> {
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    if digits.iter().any(|digit| value(*digit).is_none()) {
        return Err(KeyFault::Digits);
    }
    if digits.len() != 2 * SECRET_LEN {
        return Err(KeyFault::Length(digits.len()));
    }
    let mut secret = Secret { id, bytes: [0; SECRET_LEN] };
    for (byte, pair) in secret.bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte =
            pair.iter().filter_map(|digit| value(*digit)).fold(0, |sum, digit| sum << 4 | digit);
    }
    let mut seen = [false; 256];
    for byte in secret.bytes {
        seen[usize::from(byte)] = true;
    }
    match seen.iter().filter(|seen| **seen).count() {
        distinct if distinct < LEAST_DISTINCT => Err(KeyFault::Weak(distinct)),
        _ => Ok(secret),
    }
}

fn check_access(path: &Path, mode: u32, owner: u32, euid: u32) -> Result<(), KeyError> {
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.into(), mode: mode & 0o7777 });
    }
    if owner != 0 && owner != euid {
        return Err(KeyError::Owner { path: path.into(), owner, euid });
    }
    Ok(())
}

/// Writes a key file with one random secret, of id 1, at `path`: readable by its owner alone, and
/// whole or not at all.
///
/// # Errors
///
/// [`KeyError::Exists`] if there is such a file, which stays as it is; [`KeyError::Random`] and
/// [`KeyError::Write`] if the system refuses.
pub fn generate(path: &Path) -> Result<(), KeyError> {
    let text = text_of(&[draw(1)?]);
    durable::create(path, &text).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists(path.into()),
        _ => KeyError::Write { path: path.into(), source },
    })
}

/// Draws a random secret.
fn draw(id: u8) -> Result<Secret, KeyError> {
    let mut secret = Secret { id, bytes: [0; SECRET_LEN] };
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut secret.bytes))
        .map_err(KeyError::Random)?;
    Ok(secret)
}

/// Returns the content of a key file.
fn text_of(secrets: &[Secret]) -> Zeroizing<Vec<u8>> {
    // Room for all of it: growing would leave copies behind.
    let mut text = String::with_capacity(512);
    text.push_str("# Key of an hb cluster. Copy it to every node; keep it secret.\n");
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    for secret in secrets {
        text.push_str(&format!("{} ", secret.id));
        for byte in secret.bytes {
            text.extend([digit(byte >> 4), digit(byte & 15)]);
        }
        text.push('\n');
    }
    Zeroizing::new(text.into_bytes())
}

/// Returns the keys that `me` shares with `peer`: one for each direction and secret, the secret to
/// send with first.
///
/// Each is 16 bytes of HKDF-SHA256 (RFC 5869) without salt, over the secret, for
/// `"hb frame key v1" || cluster id (4 bytes, big-endian) || source || destination || key id`.
#[must_use]
pub fn peer_keys(keys: &ClusterKeys, cluster_id: u32, me: NodeId, peer: NodeId) -> PeerKeys {
    let mut derived = PeerKeys::default();
    for (slot, secret) in keys.secrets.iter().take(MOST_KEYS).enumerate() {
        derived.ids[slot] = secret.id;
        derived.receive[slot] = frame_key(secret, cluster_id, peer, me);
        derived.transmit[slot] = frame_key(secret, cluster_id, me, peer);
    }
    derived
}

fn frame_key(secret: &Secret, cluster_id: u32, source: NodeId, destination: NodeId) -> Key {
    let hkdf = Hkdf::<Sha256>::new(None, &secret.bytes);
    let mut bytes = [0; 16];
    let ids = [source.0, destination.0, secret.id];
    hkdf.expand_multi_info(&[PURPOSE, &cluster_id.to_be_bytes(), &ids], &mut bytes)
        .expect("RFC 5869 allows 255 hashes, and 16 bytes are half of one");
    let key = Key::from_bytes(bytes);
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests;
