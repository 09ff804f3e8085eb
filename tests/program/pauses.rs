//! A clock that stood still, as frames show it: which gate closes, and which does not.

use hb_ebpf::{
    lease::Policy,
    maps::EventKind,
    wire::{Be64, Kind, State},
};
use hb_user::{clock, id::GroupId};

use super::{
    gate::{Gated, LONG, NOT_HOLDING},
    rig::PEER,
};

/// A frame of the peer that is stamped `ahead` nanoseconds from what its clock says.
fn stamped(node: &mut Gated, kind: Kind, ahead: i64) {
    let mut frame = node.sender.frame(kind);
    frame.transmit_ns = Be64::new(frame.transmit_ns.get().wrapping_add_signed(ahead));
    let frame = node.sender.signed(frame);
    node.rig.run(&frame);
}

/// The pauses that were told of since the last look.
fn pauses(node: &mut Gated) -> Vec<hb_ebpf::maps::Event> {
    let events = std::iter::from_fn(|| node.rig.pending_event());
    events.filter(|event| event.kind == EventKind::Paused as u8).collect()
}

/// How far a clock jumps here.
const JUMP: i64 = 50_000_000;

#[test]
fn a_pause_closes_the_gate_before_the_frame_counts_and_a_restart_of_the_peer_does_not() {
    let mut node = Gated::new(Policy::Witness, LONG);
    node.win(LONG);
    stamped(&mut node, Kind::Answer, 0);
    assert_eq!((node.state(), pauses(&mut node).len()), (State::Holding, 0));

    // Another life has another clock.
    node.sender.nonce += 1;
    node.sender.incarnation += 1;
    stamped(&mut node, Kind::Answer, JUMP);
    assert_eq!((node.state(), pauses(&mut node).len()), (State::Holding, 0));

    stamped(&mut node, Kind::Probe, 3 * JUMP);
    let found = pauses(&mut node);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].peer, found[0].cause), (PEER.0, 1));
    // What may have drifted since the frame before is not counted as a pause.
    assert!(found[0].silence_ns.abs_diff(2 * JUMP as u64) < 20_000_000, "{found:?}");
    assert_eq!(node.state(), State::Idle);
    let record = node.rig.shared.record(GroupId(0)).unwrap();
    assert!(record.is_blocked(clock::now().ns() + 1_900_000_000), "it seeks after L_max only");
    assert_eq!(record.unclean, 1);
    node.assert_all(false, NOT_HOLDING, "paused");
}

#[test]
fn a_peer_that_stood_still_leaves_the_gate_open() {
    let mut node = Gated::new(Policy::Witness, LONG);
    node.win(LONG);
    stamped(&mut node, Kind::Answer, 0);
    assert_eq!(pauses(&mut node).len(), 0);
    stamped(&mut node, Kind::Answer, -JUMP);
    let found = pauses(&mut node);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].cause, 0);
    assert_eq!(node.state(), State::Holding);
}
