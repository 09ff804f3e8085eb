//! What taking and dropping a group means, ready-made.

use hb_ebpf::{epoch::Epoch, time::BootTime};

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
    remove: Batch,
    resources: bool,
}

#[derive(Debug)]
struct Address {
    add: Batch,
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
        let mut add = Batch::new();
        add.push(Change::Add, vip)?;
        self.remove.push(Change::Remove, vip)?;
        self.addresses.push(Address { add, announcement, socket });
        Ok(())
    }
}

/// A group while the thread runs.
pub(super) struct Group {
    effect: Effect,
    results: Vec<Result<Done, ChangeError>>,
    announced: Option<(BootTime, BootTime)>,
    taken: Option<Epoch>,
}

/// What became of a group's addresses.
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
        let results = vec![Ok(Done::Missing); effect.addresses.len()];
        Self { effect, results, announced: None, taken: None }
    }

    /// Returns the epoch in which the addresses were put up, if they are.
    pub(super) fn taken(&self) -> Option<Epoch> {
        self.taken
    }

    /// Returns whether the daemon starts something once the group is held.
    pub(super) fn has_resources(&self) -> bool {
        self.effect.resources
    }

    /// Puts the addresses up, each announced before the next: the first is of use at once.
    pub(super) fn add(&mut self, socket: &mut AddressSocket, epoch: Epoch) -> Added {
        self.taken = None;
        let mut added = Added { at: clock::now(), unsent: 0, result: Ok(()) };
        for address in &self.effect.addresses {
            match execute(socket, &address.add, &mut self.results) {
                Ok(()) => {
                    added.at = clock::now();
                    added.unsent += address.announce();
                }
                Err(error) => added.result = added.result.and(Err(error)),
            }
        }
        if added.result.is_ok() {
            self.taken = Some(epoch);
            self.announced = Some((added.at, Schedule::next(added.at, added.at)));
        }
        added
    }

    /// Takes the addresses down and stops announcing.
    pub(super) fn remove(&mut self, socket: &mut AddressSocket) -> Result<(), EffectError> {
        self.announced = None;
        self.taken = None;
        execute(socket, &self.effect.remove, &mut self.results)
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

fn execute(
    socket: &mut AddressSocket,
    batch: &Batch,
    results: &mut [Result<Done, ChangeError>],
) -> Result<(), EffectError> {
    socket.execute(batch, results).map_err(|_| EffectError::Socket)?;
    for result in results.iter().take(batch.changes().len()) {
        (*result)?;
    }
    Ok(())
}
