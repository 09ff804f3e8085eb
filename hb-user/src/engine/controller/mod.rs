//! The controller: what is looked at before what, what the disk has before a record is told, what is
//! gone before a record may be held again.
//!
//! The shell hands in what happened, one method for each kind, and then asks for what is [`next`]:
//! the engine tells the core one input at a time, does what needs an order itself, by its [`World`], and
//! returns the rest. What has to wait - for the disk, for an agent, for connections to end - is begun by
//! the world, and goes on when its completion is handed in. A completion may come late, twice, or for
//! something long past.
//!
//! [`next`]: Controller::next

mod clean;
mod farewell;
mod fence;
mod leave;
mod observe;
mod records;
pub mod start;
#[cfg(test)]
mod tests;
mod warm;
mod world;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hb_ebpf::{
    epoch::Epoch,
    lease::op::Order,
    time::BootTime,
    wire::{GROUPS, Standing},
};

pub use clean::Swept;
pub use leave::{Left, Parting, leave};
pub use world::{Sweep, World};

use crate::{
    core::{
        Action, Aside, Core, Input, RecordState, Transition,
        storage::{self, Storage},
    },
    id::{GroupId, NodeId},
};

/// What a controller begins with.
#[derive(Debug)]
pub struct Begin {
    /// Who decides.
    pub core: Core,
    /// What is on the disk.
    pub storage: Storage,
    /// How often it goes round.
    pub tick: Duration,
    /// This node has no numbers from before, and takes no part yet.
    pub learner: bool,
    /// A set of voters that this node has not taken part in yet.
    pub new_voters: Option<String>,
    /// When that is.
    pub now: BootTime,
}

/// What is next.
#[derive(Debug)]
pub enum Next {
    /// To be carried out, before anything else is asked for.
    Do(Action),
    /// To be told to people. It comes after all that was done at the same time.
    Tell(Vec<Transition>),
    /// Nothing, until something happens.
    Rest,
    /// The core has left; and what is to be told before.
    Exit(Vec<Transition>),
}

/// What people may want to know, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A learner takes part, from this generation on, and why it may.
    TakesPart(u32, &'static str),
    /// There is no generation left for a learner; whether this is the first time that it is said.
    UsedUp(bool),
    /// The disk is not well, or well again.
    Disk(storage::News),
    /// This node is bound to the holder of a group without an end no longer.
    Unbound(GroupId),
    /// Nobody answers this node, which is about to fence that one: it waits, so as to be fenced first.
    StandsBack(NodeId),
    /// The report of a fence came too late, and was dropped.
    Late(GroupId, Epoch),
    /// This node leaves, and what it promised the holder of a group is not on its disk.
    Unstored(GroupId),
    /// This node leaves, and the holder of a group did not say that it goes on alone.
    Unanswered(GroupId, NodeId),
}

/// The engine of one daemon.
#[derive(Debug)]
pub struct Controller {
    core: Core,
    inputs: VecDeque<Input>,
    /// To be told once all is done.
    told: Vec<Transition>,
    storage: Storage,
    tick: Duration,
    /// When it last ran.
    round: BootTime,
    stopping: bool,
    learner: bool,
    new_voters: Option<String>,
    /// Of which groups the core was told to stand aside.
    aside: Aside,
    /// An operator let a learner take part.
    confirmed: bool,
    /// There is no generation left, which was said.
    used_up: bool,
    /// What each record was when it was looked at last, and in which epoch.
    seen: [(RecordState, Epoch); GROUPS],
    /// When the kernel last refused to watch a peer.
    watch_refused: Option<BootTime>,
    fences: BTreeMap<NodeId, fence::Target>,
    /// Fences that were reported, whose records wait for the last packets.
    silent: fence::Asked,
    sweeping: [clean::Sweeping; GROUPS],
    /// How this node is placed for each group, as its record was told.
    placed: [Option<Standing>; GROUPS],
    warm: warm::Warm,
    farewell: Option<farewell::Farewell>,
    news: Vec<News>,
}

