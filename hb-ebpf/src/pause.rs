//! Did a clock stand still? What two machines' clocks say of each other, without any trust in delays.
//!
//! A fresh frame bounds the difference of the sender's clock and ours, peer minus own, from both
//! sides, however long it and the frame it echoes were on their way:
//!
//! - it was sent before it arrived, so the difference is at least `transmit - now`;
//! - if it is an answer, what it echoes was sent by us before it left, so it is at most `transmit - echo`.
//!   A probe echoes what its sender's daemon read from a map that changes meanwhile: it bounds nothing.
//!
//! (The intervals of Marzullo and Owicki, "Maintaining the time in a distributed system", 1983.) Both
//! bounds widen as they grow older, by `rho`. A delay only makes a bound looser. So bounds that
//! contradict those before by more than the `jump` looked for prove that one of the two clocks did
//! not run as clocks do. Delay, reordering and load never look like that.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    lease::{Terms, terms::RHO_ONE},
    time::L_MAX_NS,
    wire::{Frame, Kind},
};

/// What is known of a peer's clock on one link; part of a [`Link`](crate::maps::Link).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Bounds {
    /// Boot nonce of the peer's life that this is of; 0 for none.
    pub nonce: u64,
    /// The difference was at least this, in nanoseconds.
    pub least_ns: i64,
    /// When that was so.
    pub least_at_ns: u64,
    /// It was at most this.
    pub most_ns: i64,
    /// When that was so.
    pub most_at_ns: u64,
}

/// What the clocks did since the frame before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// Nothing that these bounds tell.
    None,
    /// The peer's clock is ahead of what it could be by so many nanoseconds: ours stood still, or the
    /// peer's was set.
    Ahead(u64),
    /// It is behind by so many: the peer's stood still, or ours was set.
    Behind(u64),
}

/// Returns the jump that is looked for under `terms`: half of the margin, which is what covers one
/// that is too small to be seen.
#[inline(always)]
#[must_use]
pub const fn least_jump_ns(terms: &Terms) -> u64 {
    terms.margin_ns / 2
}

/// Takes in the bounds of a fresh frame that arrived at `now`.
#[inline(always)]
pub fn judge(bounds: &mut Bounds, frame: &Frame, terms: &Terms, now: u64) -> Jump {
    let transmit = frame.transmit_ns.get();
    let echo = frame.echo_ns.get();
    let least = transmit.wrapping_sub(now) as i64;
    let most = if frame.kind == Kind::Answer as u8 {
        transmit.wrapping_sub(echo) as i64
    } else {
        i64::MAX
    };
    // Both are of an instant after that of the echo, and nobody knows how long after.
    let fresh = Bounds {
        nonce: frame.sender_nonce.get(),
        least_ns: least,
        least_at_ns: echo,
        most_ns: most,
        most_at_ns: echo,
    };
    let since_least = now.saturating_sub(bounds.least_at_ns);
    let since_most = now.saturating_sub(bounds.most_at_ns);
    // After so long a silence every lease has run out.
    let forgotten = since_least > L_MAX_NS || since_most > L_MAX_NS;
    if bounds.nonce != fresh.nonce || forgotten {
        *bounds = fresh;
        return Jump::None;
    }
    // A frame that was overtaken may tell of an instant before that of the bounds.
    let since_echo = now.saturating_sub(echo);
    let least_span = if since_echo > since_least { since_echo } else { since_least };
    let most_span = if since_echo > since_most { since_echo } else { since_most };
    let old_least = bounds.least_ns.saturating_sub(drift(least_span, terms));
    let old_most = bounds.most_ns.saturating_add(drift(most_span, terms));
    let jump = least_jump_ns(terms);
    let ahead = least.saturating_sub(old_most);
    let behind = old_least.saturating_sub(most);
    if ahead > jump as i64 {
        *bounds = fresh;
        return Jump::Ahead(ahead as u64);
    }
    if behind > jump as i64 {
        *bounds = fresh;
        return Jump::Behind(behind as u64);
    }
    // The tighter of each is kept.
    if least >= old_least {
        bounds.least_ns = least;
        bounds.least_at_ns = echo;
    }
    if most <= old_most {
        bounds.most_ns = most;
        bounds.most_at_ns = echo;
    }
    Jump::None
}

