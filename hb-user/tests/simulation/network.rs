//! The wire between the machines: late, lost, twice, out of order, cut.

use std::collections::VecDeque;

use hb_ebpf::wire::Frame;

use crate::{plan::MS, rng::Rng};

pub(crate) type Frames = VecDeque<Box<Frame>>;

/// What is wrong with it, and how often at once.
pub(crate) struct Network {
    /// By sender and receiver.
    cuts: Vec<Vec<u32>>,
    lossy: u32,
    jittery: u32,
    doubling: u32,
}

/// A thing that may be wrong with the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Nothing passes from one to the other.
    Cut {
        from: usize,
        to: usize,
    },
    Loss,
    /// Delays above the time between two frames: they overtake each other.
    Jitter,
    Doubling,
}

impl Network {
    pub(crate) fn new(machines: usize) -> Self {
        Self { cuts: vec![vec![0; machines]; machines], lossy: 0, jittery: 0, doubling: 0 }
    }

    pub(crate) fn set(&mut self, trouble: Trouble, begins: bool) {
        let count = match trouble {
            Trouble::Cut { from, to } => &mut self.cuts[from][to],
            Trouble::Loss => &mut self.lossy,
            Trouble::Jitter => &mut self.jittery,
            Trouble::Doubling => &mut self.doubling,
        };
        *count = if begins { *count + 1 } else { *count - 1 };
    }

    /// Tells whether every frame arrives, and soon.
    pub(crate) fn is_well(&self) -> bool {
        let cut = self.cuts.iter().flatten().any(|cuts| *cuts > 0);
        !cut && self.lossy == 0 && self.jittery == 0
    }

    /// Returns after how long each copy of a frame arrives.
    pub(crate) fn carry(&self, rng: &mut Rng, from: usize, to: usize) -> [Option<u64>; 2] {
        if self.cuts[from][to] > 0 {
            return [None, None];
        }
        let copies = if self.doubling > 0 && rng.chance(200) { 2 } else { 1 };
        [0, 1].map(|copy| {
            let lost = self.lossy > 0 && rng.chance(300);
            let slow = self.jittery > 0 && rng.chance(300);
            let delay = if slow { rng.within(MS, 30 * MS) } else { rng.within(10_000, 150_000) };
            (copy < copies && !lost).then_some(delay)
        })
    }
}
