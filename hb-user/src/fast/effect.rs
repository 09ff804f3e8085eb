//! What taking and dropping a group means, ready-made: the messages to the kernel, and the frames that announce.

use crate::{
    address::{AddressSocket, Batch, BatchFull, Change, Done, Vip},
    announce::{AnnounceSocket, Announcement},
    engine::takeover::{EffectError, Shape},
};

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
    /// [`BatchFull`].
    pub fn push(
        &mut self,
        vip: Vip,
        announcement: Announcement,
        socket: AnnounceSocket,
    ) -> Result<(), BatchFull> {
        let (mut add, mut remove) = (Batch::new(), Batch::new());
        add.push(Change::Add, vip)?;
        remove.push(Change::Remove, vip)?;
        self.addresses.push(Address { vip, add, remove, announcement, socket });
        Ok(())
    }

    /// Returns what has to be known to take and to drop the group.
    pub(super) fn shape(&self) -> Shape {
        let Self { ref addresses, resources, warm, all } = *self;
        Shape { addresses: addresses.len(), resources, warm, all }
    }

    /// Returns an address.
    pub(super) fn vip(&self, place: usize) -> Option<Vip> {
        self.addresses.get(place).map(|address| address.vip)
    }

    /// Changes one address, and waits until that is done.
    pub(super) fn change(
        &self,
        socket: &mut AddressSocket,
        place: usize,
        change: Change,
    ) -> Result<Done, EffectError> {
        let address = self.addresses.get(place).ok_or(EffectError::Unknown)?;
        let batch = match change {
            Change::Add | Change::Adopt => &address.add,
            Change::Remove => &address.remove,
        };
        let mut result = [Ok(Done::Missing)];
        socket.execute(batch, &mut result).map_err(|_| EffectError::Socket)?;
        Ok(result[0]?)
    }

    /// Announces an address. Returns how many frames did not leave.
    pub(super) fn announce(&self, place: usize) -> u32 {
        let Some(Address { announcement, socket, .. }) = self.addresses.get(place) else {
            return 0;
        };
        announcement.frames().map(|frame| u32::from(socket.send(frame).is_err())).sum()
    }

    /// Announces otherwise what is on the interface of this index; returns whether anything is.
    pub(super) fn announce_by(
        &mut self,
        interface: u32,
        change: impl Fn(&Announcement) -> Announcement,
    ) -> bool {
        let mut concerned = false;
        for address in &mut self.addresses {
            if address.vip.interface() == interface {
                address.announcement = change(&address.announcement);
                concerned = true;
            }
        }
        concerned
    }

    /// Goes by these addresses from now on, and leaves those it had in their place. Returns which, as a
    /// set of places.
    pub(super) fn rebind(&mut self, made: &mut Self) -> u64 {
        let mut rebound = 0;
        for made in &mut made.addresses {
            let same = |address: &Address| address.vip.ip() == made.vip.ip();
            if let Some(place) = self.addresses.iter().position(same) {
                std::mem::swap(&mut self.addresses[place], made);
                rebound |= 1 << (place % 64);
            }
        }
        rebound
    }
}
