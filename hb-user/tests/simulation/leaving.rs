//! A machine that a daemon leaves in order, as `daemon/removal` reaches it.

use hb_ebpf::{
    lease::op::{DONE, Order},
    time::BootTime,
};
use hb_user::engine::controller::Parting;

use crate::{
    kernel::Kernel,
    machine::{Disk, Strike},
};

/// A machine from which a daemon takes all that was its.
pub(crate) struct Departure<'a> {
    /// What is pinned, and what is only in the hands of who leaves.
    pub(crate) pinned: &'a mut Option<Kernel>,
    pub(crate) kept: Option<Kernel>,
    pub(crate) disk: &'a mut Disk,
    pub(crate) now: u64,
    /// Of the calls that follow, only so many are made.
    pub(crate) strike: &'a mut Option<Strike>,
    pub(crate) wrong: Option<String>,
}

impl Departure<'_> {
    fn calls(&mut self) -> bool {
        self.strike.as_mut().is_none_or(Strike::call)
    }
}

impl Parting for Departure<'_> {
    type Error = ();

    fn take_away(&mut self) -> Result<bool, ()> {
        if !self.calls() {
            return Err(());
        }
        // Addresses and sockets go first, and the gate last, in which nothing fails here.
        if let Some(mut kernel) = self.pinned.take() {
            kernel.close_all(self.now);
            self.kept = Some(kernel);
        }
        Ok(true)
    }

    fn order(&mut self, order: Order) -> Result<Order, String> {
        if !self.calls() {
            return Err("killed".to_owned());
        }
        let now = self.now;
        let kernel = self.kept.as_mut().or(self.pinned.as_mut()).ok_or("no records")?;
        // Of a group that no file has.
        if usize::from(order.group) >= kernel.records.len() {
            return Ok(Order { code: DONE, now_ns: 0, ..order });
        }
        Ok(kernel.order(order, now))
    }

    fn note(&mut self, end: BootTime) -> Result<(), String> {
        if self.calls() {
            if self.pinned.is_some() {
                self.wrong = Some("leaves a note before its pins are gone".to_owned());
            }
            let kernel = self.kept.as_ref().or(self.pinned.as_ref());
            if kernel.is_some_and(|kernel| kernel.bound_until() > end.ns()) {
                self.wrong = Some("leaves a note that is too early".to_owned());
            }
            self.disk.parted = Some(end.ns());
        }
        Ok(())
    }
}
