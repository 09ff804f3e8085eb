//! Packets that arrive, as the library of both halves reads them.

use hb_ebpf::{
    gate,
    maps::{Node, Path},
    packet,
    siphash::Key,
    wire::{Be32, Frame, Kind, MAGIC, VERSION},
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::{finds, holds};
use crate::link::Ends;

const CLUSTER: u32 = 0xc0ff_ee01;
const INTERFACE: u32 = 3;
const LINK_IS: u32 = 0x6c69_6e6b;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];

fn frame() -> Frame {
    let mut frame = Frame {
        magic: MAGIC,
        version: VERSION,
        kind: Kind::Probe as u8,
        cluster: Be32::new(CLUSTER),
        source: 1,
        destination: 2,
        link_fingerprint: Be32::new(LINK_IS),
        ..Frame::default()
    };
    frame.sign(&Key { words: [1, 2] });
    frame
}

/// A frame as it is and by UDP, without and with a tag.
fn seeds() -> Vec<Vec<u8>> {
    let raw = [&[0x88, 0xb5], frame().as_bytes()].concat();
    let length = |headers: usize| ((headers + size_of::<Frame>()) as u16).to_be_bytes();
    let udp = [&[0x02, 0xb6, 0x02, 0xb6][..], &length(8), &[0; 2], frame().as_bytes()].concat();
    let four = [
        &[0x08, 0x00, 0x45, 0][..],
        &length(28),
        &[0, 7, 0x40, 0, 255, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2],
        &udp,
    ];
    let six = [
        &[0x86, 0xdd, 0x60, 0, 0, 0][..],
        &length(8),
        &[17, 255],
        &[[0xfd; 16], [0xfc; 16]].concat(),
        &udp,
    ];
    let bare = [raw, four.concat(), six.concat()];
    let tagged = bare.iter().map(|packet| [&[0x81, 0x00, 0x20, 5][..], packet].concat());
    let all = bare.iter().cloned().chain(tagged);
    all.map(|packet| [&MACS.concat()[..], &packet].concat()).collect()
}

fn paths() -> [Path; 3] {
    let [own, peer] = MACS;
    [
        Ends::Ethernet { own, peer },
        Ends::Udp4 { own: [192, 0, 2, 2].into(), peer: [192, 0, 2, 1].into() },
        Ends::Udp6 { own: [0xfc; 16].into(), peer: [0xfd; 16].into() },
    ]
    .map(|ends| Path { fingerprint: LINK_IS, ..ends.path(INTERFACE, None, 255) })
}

/// Reads a packet as the programs do; returns the kind of the frame if it is one of a link.
fn read(bytes: &[u8]) -> Option<Kind> {
    let node = Node { cluster: CLUSTER, id: 2, ..Node::new_zeroed() };
    let _ = (gate::arriving(bytes), gate::leaving(bytes), packet::network(bytes));
    let envelope = packet::find(bytes)?;
    let _ = packet::cluster(bytes, envelope);
    let claim = packet::claim(bytes, envelope, &node)?;
    let link = packet::link(bytes, envelope);
    let mut judged = paths()
        .into_iter()
        .map(|path| packet::check(bytes, envelope, &claim, link, &path, INTERFACE));
    let kind = judged.find_map(Result::ok)?;
    let frame = Frame::read_from_bytes(&bytes[envelope.frame..]).expect("a frame that was checked");
    let _ = frame.is_signed_by(&Key { words: [1, 2] });
    let mut answer = bytes.to_vec();
    packet::turn(&mut answer[..], envelope, &frame)
        .expect("a packet that was checked is turned round");
    Some(kind)
}

#[test]
fn any_packet_is_judged() {
    assert!(seeds().iter().all(|packet| read(packet) == Some(Kind::Probe)));
    holds(20_000, &seeds(), read);
}

#[test]
fn a_panic_behind_all_checks_of_a_packet_is_found() {
    finds(20_000, &seeds(), |packet| assert_ne!(read(packet), Some(Kind::Answer)));
}