impl Controller {
    /// Begins.
    #[must_use]
    pub fn new(begin: Begin) -> Self {
        let Begin { core, storage, tick, learner, new_voters, now } = begin;
        let aside = core.view().aside;
        Self {
            core,
            inputs: VecDeque::new(),
            told: Vec::new(),
            storage,
            tick,
            round: now,
            stopping: false,
            learner,
            new_voters,
            aside,
            confirmed: false,
            used_up: false,
            seen: Default::default(),
            watch_refused: None,
            fences: BTreeMap::new(),
            silent: Vec::new(),
            sweeping: Default::default(),
            placed: Default::default(),
            warm: warm::Warm::default(),
            farewell: None,
            news: Vec::new(),
        }
    }

    /// Returns who decides.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// Returns the disk, as far as records depend on it.
    #[must_use]
    pub const fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Returns the same for what a reload wants stored.
    pub const fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    /// Tells whether this node has no numbers from before, and takes no part yet.
    #[must_use]
    pub const fn is_learner(&self) -> bool {
        self.learner
    }

    /// Returns the set of voters that this node has not taken part in yet.
    #[must_use]
    pub fn new_voters(&self) -> Option<&str> {
        self.new_voters.as_deref()
    }

    /// Tells whether this node leaves in order.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Returns what people may want to know since this was asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Puts an input in the queue that [`next`](Self::next) empties.
    pub fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// Stands aside of these groups, and of no others, once that is stored.
    pub fn stand_aside(&mut self, world: &mut impl World, aside: Aside) {
        self.storage.stand_aside(aside);
        self.store(world);
    }

    /// Leaves in order.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.feed(Input::Stop);
    }

    /// Another group has this place from now on: what was known of the one before says nothing of it.
    pub fn forget(&mut self, group: GroupId) {
        self.warm.leave(group);
        let place = usize::from(group.0);
        if let (Some(seen), Some(placed)) = (self.seen.get_mut(place), self.placed.get_mut(place)) {
            (*seen, *placed) = Default::default();
        }
    }

    /// Returns when [`on_timeout`](Self::on_timeout) is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.core.poll_timeout()
    }

    /// It is that time.
    pub fn on_timeout(&mut self, world: &mut impl World) {
        // What it sees comes first: the core is called again after that.
        if !self.catch_up(world) {
            self.core.handle_timeout(world.now());
        }
    }

    /// Returns what is next: everything that the core has in mind, then what came of it for people,
    /// then what follows from the next input.
    pub fn next(&mut self, world: &mut impl World) -> Next {
        loop {
            while let Some(action) = self.core.poll_action() {
                if let Some(next) = self.carry_out(world, action) {
                    return next;
                }
            }
            if !self.told.is_empty() {
                return Next::Tell(std::mem::take(&mut self.told));
            }
            self.catch_up(world);
            let Some(input) = self.inputs.pop_front() else { return Next::Rest };
            self.core.handle(input, world.now());
        }
    }

    /// Carries out what needs an order, and returns what the shell does.
    fn carry_out(&mut self, world: &mut impl World, action: Action) -> Option<Next> {
        match action {
            Action::Fence { group, epoch, node } => self.fence(world, group, epoch, node),
            Action::Place { group, standing } => {
                if let Some(placed) = self.placed.get_mut(usize::from(group.0)) {
                    *placed = Some(standing);
                }
                self.order(world, Order::placed(group.0, standing));
            }
            Action::Release { group, .. } | Action::Drop { group, .. } => {
                self.warm.leave(group);
                return Some(Next::Do(action));
            }
            Action::Log(transition) => self.told.push(transition),
            Action::Exit => return Some(Next::Exit(std::mem::take(&mut self.told))),
            _ => return Some(Next::Do(action)),
        }
        None
    }
}
