use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;

use super::*;
use crate::fuzz;

/// The secret 00 01 .. 1f.
const COUNTING: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// The secret 20 21 .. 3f.
const FURTHER: &str = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

fn key_file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

/// Computed with another implementation of RFC 5869.
#[test]
fn fixed_vector() {
    let keys = ClusterKeys::parse(format!("7 {COUNTING}\n").as_bytes()).unwrap();
    let derived = peer_keys(&keys, 0x0102_0304, NodeId(1), NodeId(2));
    let transmit = u128::to_be_bytes(0xa9ec_3315_724c_007a_c8b8_ecc0_04f0_d55d);
    let receive = u128::to_be_bytes(0x180a_36d7_06b2_49de_b156_6e55_9ff1_4b67);
    assert_eq!(derived.ids, [7, 0]);
    assert!(derived.transmit == [Key::from_bytes(transmit), Key::default()]);
    assert!(derived.receive == [Key::from_bytes(receive), Key::default()]);
}

proptest! {
    #[test]
    fn what_one_transmits_under_the_other_receives_under(
        cluster: u32,
        (a, b) in (1_u8..=64, 1_u8..=64).prop_filter("two nodes", |(a, b)| a != b),
    ) {
        let text = format!("1 {COUNTING}\n2 {FURTHER}\n");
        let keys = ClusterKeys::parse(text.as_bytes()).unwrap();
        let of_a = peer_keys(&keys, cluster, NodeId(a), NodeId(b));
        let of_b = peer_keys(&keys, cluster, NodeId(b), NodeId(a));
        prop_assert_eq!(of_a.ids, [1, 2]);
        prop_assert_eq!(of_a.ids, of_b.ids);
        prop_assert_eq!(of_a.transmit, of_b.receive);
        prop_assert_eq!(of_a.receive, of_b.transmit);
        let all = [of_a.transmit[0], of_a.transmit[1], of_a.receive[0], of_a.receive[1]];
        for (index, key) in all.iter().enumerate() {
            prop_assert!(!all[..index].contains(key), "every direction and secret has its own");
        }
        let elsewhere = peer_keys(&keys, cluster ^ 1, NodeId(a), NodeId(b));
        prop_assert!(elsewhere.transmit[0] != of_a.transmit[0], "every cluster has its own");
    }

    #[test]
    fn any_content_is_judged(content: Vec<u8>) {
        let _ = ClusterKeys::parse(&content);
    }

    #[test]
    fn near_misses_are_judged(content in "([0-9]{0,4} ?[0-9a-fxA-F]{60,66} ?#?\n?){0,4}") {
        let _ = ClusterKeys::parse(content.as_bytes());
    }
}

#[test]
fn comments_case_and_order() {
    let text = format!("# new\n\n  9\t{}  # soon\n3 {FURTHER}", COUNTING.to_uppercase());
    let keys = ClusterKeys::parse(text.as_bytes()).unwrap();
    assert_eq!(keys.ids(), [9, 3]);
}

#[test]
fn faults_have_a_line() {
    let repeated = "ab".repeat(32);
    for (text, line, fault) in [
        (String::new(), 1, KeyFault::Empty),
        ("# nothing\n".into(), 1, KeyFault::Empty),
        (format!("{COUNTING}\n"), 1, KeyFault::Form),
        (format!("\n1 {COUNTING} x\n"), 2, KeyFault::Form),
        (format!("0 {COUNTING}\n"), 1, KeyFault::Id),
        (format!("256 {COUNTING}\n"), 1, KeyFault::Id),
        (format!("+1 {COUNTING}\n"), 1, KeyFault::Id),
        (format!("1 {COUNTING}\n1 {FURTHER}\n"), 2, KeyFault::DuplicateId(1)),
        (format!("1 {COUNTING}\n2 {FURTHER}\n#\n3 {FURTHER}\n"), 4, KeyFault::TooMany),
        (format!("1 {}\n", &COUNTING[1..]), 1, KeyFault::Length(63)),
        (format!("1 {COUNTING}00\n"), 1, KeyFault::Length(66)),
        (format!("1 {}g\n", &COUNTING[1..]), 1, KeyFault::Digits),
        (format!("1 {repeated}\n"), 1, KeyFault::Weak(1)),
    ] {
        let found = ClusterKeys::parse(text.as_bytes()).map(|_| ());
        assert_eq!(found, Err((line, fault)), "{text:?}");
    }
}

