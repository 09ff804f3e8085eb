//! How many system calls the fast path costs, as strace counts them.

use std::{env, fs, process::Command};

use hb_ebpf::wire::FRAME_LEN;
use hb_user::{
    address::{AddressSocket, Batch, Change, Done, Vip},
    announce::{AnnounceSocket, Announcement, Gateways},
    link::{Ends, LinkSocket},
};

use super::namespace::Namespace;

/// A write to a file that is never open shows in the trace and does nothing.
fn mark(text: &str) {
    // SAFETY: `text` is readable for its length; the file is not open.
    unsafe { libc::write(-1, text.as_ptr().cast(), text.len()) };
}

/// The part that is traced, in a process of its own, by the test below; by itself it says that what is
/// traced works.
#[test]
fn traced() {
    let (left, right) = Namespace::pair();
    let (index, own) = left.end("left");
    let (_, peer) = right.end("right");
    let v4 = Ends::Udp4 { own: [10, 9, 0, 1].into(), peer: [10, 9, 0, 2].into() };
    let v6 = Ends::Udp6 { own: "fd09::1".parse().unwrap(), peer: "fd09::2".parse().unwrap() };
    let links = [("ethernet", Ends::Ethernet { own, peer }), ("udp4", v4), ("udp6", v6)];
    let announcement = Announcement::new([10, 9, 0, 100].into(), own, Gateways::default());
    let mut batch = Batch::new();
    for last in 100..104 {
        let vip = Vip::new(index, [10, 9, 0, last].into(), 32).unwrap();
        batch.push(Change::Add, vip).unwrap();
    }
    let mut results = [Ok(Done::Missing); 4];
    left.inside(|| {
        let mut addresses = AddressSocket::open().unwrap();
        let announcer = AnnounceSocket::open(index).unwrap();
        mark("begin addresses");
        addresses.execute(&batch, &mut results).unwrap();
        mark("end addresses");
        mark("begin announcement");
        announcement.frames().for_each(|frame| announcer.send(frame).unwrap());
        mark("end announcement");
        for (name, ends) in links {
            let socket = LinkSocket::open(index, ends).unwrap();
            mark(&format!("begin {name}"));
            socket.send(&[7; FRAME_LEN]).unwrap();
            mark(&format!("end {name}"));
        }
    });
    assert_eq!(results, [Ok(Done::Added); 4]);
}

/// The names of the calls between two marks.
fn calls(trace: &str, name: &str) -> Vec<String> {
    let after = |text: &str| format!("write(-1, \"{text} {name}\"");
    let mut lines = trace.lines().skip_while(|line| !line.contains(&after("begin")));
    let (process, _) = lines.next().unwrap().split_once(' ').unwrap();
    lines
        .filter_map(|line| line.strip_prefix(process))
        .take_while(|line| !line.contains(&after("end")))
        .map(|line| line.trim().split('(').next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_fast_path_makes_the_system_calls_it_claims() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&file)
        .arg(env::current_exe().unwrap())
        .args(["net::syscalls::traced", "--exact"])
        .output()
        .expect("strace has to be installed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let trace = fs::read_to_string(file).unwrap();
    for (name, expected) in [
        ("ethernet", &["sendmsg"][..]),
        ("udp4", &["sendto"]),
        ("udp6", &["sendto"]),
        ("announcement", &["sendto", "sendto"]),
        ("addresses", &["sendto", "recvfrom", "recvfrom", "recvfrom", "recvfrom"]),
    ] {
        assert_eq!(calls(&trace, name), expected, "{name}");
    }
}
