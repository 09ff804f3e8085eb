//! What outlives a daemon, and what the next one makes of it.

use std::fs;

use aya::maps::{Array, Map, MapData, MapInfo};
use hb_ebpf::{
    maps::{LAYOUT, Node},
    wire::GROUPS,
};
use hb_user::kernel::{Kernel, KernelError, OBJECT};
use zerocopy::IntoBytes;

use super::rig::{ME, NONCE, PEER, Pins, identity, keys};

fn open(pins: &Pins) -> Result<Kernel, KernelError> {
    Kernel::open(OBJECT, pins.path())
}

fn introduced(pins: &Pins) -> Kernel {
    let kernel = open(pins).unwrap();
    kernel.share().unwrap().introduce(&identity());
    kernel
}

/// Name and map id of every pin.
fn ids(pins: &Pins) -> Vec<(String, u32)> {
    let mut ids: Vec<_> = fs::read_dir(pins.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let id = MapInfo::from_pin(entry.path()).unwrap().id();
            (entry.file_name().into_string().unwrap(), id)
        })
        .collect();
    ids.sort();
    ids
}

#[test]
fn a_second_daemon_finds_what_the_first_left() {
    let pins = Pins::new();
    let mut first = introduced(&pins);
    assert!(!first.found());
    first.timers().unwrap();
    first.set_keys(PEER, &keys()).unwrap();
    let healths = [2; GROUPS];
    first.share().unwrap().publish(&healths, false);
    let left = ids(&pins);
    drop(first);
    let second = open(&pins).unwrap();
    assert!(second.found());
    let shared = second.share().unwrap();
    let node = shared.node();
    assert_eq!((node.layout, node.nonce, node.id), (LAYOUT, NONCE, ME.0));
    assert_eq!(shared.published(), healths);
    assert_eq!(ids(&pins), left, "the same maps");
}

#[test]
fn maps_of_another_layout_number_are_left_alone() {
    let pins = Pins::new();
    drop(introduced(&pins));
    let data = MapData::from_pin(pins.path().join("NODE")).unwrap();
    let mut map: Array<_, [u8; size_of::<Node>()]> = Map::Array(data).try_into().unwrap();
    let mut node = map.get(&0, 0).unwrap();
    node[..8].copy_from_slice((LAYOUT + 1).as_bytes());
    map.set(0, node, 0).unwrap();
    let left = ids(&pins);
    let kernel = open(&pins).unwrap();
    let Err(error) = kernel.share() else { panic!("shared maps of another layout") };
    assert!(matches!(error, KernelError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("layout 0x"), "{error}");
    drop(kernel);
    assert_eq!(ids(&pins), left);
    assert_eq!(map.get(&0, 0).unwrap(), node);
}

#[test]
fn maps_of_another_size_are_left_alone() {
    let pins = Pins::new();
    drop(introduced(&pins));
    fs::remove_file(pins.path().join("PEERS")).unwrap();
    fs::rename(pins.path().join("LINKS"), pins.path().join("PEERS")).unwrap();
    refuse(&pins, "PEERS");
}

#[test]
fn remains_of_an_interrupted_removal_are_left_alone() {
    let pins = Pins::new();
    drop(introduced(&pins));
    fs::remove_file(pins.path().join("NODE")).unwrap();
    refuse(&pins, "NODE");
}

fn refuse(pins: &Pins, map: &str) {
    let left = ids(pins);
    let Err(error) = open(pins) else { panic!("took maps that are not ours") };
    assert!(matches!(error, KernelError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains(&format!("map {map}")), "{error}");
    assert_eq!(ids(pins), left);
}

#[test]
fn removal_leaves_nothing() {
    let pins = Pins::new();
    let mut kernel = introduced(&pins);
    let judge = kernel.judge().unwrap();
    kernel.remove().unwrap();
    assert!(!pins.path().exists());
    drop(judge);
    // And the next one starts afresh.
    let kernel = open(&pins).unwrap();
    assert!(!kernel.found());
    assert_eq!(kernel.share().unwrap().node().layout, 0);
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let Err(error) = Kernel::open(OBJECT, &directory.path().join("node")) else {
        panic!("pinned maps in an ordinary directory")
    };
    let path = directory.path().display().to_string();
    let text = format!("{error}");
    assert!(text.contains(&path) || text.contains("refused the maps"), "{text}");
}
