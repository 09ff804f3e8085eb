//! The end of the work of an epoch, and addresses without one.

use hb_ebpf::lease::op::{Op, Order};
use hb_user::{
    engine::controller::{Sweep, World},
    id::GroupId,
};

use super::{Mutant, Outcome};
use crate::hands::Hands;

/// The record is told that all is ended when that begins.
pub(crate) struct CleanedFirst;

impl Mutant for CleanedFirst {
    fn sweep(&mut self, hands: &mut Hands<'_, '_>, group: GroupId, number: u64) -> Sweep {
        hands.order(Order::new(Op::Cleaned, group.0));
        hands.sweep(group, number)
    }
}

/// The record is told that all is ended when something cannot be.
pub(crate) struct CleanedThoughNot;

impl Mutant for CleanedThoughNot {
    fn swept(&mut self, _: Outcome) -> Outcome {
        Ok(())
    }
}

/// Addresses are put up again before the work of the epoch is ended.
pub(crate) struct WarmFirst;

impl Mutant for WarmFirst {
    fn sweep(&mut self, hands: &mut Hands<'_, '_>, group: GroupId, number: u64) -> Sweep {
        if hands.is_warm(group) {
            hands.warm(group);
        }
        hands.sweep(group, number)
    }
}

/// Addresses stay up on an interface that cannot be gated.
pub(crate) struct KeptUngated;

impl Mutant for KeptUngated {
    fn cool(&mut self, _: &mut Hands<'_, '_>, _: GroupId) {}
}
