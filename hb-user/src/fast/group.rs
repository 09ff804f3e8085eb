//! What taking and dropping a group means, ready-made.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{Steps, Trigger};
use crate::{
    address::{AddressSocket, Batch, Change, ChangeError, Done, Vip},
    announce::{AnnounceSocket, Announcement, Schedule},
    clock,
};

/// Why the addresses of a group are not as they should be. Plain data: making one allocates
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// An address could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Nothing could be asked of the kernel.
    #[error("cannot ask the kernel to change addresses: see its log, then restart hb on this node")]
    Socket,
    /// There is no such group.
    #[error("no such group")]
    Unknown,
}

/// The addresses of one group and how they are announced.
#[derive(Debug, Default)]
pub struct Effect {
    addresses: Vec<Address>,
    resources: bool,
    warm: bool,
}

#[derive(Debug)]
struct Address {
    add: Batch,
    remove: Batch,
    announcement: Announcement,
    socket: AnnounceSocket,
}

impl Effect {
    /// A group without addresses. With `resources` the daemon starts something once the group is
    /// held.
    #[must_use]
    pub fn new(resources: bool) -> Self {
        Self { resources, ..Self::default() }
    }

    /// The addresses may be up also while the group is not held: then a takeover announces them and
    /// asks nothing of the kernel.
    #[must_use]
    pub fn warm(self) -> Self {
        Self { warm: true, ..self }
    }

    /// Appends an address, announced from `socket` by `announcement`.
    ///
    /// # Errors
    ///
    /// [`crate::address::BatchFull`].
    pub fn push(
        &mut self,
        vip: Vip,
        announcement: Announcement,
        socket: AnnounceSocket,
    ) -> Result<(), crate::address::BatchFull> {
        let (mut add, mut remove) = (Batch::new(), Batch::new());
        add.push(Change::Add, vip)?;
        remove.push(Change::Remove, vip)?;
        self.addresses.push(Address { add, remove, announcement, socket });
        Ok(())
    }
}

/// A group while the thread runs.
pub(super) struct Group {
    effect: Effect,
    announced: Option<(BootTime, BootTime)>,
    taken: Option<Epoch>,
    /// Every address is on this node, by what the kernel said last.
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
}

/// What shall become of a group's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// They are put up, for a takeover.
    Take(Epoch, Trigger, Steps),
    /// They are put up again.
    Restore(Epoch),
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
    /// The first thing that failed.
    pub(super) result: Result<(), EffectError>,
}

impl Group {
    pub(super) fn new(effect: Effect) -> Self {
        Self { effect, announced: None, taken: None, up: false, work: None }
    }

    /// Returns the epoch in which the addresses were put up, or are being put up.
    pub(super) fn taken(&self) -> Option<Epoch> {
        match self.work.map(|work| work.task) {
            Some(Task::Take(epoch, ..) | Task::Restore(epoch)) => Some(epoch),
            _ => self.taken,
        }
    }

    /// Returns whether the daemon starts something once the group is held.
    pub(super) fn has_resources(&self) -> bool {
        self.effect.resources
    }

    /// Begins to put the addresses up or to take them down, whatever was being done to them: call
    /// [`step`](Self::step) until it says what came of it.
    pub(super) fn begin(&mut self, task: Task) {
        self.taken = None;
        if let Task::Remove | Task::Cool = task {
            self.announced = None;
        }
        // Of all tasks only a takeover is begun without a doubt that they are there.
        self.up &= matches!(task, Task::Take(..));
        let added = Added { at: clock::now(), unsent: 0, result: Ok(()) };
        self.work = Some(Work { task, next: 0, added });
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

    /// Does the next address, if there is something to be done: announced before the one after it,
    /// for it is of use at once. Returns what came of all after the last.
    pub(super) fn step(&mut self, socket: &mut AddressSocket) -> Option<(Task, Added)> {
        let Work { task, next, mut added } = self.work?;
        if let Task::Take(epoch, ..) = task
            && self.effect.warm
            && self.up
        {
            added.unsent = self.announce(added.at);
            self.taken = Some(epoch);
            self.work = None;
            return Some((task, added));
        }
        if let Some(address) = self.effect.addresses.get(next) {
            let result = match task {
                Task::Take(..) | Task::Restore(_) => execute(socket, &address.add).map(|()| {
                    added.at = clock::now();
                    added.unsent += address.announce();
                }),
                Task::Warm => execute(socket, &address.add),
                Task::Remove | Task::Cool => execute(socket, &address.remove),
            };
            added.result = added.result.and(result);
        }
        let next = next + 1;
        if next < self.effect.addresses.len() {
            self.work = Some(Work { task, next, added });
            return None;
        }
        self.work = None;
        self.up = added.result.is_ok() && !matches!(task, Task::Remove | Task::Cool);
        if let (Task::Take(epoch, ..) | Task::Restore(epoch), Ok(())) = (task, added.result) {
            self.taken = Some(epoch);
            self.announced = Some((added.at, Schedule::next(added.at, added.at)));
        }
        Some((task, added))
    }

    /// Announces once and begins the schedule at `now`. Returns how many frames did not leave.
    pub(super) fn announce(&mut self, now: BootTime) -> u32 {
        self.announced = Some((now, Schedule::next(now, now)));
        self.send()
    }

    /// Announces again if it is time.
    pub(super) fn repeat(&mut self, now: BootTime) {
        if let Some((started, due)) = self.announced
            && now >= due
        {
            self.announced = Some((started, Schedule::next(started, now)));
            self.send();
        }
    }

    /// Returns when to announce again.
    pub(super) fn due(&self) -> Option<BootTime> {
        self.announced.map(|(_, due)| due)
    }

    fn send(&self) -> u32 {
        self.effect.addresses.iter().map(Address::announce).sum()
    }
}

impl Address {
    /// Returns how many frames did not leave.
    fn announce(&self) -> u32 {
        self.announcement.frames().map(|frame| u32::from(self.socket.send(frame).is_err())).sum()
    }
}

/// Makes the one change of `batch`.
fn execute(socket: &mut AddressSocket, batch: &Batch) -> Result<(), EffectError> {
    let mut result = [Ok(Done::Missing)];
    socket.execute(batch, &mut result).map_err(|_| EffectError::Socket)?;
    result[0]?;
    Ok(())
}
