use super::*;
use proptest::prelude::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn parent() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_number_known_otherwise_is_never_taken_again() {
    let parent = parent();
    let path = parent.path().join("pair-a");
    let mut dir = StateDir::open(&path).unwrap();
    assert_eq!(dir.reserve_incarnation(7).unwrap(), 8);
    assert_eq!(dir.reserve_incarnation(3).unwrap(), 9);
    assert_eq!(dir.reserve_generation().unwrap(), 1);
}

#[test]
fn numbers_survive_a_restart() {
    let parent = parent();
    let path = parent.path().join("lib").join("pair-a");
    for start in 1..=3 {
        let mut dir = StateDir::open(&path).unwrap();
        assert_eq!(dir.reserve_incarnation(0).unwrap(), start);
        let stored = fs::read_to_string(path.join("incarnation")).unwrap();
        assert_eq!(stored, format!("{start}\n"), "stored before it is used");
        assert_eq!(dir.generation().unwrap(), start - 1);
        assert_eq!(dir.reserve_generation().unwrap(), start);
        assert_eq!(dir.generation().unwrap(), start);
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn one_daemon_at_a_time() {
    let parent = parent();
    let path = parent.path().join("pair-a");
    let first = StateDir::open(&path).unwrap();
    let error = StateDir::open(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    fs::write(path.join("lock"), "").unwrap();
    let error = StateDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    StateDir::open(&parent.path().join("pair-b")).expect("another node shares the parent");
    drop(first);
    StateDir::open(&path).expect("free again");
}

#[test]
fn what_a_killed_daemon_was_about_to_run_is_waited_for() {
    let parent = parent();
    let path = parent.path().join("pair-a");
    let mut first = StateDir::open(&path).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    // The lock is that of a process that has ended, in a descriptor that it left to another.
    fs::write(path.join("lock"), format!("{}\n", child.id())).unwrap();
    let left = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        first.reserve_incarnation(0).unwrap()
    });
    let mut second = StateDir::open(&path).unwrap();
    assert_eq!(second.reserve_incarnation(0).unwrap(), left.join().unwrap() + 1);
    let text = fs::read_to_string(path.join("lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn corrupt_files_are_refused_and_kept() {
    let parent = parent();
    for content in ["", "\n", "x", "-1", "+1", " 1", "1\n\n", "4294967296", "1 2"] {
        let mut dir = StateDir::open(parent.path()).unwrap();
        fs::write(parent.path().join("incarnation"), content).unwrap();
        let error = dir.reserve_incarnation(0).unwrap_err();
        assert!(matches!(error, StateDirError::Corrupt { .. }), "{content:?}: {error}");
        let error = error.to_string();
        assert!(error.contains("incarnation holds"), "{error}");
        assert!(error.contains(&format!("{content:?}")), "{error}");
        assert_eq!(fs::read_to_string(parent.path().join("incarnation")).unwrap(), content);
    }
}

#[test]
fn a_node_stands_aside_after_a_restart_and_a_damaged_word_is_refused() {
    let parent = parent();
    let file = parent.path().join("aside");
    assert_eq!(StateDir::open(parent.path()).unwrap().aside().unwrap(), Aside::Nothing);
    for aside in Aside::EVERY {
        StateDir::open(parent.path()).unwrap().store_aside(aside).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{}\n", aside.as_str()));
        assert_eq!(StateDir::open(parent.path()).unwrap().aside().unwrap(), aside);
    }
    for content in ["", "\n", "al", "all\n\n", "all local", "ALL", "1", "\u{fffd}"] {
        fs::write(&file, content).unwrap();
        let error = StateDir::open(parent.path()).unwrap().aside().unwrap_err();
        assert!(matches!(error, StateDirError::CorruptAside { .. }), "{content:?}: {error}");
        let error = error.to_string();
        assert!(error.contains(&format!("aside holds {content:?}")), "{error}");
        assert!(error.contains("hb standby"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
    }
}

#[test]
fn the_last_number_is_the_last() {
    let parent = parent();
    let mut dir = StateDir::open(parent.path()).unwrap();
    fs::write(parent.path().join("generation"), "4294967294\n").unwrap();
    assert_eq!(dir.reserve_generation().unwrap(), u32::MAX);
    let error = dir.reserve_generation().unwrap_err();
    assert!(matches!(error, StateDirError::UsedUp { .. }), "{error}");
    assert_eq!(dir.generation().unwrap(), u32::MAX);
}

#[test]
fn a_directory_others_can_write_is_refused() {
    let parent = parent();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let error = StateDir::open(parent.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0770") && error.contains("chmod go-w"), "{error}");
}

#[test]
fn a_file_in_the_way_is_named() {
    let parent = parent();
    let path = parent.path().join("pair-a");
    fs::write(&path, "").unwrap();
    let error = StateDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("pair-a"), "{error}");
}

proptest! {
    #[test]
    fn numbers_round_trip(stored: u32) {
        prop_assert_eq!(number(stored.to_string().as_bytes()), Some(stored));
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>) {
        let _ = number::<u32>(&bytes);
    }
}
