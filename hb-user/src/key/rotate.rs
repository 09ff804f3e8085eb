//! A new secret in the place of an old one, step by step.
//!
//! Which of two secrets is the newer is told by their ids: the id of a new one follows that of the
//! old one, and 1 follows 255. So every step can be repeated, whatever the order of the file.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
};

use hb_ebpf::maps::PeerKeys;

use super::{ClusterKeys, KeyError, MOST_KEYS, Secret, draw, text_of};
use crate::durable;

/// Returns the id of the secret that takes the place of that of `id`.
#[must_use]
pub const fn successor(id: u8) -> u8 {
    if id == u8::MAX { 1 } else { id + 1 }
}

impl ClusterKeys {
    /// Returns the id of the newest secret, and that of the one before if there are two.
    ///
    /// # Errors
    ///
    /// The two ids if neither follows the other.
    pub fn newest(&self) -> Result<(u8, Option<u8>), [u8; 2]> {
        match self.ids()[..] {
            [first, second] if successor(first) == second => Ok((second, Some(first))),
            [first, second] if successor(second) == first => Ok((first, Some(second))),
            [first, second] => Err([first, second]),
            [first] => Ok((first, None)),
            // A key file holds one or two.
            _ => Err([0, 0]),
        }
    }

    /// As [`ClusterKeys::newest`], for the file at `path` that they are of.
    fn newest_of(&self, path: &Path) -> Result<(u8, Option<u8>), KeyError> {
        self.newest().map_err(|ids| KeyError::Order { path: path.into(), ids })
    }
}

/// Adds a random secret to the key file at `path`, as the second, unless there are two already.
/// Returns the id of the newest.
///
/// # Errors
///
/// [`KeyError`]; the file is then as it was.
pub fn add(path: &Path) -> Result<u8, KeyError> {
    let mut keys = ClusterKeys::load(path)?;
    let (newest, before) = keys.newest_of(path)?;
    if before.is_some() {
        return Ok(newest);
    }
    let secret = draw(successor(newest))?;
    keys.secrets.push(secret);
    rewrite(path, &keys.secrets)?;
    Ok(successor(newest))
}

/// Makes the newest secret of the key file at `path` the first, the one to send with. Returns its
/// id.
///
/// # Errors
///
/// [`KeyError`]; the file is then as it was.
pub fn prefer_newest(path: &Path) -> Result<u8, KeyError> {
    let mut keys = ClusterKeys::load(path)?;
    let (newest, _) = keys.newest_of(path)?;
    if keys.secrets.first().is_some_and(|first| first.id != newest) {
        keys.secrets.reverse();
        rewrite(path, &keys.secrets)?;
    }
    Ok(newest)
}

/// Removes all but the newest secret from the key file at `path`. Returns its id.
///
/// # Errors
///
/// [`KeyError`]; the file is then as it was.
pub fn keep_newest(path: &Path) -> Result<u8, KeyError> {
    let mut keys = ClusterKeys::load(path)?;
    let (newest, before) = keys.newest_of(path)?;
    if before.is_some() {
        keys.secrets.retain(|secret| secret.id == newest);
        rewrite(path, &keys.secrets)?;
    }
    Ok(newest)
}

fn rewrite(path: &Path, secrets: &[Secret]) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.into(), source };
    // A link is followed, not replaced by a file.
    let path = fs::canonicalize(path).map_err(failed)?;
    let before = fs::metadata(&path).map_err(failed)?;
    durable::replace(&path, &text_of(secrets)).map_err(failed)?;
    let after = fs::metadata(&path).map_err(failed)?;
    if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        chown(&path, Some(before.uid()), Some(before.gid())).map_err(failed)?;
    }
    Ok(())
}

