//! Records and disk, kept in step: the disk comes first.

use hb_ebpf::lease::{
    op::{DONE, Op, Order},
    start,
};

use super::{Controller, News, World, observe::is_heard};
use crate::{core::Input, id::GroupId};

impl Controller {
    /// Asks for a change of a record, and tells the core what it is then. Returns whether it was
    /// changed.
    pub fn order(&mut self, world: &mut impl World, order: Order) -> bool {
        self.order_for_code(world, order) == Some(DONE)
    }

    /// Does the same and returns what came of it, `None` if the kernel did not say.
    pub(super) fn order_for_code(&mut self, world: &mut impl World, order: Order) -> Option<u8> {
        let group = GroupId(order.group);
        let code = world.order(order).map(|answer| answer.code);
        self.look_at_record(world, group);
        code
    }

    /// Looks at all records, and keeps disk and records in step.
    pub fn look_at_records(&mut self, world: &mut impl World) {
        self.learn(world);
        for group in world.groups() {
            self.keep_generation(world, group);
            self.place_again(world, group);
            self.end_lost_fence(world, group);
            self.look_at_vow(world, group);
            self.look_at_record(world, group);
        }
        self.store(world);
    }

    /// Has the disk store what is wanted, if it has nothing to do.
    pub(super) fn store(&mut self, world: &mut impl World) {
        let now = world.now();
        if let Some(write) = self.storage.next(now) {
            world.write(write);
        }
        self.news.extend(self.storage.look(now).map(News::Disk));
    }

    /// Goes on where something had to be stored first.
    pub fn on_written(&mut self, world: &mut impl World, written: Result<(), String>) {
        self.news.extend(self.storage.done(written, world.now()).map(News::Disk));
        if let Some(aside) = self.storage.aside().filter(|aside| *aside != self.aside) {
            self.aside = aside;
            self.feed(Input::Aside(aside));
        }
        self.look_at_records(world);
    }

    /// Has the generation stored that a record has heard of, and tells the record once it is: before
    /// that it neither votes for nor seeks any epoch of it.
    fn keep_generation(&mut self, world: &mut impl World, group: GroupId) {
        if self.learner {
            return;
        }
        let Some(record) = world.record(group) else { return };
        let Some(wanted) = start::generation_wanted(&record) else { return };
        if let Some(generation) = self.storage.keep(wanted) {
            self.order(world, Order { generation, ..Order::new(Op::GenerationStored, group.0) });
        }
    }

    /// Tells a record again how this node is placed: it did not hear of it, or has begun anew since.
    fn place_again(&mut self, world: &mut impl World, group: GroupId) {
        let placed = self.placed.get(usize::from(group.0)).copied().flatten();
        let Some((standing, record)) = placed.zip(world.record(group)) else { return };
        if record.standing != standing.code() {
            self.order(world, Order::placed(group.0, standing));
        }
    }

    /// An operator answers for what a learner cannot know.
    pub fn confirm(&mut self, world: &mut impl World) {
        self.confirmed = true;
        self.look_at_records(world);
    }

    /// Ends the life of a learner once every other voter was heard: whatever this node may have
    /// promised before it lost its numbers, those it promised it to know the epoch, and the witness
    /// knows what it sought itself. Where the voters are new, each has to go by them as well. Or once
    /// an operator says so.
    fn learn(&mut self, world: &mut impl World) {
        if !self.learner {
            return;
        }
        let own = world.config_hash();
        let fits = |peer| {
            world.peer(peer).is_some_and(|peer| {
                is_heard(&peer) && (self.new_voters.is_none() || peer.config_hash == own)
            })
        };
        if self.confirmed {
            self.take_part(world, "an operator confirmed it");
        } else if world.others().into_iter().all(fits) {
            self.take_part(world, "every other machine was heard");
        }
    }

    /// Lets a learner take part, above everything it has heard of, once that is stored.
    fn take_part<W: World>(&mut self, world: &mut W, why: &'static str) {
        let learners = |world: &W| {
            let record = |group| Some((group, world.record(group)?));
            let records = world.groups().into_iter().filter_map(record);
            records.filter(|(_, record)| start::is_learner(record)).collect::<Vec<_>>()
        };
        let records = learners(world);
        let generations = records.iter().map(|(_, record)| start::learned_generation(record));
        let generations: Option<Vec<_>> = generations.collect();
        // Of groups that this node does not have, any more or yet, it may have promised epochs as well.
        let words = world.others().into_iter().filter_map(|peer| world.peer(peer));
        let told = words.map(|peer| start::told_generation(&peer.words)).max();
        let told = told.unwrap_or(0).checked_add(1);
        let learned = generations.map(|all| all.into_iter().max().unwrap_or(0)).zip(told);
        let Some(learned) = learned.map(|(learned, told)| learned.max(told)) else {
            let first = !std::mem::replace(&mut self.used_up, true);
            return self.news.push(News::UsedUp(first));
        };
        let voters = self.new_voters.as_deref();
        let Some(generation) = self.storage.take_part(voters, learned) else { return };
        for (group, _) in records {
            self.order(world, Order { generation, ..Order::new(Op::Start, group.0) });
        }
        if !learners(world).is_empty() {
            // The kernel did not say what came of it: asked again at the next look.
            return;
        }
        self.learner = false;
        self.new_voters = None;
        self.news.push(News::TakesPart(generation, why));
    }
}
