//! Other implementations of the rules, each wrong in one place.
//!
//! A mutant leaves production's transition alone and bends the record before or after it, so that
//! what is wrong is what can be read here, and nothing else.

mod fencing;
mod holder;
mod leaving;
mod liveness;
mod renumbering;
mod voter;

pub use fencing::{
    FailureCounts, FencesWhileBound, LateReport, PromisesWhileFencing, ReportAfterGivingUp,
    ReportOpensAtOnce, ReportTwice, StaysEndless, WaitAsIs,
};
pub use holder::{
    ClosedAsRead, CommonExpiry, EchoExtends, GateLate, OneOtherVote, OwnLease, ReleaseUndone,
};
pub use leaving::{LastPacketsNotNoted, PromiseNotNoted, WaitNotNoted};
pub use liveness::{LapsedStays, SeekerStays};
pub use renumbering::{
    CountsEarlierNumbers, KeepsItsNumber, RenumbersAnother, RenumbersReleased, RenumbersWhenClosed,
    TakesItsNumberAtOnce,
};
pub use voter::{
    AmnesiaSkipped, EqualByNode, GenerationAhead, LowEpochTaken, MarginAsIs, NewestTransmit,
    OwnVoteTwice, ReleaseFreesVote, ReleasedRenewed, SpeaksFirst, UntilShortened, VoteWithinMargin,
    WitnessForgets,
};

use hb_ebpf::wire::{GroupWord, State};

/// Tells whether `word` asks for a lease.
fn asks(word: &GroupWord) -> bool {
    matches!(word.state(), State::Seeking | State::Holding) && word.lease_ns.get() != 0
}
