//! An interface loses its carrier, and the kernel half tells of it.

use std::{thread, time::Duration};

use hb_ebpf::maps::{Event, EventKind};
use hb_user::{
    clock,
    kernel::{Events, Kernel, OBJECT},
};

use super::{namespace::Namespace, rig::Pins};

/// Waits for `count` events that tell of a carrier.
fn carriers(events: &mut Events, count: usize) -> Vec<Event> {
    let mut found = Vec::new();
    let until = clock::now().after(Duration::from_secs(10));
    while found.len() < count && clock::now() < until {
        match events.take() {
            Some(event) if event.kind == EventKind::Carrier as u8 => found.push(event),
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    found
}

#[test]
fn a_carrier_that_is_lost_is_told_of_by_its_interface_and_in_this_namespace_alone() {
    let (left, right) = Namespace::pair();
    // Of the same index as the one on the left, and another namespace's.
    let (other, _far) = Namespace::pair();
    let (index, _) = left.end("left");
    assert_eq!(other.end("left").0, index);
    left.inside(|| {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        if let Err(why) = kernel.hear_carriers() {
            // Some machines let nobody trace their kernel. Nothing else here may depend on it.
            assert!(why.contains("not permitted"), "{why}");
            assert!(kernel.attach("left", index, None).is_ok());
            return;
        }
        let mut events = kernel.events().unwrap();
        other.ip("link set left down");
        let before = clock::now();
        // The far end: here nothing is changed but the carrier.
        right.ip("link set right down");
        let found = carriers(&mut events, 1);
        let [event] = found[..] else { panic!("{found:?}") };
        assert_eq!(event.interface, index);
        assert!(event.at_ns > before.ns() && event.at_ns < clock::now().ns());
        // Its own end, set down by hand.
        right.ip("link set right up");
        left.ip("link set left down");
        let found = carriers(&mut events, 1);
        assert_eq!(found[0].interface, index, "{found:?}");
    });
}
