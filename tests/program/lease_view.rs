//! What an application sees of a lease, in Rust and in C, of a map that this test writes as the
//! kernel half would.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use hb_lease::{ENDLESS, GROUPS, Lease, LeaseView, ReadError, State, now_ns};
use hb_user::kernel::{Kernel, KernelError, OBJECT};

use super::rig::Pins;

/// `BPF_MAP_CREATE`, `BPF_MAP_UPDATE_ELEM`, `BPF_OBJ_PIN`, `BPF_OBJ_GET`; `BPF_MAP_TYPE_ARRAY`; `BPF_F_MMAPABLE` (`linux/bpf.h`).
const CREATE: libc::c_int = 0;
const UPDATE: libc::c_int = 2;
const PIN: libc::c_int = 6;
const GET: libc::c_int = 7;
const ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;

/// Calls bpf(2) with an attribute of 64-bit words; every word of those used here is one field of
/// eight bytes or two of four.
fn bpf(command: libc::c_int, attribute: &[u64]) -> io::Result<i32> {
    // SAFETY: the attribute is readable for its length; addresses in it are of locals of the
    // callers that outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// A map of leases, pinned.
struct Leases {
    map: OwnedFd,
    pin: PathBuf,
}

impl Leases {
    fn new(directory: &Path) -> Self {
        Self::of_size(directory, 32, GROUPS as u32)
    }

    fn of_size(directory: &Path, value: u32, entries: u32) -> Self {
        fs::create_dir_all(directory).unwrap();
        let attribute = [pair(ARRAY, 4), pair(value, entries), pair(MMAPABLE, 0)];
        let map = bpf(CREATE, &attribute).unwrap();
        // SAFETY: just made, and nobody else's.
        let map = unsafe { OwnedFd::from_raw_fd(map) };
        let pin = directory.join("LEASES");
        let name = CString::new(pin.as_os_str().as_bytes()).unwrap();
        bpf(PIN, &[name.as_ptr() as u64, pair(map.as_raw_fd() as u32, 0)]).unwrap();
        Self { map, pin }
    }

    fn write(&self, group: u32, words: &[u64; 4]) {
        self.try_write(group, words).unwrap();
    }

    fn try_write(&self, group: u32, words: &[u64; 4]) -> io::Result<i32> {
        let key = [group];
        let map = pair(self.map.as_raw_fd() as u32, 0);
        bpf(UPDATE, &[map, key.as_ptr() as u64, words.as_ptr() as u64, 0])
    }
}

/// The bytes of a record as the document lays it out.
fn record(sequence: u32, holder: u8, state: u8, epoch: u64, expires_ns: u64) -> [u64; 4] {
    let second = u32::from_ne_bytes([holder, state, 0, 0]);
    // Of the group with fingerprint 0x91.
    [pair(sequence, second), epoch, expires_ns, pair(0x91, 0)]
}

#[test]
fn a_view_sees_what_is_written() {
    let pins = Pins::new();
    let leases = Leases::new(pins.path());
    let view = LeaseView::open(&leases.pin).unwrap();
    let nothing = Lease { holder: 0, state: State::Idle, epoch: 0, expires_ns: 0, fingerprint: 0 };
    assert_eq!(view.read(GROUPS - 1), Ok(nothing));
    assert_eq!(view.read(GROUPS), Err(ReadError::Group { group: GROUPS }));

    leases.write(7, &record(2, 3, 2, 0x1_0000_0203, 5_000));
    let (state, epoch, expires_ns) = (State::Holding, 0x1_0000_0203, 5_000);
    let held = Lease { holder: 3, state, epoch, expires_ns, fingerprint: 0x91 };
    assert_eq!(view.read(7), Ok(held));
    assert_eq!((view.find(0x91), view.find(0x92), view.find(0)), (Ok(Some(7)), Ok(None), Ok(None)));
    assert_eq!((held.held_at(4_999), held.held_at(5_000)), (Some(held.epoch), None));
    assert_eq!(view.read(0), Ok(nothing), "another group");
    leases.write(7, &record(4, 3, 2, 0x1_0000_0203, ENDLESS));
    assert_eq!(view.read(7).unwrap().held_at(now_ns().unwrap()), Some(held.epoch));

    leases.write(7, &record(5, 3, 3, 0, 0));
    assert_eq!(view.read(7), Err(ReadError::Unsteady), "half written for ever");

    assert!(view.is_current());
    fs::remove_file(&leases.pin).unwrap();
    assert!(!view.is_current());
    assert_eq!(LeaseView::open(&leases.pin).unwrap_err().kind(), io::ErrorKind::NotFound);
    let again = Leases::new(pins.path());
    assert!(!view.is_current(), "another map under the same name");
    assert!(LeaseView::open(&again.pin).unwrap().is_current());
}

/// For a process that may not open the pin, and may be given what is open.
#[test]
fn a_descriptor_is_as_good_as_a_pin() {
    let pins = Pins::new();
    let leases = Leases::new(pins.path());
    let view = LeaseView::of_descriptor(leases.map.as_fd()).unwrap();
    leases.write(3, &record(2, 3, 2, 0x1_0000_0203, 5_000));
    drop(leases);
    assert_eq!(view.read(3).unwrap().held_at(4_999), Some(0x1_0000_0203), "kept by the mapping");
    assert!(!view.is_current(), "it knows no pin");
}

#[test]
fn a_map_of_another_version_is_refused() {
    for (value, entries) in [(40, GROUPS as u32), (24, GROUPS as u32), (32, 9), (32, 7)] {
        let pins = Pins::new();
        let other = Leases::of_size(pins.path(), value, entries);
        let refused = LeaseView::open(&other.pin).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{value} {entries}: {refused}");
        let said = format!("type 2 with {entries} of {value} bytes");
        assert!(refused.to_string().ends_with(&said), "{refused}");
    }
}

/// Names the pin for the test that is run again in a time namespace.
const ELSEWHERE: &str = "HB_TEST_LEASES";

#[test]
fn a_view_from_a_time_namespace_is_refused() {
    if let Some(pin) = std::env::var_os(ELSEWHERE) {
        let refused = LeaseView::open(Path::new(&pin)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        assert!(refused.to_string().contains("100000000000000 ns ahead"), "{refused}");
        return;
    }
    let pins = Pins::new();
    let leases = Leases::new(pins.path());
    for (boottime, good) in [("0", false), ("100000", true)] {
        let output = Command::new("unshare")
            .args(["--time", "--boottime", boottime])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "program::lease_view::a_view_from_a_time_namespace_is_refused"])
            .env(ELSEWHERE, &leases.pin)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), good, "{boottime}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("running 1 test"), "{output:?}");
    }
}

