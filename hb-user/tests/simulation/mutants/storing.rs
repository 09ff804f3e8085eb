//! Disk and record, and what a learner begins with.

use hb_ebpf::lease::op::{Op, Order};
use hb_user::{core::storage::Write, engine::controller::World};

use super::{Mutant, Outcome};
use crate::hands::Hands;

/// Records hear of a generation while it is being stored.
pub(crate) struct ToldFirst;

impl Mutant for ToldFirst {
    fn write(&mut self, hands: &mut Hands<'_, '_>, write: Write) {
        if let Write::Generation(generation) = write {
            for group in hands.groups() {
                hands.order(Order { generation, ..Order::new(Op::GenerationStored, group.0) });
            }
        }
        hands.write(write);
    }
}

/// A record is bound without an end while that is being stored.
pub(crate) struct VowsFirst;

impl Mutant for VowsFirst {
    fn write(&mut self, hands: &mut Hands<'_, '_>, write: Write) {
        if let Write::Vow(group, Some(_)) = write {
            hands.order(Order::new(Op::Vow, group.0));
        }
        hands.write(write);
    }
}

/// A promise goes from the disk as soon as the record has given it.
pub(crate) struct ForgetsEarly;

impl Mutant for ForgetsEarly {
    fn order(&mut self, hands: &mut Hands<'_, '_>, order: Order) -> Option<Order> {
        let answer = hands.order(order);
        if Op::from_code(order.op) == Some(Op::Vow) {
            hands.write(Write::Vow(hb_user::id::GroupId(order.group), None));
        }
        answer
    }
}

/// Whatever the disk answers, what was to be stored is.
pub(crate) struct BelievesAnyWrite;

impl Mutant for BelievesAnyWrite {
    fn written(&mut self, _: Outcome) -> Outcome {
        Ok(())
    }
}

/// What is asked for twice is written twice at one time.
pub(crate) struct WritesAtOnce;

impl Mutant for WritesAtOnce {
    fn write(&mut self, hands: &mut Hands<'_, '_>, write: Write) {
        hands.write(write.clone());
        hands.write(write);
    }
}

/// A learner begins with the generation it has heard of, not with one above.
pub(crate) struct LearnsEqual;

impl Mutant for LearnsEqual {
    fn order(&mut self, hands: &mut Hands<'_, '_>, mut order: Order) -> Option<Order> {
        if Op::from_code(order.op) == Some(Op::Start) {
            order.generation -= 1;
        }
        hands.order(order)
    }
}