#[test]
fn sixteen_different_bytes_are_enough() {
    let text = format!("1 {0}{0}", &COUNTING[..32]);
    assert!(ClusterKeys::parse(text.as_bytes()).is_ok());
    let text = format!("1 {0}{0}00", &COUNTING[..30]);
    assert_eq!(ClusterKeys::parse(text.as_bytes()).map(|_| ()), Err((1, KeyFault::Length(62))));
    let text = format!("1 {0}00{0}00", &COUNTING[..30]);
    assert_eq!(ClusterKeys::parse(text.as_bytes()).map(|_| ()), Err((1, KeyFault::Weak(15))));
}

#[test]
fn generated_keys_load_and_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("one"), dir.path().join("two"));
    generate(&first).unwrap();
    generate(&second).unwrap();
    assert_eq!(ClusterKeys::load(&first).unwrap().ids(), [1]);
    assert_ne!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);

    let before = fs::read(&first).unwrap();
    let error = generate(&first).unwrap_err();
    assert!(matches!(error, KeyError::Exists(_)), "{error}");
    assert_eq!(fs::read(&first).unwrap(), before);

    let error = generate(&dir.path().join("none").join("key")).unwrap_err();
    assert!(matches!(error, KeyError::Write { .. }), "{error}");
}

#[test]
fn files_others_can_get_at_are_refused() {
    let content = format!("1 {COUNTING}\n");
    for mode in [0o640, 0o620, 0o604, 0o602, 0o610, 0o601, 0o666] {
        let (_dir, path) = key_file(&content, mode);
        let error = ClusterKeys::load(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("mode {mode:04o}")), "{error}");
        assert!(error.contains("chmod 600"), "{error}");
    }
    for mode in [0o600, 0o400, 0o700] {
        let (_dir, path) = key_file(&content, mode);
        ClusterKeys::load(&path).unwrap();
    }
}

#[test]
fn owner_is_root_or_this_user() {
    let path = Path::new("/etc/hb/key");
    assert!(check_access(path, 0o100_600, 0, 1000).is_ok());
    assert!(check_access(path, 0o100_600, 1000, 1000).is_ok());
    let error = check_access(path, 0o100_600, 1001, 1000).unwrap_err().to_string();
    assert!(error.contains("user 1001") && error.contains("chown root"), "{error}");
    assert!(check_access(path, 0o100_600, 1001, 0).is_err(), "not even for root");
}

#[test]
fn missing_and_strange_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let error = ClusterKeys::load(&path).unwrap_err().to_string();
    assert!(error.contains(&format!("run `hb key generate {}`", path.display())), "{error}");
    let error = ClusterKeys::load(dir.path()).unwrap_err();
    assert!(matches!(error, KeyError::NotAFile(_)), "{error}");
}

#[test]
fn nothing_prints_a_secret() {
    let (_dir, path) = key_file(&format!("1 {COUNTING}\n"), 0o600);
    let keys = ClusterKeys::load(&path).unwrap();
    assert_eq!(format!("{keys:?}"), "ClusterKeys([1])");
    let derived = peer_keys(&keys, 1, NodeId(1), NodeId(2));
    assert!(format!("{derived:?}").contains("Key(..)"));
    let (_dir, path) = key_file(&format!("1 {COUNTING}zz\n"), 0o600);
    let error = format!("{:?}", ClusterKeys::load(&path).unwrap_err());
    assert!(!error.contains("0001") && !error.contains("1e1f"), "{error}");
}

/// Two keys, one of them with a comment.
fn files() -> Vec<Vec<u8>> {
    vec![format!("# ours\n7 {COUNTING}\n8 {FURTHER} # the next\n").into_bytes()]
}

#[test]
fn any_key_file_is_judged() {
    fuzz::holds(20_000, &files(), ClusterKeys::parse);
}

#[test]
fn a_panic_at_one_fault_of_a_key_file_is_found() {
    fuzz::finds(20_000, &files(), |file| {
        let parsed = ClusterKeys::parse(file);
        assert!(!matches!(parsed, Err((_, KeyFault::DuplicateId(_)))));
    });
}
