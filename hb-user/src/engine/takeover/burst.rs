//! More probes to a peer that has missed a heartbeat: one that was lost on the wire shall not grow
//! into a verdict while there is time to ask again.

use hb_ebpf::maps::MAX_NODES;

use crate::id::NodeId;

/// Probes on each link in one burst, beside those that are due anyway.
const PROBES: u8 = 8;
/// Of them in an interval.
const PER_INTERVAL: u64 = 4;

/// Who is probed more often for now.
#[derive(Debug)]
pub(super) struct Burst {
    /// Probes left for each peer.
    left: [u8; MAX_NODES],
    /// When the next ones are due; never, without a burst.
    pub(super) due_ns: u64,
}

impl Default for Burst {
    fn default() -> Self {
        Self { left: [0; MAX_NODES], due_ns: u64::MAX }
    }
}

impl Burst {
    /// Begins one for a peer.
    pub(super) fn begin(&mut self, peer: NodeId, now_ns: u64) {
        if let Some(left) = self.of(peer) {
            *left = PROBES;
            self.due_ns = self.due_ns.min(now_ns);
        }
    }

    /// Ends it: the peer was heard, or is dead.
    pub(super) fn end(&mut self, peer: NodeId) {
        if let Some(left) = self.of(peer) {
            *left = 0;
        }
    }

    /// Tells whether the peer is to be probed now.
    pub(super) fn goes_on(&mut self, peer: NodeId) -> bool {
        self.of(peer).is_some_and(|left| *left > 0)
    }

    /// Counts one round; returns when the next is due.
    pub(super) fn next(&mut self, now_ns: u64, interval_ns: u64) -> u64 {
        let mut on = false;
        for left in &mut self.left {
            *left = left.saturating_sub(1);
            on |= *left > 0;
        }
        self.due_ns = if on { now_ns + interval_ns / PER_INTERVAL } else { u64::MAX };
        self.due_ns
    }

    fn of(&mut self, peer: NodeId) -> Option<&mut u8> {
        self.left.get_mut(peer.0.wrapping_sub(1) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_bounded_and_ends_when_the_peer_is_heard() {
        let mut burst = Burst::default();
        assert_eq!(burst.due_ns, u64::MAX);
        burst.begin(NodeId(2), 1000);
        assert_eq!(burst.due_ns, 1000);
        let mut rounds = 0;
        let mut now = 1000;
        while now != u64::MAX {
            assert!(burst.goes_on(NodeId(2)) && !burst.goes_on(NodeId(1)));
            rounds += 1;
            now = burst.next(now, 400);
            assert!(now == u64::MAX || now == 1000 + rounds * 100);
        }
        assert_eq!(rounds, u64::from(PROBES));
        assert!(!burst.goes_on(NodeId(2)));

        burst.begin(NodeId(1), 5000);
        burst.begin(NodeId(2), 5000);
        burst.end(NodeId(1));
        assert!(!burst.goes_on(NodeId(1)) && burst.goes_on(NodeId(2)));
        burst.end(NodeId(2));
        assert_eq!(burst.next(5000, 400), u64::MAX);
        // No node has number 0.
        burst.begin(NodeId(0), 0);
        assert_eq!(burst.due_ns, u64::MAX);
    }
}
