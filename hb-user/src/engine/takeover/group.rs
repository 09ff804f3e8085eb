//! What is done to the addresses of one group, one after the other.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{EffectError, Rebound, Rule, Rules, Steps, Trigger, World};
use crate::{
    address::{Change, Done, Vip},
    announce::Schedule,
    id::GroupId,
};

/// What has to be known of a group to take and to drop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// How many addresses it has, [`MAX_VIPS`](hb_ebpf::gate::MAX_VIPS) at most.
    pub addresses: usize,
    /// The daemon starts something once the group is held.
    pub resources: bool,
    /// The addresses may be up also while the group is not held: then a takeover announces them and
    /// asks nothing of the kernel.
    pub warm: bool,
    /// Without every one of its addresses the group is not served. Else it is with one of them, so that
    /// what can be served is.
    pub all: bool,
}

/// A group while the thread runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Group {
    shape: Shape,
    /// When it was announced first, and is to be again.
    announced: Option<(BootTime, BootTime)>,
    taken: Option<Epoch>,
    /// The addresses that are on this node, by what the kernel said last.
    places: u64,
    /// Every one is, and nothing was said since that makes it doubtful.
    up: bool,
    work: Option<Work>,
}

/// What is being done to the addresses of a group. There may be many, and one may take as long as
/// somebody else holds the kernel's lock: in between the thread hears events and commands.
#[derive(Clone, Copy, Debug)]
struct Work {
    task: Task,
    /// Which address is next.
    next: usize,
    /// What came of those before.
    added: Added,
    /// How many of those before are up.
    up: usize,
    /// One of them was not there before.
    new: bool,
}

/// What shall become of a group's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// They are put up, for a takeover.
    Take(Epoch, Trigger, Steps),
    /// Those of this set are put up again, by their place in the group.
    Restore(u64),
    /// They are taken down.
    Remove,
    /// They are put up while the group is not held, and not announced.
    Warm,
    /// They are taken down again, from a group that was not held since.
    Cool,
}

/// What became of a group's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    /// When the last one was up.
    pub(super) at: BootTime,
    /// Announcements that did not leave.
    pub(super) unsent: u32,
    /// The first thing that failed, if it keeps the group from being served.
    pub(super) result: Result<(), EffectError>,
}

/// What came of one step of what is done to the addresses of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stepped {
    /// The address that could not be put up, and why.
    pub(super) refused: Option<(Vip, EffectError)>,
    /// What came of all, after the last.
    pub(super) done: Option<(Task, Added)>,
}

/// The next step of what is done to the addresses of a group.
pub(super) enum Next {
    /// There is nothing to be done.
    Nothing,
    /// One address is to be changed; [`Group::changed`] hears what came of it.
    Change { place: usize, change: Change },
    /// The step needed nobody.
    Stepped(Stepped),
}

impl Group {
    pub(super) fn new(shape: Shape) -> Self {
        debug_assert!(shape.addresses <= hb_ebpf::gate::MAX_VIPS);
        Self { shape, ..Self::default() }
    }

    /// Returns the epoch in which the addresses were put up, or are being put up.
    pub(super) fn taken(&self) -> Option<Epoch> {
        match self.work.map(|work| work.task) {
            Some(Task::Take(epoch, ..)) => Some(epoch),
            _ => self.taken,
        }
    }

    /// Returns whether the daemon starts something once the group is held.
    pub(super) fn has_resources(&self) -> bool {
        self.shape.resources
    }

    /// Begins to put the addresses up or to take them down, whatever was being done to them: call
    /// [`step`](Self::step) until it says what came of it.
    pub(super) fn begin(&mut self, task: Task, now: BootTime, rules: &impl Rules) {
        // What is put back was taken, and is so whether or not it succeeds.
        if !matches!(task, Task::Restore(_)) {
            self.taken = None;
        }
        if let Task::Remove | Task::Cool = task {
            self.announced = None;
        }
        // Of all tasks only a takeover is begun without a doubt that they are there.
        if rules.keeps(Rule::DoubtedOnceTouched) {
            self.up &= matches!(task, Task::Take(..));
        }
        let added = Added { at: now, unsent: 0, result: Ok(()) };
        self.work = Some(Work { task, next: 0, added, up: 0, new: false });
    }

    /// Tells whether the addresses are being put up for a takeover.
    pub(super) fn is_being_taken(&self) -> bool {
        self.work.is_some_and(|work| matches!(work.task, Task::Take(..)))
    }

    /// Tells whether the addresses may be put up or taken down beside any holding: nothing was done
    /// to them in an epoch that has not been left, and nothing else is being done.
    pub(super) fn is_apart(&self) -> bool {
        self.taken.is_none()
            && self.work.is_none_or(|work| matches!(work.task, Task::Warm | Task::Cool))
    }

