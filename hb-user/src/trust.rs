//! Whose files are acted on: the configuration names programs that run with all that this daemon may,
//! so whoever can change it, or one of them, may do the same.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Links followed on the way to a file, at most; as many as the kernel follows.
const MAX_LINKS: u32 = 40;
/// Permission bits by which a group and others write.
const WRITE_OTHERS: u32 = 0o022;
/// Permission bit of a directory in which only the owner of a file removes it.
const STICKY: u32 = 0o1000;

/// Somebody else may change what is acted on.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// By its owner.
    #[error(
        "{path} belongs to user {owner}, who could have anything run with the rights of hb; run \
         `chown {euid} {path}`"
    )]
    Owner {
        /// The file, or a directory or link on the way to it.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it may be, beside root's.
        euid: u32,
    },
    /// By its mode.
    #[error(
        "{path} has mode {mode:04o}, so others can change it and have anything run with the rights \
         of hb; run `chmod go-w {path}`"
    )]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be looked at.
    #[error("cannot look at {path}, to see who may change it")]
    Look {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Checks that nobody but root and the user of this process may change the file at `path`, or put
/// another in its place: it, and each directory and link on the way to it.
///
/// # Errors
///
/// [`Untrusted`], with the first that is not so. A `path` that leads nowhere is
/// [`Untrusted::Look`].
pub fn check(path: &Path) -> Result<(), Untrusted> {
    let look = |path: &Path, source| Untrusted::Look { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(|source| look(path, source))?;
    let mut left: VecDeque<OsString> = parts(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    judge(&at, &fs::metadata(&at).map_err(|source| look(&at, source))?)?;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(&part);
        let found = fs::symlink_metadata(&at).map_err(|source| look(&at, source))?;
        judge(&at, &found)?;
        if !found.is_symlink() {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(look(&at, io::Error::from_raw_os_error(libc::ELOOP)));
        }
        let target = fs::read_link(&at).map_err(|source| look(&at, source))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        } else {
            at.pop();
        }
        for part in parts(&target).into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok(())
}

/// Does the same for what is about to be run; what is not there is for others to tell of.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_program(path: &Path) -> Result<(), Untrusted> {
    match check(path) {
        Err(Untrusted::Look { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked,
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn judge(path: &Path, found: &Metadata) -> Result<(), Untrusted> {
    // SAFETY: plain system call.
    let euid = unsafe { libc::geteuid() };
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != 0 && owner != euid {
        return Err(Untrusted::Owner { path: path.to_owned(), owner, euid });
    }
    // Nobody writes a link, and what is in a sticky directory is changed by its owner.
    let sticky = found.is_dir() && mode & STICKY != 0;
    if !found.is_symlink() && !sticky && mode & WRITE_OTHERS != 0 {
        return Err(Untrusted::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_trusted_if_nobody_else_may_change_it_or_the_way_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        let file = inner.join("script");
        fs::create_dir(&inner).unwrap();
        set_mode(&inner, 0o755);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        set_mode(&file, 0o755);
        check(&file).unwrap();
        for (path, mode) in [(&file, 0o775), (&file, 0o757), (&inner, 0o777), (&inner, 0o770)] {
            let before = fs::metadata(path).unwrap().permissions();
            set_mode(path, mode);
            match check(&file) {
                Err(Untrusted::Mode { path: found, mode: said }) => {
                    assert_eq!((found.as_path(), said), (path.as_path(), mode));
                }
                other => panic!("{mode:o} of {}: {other:?}", path.display()),
            }
            fs::set_permissions(path, before).unwrap();
        }
        // As in /tmp: others may put files there, and not in the place of this one.
        set_mode(&inner, 0o1777);
        check(&file).unwrap();
    }

    #[test]
    fn links_are_followed_and_what_they_lead_through_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let (good, open) = (directory.path().join("good"), directory.path().join("open"));
        for path in [&good, &open] {
            fs::create_dir(path).unwrap();
            set_mode(path, 0o755);
        }
        fs::write(good.join("script"), "").unwrap();
        set_mode(&good.join("script"), 0o700);
        symlink("../good/script", open.join("link")).unwrap();
        symlink(open.join("link"), good.join("long-way")).unwrap();
        check(&open.join("link")).unwrap();
        check(&good.join("long-way")).unwrap();
        set_mode(&open, 0o777);
        check(&good.join("script")).unwrap();
        let way = check(&good.join("long-way")).unwrap_err();
        assert!(matches!(&way, Untrusted::Mode { path, .. } if *path == open), "{way}");

        symlink("loop", good.join("loop")).unwrap();
        let endless = check(&good.join("loop")).unwrap_err();
        assert!(matches!(endless, Untrusted::Look { .. }), "{endless}");
        let nowhere = check(&good.join("nothing")).unwrap_err();
        assert!(matches!(nowhere, Untrusted::Look { .. }), "{nowhere}");
    }

    #[test]
    fn a_file_of_somebody_else_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script");
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o755);
        // Only root may give it away.
        if std::os::unix::fs::chown(&file, Some(65_534), None).is_ok() {
            let error = check(&file).unwrap_err();
            assert!(matches!(error, Untrusted::Owner { owner: 65_534, .. }), "{error}");
            assert!(error.to_string().contains("chown"), "{error}");
        }
    }
}