/// Returns `wanted` with every key that is `live` in the place it has there.
///
/// The kernel half reads the keys while they are written: a key that stays where it is never looks
/// half written, whatever happens to the other.
#[must_use]
pub fn arrange(live: &PeerKeys, wanted: &PeerKeys) -> PeerKeys {
    let mut arranged = PeerKeys::default();
    let place = |slot: usize, from: usize, arranged: &mut PeerKeys| {
        arranged.ids[slot] = wanted.ids[from];
        arranged.receive[slot] = wanted.receive[from];
        arranged.transmit[slot] = wanted.transmit[from];
    };
    for slot in 0..MOST_KEYS {
        if let Some(from) = slot_of(wanted, live.ids[slot]) {
            place(slot, from, &mut arranged);
        }
    }
    for from in 0..MOST_KEYS {
        let id = wanted.ids[from];
        let missing = id != 0 && slot_of(&arranged, id).is_none();
        if let (true, Some(slot)) = (missing, arranged.ids.iter().position(|id| *id == 0)) {
            place(slot, from, &mut arranged);
        }
    }
    arranged
}

/// Returns where the key of `id` is.
#[must_use]
pub fn slot_of(keys: &PeerKeys, id: u8) -> Option<usize> {
    keys.ids.iter().position(|known| id != 0 && *known == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::NodeId, key::generate, key::peer_keys};

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        generate(&path).unwrap();
        (dir, path)
    }

    fn ids(path: &Path) -> Vec<u8> {
        ClusterKeys::load(path).unwrap().ids()
    }

    fn derived(path: &Path) -> PeerKeys {
        peer_keys(&ClusterKeys::load(path).unwrap(), 7, NodeId(1), NodeId(2))
    }

    #[test]
    fn every_step_can_be_repeated() {
        let (_dir, path) = file();
        let old = derived(&path);
        for _ in 0..2 {
            assert_eq!(add(&path).unwrap(), 2);
            assert_eq!(ids(&path), [1, 2]);
        }
        let both = derived(&path);
        assert_eq!((both.receive[0], both.transmit[0]), (old.receive[0], old.transmit[0]));
        for _ in 0..2 {
            assert_eq!(prefer_newest(&path).unwrap(), 2);
            assert_eq!(ids(&path), [2, 1]);
        }
        let turned = derived(&path);
        assert_eq!((turned.receive[1], turned.transmit[1]), (old.receive[0], old.transmit[0]));
        assert_eq!(add(&path).unwrap(), 2, "two are enough");
        for _ in 0..2 {
            assert_eq!(keep_newest(&path).unwrap(), 2);
            assert_eq!(ids(&path), [2]);
        }
        assert_eq!(derived(&path).receive[0], both.receive[1]);
        assert_eq!(add(&path).unwrap(), 3);
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn one_follows_the_last() {
        assert_eq!((successor(1), successor(254), successor(255)), (2, 255, 1));
        let (_dir, path) = file();
        let text = fs::read_to_string(&path).unwrap().replace("\n1 ", "\n255 ");
        fs::write(&path, text).unwrap();
        assert_eq!(add(&path).unwrap(), 1);
        assert_eq!(ids(&path), [255, 1]);
        assert_eq!(prefer_newest(&path).unwrap(), 1);
        assert_eq!(ids(&path), [1, 255]);
    }

    #[test]
    fn ids_that_do_not_follow_each_other_are_named() {
        let (_dir, path) = file();
        add(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("\n2 ", "\n7 ");
        fs::write(&path, text).unwrap();
        let before = fs::read(&path).unwrap();
        for step in [add, prefer_newest, keep_newest] {
            let error = step(&path).unwrap_err().to_string();
            assert!(error.contains("ids 1 and 7"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn live_keys_stay_where_they_are() {
        let (_dir, path) = file();
        let one = derived(&path);
        add(&path).unwrap();
        let both = arrange(&one, &derived(&path));
        assert_eq!(both.ids, [1, 2]);
        prefer_newest(&path).unwrap();
        assert_eq!(arrange(&both, &derived(&path)), both, "whatever the order of the file");
        keep_newest(&path).unwrap();
        let last = arrange(&both, &derived(&path));
        assert_eq!((last.ids, last.receive[1]), ([0, 2], both.receive[1]));
        assert!(last.receive[0] == Default::default(), "the old one is wiped");
        add(&path).unwrap();
        let next = arrange(&last, &derived(&path));
        assert_eq!(next.ids, [3, 2]);
        assert_eq!(
            (slot_of(&next, 2), slot_of(&next, 3), slot_of(&next, 0)),
            (Some(1), Some(0), None)
        );
    }
}
