//! Directories that nobody but root, or whoever runs this process, can have made or can change.
//!
//! What lies in a directory is only as safe as every directory above it: who may write in one of
//! them, or owns it, puts another in the place of the next.

use std::{
    collections::VecDeque,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt as _},
        },
    },
    path::{Component, Path, PathBuf},
};

/// Symbolic links that are followed on one path, as by the kernel.
const MOST_LINKS: u32 = 40;
/// Write permission of the group and of others.
const OTHERS_WRITE: u32 = 0o022;
/// Who may read a directory may lock it.
const OTHERS_READ: u32 = 0o044;
/// In such a directory only the owner of a thing renames or removes it.
const STICKY: u32 = 0o1000;

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// It cannot be opened or made.
    #[error("cannot use {path}; check that it is a directory and who may write there")]
    Open {
        /// What of the path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else owns it.
    #[error(
        "{path} belongs to user {owner}, who can put something else in its place; make sure that \
         nothing there is needed, remove it, and start again"
    )]
    Owner {
        /// What of the path.
        path: PathBuf,
        /// Id of the user.
        owner: u32,
    },
    /// Others may write there.
    #[error("{path} has mode {mode:04o}, so others can change it; run `chmod go-w {path}`")]
    Mode {
        /// What of the path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl NotOurs {
    /// Tells whether there is simply no such directory.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens the directory at `path`, which has to be absolute or is taken from the working directory.
///
/// # Errors
///
/// [`NotOurs`] names the part of the path that is missing, or that others own or may write in.
pub fn open(path: &Path) -> Result<File, NotOurs> {
    walk(path, false)
}

/// Does the same, and makes what of the path is missing, open to its owner alone. Others cannot
/// lock the directory afterwards; leave to pass through it, which somebody gave them, they keep.
///
/// # Errors
///
/// As for [`open`].
pub fn make(path: &Path) -> Result<File, NotOurs> {
    let directory = walk(path, true)?;
    let failed = |source| NotOurs::Open { path: path.to_owned(), source };
    let mode = directory.metadata().map_err(failed)?.mode();
    if mode & OTHERS_READ != 0 {
        let less = fs::Permissions::from_mode(mode & 0o7777 & !OTHERS_READ);
        directory.set_permissions(less).map_err(failed)?;
    }
    Ok(directory)
}

fn walk(path: &Path, make: bool) -> Result<File, NotOurs> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NotOurs::Open { path, source }
    };
    let absolute = std::path::absolute(path).map_err(failed(path))?;
    let mut rest = components(&absolute);
    let mut links = 0;
    let (mut at, mut directory) = root()?;
    while let Some(name) = rest.pop_front() {
        let next = if name == ".." { parent(&at) } else { at.join(&name) };
        if make && let Err(source) = make_in(&directory, &name) {
            return Err(NotOurs::Open { path: next, source });
        }
        match open_in(&directory, &name, libc::O_PATH) {
            Ok(opened) => {
                check(&next, &opened.metadata().map_err(failed(&next))?)?;
                (at, directory) = (next, opened);
            }
            // Where a symbolic link leads is its owner's choice.
            Err(_) if links < MOST_LINKS && is_link(&next) => {
                links += 1;
                let metadata = fs::symlink_metadata(&next).map_err(failed(&next))?;
                check_owner(&next, metadata.uid())?;
                let target = fs::read_link(&next).map_err(failed(&next))?;
                if target.is_absolute() {
                    (at, directory) = root()?;
                }
                let mut whole = components(&target);
                whole.append(&mut rest);
                rest = whole;
            }
            Err(source) => return Err(NotOurs::Open { path: next, source }),
        }
    }
    let mode = directory.metadata().map_err(failed(&at))?.mode();
    if mode & OTHERS_WRITE != 0 {
        return Err(NotOurs::Mode { path: at, mode: mode & 0o7777 });
    }
    open_in(&directory, OsStr::new("."), libc::O_RDONLY).map_err(failed(&at))
}

