//! What is pinned, as another version or somebody else may have left it: any bytes of the right length are
//! records, and what is read of them has to hold.

use hb_ebpf::{
    lease::{Record, Terms, gate, identity::Places},
    maps::{Cause, Event, EventKind, Lease, Life, Link, Node, Peer},
    wire::{GROUPS, State},
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::{finds, holds};

const NOW: u64 = 1_000_000_000_000;

/// Reads bytes as each kind of record, and asks what the daemon and its status ask; returns the state of a
/// record of a group.
fn read(bytes: &[u8]) -> Option<State> {
    if let Ok((peer, _)) = Peer::read_from_prefix(bytes) {
        let _ = (Life::from_code(peer.life), Cause::from_code(peer.cause));
        for word in &peer.words {
            let _ = word.state();
        }
    }
    if let Ok((link, _)) = Link::read_from_prefix(bytes) {
        for mut histogram in [link.rtts, link.gaps] {
            // No kernel half counts as far as their sum overflows.
            histogram.counts.iter_mut().for_each(|count| *count >>= 8);
            let _ = (histogram.quantile(0.5), histogram.quantile(0.999), histogram.quantile(1.0));
        }
    }
    if let Ok((event, _)) = Event::read_from_prefix(bytes) {
        let _ = EventKind::from_code(event.kind);
    }
    if let Ok((fingerprints, _)) = <[u32; GROUPS]>::read_from_prefix(bytes) {
        let places = Places::new(&fingerprints, &[1, 2, fingerprints[0]]);
        let counted = places.kept().chain(places.dismissed()).chain(places.begun()).count();
        assert!(counted <= 2 * GROUPS && usize::from(places.end()) <= GROUPS);
    }
    let _ = Node::read_from_prefix(bytes);
    let (record, rest) = Record::read_from_prefix(bytes).ok()?;
    let terms =
        Terms::read_from_prefix(rest).map_or_else(|_| Terms::new_zeroed(), |(terms, _)| terms);
    let _ = (record.is_blocked(NOW), record.is_bound(NOW), record.may_still_send(&terms, NOW));
    let _ = (record.is_endless(), record.highest(), record.newest(), record.asks_for(NOW));
    let _ = (record.closing(), gate::open(&record, NOW), gate::majority_end(&record, &terms));
    let lease = Lease::of(&record, &terms, 1, 2, NOW);
    assert_eq!(lease.expires_ns, gate::until(&record));
    Some(record.state())
}

fn seeds() -> Vec<Vec<u8>> {
    let idle = Record::new_zeroed();
    vec![
        [idle.as_bytes(), Terms::new_zeroed().as_bytes()].concat(),
        Peer::new_zeroed().as_bytes().to_vec(),
        Link::new_zeroed().as_bytes().to_vec(),
    ]
}

#[test]
fn any_record_is_read() {
    holds(20_000, &seeds(), read);
}

#[test]
fn a_panic_at_one_state_of_a_record_is_found() {
    finds(20_000, &seeds(), |bytes| assert_ne!(read(bytes), Some(State::Holding)));
}
