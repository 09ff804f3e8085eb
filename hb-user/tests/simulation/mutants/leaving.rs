//! A clean stop.

use hb_ebpf::{
    lease::op::{DONE, Op, Order},
    time::BootTime,
};
use hb_user::engine::controller::{self, Left, Parting};

use super::Mutant;
use crate::leaving::Departure;

/// The note is left while the pins are there.
pub(crate) struct NotedFirst;

impl Mutant for NotedFirst {
    fn leave(&mut self, departure: &mut Departure<'_>) -> Result<Left, ()> {
        struct First<'a, 'b>(&'a mut Departure<'b>);
        impl Parting for First<'_, '_> {
            type Error = ();

            fn take_away(&mut self) -> Result<bool, ()> {
                Ok(true)
            }

            fn order(&mut self, order: Order) -> Result<Order, String> {
                self.0.order(order)
            }

            fn note(&mut self, end: BootTime) -> Result<(), String> {
                self.0.note(end)
            }
        }
        let left = controller::leave(&mut First(departure));
        departure.take_away()?;
        left
    }
}

/// Records are not asked to take no part any more; what they promised is over now.
pub(crate) struct NoPart;

impl Mutant for NoPart {
    fn leave(&mut self, departure: &mut Departure<'_>) -> Result<Left, ()> {
        struct Skipping<'a, 'b>(&'a mut Departure<'b>);
        impl Parting for Skipping<'_, '_> {
            type Error = ();

            fn take_away(&mut self) -> Result<bool, ()> {
                self.0.take_away()
            }

            fn order(&mut self, order: Order) -> Result<Order, String> {
                Ok(Order { code: DONE, now_ns: self.0.now, ..order })
            }

            fn note(&mut self, end: BootTime) -> Result<(), String> {
                self.0.note(end)
            }
        }
        controller::leave(&mut Skipping(departure))
    }
}

/// The note says when what the first record promised is over.
pub(crate) struct NotedEarly;

impl Mutant for NotedEarly {
    fn leave(&mut self, departure: &mut Departure<'_>) -> Result<Left, ()> {
        struct Early<'a, 'b>(&'a mut Departure<'b>);
        impl Parting for Early<'_, '_> {
            type Error = ();

            fn take_away(&mut self) -> Result<bool, ()> {
                self.0.take_away()
            }

            fn order(&mut self, order: Order) -> Result<Order, String> {
                let parts = Op::from_code(order.op) == Some(Op::Part);
                let answer = self.0.order(order)?;
                let other = parts && order.group != 0;
                Ok(if other { Order { now_ns: 0, ..answer } } else { answer })
            }

            fn note(&mut self, end: BootTime) -> Result<(), String> {
                self.0.note(end)
            }
        }
        controller::leave(&mut Early(departure))
    }
}
