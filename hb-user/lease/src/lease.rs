//! What a record says, and what follows from it.

/// [`Lease::expires_ns`] of a lease without an end of its own.
pub const ENDLESS: u64 = u64::MAX;

/// What a node is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not hold the group.
    Idle,
    /// It seeks to hold it.
    Seeking,
    /// It holds it, as long as its lease lasts.
    Holding,
    /// It held it and gave it to the successor.
    Released,
}

impl State {
    /// Reads a code of the map; one of another version is [`Idle`](Self::Idle).
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Seeking,
            2 => Self::Holding,
            3 => Self::Released,
            _ => Self::Idle,
        }
    }
}

/// The lease of a group, as the kernel of this node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Id of the node that holds the group as far as this one knows; 0 for nobody.
    pub holder: u8,
    /// What this node is to the group.
    pub state: State,
    /// Epoch that this node seeks, holds or released; 0 for none. It grows with each new holder.
    pub epoch: u64,
    /// When this node's lease ends, exclusive, in nanoseconds of `CLOCK_BOOTTIME`. 0 if it does not
    /// hold. [`ENDLESS`] if it ends with the life of this node's daemon: after a fence of the
    /// other node, and with policy `available`.
    pub expires_ns: u64,
    /// Which group this is of, 0 for none: the fingerprint that `hb status --json` shows.
    pub fingerprint: u32,
}

impl Lease {
    /// Returns the epoch if this node held the group at `now_ns`, as [`now_ns`](crate::now_ns) tells
    /// it.
    #[must_use]
    pub fn held_at(&self, now_ns: u64) -> Option<u64> {
        (self.state == State::Holding && now_ns < self.expires_ns).then_some(self.epoch)
    }

    /// Returns how many nanoseconds are left at `now_ns`; 0 if none, [`ENDLESS`] if no end is known.
    #[must_use]
    pub fn left_ns(&self, now_ns: u64) -> u64 {
        match self.expires_ns {
            ENDLESS => ENDLESS,
            end => end.saturating_sub(now_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use hb_ebpf::wire;

    use super::*;

    #[test]
    fn the_end_is_exclusive() {
        let lease =
            Lease { holder: 1, state: State::Holding, epoch: 9, expires_ns: 100, fingerprint: 7 };
        assert_eq!((lease.held_at(99), lease.held_at(100)), (Some(9), None));
        assert_eq!((lease.left_ns(99), lease.left_ns(101)), (1, 0));
        let endless = Lease { expires_ns: ENDLESS, ..lease };
        assert_eq!((endless.held_at(u64::MAX - 1), endless.left_ns(7)), (Some(9), ENDLESS));
        assert_eq!(Lease { state: State::Released, ..endless }.held_at(0), None);
    }

    #[test]
    fn codes_are_those_of_the_kernel_half() {
        assert_eq!(hb_ebpf::lease::ENDLESS, ENDLESS);
        for code in 0..4 {
            let expected = match wire::State::from_code(code) {
                wire::State::Idle => State::Idle,
                wire::State::Seeking => State::Seeking,
                wire::State::Holding => State::Holding,
                wire::State::Released => State::Released,
            };
            assert_eq!(State::from_code(code), expected, "{code}");
        }
        assert_eq!(State::from_code(4), State::Idle);
    }
}
