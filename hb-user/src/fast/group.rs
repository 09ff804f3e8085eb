//! What taking and dropping a group means, ready-made.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{Steps, Trigger};
use crate::{
    address::{AddressSocket, Batch, Change, ChangeError, Done, Vip},
    announce::{AnnounceSocket, Announcement, Gateways, Schedule},
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
    all: bool,
}

#[derive(Debug)]
struct Address {
    vip: Vip,
    /// It is on this node, by what the kernel said last.
    up: bool,
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

    /// Without every one of its addresses the group is not served. Else it is with one of them, so that
    /// what can be served is.
    #[must_use]
    pub fn needs_all(self) -> Self {
        Self { all: true, ..self }
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
        self.addresses.push(Address { vip, up: false, add, remove, announcement, socket });
        Ok(())
    }
}

/// A group while the thread runs.
pub(super) struct Group {
    effect: Effect,
    announced: Option<(BootTime, BootTime)>,
    taken: Option<Epoch>,
    /// Every address is on this node, by what the kernel said last, and nothing was said since that
    /// makes it doubtful.
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

/// One step of what is done to the addresses of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stepped {
    /// The address that could not be put up, and why.
    pub(super) refused: Option<(Vip, EffectError)>,
    /// What came of all, after the last.
    pub(super) done: Option<(Task, Added)>,
}

impl Group {
    pub(super) fn new(effect: Effect) -> Self {
        Self { effect, announced: None, taken: None, up: false, work: None }
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
        self.effect.resources
    }

    /// Begins to put the addresses up or to take them down, whatever was being done to them: call
    /// [`step`](Self::step) until it says what came of it.
    pub(super) fn begin(&mut self, task: Task) {
        // What is put back was taken, and is so whether or not it succeeds.
        if !matches!(task, Task::Restore(_)) {
            self.taken = None;
        }
        if let Task::Remove | Task::Cool = task {
            self.announced = None;
        }
        // Of all tasks only a takeover is begun without a doubt that they are there.
        self.up &= matches!(task, Task::Take(..));
        let added = Added { at: clock::now(), unsent: 0, result: Ok(()) };
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

    /// Does the next address, if there is something to be done: announced before the one after it,
    /// for it is of use at once.
    pub(super) fn step(&mut self, socket: &mut AddressSocket) -> Stepped {
        let Some(Work { task, next, mut added, mut up, mut new }) = self.work else {
            return Stepped::default();
        };
        if let Task::Take(epoch, ..) = task
            && self.effect.warm
            && self.up
        {
            added.unsent = self.announce(added.at);
            self.taken = Some(epoch);
            self.work = None;
            return Stepped { refused: None, done: Some((task, added)) };
        }
        let mut refused = None;
        if let Some(address) = self.effect.addresses.get_mut(next) {
            let result = match task {
                Task::Restore(which) if which & (1 << (next % 64)) == 0 => Ok(Done::AlreadyThere),
                Task::Take(..) | Task::Restore(_) | Task::Warm => address.put_up(socket),
                Task::Remove | Task::Cool => address.take_down(socket),
            };
            match (task, result) {
                // Neighbours know of what was there all the time.
                (Task::Restore(_), Ok(Done::AlreadyThere)) => {}
                (Task::Take(..) | Task::Restore(_), Ok(_)) => {
                    added.at = clock::now();
                    added.unsent += address.announce();
                    new = true;
                }
                (Task::Take(..) | Task::Restore(_) | Task::Warm, Err(error)) => {
                    refused = Some((address.vip, error));
                }
                _ => {}
            }
            up += usize::from(address.up);
            added.result = added.result.and(result.map(drop));
        }
        let (next, all) = (next + 1, self.effect.addresses.len());
        if next < all {
            self.work = Some(Work { task, next, added, up, new });
            return Stepped { refused, done: None };
        }
        self.work = None;
        self.up = up == all && !matches!(task, Task::Remove | Task::Cool);
        if let Task::Take(..) = task
            && up > 0
            && !self.effect.all
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

    /// Announces once and begins the schedule at `now`, if the addresses were put up for a group that is
    /// held. The gate would stop the others.
    pub(super) fn announce_taken(&mut self, now: BootTime) {
        if self.taken.is_some() {
            self.announce(now);
        }
    }

    /// Announces once more, beside the schedule, likewise.
    pub(super) fn remind(&self) {
        if self.taken.is_some() {
            self.send();
        }
    }

    /// Announces once and begins the schedule at `now`. Returns how many frames did not leave.
    fn announce(&mut self, now: BootTime) -> u32 {
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

    /// Returns how many frames did not leave.
    fn send(&self) -> u32 {
        let up = self.effect.addresses.iter().filter(|address| address.up);
        up.map(Address::announce).sum()
    }

    /// Goes by these addresses from now on, and leaves those it had in their place: they are on no
    /// interface any more.
    pub(super) fn rebind(&mut self, effect: &mut Effect) {
        for made in &mut effect.addresses {
            let same = |address: &&mut Address| address.vip.ip() == made.vip.ip();
            if let Some(address) = self.effect.addresses.iter_mut().find(same) {
                std::mem::swap(address, made);
                self.up = false;
            }
        }
    }

    /// Is another group from now on, of which nothing is here, and leaves what it was in its place.
    pub(super) fn replace(&mut self, effect: &mut Effect) {
        std::mem::swap(&mut self.effect, effect);
        (self.announced, self.taken, self.up, self.work) = (None, None, false, None);
    }

    /// Announces by this MAC address from now on what is on the interface of this index, and once more
    /// at `now` if the group is held.
    pub(super) fn set_mac(&mut self, interface: u32, mac: [u8; 6], now: BootTime) {
        self.announce_by(interface, now, |announcement| announcement.at(mac));
    }

    /// Does so with questions for these routers.
    pub(super) fn set_gateways(&mut self, interface: u32, gateways: Gateways, now: BootTime) {
        self.announce_by(interface, now, |announcement| announcement.asking(gateways));
    }

    fn announce_by(
        &mut self,
        interface: u32,
        now: BootTime,
        change: impl Fn(&Announcement) -> Announcement,
    ) {
        let addresses = self.effect.addresses.iter_mut();
        let mut concerned = false;
        for address in addresses.filter(|address| address.vip.interface() == interface) {
            address.announcement = change(&address.announcement);
            concerned = true;
        }
        if concerned {
            self.announce_taken(now);
        }
    }
}

impl Address {
    fn put_up(&mut self, socket: &mut AddressSocket) -> Result<Done, EffectError> {
        let result = execute(socket, &self.add);
        self.up = result.is_ok();
        result
    }

    /// One that does not go is told of by no neighbour either.
    fn take_down(&mut self, socket: &mut AddressSocket) -> Result<Done, EffectError> {
        self.up = false;
        execute(socket, &self.remove)
    }

    /// Returns how many frames did not leave.
    fn announce(&self) -> u32 {
        self.announcement.frames().map(|frame| u32::from(self.socket.send(frame).is_err())).sum()
    }
}

/// Makes the one change of `batch`.
fn execute(socket: &mut AddressSocket, batch: &Batch) -> Result<Done, EffectError> {
    let mut result = [Ok(Done::Missing)];
    socket.execute(batch, &mut result).map_err(|_| EffectError::Socket)?;
    Ok(result[0]?)
}
