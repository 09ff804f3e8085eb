//! What a node that leaves in order tells its next start: when all that it promised has run out.
//!
//! A file in the state directory, `parted`: that instant in nanoseconds of `CLOCK_BOOTTIME`, and the
//! clock it is of, by the boot's id and the time namespace (`time_namespaces(7)`). It is believed
//! once, and on the same clock only; without it a start waits for as long as any promise can bind.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hb_ebpf::time::BootTime;

use crate::durable;

const FILE: &str = "parted";

/// The note cannot be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct PartingError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Leaves the note in `directory`; it is on the disk when this returns.
///
/// # Errors
///
/// The system's; there is no note then, or an earlier one, which is not above `end`.
pub(crate) fn leave(directory: &Path, end: BootTime) -> Result<(), PartingError> {
    let path = directory.join(FILE);
    let written = clock_id()
        .and_then(|clock| durable::replace(&path, format!("{} {clock}\n", end.ns()).as_bytes()));
    written.map_err(|source| PartingError { action: "write", path, source })
}

/// Takes the note away, for good when this returns, and returns what it said if it is of the clock
/// that this process has.
///
/// # Errors
///
/// The system's; the note must not be relied on then.
pub(crate) fn take(directory: &Path) -> Result<Option<BootTime>, PartingError> {
    let path = directory.join(FILE);
    let failed = |action| {
        let path = path.clone();
        move |source| PartingError { action, path, source }
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(failed("read")(error)),
    };
    durable::remove(&path).map_err(failed("remove"))?;
    let clock = clock_id().map_err(failed("compare the clock of"))?;
    Ok(parse(&text, &clock))
}

fn parse(text: &str, clock: &str) -> Option<BootTime> {
    let (end, of) = text.strip_suffix('\n')?.split_once(' ')?;
    (of == clock).then_some(())?;
    end.parse().ok().map(BootTime)
}

/// Names the clock: it starts anew with each boot, and each time namespace may set it off.
fn clock_id() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = match fs::read_link("/proc/self/ns/time") {
        Ok(name) => name.display().to_string(),
        // A kernel without time namespaces has one clock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => "time:none".to_owned(),
        Err(error) => return Err(error),
    };
    Ok(format!("{} {namespace}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_believed_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(take(dir.path()).unwrap(), None);
        leave(dir.path(), BootTime(7)).unwrap();
        leave(dir.path(), BootTime(8)).unwrap();
        assert_eq!(take(dir.path()).unwrap(), Some(BootTime(8)));
        assert_eq!(take(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_note_of_another_clock_or_garbage_is_taken_away_and_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let clock = clock_id().unwrap();
        let (boot, namespace) = clock.split_once(' ').unwrap();
        for text in [
            format!("7 00000000-0000-0000-0000-000000000000 {namespace}\n"),
            format!("7 {boot} time:[1]\n"),
            format!("7 {clock}"),
            format!("-7 {clock}\n"),
            format!("7{clock}\n"),
            "7\n".to_owned(),
            String::new(),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(take(dir.path()).unwrap(), None, "{text:?}");
            assert!(!path.exists());
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(take(dir.path()).unwrap(), None);
        fs::write(&path, format!("7 {clock}\n")).unwrap();
        assert_eq!(take(dir.path()).unwrap(), Some(BootTime(7)));
    }

    #[test]
    fn what_cannot_be_taken_away_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FILE)).unwrap();
        let error = take(dir.path()).unwrap_err();
        assert!(error.to_string().contains("parted"), "{error}");
    }
}