/// As a daemon leaves it, and the next one finds it: for programs of the kernel to write, and for no
/// process, even if it may open the pin for writing.
#[test]
fn the_leases_of_a_node_are_read_and_not_written() {
    let pins = Pins::new();
    let pin = pins.path().join("LEASES");
    for start in 0..2 {
        let _kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let name = CString::new(pin.as_os_str().as_bytes()).unwrap();
        let map = bpf(GET, &[name.as_ptr() as u64, 0]).unwrap();
        // SAFETY: just made, and nobody else's.
        let leases = Leases { map: unsafe { OwnedFd::from_raw_fd(map) }, pin: pin.clone() };
        let refused = leases.try_write(1, &record(2, 1, 2, 9, ENDLESS)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "start {start}");
        let nothing =
            Lease { holder: 0, state: State::Idle, epoch: 0, expires_ns: 0, fingerprint: 0 };
        assert_eq!(LeaseView::open(&pin).unwrap().read(1), Ok(nothing));
    }
}

/// Pins of an earlier version, which did not freeze the map, and a process that can still write it.
#[test]
fn a_map_that_a_process_may_write_is_refused() {
    let pins = Pins::new();
    Kernel::open(OBJECT, pins.path()).map(drop).unwrap();
    fs::remove_file(pins.path().join("LEASES")).unwrap();
    let leases = Leases::new(pins.path());
    let map = leases.map.as_raw_fd();
    let (length, both) = (32 * GROUPS, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of an open descriptor.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), length, both, libc::MAP_SHARED, map, 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    let error = Kernel::open(OBJECT, pins.path()).map(drop).unwrap_err();
    assert!(matches!(error, KernelError::Freeze { .. }), "{error:?}");
    // SAFETY: mapped above, and used by nobody.
    assert_eq!(unsafe { libc::munmap(mapped, length) }, 0);
    Kernel::open(OBJECT, pins.path()).map(drop).unwrap();
}

