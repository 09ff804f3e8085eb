//! The numbers of `docs/protocol.md`, so that another implementation can check itself against
//! them: the table of offsets, the codes of refusals, and a probe signed with a key made of a known
//! secret.

use std::{fs, mem::offset_of, os::unix::fs::PermissionsExt as _};

use hb_ebpf::{
    answer::{self, Stamp},
    lease::{Policy, Record, Terms, Timing, terms::RHO_DEFAULT},
    maps::{Node, PeerKeys, Words},
    refusal::Refusal,
    wire::{Be32, Frame, GroupWord, Health, Kind, State},
};
use hb_user::{
    id::NodeId,
    key::{ClusterKeys, peer_keys},
    link::Ends,
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

const PROTOCOL: &str = include_str!("../../docs/protocol.md");

/// Returns the rows of the table below `heading`, each as its cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let (_, after) = PROTOCOL.split_once(heading).expect(heading);
    after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// Returns `(offset, size, name)` of each row.
fn layout(heading: &str) -> Vec<(usize, usize, String)> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    table(heading)
        .iter()
        .map(|row| (number(row[0]), number(row[1]), row[2].trim_matches('`').to_owned()))
        .collect()
}

macro_rules! fields {
    ($record:ident { $($field:ident)* }) => {{
        fn size<T>(_: impl Fn(&$record) -> &T) -> usize {
            size_of::<T>()
        }
        // Names every field, so that a new one does not go without its row.
        let $record { $($field: _),* } = $record::default();
        vec![$((
            offset_of!($record, $field),
            size(|record| &record.$field),
            stringify!($field).to_owned(),
        )),*]
    }};
}

#[test]
fn tables_of_offsets_are_those_of_the_code() {
    assert_eq!(
        layout("### Frame layout"),
        fields!(Frame {
            magic version key_id must_understand features kind page cluster source destination
            link refused incarnation revision flags sender_nonce receiver_nonce sequence
            transmit_ns echo_ns link_fingerprint echo_age_ns controller_age_ns config_hash groups tag
        })
    );
    assert_eq!(
        layout("### Word of a group"),
        fields!(GroupWord {
            state health holder successor lease_ns epoch promise_epoch promise_t0_ns
            promise_lease_ns fingerprint
        })
    );
}

#[test]
fn codes_of_refusals_are_those_of_the_code() {
    let documented: Vec<_> = table("## Refusals")
        .iter()
        .map(|row| (row[0].parse::<u8>().unwrap(), row[1].trim_matches('`').to_owned()))
        .collect();
    let real: Vec<_> =
        Refusal::ALL.iter().map(|refusal| (*refusal as u8, refusal.as_str().to_owned())).collect();
    assert_eq!(documented, real);
}

/// The keys that node 1 of the example shares with node 2.
fn keys(me: u8, peer: u8) -> PeerKeys {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    let secret: String = (0_u8..32).map(|byte| format!("{byte:02x}")).collect();
    fs::write(&path, format!("7 {secret}\n")).expect("a key file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    let keys = ClusterKeys::load(&path).expect("good keys");
    peer_keys(&keys, 0x0102_0304, NodeId(me), NodeId(peer))
}

/// The record of the example: node 1 holds the group, and promised it to nobody.
fn record() -> Record {
    Record {
        state: State::Holding as u8,
        epoch: 0x1_0000_0201,
        recorded: 0x1_0000_0201,
        lease_end_ns: 10_001_000_000,
        generation: 1,
        changes: 2,
        fingerprint: 0x9190_2f90,
        ..Record::default()
    }
}

/// The terms of the example: two nodes and a witness, leases of 2 ms.
fn terms() -> Terms {
    let timing = Timing {
        lease_ns: 2_000_000,
        margin_ns: 200_000,
        drain_ns: 300_000,
        seek_ns: 2_000_000,
        rho: RHO_DEFAULT,
        interval_ns: 200_000,
        deadtime_ns: 600_000,
        controller_deadtime_ns: 50_000_000,
    };
    Terms::new(Policy::Witness, &timing, &[1, 2, 3], 1, Some(3)).expect("good terms")
}

/// The probe of the example, made as the daemon makes one.
fn probe() -> Frame {
    let mut words = Words::new_zeroed();
    words.generation = 5;
    words.healths[1][0] = Health::Healthy as u8;
    let mut node = Node::new_zeroed();
    node.id = 1;
    node.cluster = 0x0102_0304;
    node.incarnation = 3;
    node.nonce = 0x1112_1314_1516_1718;
    node.config_hash = 0x3132_3334_3536_3738;
    node.controller_stamp_ns = 9_995_000_000;
    node.controller_deadtime_ns = 50_000_000;
    node.groups = 1;
    node.words = words;
    let keys = keys(1, 2);
    let stamp = Stamp {
        sequence: 1000,
        receiver_nonce: 0x2122_2324_2526_2728,
        echo_ns: 20_000_000_000,
        echo_age_ns: 400_000,
        last_answer_ns: 9_999_600_000,
        now: 10_000_000_000,
        refused: 0,
    };
    let ends = Ends::Udp4 { own: [10, 0, 0, 1].into(), peer: [10, 0, 0, 2].into() };
    let link = ends.fingerprint();
    let mut frame = Frame::default();
    answer::address(&mut frame, &node, 2, (0, link), keys.ids[0]);
    answer::fill(&mut frame, Kind::Probe, &node, &stamp);
    answer::speak_of(&mut frame, 0, &record(), &terms(), &node, stamp.now);
    frame.sign(&keys.transmit[0]);
    frame
}

/// Returns the bytes of the hex dump below `heading`: lines of an offset, a colon and bytes.
fn dump(heading: &str) -> Vec<u8> {
    let (_, after) = PROTOCOL.split_once(heading).expect(heading);
    let (_, block) = after.split_once("```text\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let mut bytes = Vec::new();
    for line in block.lines() {
        let (offset, digits) = line.split_once(':').expect(line);
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let pairs = digits.split_whitespace();
        bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).expect(line)));
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).enumerate().fold(String::new(), |text, (row, chunk)| {
        let digits: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        text + &format!("{:03x}: {}\n", row * 16, digits.join(" "))
    })
}

#[test]
fn the_probe_of_the_example_is_what_the_code_makes() {
    let frame = probe();
    assert!(dump("### The probe") == frame.as_bytes(), "the code makes\n{}", hex(frame.as_bytes()));
}

#[test]
fn the_peer_of_the_example_takes_its_bytes() {
    let frame = Frame::read_from_bytes(&dump("### The probe")).unwrap();
    let keys = keys(2, 1);
    let (receive, _) = keys.of(frame.key_id).expect("the key of its id");
    assert!(frame.is_signed_by(receive));
    assert_eq!(frame.cluster, Be32::new(0x0102_0304));
    let key: Vec<u8> = receive.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(PROTOCOL.contains(&digits), "the key {digits} is not in the text");
}
