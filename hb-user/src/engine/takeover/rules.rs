//! What the order of steps rests on, by name: a test has each of them broken and sees that it is found.

/// Something that the order of steps keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The thread shows that it went round once it has heard everything there was.
    RoundShownAtItsEnd,
    /// A seek that was armed for a death begins if the peer is dead still.
    DeadStill,
    /// A group is sought once all commands were heard: one of them may end the seek.
    SoughtWhenHeardOut,
    /// Addresses go up once the record holds, and not while it seeks.
    PutUpWhenHeld,
    /// A group is given away in the record before an address goes.
    ReleasedFirst,
    /// That it was is said at once: the successor waits for this word.
    ReleaseSaid,
    /// A lease that came back while the group was given up is given away.
    RegainedReleased,
    /// The addresses of a group that was lost are taken down.
    LostTakenDown,
    /// What is asked for once more, and was done, is reported once more: the report before may be lost.
    TookRepeated,
    /// What takes addresses down ends what was putting them up.
    TakeDownEndsATake,
    /// A group is dropped once its last address is gone.
    DroppedAfterTheLast,
    /// Where every address is needed, one that failed is a failure.
    AllWhereAllAreNeeded,
    /// Addresses of which some may be gone are asked for, and not taken for up.
    DoubtedOnceTouched,
    /// Each address that is put up for a takeover is announced.
    AnnouncedWhenUp,
    /// Each address that could not be put up is told of.
    RefusalsTold,
    /// Addresses are put back only where they are taken.
    RestoredIfTaken,
    /// Addresses are warmed and cooled only where they are not taken.
    WarmedApart,
    /// While the thread may wait for the kernel, the deputy probes.
    DeputyStandsIn,
    /// And no longer.
    DeputyStandsBack,
    /// Probes that were missed during a stall are not sent after it.
    MissedProbesLeftOut,
    /// What was not told of during a quiet moment is told of at its end.
    QuietEndsWithARing,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::RoundShownAtItsEnd,
        Self::DeadStill,
        Self::SoughtWhenHeardOut,
        Self::PutUpWhenHeld,
        Self::ReleasedFirst,
        Self::ReleaseSaid,
        Self::RegainedReleased,
        Self::LostTakenDown,
        Self::TookRepeated,
        Self::TakeDownEndsATake,
        Self::DroppedAfterTheLast,
        Self::AllWhereAllAreNeeded,
        Self::DoubtedOnceTouched,
        Self::AnnouncedWhenUp,
        Self::RefusalsTold,
        Self::RestoredIfTaken,
        Self::WarmedApart,
        Self::DeputyStandsIn,
        Self::DeputyStandsBack,
        Self::MissedProbesLeftOut,
        Self::QuietEndsWithARing,
    ];
}

/// Which rules are kept. The daemon's type keeps them all, and the compiler leaves no question of it.
pub trait Rules {
    /// Tells whether a rule is kept.
    fn keeps(&self, rule: Rule) -> bool;
}

/// All of them are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Production;

impl Rules for Production {
    #[inline(always)]
    fn keeps(&self, _: Rule) -> bool {
        true
    }
}
