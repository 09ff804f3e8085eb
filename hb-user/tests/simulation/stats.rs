//! What the seeds led to, to see that they reach what they are for.

use hb_user::core::{Aside, Phase, Reason, Transition};

use crate::fast::Counts;

/// Counts over many runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) frames: u64,
    pub(crate) holders: u64,
    pub(crate) armed: u64,
    pub(crate) releases: u64,
    pub(crate) lapses: u64,
    pub(crate) regained: u64,
    pub(crate) conflicts: u64,
    pub(crate) resumed: u64,
    pub(crate) vain: u64,
    pub(crate) fences: u64,
    pub(crate) failures: u64,
    /// Groups that were kept because their resources did not stop.
    pub(crate) blocked: u64,
    /// Starts of resources that still run where the group was lost.
    pub(crate) lost_and_run: u64,
    pub(crate) residues: u64,
    pub(crate) jumps: u64,
    /// Changes of addresses for which the fast path waited for longer than it may.
    pub(crate) hung: u64,
    /// Groups taken with some of their addresses, reports that did not fit, and wishes to put back.
    pub(crate) partial: u64,
    pub(crate) lost: u64,
    pub(crate) restored: u64,
    /// Daemons and machines that ended in the middle of something.
    pub(crate) struck: u64,
    pub(crate) struck_starting: u64,
    /// Nodes that stood aside, and groups that they handed over therefore.
    pub(crate) asides: u64,
    pub(crate) given_aside: u64,
    /// Failures that nothing was done about in maintenance, and that were met by a restart.
    pub(crate) overlooked: u64,
    pub(crate) restarts: u64,
    pub(crate) slowest_ms: u64,
}

impl Stats {
    pub(crate) fn count(&mut self, transition: &Transition) {
        let stats = self;
        match transition {
            Transition::Lapsed { .. } => stats.lapses += 1,
            Transition::Regained { .. } => stats.regained += 1,
            Transition::Conflict { .. } => stats.conflicts += 1,
            Transition::NoMajority { .. } => stats.vain += 1,
            Transition::Failed { .. } => stats.failures += 1,
            Transition::Blocked { .. } => stats.blocked += 1,
            Transition::Overlooked { .. } => stats.overlooked += 1,
            Transition::Restarts { .. } => stats.restarts += 1,
            Transition::Aside(aside) => stats.asides += u64::from(*aside != Aside::Nothing),
            Transition::Group { to: Phase::Released { .. }, .. } => stats.releases += 1,
            Transition::Group {
                to: Phase::Dropping { .. } | Phase::Stopping { .. },
                reason: Reason::Aside,
                ..
            } => stats.given_aside += 1,
            Transition::Group { to: Phase::Seeking, reason, .. } => {
                let armed = matches!(
                    reason,
                    Reason::HolderDied { .. } | Reason::ControllerDied(_) | Reason::HandedOver(_)
                );
                stats.armed += u64::from(armed);
            }
            _ => {}
        }
    }

    pub(crate) fn note(&mut self, counts: Counts) {
        self.partial += counts.partial;
        self.lost += counts.lost;
        self.restored += counts.restored;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.holders += other.holders;
        self.armed += other.armed;
        self.releases += other.releases;
        self.lapses += other.lapses;
        self.regained += other.regained;
        self.conflicts += other.conflicts;
        self.resumed += other.resumed;
        self.vain += other.vain;
        self.fences += other.fences;
        self.failures += other.failures;
        self.blocked += other.blocked;
        self.lost_and_run += other.lost_and_run;
        self.residues += other.residues;
        self.jumps += other.jumps;
        self.hung += other.hung;
        self.partial += other.partial;
        self.lost += other.lost;
        self.restored += other.restored;
        self.asides += other.asides;
        self.given_aside += other.given_aside;
        self.overlooked += other.overlooked;
        self.restarts += other.restarts;
        self.struck += other.struck;
        self.struck_starting += other.struck_starting;
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }
}