    /// Tells whether there is something to be done.
    pub(super) fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    /// Says what is to be done next; what needs nobody else is done. Each address is announced before
    /// the one after it is touched, for it is of use at once.
    pub(super) fn step(
        &mut self,
        world: &mut impl World,
        rules: &impl Rules,
        group: GroupId,
    ) -> Next {
        let Some(Work { task, next, mut added, .. }) = self.work else { return Next::Nothing };
        if let Task::Take(epoch, ..) = task
            && self.shape.warm
            && self.up
        {
            added.unsent = self.announce(world, group, added.at);
            self.taken = Some(epoch);
            self.work = None;
            return Next::Stepped(Stepped { refused: None, done: Some((task, added)) });
        }
        let change = match task {
            _ if next >= self.shape.addresses => None,
            Task::Restore(which) if which & bit(next) == 0 => None,
            Task::Take(..) | Task::Restore(_) | Task::Warm => Some(Change::Add),
            Task::Remove | Task::Cool => Some(Change::Remove),
        };
        match change {
            Some(change) => {
                // One that does not go is told of by no neighbour either.
                if change == Change::Remove {
                    self.places &= !bit(next);
                }
                Next::Change { place: next, change }
            }
            None => Next::Stepped(self.changed(world, rules, group, Ok(Done::AlreadyThere))),
        }
    }

    /// Hears what came of the change that [`step`](Self::step) asked for.
    pub(super) fn changed(
        &mut self,
        world: &mut impl World,
        rules: &impl Rules,
        group: GroupId,
        result: Result<Done, EffectError>,
    ) -> Stepped {
        let Some(Work { task, next, mut added, mut up, mut new }) = self.work else {
            return Stepped::default();
        };
        let mut refused = None;
        let all = self.shape.addresses;
        if next < all {
            let skipped = matches!(task, Task::Restore(which) if which & bit(next) == 0);
            if !skipped && !matches!(task, Task::Remove | Task::Cool) {
                let place = if result.is_ok() { bit(next) } else { 0 };
                self.places = self.places & !bit(next) | place;
            }
            match (task, result) {
                // Neighbours know of what was there all the time.
                (Task::Restore(_), Ok(Done::AlreadyThere)) => {}
                (Task::Take(..) | Task::Restore(_), Ok(_)) => {
                    added.at = world.now();
                    if rules.keeps(Rule::AnnouncedWhenUp) {
                        added.unsent += world.announce(group, next);
                    }
                    new = true;
                }
                (Task::Take(..) | Task::Restore(_) | Task::Warm, Err(error)) => {
                    refused = world.vip(group, next).map(|vip| (vip, error));
                }
                _ => {}
            }
            up += usize::from(self.places & bit(next) != 0);
            added.result = added.result.and(result.map(drop));
        }
        let next = next + 1;
        if next < all {
            self.work = Some(Work { task, next, added, up, new });
            return Stepped { refused, done: None };
        }
        self.work = None;
        self.up = up == all && !matches!(task, Task::Remove | Task::Cool);
        let all_needed = self.shape.all && rules.keeps(Rule::AllWhereAllAreNeeded);
        if let Task::Take(..) = task
            && up > 0
            && !all_needed
        {
            added.result = Ok(());
        }
        if let (Task::Take(epoch, ..), Ok(())) = (task, added.result) {
            self.taken = Some(epoch);
            new = true;
        }
        if new && self.taken.is_some() {
            self.announced = Some((added.at, Schedule::next(added.at, added.at)));
        }
        Stepped { refused, done: Some((task, added)) }
    }

    /// Announces once and begins the schedule, if the addresses were put up for a group that is held.
    /// The gate would stop the others.
    pub(super) fn announce_taken(&mut self, world: &mut impl World, group: GroupId) {
        if self.taken.is_some() {
            let now = world.now();
            self.announce(world, group, now);
        }
    }

    /// Announces once more, beside the schedule, likewise.
    pub(super) fn remind(&self, world: &mut impl World, group: GroupId) {
        if self.taken.is_some() {
            self.send(world, group);
        }
    }

    /// Announces once and begins the schedule at `now`. Returns how many frames did not leave.
    fn announce(&mut self, world: &mut impl World, group: GroupId, now: BootTime) -> u32 {
        self.announced = Some((now, Schedule::next(now, now)));
        self.send(world, group)
    }

    /// Announces again if it is time.
    pub(super) fn repeat(&mut self, world: &mut impl World, group: GroupId, now: BootTime) {
        if let Some((started, due)) = self.announced
            && now >= due
        {
            self.announced = Some((started, Schedule::next(started, now)));
            self.send(world, group);
        }
    }

    /// Returns when to announce again.
    pub(super) fn due(&self) -> Option<BootTime> {
        self.announced.map(|(_, due)| due)
    }

    /// Returns how many frames did not leave.
    fn send(&self, world: &mut impl World, group: GroupId) -> u32 {
        let up = (0..self.shape.addresses).filter(|place| self.places & bit(*place) != 0);
        up.map(|place| world.announce(group, place)).sum()
    }

    /// Goes by what is new of the group.
    pub(super) fn rebound(&mut self, rebound: Rebound) {
        match rebound {
            // They are on no interface any more.
            Rebound::Addresses(places) => {
                self.places &= !places;
                self.up = false;
            }
            Rebound::Group(shape) => *self = Self::new(shape),
        }
    }
}

/// An address in a set, by its place in the group.
const fn bit(place: usize) -> u64 {
    1 << (place % 64)
}
