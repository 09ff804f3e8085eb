//! What changes of the peers, one verdict at a time.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hb_ebpf::{
    maps::{Cause, Life, Peer},
    time::BootTime,
};

use crate::{
    fast::{Poller, Queue, Report},
    id::NodeId,
    kernel::Shared,
};

/// After so long it looks without a ring: an event that was lost costs time and nothing else.
const LOOK_EVERY_NS: u64 = 100_000_000;

/// A peer is held for something else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The peer.
    pub peer: NodeId,
    /// What it is held for now. Of several changes since the last look only a death is never left out.
    pub life: Life,
    /// Why it is dead; [`Cause::None`] if it is not.
    pub cause: Cause,
    /// When the kernel decided so, in `CLOCK_BOOTTIME`: of a death, its verdict; of any other, the last
    /// arrival.
    pub at: BootTime,
}

/// The verdicts, as a blocking iterator. It ends once the [`Detector`](super::Detector) is dropped.
///
/// Its descriptor is readable when [`take`](Self::take) may have something.
pub struct Verdicts {
    shared: Arc<Shared>,
    reports: Arc<Queue<Report>>,
    ended: Arc<AtomicBool>,
    poller: Poller,
    peers: Vec<(NodeId, Told)>,
}

impl Verdicts {
    pub(super) fn new(
        shared: Arc<Shared>,
        reports: Arc<Queue<Report>>,
        ended: Arc<AtomicBool>,
        peers: &BTreeSet<NodeId>,
    ) -> io::Result<Self> {
        let poller = Poller::new(&[reports.bell().as_raw_fd()])?;
        let told = |peer: &NodeId| {
            let deaths = shared.peer(*peer).map_or(0, |state| state.deaths_total);
            (*peer, Told { life: Life::Unheard, deaths })
        };
        let peers = peers.iter().map(told).collect();
        Ok(Self { shared, reports, ended, poller, peers })
    }

    /// Returns the next verdict if there is one, without waiting. Call it until there is none before waiting
    /// for the descriptor.
    pub fn take(&mut self) -> Option<Verdict> {
        // Hushed before the look, so that what happens after it rings.
        self.reports.bell().hush();
        // The facts are in the maps.
        while self.reports.pop().is_some() {}
        self.peers.iter_mut().find_map(|(peer, told)| {
            let state = self.shared.peer(*peer)?;
            told.take(*peer, &state)
        })
    }
}

impl Iterator for Verdicts {
    type Item = Verdict;

    /// Waits for the next verdict.
    fn next(&mut self) -> Option<Verdict> {
        loop {
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            if let Some(verdict) = self.take() {
                return Some(verdict);
            }
            self.poller.wait(LOOK_EVERY_NS);
        }
    }
}

impl AsRawFd for Verdicts {
    fn as_raw_fd(&self) -> RawFd {
        self.reports.bell().as_raw_fd()
    }
}

/// What was last told of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    life: Life,
    deaths: u64,
}

impl Told {
    /// Returns what is to be told next of a peer of that state, and notes that it was.
    fn take(&mut self, peer: NodeId, state: &Peer) -> Option<Verdict> {
        let now = Life::from_code(state.life);
        let life = if state.deaths_total == self.deaths {
            now
        } else if self.life == Life::Dead {
            // It was heard, and died again.
            Life::Alive
        } else {
            self.deaths = state.deaths_total;
            Life::Dead
        };
        if life == self.life {
            return None;
        }
        self.life = life;
        let (cause, at_ns) = match life {
            Life::Dead => (Cause::from_code(state.cause), state.verdict_ns),
            _ => (Cause::None, state.last_arrival_ns),
        };
        Some(Verdict { peer, life, cause, at: BootTime(at_ns) })
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const PEER: NodeId = NodeId(2);

    fn state(life: Life, deaths: u64) -> Peer {
        Peer {
            life: life as u8,
            cause: Cause::Silence as u8,
            deaths_total: deaths,
            verdict_ns: 900,
            last_arrival_ns: 500,
            ..Peer::new_zeroed()
        }
    }

    /// All that is told of a peer of that state.
    fn all(told: &mut Told, state: &Peer) -> Vec<Life> {
        std::iter::from_fn(|| told.take(PEER, state)).map(|verdict| verdict.life).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let mut told = Told { life: Life::Unheard, deaths: 4 };
        assert_eq!(all(&mut told, &state(Life::Unheard, 4)), []);
        assert_eq!(all(&mut told, &state(Life::Alive, 4)), [Life::Alive]);
        assert_eq!(all(&mut told, &state(Life::Alive, 4)), []);
        assert_eq!(all(&mut told, &state(Life::Late, 4)), [Life::Late]);
        let dead = told.take(PEER, &state(Life::Dead, 5)).unwrap();
        let (life, cause, at) = (Life::Dead, Cause::Silence, BootTime(900));
        assert_eq!(dead, Verdict { peer: PEER, life, cause, at });
        assert_eq!(all(&mut told, &state(Life::Dead, 5)), []);
        let alive = told.take(PEER, &state(Life::Alive, 5)).unwrap();
        assert_eq!((alive.cause, alive.at), (Cause::None, BootTime(500)));
    }

    #[test]
    fn no_death_is_left_out() {
        let mut told = Told { life: Life::Alive, deaths: 0 };
        assert_eq!(all(&mut told, &state(Life::Alive, 1)), [Life::Dead, Life::Alive]);
        assert_eq!(all(&mut told, &state(Life::Dead, 2)), [Life::Dead]);
        assert_eq!(all(&mut told, &state(Life::Dead, 3)), [Life::Alive, Life::Dead]);
        // Of several at once it tells one, and ends.
        assert_eq!(all(&mut told, &state(Life::Dead, 9)), [Life::Alive, Life::Dead]);
        assert_eq!(all(&mut told, &state(Life::Late, 9)), [Life::Late]);
    }
}