/// A writer that never rests, and a reader that must not see halves of two records.
#[test]
fn no_look_sees_two_records_at_once() {
    const LOOKS: u32 = 200_000;
    let pins = Pins::new();
    let leases = Leases::new(pins.path());
    let view = LeaseView::open(&leases.pin).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number: u32 = 0;
            while !done.load(Ordering::Relaxed) {
                // The kernel copies a value in an order of its own; only the two odd writes around
                // it make it whole, as the kernel half does with its sequence.
                let next = number.wrapping_add(1);
                let (old, new) = (u64::from(number), u64::from(next));
                leases.write(0, &record(2 * number + 1, 1, 2, old, old));
                leases.write(0, &record(2 * number + 1, 1, 2, new, new));
                leases.write(0, &record(2 * next, 1, 2, new, new));
                number = next;
            }
        });
        let mut last = 0;
        for _ in 0..LOOKS {
            let Ok(lease) = view.read(0) else { continue };
            assert_eq!(lease.epoch, lease.expires_ns, "two records at once");
            assert!(lease.epoch >= last);
            last = lease.epoch;
        }
        done.store(true, Ordering::Relaxed);
        assert!(last > 0);
    });
}

/// The header, and the example of the document as it stands there.
#[test]
fn the_c_header_reads_the_same() {
    let Some(compiler) = ["cc", "gcc", "clang"].into_iter().find(|compiler| {
        Command::new(compiler).arg("--version").output().is_ok_and(|ran| ran.status.success())
    }) else {
        println!("no C compiler here: the header was not tried");
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join("docs/application-lease.md")).unwrap();
    let (_, example) = document.split_once("```c\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (source, program) = (directory.path().join("lease.c"), directory.path().join("lease"));
    fs::write(&source, example).unwrap();
    for standard in ["gnu99", "gnu17"] {
        let mut compile = Command::new(compiler);
        compile.args(["-Wall", "-Wextra", "-Werror", "-O2"]).arg(format!("-std={standard}"));
        compile.arg("-I").arg(root.join("packaging")).arg("-o").arg(&program).arg(&source);
        let compiled = compile.output().unwrap();
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{standard}: {said}");
    }

    let pins = Pins::new();
    let leases = Leases::new(pins.path());
    let says = |words: &[u64; 4]| {
        leases.write(0, words);
        let ran = Command::new(&program).arg(&leases.pin).output().unwrap();
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr)
    };
    let epoch = 4_294_967_553;
    let later = now_ns().unwrap() + 3_600_000_000_000;
    assert_eq!(says(&record(2, 1, 2, epoch, later)), "holder 1 state 2 epoch 4294967553 held\n");
    assert_eq!(says(&record(2, 1, 2, epoch, ENDLESS)), "holder 1 state 2 epoch 4294967553 held\n");
    assert_eq!(says(&record(2, 2, 0, epoch, 0)), "holder 2 state 0 epoch 4294967553 not held\n");
    assert_eq!(says(&record(2, 1, 2, epoch, 1)), "holder 1 state 2 epoch 4294967553 not held\n");
    assert!(says(&record(3, 1, 2, epoch, later)).starts_with("group 0: "));
}