fn root() -> Result<(PathBuf, File), NotOurs> {
    let at = PathBuf::from("/");
    let opened = File::open(&at).and_then(|root| Ok((root.metadata()?, root)));
    let (metadata, root) = opened.map_err(|source| NotOurs::Open { path: at.clone(), source })?;
    check(&at, &metadata)?;
    Ok((at, root))
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

fn check(path: &Path, metadata: &fs::Metadata) -> Result<(), NotOurs> {
    check_owner(path, metadata.uid())?;
    let mode = metadata.mode();
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        return Err(NotOurs::Mode { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

fn check_owner(path: &Path, owner: u32) -> Result<(), NotOurs> {
    // SAFETY: takes nothing and cannot fail.
    let own = unsafe { libc::geteuid() };
    if owner == 0 || owner == own {
        Ok(())
    } else {
        Err(NotOurs::Owner { path: path.to_owned(), owner })
    }
}

/// Makes a directory, if there is nothing of that name.
fn make_in(directory: &File, name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: a string that ends in zero and outlives the call.
    let made = unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), 0o700) };
    if made == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        error => Err(error),
    }
}

/// Opens a directory, no symbolic link.
fn open_in(directory: &File, name: &OsStr, access: libc::c_int) -> io::Result<File> {
    let name = CString::new(name.as_bytes())?;
    let flags = access | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a string that ends in zero and outlives the call.
    let opened = unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { File::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_missing_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("one/two");
        assert!(open(&path).unwrap_err().is_absent());
        make(&path).unwrap();
        assert_eq!((mode(&parent.path().join("one")), mode(&path)), (0o700, 0o700));
        open(&path).unwrap();
    }

    #[test]
    fn who_may_pass_still_may_and_who_could_lock_cannot() {
        let parent = tempfile::tempdir().unwrap();
        for (before, after) in [(0o755, 0o711), (0o711, 0o711), (0o750, 0o710), (0o700, 0o700)] {
            set_mode(parent.path(), before);
            make(parent.path()).unwrap();
            assert_eq!(mode(parent.path()), after, "{before:o}");
        }
    }

    #[test]
    fn a_part_that_others_may_write_in_is_refused_unless_only_owners_remove_things_there() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("one/two");
        make(&path).unwrap();
        let one = parent.path().join("one");
        for bad in [0o720, 0o702, 0o777] {
            set_mode(&one, bad);
            for opened in [open(&path), make(&path)] {
                let NotOurs::Mode { path, mode } = opened.unwrap_err() else { panic!("{bad:o}") };
                assert_eq!((&path, mode), (&one, bad));
            }
        }
        set_mode(&one, 0o1777);
        open(&path).unwrap();
        // Not the last one itself: others would put things there.
        assert!(matches!(open(&one), Err(NotOurs::Mode { mode: 0o1777, .. })));
    }

    #[test]
    fn links_of_our_own_are_followed_and_what_they_lead_to_is_looked_at() {
        let parent = tempfile::tempdir().unwrap();
        let real = parent.path().join("real/deep");
        make(&real).unwrap();
        symlink("real/deep/../deep", parent.path().join("link")).unwrap();
        symlink(&real, parent.path().join("whole")).unwrap();
        for link in ["link", "whole"] {
            let opened = open(&parent.path().join(link)).unwrap().metadata().unwrap();
            assert_eq!(opened.ino(), fs::metadata(&real).unwrap().ino(), "{link}");
        }
        set_mode(&parent.path().join("real"), 0o777);
        for link in ["link", "whole"] {
            let refused = open(&parent.path().join(link));
            assert!(matches!(refused, Err(NotOurs::Mode { .. })), "{link}");
        }
        symlink("round", parent.path().join("round")).unwrap();
        assert!(matches!(open(&parent.path().join("round")), Err(NotOurs::Open { .. })));
    }

    #[test]
    fn a_file_is_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        assert!(matches!(make(&parent.path().join("file")), Err(NotOurs::Open { .. })));
    }
}
