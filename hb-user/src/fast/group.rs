//! What taking and dropping a group means, ready-made.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use crate::{
    address::{AddressSocket, Batch, Change, ChangeError, Done, Vip},
    announce::{AnnounceSocket, Announcement, Schedule},
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
    add: Batch,
    remove: Batch,
    announcements: Vec<(Announcement, AnnounceSocket)>,
}

impl Effect {
    /// A group without addresses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
        self.add.push(Change::Add, vip)?;
        self.remove.push(Change::Remove, vip)?;
        self.announcements.push((announcement, socket));
        Ok(())
    }

    /// Returns how many addresses there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.announcements.len()
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.announcements.is_empty()
    }
}

/// A group while the thread runs.
pub(super) struct Group {
    effect: Effect,
    results: Vec<Result<Done, ChangeError>>,
    announced: Option<(BootTime, BootTime)>,
    taken: Option<Epoch>,
}

impl Group {
    pub(super) fn new(effect: Effect) -> Self {
        let results = vec![Ok(Done::Missing); effect.len()];
        Self { effect, results, announced: None, taken: None }
    }

    /// Returns the epoch in which the addresses were put up, if they are.
    pub(super) fn taken(&self) -> Option<Epoch> {
        self.taken
    }

    /// Puts the addresses up.
    pub(super) fn add(
        &mut self,
        socket: &mut AddressSocket,
        epoch: Epoch,
    ) -> Result<(), EffectError> {
        self.taken = None;
        Self::execute(socket, &self.effect.add, &mut self.results)?;
        self.taken = Some(epoch);
        Ok(())
    }

    /// Takes the addresses down and stops announcing.
    pub(super) fn remove(&mut self, socket: &mut AddressSocket) -> Result<(), EffectError> {
        self.announced = None;
        self.taken = None;
        Self::execute(socket, &self.effect.remove, &mut self.results)
    }

    fn execute(
        socket: &mut AddressSocket,
        batch: &Batch,
        results: &mut [Result<Done, ChangeError>],
    ) -> Result<(), EffectError> {
        socket.execute(batch, results).map_err(|_| EffectError::Socket)?;
        for result in results {
            (*result)?;
        }
        Ok(())
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
        let mut unsent = 0;
        for (announcement, socket) in &self.effect.announcements {
            for frame in announcement.frames() {
                if socket.send(frame).is_err() {
                    unsent += 1;
                }
            }
        }
        unsent
    }
}