/// Returns by how much two clocks may drift apart in so long, at most [`L_MAX_NS`].
#[inline(always)]
const fn drift(ns: u64, terms: &Terms) -> i64 {
    (ns * terms.rho as u64).div_ceil(RHO_ONE as u64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::terms::tests::terms as small, wire::Be64};
    use proptest::prelude::*;

    /// Half of the margin is 100 us.
    fn terms() -> Terms {
        Terms { margin_ns: 200_000, ..small() }
    }

    /// Two clocks, read at one real instant.
    #[derive(Clone, Copy)]
    struct Clocks {
        own: u64,
        peer: u64,
    }

    impl Clocks {
        const START: Self = Self { own: 50_000_000_000, peer: 90_000_000_000 };

        /// So much real time passes; the clocks run at these rates, in 1024ths.
        fn pass(&mut self, ns: u64, own: u64, peer: u64) {
            self.own += ns * own / 1024;
            self.peer += ns * peer / 1024;
        }
    }

    /// An answer to a probe of ours, `there` and `back` on its way; the clocks move on meanwhile.
    fn answer(clocks: &mut Clocks, there: u64, back: u64, rates: (u64, u64)) -> Frame {
        let echo = clocks.own;
        clocks.pass(there, rates.0, rates.1);
        let transmit = clocks.peer;
        clocks.pass(back, rates.0, rates.1);
        Frame {
            kind: Kind::Answer as u8,
            sender_nonce: Be64::new(7),
            transmit_ns: Be64::new(transmit),
            echo_ns: Be64::new(echo),
            ..Frame::default()
        }
    }

    proptest! {
        /// No delay, order of delays or drift within rho is taken for a jump.
        #[test]
        fn ordinary_clocks_never_jump(
            delays in prop::collection::vec((0u64..20_000_000, 0u64..20_000_000, 0u64..50_000_000), 1..60),
            slow in prop::bool::ANY,
        ) {
            let rates = if slow { (1024, 1024 + 200) } else { (1024 + 200, 1024) };
            let (mut clocks, mut bounds) = (Clocks::START, Bounds::default());
            for (there, back, pause) in delays {
                let frame = answer(&mut clocks, there, back, rates);
                prop_assert_eq!(judge(&mut bounds, &frame, &terms(), clocks.own), Jump::None);
                clocks.pass(pause, rates.0, rates.1);
            }
        }

        /// One that stood still for longer than half of the margin, a round trip and drift is found,
        /// and only as long as it was.
        #[test]
        fn a_pause_is_found_at_the_next_quick_answer(
            above in prop_oneof![1u64..200_000, 1u64..5_000_000_000],
            ours in prop::bool::ANY, gap in 0u64..1_000_000,
        ) {
            let (mut clocks, mut bounds) = (Clocks::START, Bounds::default());
            for _ in 0..3 {
                let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
                judge(&mut bounds, &frame, &terms(), clocks.own);
                clocks.pass(gap, 1024, 1024);
            }
            // The drift is that of all the time since the last echo: of the pause too, where it is in it.
            let round_trip = 40_000;
            let drifted = drift(gap + 2 * round_trip, &terms()) as u64;
            let unseen = least_jump_ns(&terms()) + round_trip + drifted;
            let paused = if ours { unseen + above } else { unseen * 1024 / (1024 - 205) + above * 5 / 4 + 1 };
            if ours { clocks.peer += paused } else { clocks.own += paused }
            let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
            let found = judge(&mut bounds, &frame, &terms(), clocks.own);
            match (ours, found) {
                (true, Jump::Ahead(by)) | (false, Jump::Behind(by)) => prop_assert!(by <= paused),
                // Seen by nobody, the silence was longer than any lease.
                (false, Jump::None) => prop_assert!(paused + gap > L_MAX_NS),
                other => prop_assert!(false, "{other:?}"),
            }
            let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
            prop_assert_eq!(judge(&mut bounds, &frame, &terms(), clocks.own), Jump::None);
        }
    }

    #[test]
    fn a_frame_that_was_queued_during_our_pause_tells_nothing_and_the_next_one_does() {
        let (mut clocks, mut bounds) = (Clocks::START, Bounds::default());
        let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
        judge(&mut bounds, &frame, &terms(), clocks.own);
        // It arrives when we go on, and was sent when we stood still already.
        let queued = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
        clocks.peer += 50_000_000;
        assert_eq!(judge(&mut bounds, &queued, &terms(), clocks.own), Jump::None);
        let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
        assert!(matches!(judge(&mut bounds, &frame, &terms(), clocks.own), Jump::Ahead(_)));
    }

    /// Clocks that differ by all of `rho`, and a frame that is overtaken by quick ones.
    #[test]
    fn a_frame_that_was_overtaken_is_no_jump() {
        for rates in [(1024, 1224), (1224, 1024)] {
            let (mut clocks, mut bounds) = (Clocks::START, Bounds::default());
            for _ in 0..3 {
                let late = answer(&mut clocks, 20_000, 20_000, rates);
                clocks.pass(30_000_000, rates.0, rates.1);
                let quick = answer(&mut clocks, 20_000, 20_000, rates);
                for frame in [quick, late] {
                    assert_eq!(judge(&mut bounds, &frame, &terms(), clocks.own), Jump::None);
                }
            }
        }
    }

    #[test]
    fn another_life_of_the_peer_has_no_past() {
        let (mut clocks, mut bounds) = (Clocks::START, Bounds::default());
        let frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
        judge(&mut bounds, &frame, &terms(), clocks.own);
        clocks.peer = 1_000;
        let mut frame = answer(&mut clocks, 20_000, 20_000, (1024, 1024));
        frame.sender_nonce = Be64::new(8);
        assert_eq!(judge(&mut bounds, &frame, &terms(), clocks.own), Jump::None);
    }
}
