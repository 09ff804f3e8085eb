//! The end of the work of an epoch: after the addresses of a group are gone, and before its record is
//! told so, what clients had open there is ended.

use hb_ebpf::lease::op::{Op, Order};

use super::{Controller, Sweep, World};
use crate::{core::Input, id::GroupId};

/// How far the open work of a group is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swept {
    /// Some of it, and there is more.
    More,
    /// All of it, or something cannot be.
    Done(Result<(), String>),
}

/// The newest sweep of a group. Only that one says anything of what is open now, and only while the
/// record is in the epoch that was left: it may have been held and lost again since an earlier one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweeping {
    number: u64,
    /// It has not ended.
    runs: bool,
    /// The record's epoch when it was asked for. One that begins anew has none, and was not held since.
    epoch: u64,
}

impl Controller {
    /// The addresses of a group are gone, or not: ends the work of the epoch that was left.
    pub fn on_dropped(
        &mut self,
        world: &mut impl World,
        group: GroupId,
        removed: Result<(), String>,
    ) {
        self.catch_up(world);
        let epoch = world.record(group).map_or(0, |record| record.epoch);
        let Some(sweeping) = self.sweeping.get_mut(usize::from(group.0)) else { return };
        *sweeping = Sweeping { number: sweeping.number.wrapping_add(1), runs: true, epoch };
        let number = sweeping.number;
        let swept = match removed.map(|()| world.sweep(group, number)) {
            Ok(Sweep::Begun) => return,
            Ok(Sweep::Impossible) => Ok(()),
            Ok(Sweep::Refused(error)) => Err(format!("cannot end connections: {error}")),
            Err(error) => Err(error),
        };
        self.on_swept(world, group, number, Swept::Done(swept));
    }

    /// Open work of a group was ended, as the sweep of that number was to.
    pub fn on_swept(&mut self, world: &mut impl World, group: GroupId, number: u64, swept: Swept) {
        let epoch = world.record(group).map_or(0, |record| record.epoch);
        let Some(sweeping) = self.sweeping.get_mut(usize::from(group.0)) else { return };
        if !sweeping.runs || sweeping.number != number || epoch > sweeping.epoch {
            return;
        }
        let result = match swept {
            Swept::More => return self.feed(Input::Dropping { group }),
            Swept::Done(result) => result,
        };
        sweeping.runs = false;
        if result.is_ok() {
            self.order(world, Order::new(Op::Cleaned, group.0));
        }
        self.feed(Input::Dropped { group, result });
    }
}
