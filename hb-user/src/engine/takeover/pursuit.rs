//! Which group to go after, and how: from an event or a wish to the record won.
//!
//! The record decides. It is asked to seek, the node's own promise to another is waited out, the other
//! voters are asked at short intervals, and addresses are put up once the record holds. There is no
//! thread and no system call here, so that the simulation runs the same as the fast path does.

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record, Terms,
        holder::SeekError,
        identity,
        op::{DONE, Op, Order},
        word,
    },
    maps::{Cause, Event, EventKind, Life, MAX_NODES, Peer},
    time::BootTime,
    wire::{GROUPS, State},
};

use super::{Groups, Rule, Steps, Trigger};
use crate::id::{GroupId, NodeId};

/// While it seeks, a node asks the voters at least this often: their promises to the one before
/// run out at any instant.
const ASK_NS: u64 = 50_000;

/// For so long into a seek; one that takes longer waits for a fence, or for a voter to come back.
const EAGER_NS: u64 = 10_000_000;

/// What a pursuit sees and does: the kernel half of the node and its addresses.
pub trait Ground {
    /// Returns the time.
    fn now(&self) -> BootTime;
    /// Returns the record of a group; `None` if there is no such group, or it cannot be read now: it
    /// is being written by a processor that was interrupted.
    fn record(&self, group: GroupId) -> Option<Record>;
    /// Returns what is known of another machine.
    fn peer(&self, peer: NodeId) -> Option<Peer>;
    /// Asks for a change of a record; returns the order with the record as it is then, `None` if the
    /// kernel takes none.
    fn order(&mut self, order: Order) -> Option<Order>;
    /// Sends a probe to every other machine now.
    fn probe(&mut self);
    /// Tells the daemon that the record of a group seeks.
    fn sought(&mut self, group: GroupId);
    /// Puts up the addresses of a group that the record holds in this epoch, and announces them.
    fn put_up(&mut self, group: GroupId, epoch: Epoch, trigger: Trigger, steps: Steps);
    /// Takes the addresses of a group down.
    fn take_down(&mut self, group: GroupId);
    /// Tells whether a rule is kept: all are, but in tests.
    fn keeps(&self, _: Rule) -> bool {
        true
    }
}

/// A group that this node is after.
#[derive(Clone, Copy, Debug)]
struct Seek {
    trigger: Trigger,
    steps: Steps,
    /// When to look again.
    due: u64,
    /// Whether the record was made to seek.
    sought: bool,
}

/// The groups that this node is after, and those it would go after.
#[derive(Debug)]
pub struct Pursuit {
    seeks: [Option<Seek>; GROUPS],
    armed: [Groups; MAX_NODES],
    terms: Terms,
    interval_ns: u64,
}

impl Pursuit {
    /// Begins after nothing. `interval_ns` is the time between two probes.
    #[must_use]
    pub const fn new(terms: Terms, interval_ns: u64) -> Self {
        Self { seeks: [None; GROUPS], armed: [[false; GROUPS]; MAX_NODES], terms, interval_ns }
    }

    /// Asks at this interval from now on.
    pub const fn pace(&mut self, interval_ns: u64) {
        self.interval_ns = interval_ns;
    }

    /// Returns whether there is a group that this node is after.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.seeks.iter().any(Option::is_some)
    }

    /// Acts upon an event that was seen at `seen`.
    pub fn on_event(&mut self, ground: &mut impl Ground, event: &Event, seen: BootTime) {
        match EventKind::from_code(event.kind) {
            Some(EventKind::Dead) => self.on_death(ground, event, seen),
            Some(EventKind::Lease) => {
                self.pursue(ground, GroupId(event.link));
                // A release to this node, perhaps.
                self.on_word(ground, event, seen);
            }
            // One event stands for all the news of a frame.
            Some(EventKind::Said | EventKind::Controller | EventKind::Up) => {
                self.on_controller(ground, event, seen);
                self.on_word(ground, event, seen);
            }
            _ => {}
        }
    }

    /// Goes after these groups, and no others, when `peer` is dead or its controller is, and after each
    /// of them when the peer hands it over.
    pub fn arm(&mut self, peer: NodeId, groups: Groups) {
        if let Some(armed) = self.armed.get_mut(peer.0.wrapping_sub(1) as usize) {
            *armed = groups;
        }
    }

    /// Goes after a group. A seek that is under way goes on as it is. Returns `false` if there is no
    /// such group.
    pub fn begin(
        &mut self,
        ground: &mut impl Ground,
        group: GroupId,
        trigger: Trigger,
        steps: Steps,
    ) -> bool {
        let Some(slot) = self.seeks.get_mut(group.0 as usize) else { return false };
        slot.get_or_insert(Seek { trigger, steps, due: 0, sought: false });
        self.pursue(ground, group);
        true
    }

    /// Goes after a group no longer; one that was won meanwhile is taken.
    pub fn give_up(&mut self, ground: &mut impl Ground, group: GroupId) {
        let given_up = ground.order(Order::new(Op::GiveUp, group.0));
        match given_up.map(|order| order.record.state()) {
            Some(State::Idle | State::Released) => self.end(group),
            _ => self.pursue(ground, group),
        }
    }

    /// Gives a group away, to `successor` or whoever seeks it.
    pub fn release(&mut self, ground: &mut impl Ground, group: GroupId, successor: Option<NodeId>) {
        self.end(group);
        let node = successor.map_or(0, |node| node.0);
        if ground.keeps(Rule::ReleasedFirst) {
            ground.order(Order { node, ..Order::new(Op::Release, group.0) });
        }
        // Before anything that takes time: the successor waits for this word.
        if ground.keeps(Rule::ReleaseSaid) {
            ground.probe();
        }
        ground.take_down(group);
    }

    /// Takes down a group that is held no longer, or whose lease has run out.
    pub fn step_down(&mut self, ground: &mut impl Ground, group: GroupId) {
        self.end(group);
        let stepped = ground.order(Order::new(Op::StepDown, group.0));
        let regained = stepped.is_none_or(|order| order.record.state() == State::Holding);
        if regained && ground.keeps(Rule::RegainedReleased) {
            // The lease came back meanwhile; what is taken down must not be let through.
            ground.order(Order::new(Op::Release, group.0));
            ground.probe();
        }
        if ground.keeps(Rule::LostTakenDown) {
            ground.take_down(group);
        }
    }

    /// Looks at every seek that is due; returns when the next one is.
    pub fn go_on(&mut self, ground: &mut impl Ground) -> u64 {
        let now = ground.now().ns();
        for index in 0..self.seeks.len() {
            if self.seeks[index].is_some_and(|seek| seek.due <= now) {
                self.pursue(ground, GroupId(index as u8));
            }
        }
        self.due()
    }

    /// Returns when the next seek is due; never without one.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.seeks.iter().flatten().map(|seek| seek.due).min().unwrap_or(u64::MAX)
    }

    /// Takes the next step towards a group that this node is after.
    fn pursue(&mut self, ground: &mut impl Ground, group: GroupId) {
        let index = group.0 as usize;
        let Some(Some(mut seek)) = self.seeks.get(index).copied() else { return };
        let now = ground.now().ns();
        let Some(record) = ground.record(group) else {
            // Nothing is known of it, so nothing has changed.
            seek.due = now + self.interval_ns;
            self.seeks[index] = Some(seek);
            return;
        };
        match record.state() {
            State::Holding => return self.win(ground, group, seek, Epoch(record.epoch)),
            State::Seeking if !ground.keeps(Rule::PutUpWhenHeld) => {
                return self.win(ground, group, seek, Epoch(record.epoch));
            }
            State::Seeking => {
                if seek.steps.sought.ns() == 0 {
                    seek.steps.sought = ground.now();
                }
                seek.sought = true;
                if now >= seek.due {
                    ground.probe();
                    seek.due = now + self.ask_ns(now.saturating_sub(seek.steps.sought.ns()));
                }
            }
            // It made way for another, or was given up.
            _ if seek.sought => return self.end(group),
            _ if now < seek.due => {
                // A release frees the node's own vote sooner.
                seek.due = seek.due.min(record.until_ns);
            }
            _ => match self.ask_record(ground, group) {
                Asked::Sought(record) => {
                    seek.sought = true;
                    seek.steps.sought = ground.now();
                    if record.state() == State::Holding {
                        return self.win(ground, group, seek, Epoch(record.epoch));
                    }
                    ground.probe();
                    ground.sought(group);
                    seek.due = ground.now().ns() + self.ask_ns(0);
                }
                Asked::Later(due) => seek.due = due,
                Asked::Refused => return self.end(group),
            },
        }
        self.seeks[index] = Some(seek);
    }

    /// Has the addresses put up of a group that is held now.
    fn win(&mut self, ground: &mut impl Ground, group: GroupId, seek: Seek, epoch: Epoch) {
        self.end(group);
        let Seek { trigger, mut steps, .. } = seek;
        steps.won = ground.now();
        ground.put_up(group, epoch, trigger, steps);
    }

    fn end(&mut self, group: GroupId) {
        if let Some(slot) = self.seeks.get_mut(group.0 as usize) {
            *slot = None;
        }
    }

    /// Seeks what was armed for the death of a peer, if it is dead still: an event may have
    /// waited while this thread did not run.
    fn on_death(&mut self, ground: &mut impl Ground, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let dead = ground.peer(peer).is_some_and(|peer| Life::from_code(peer.life) == Life::Dead);
        if dead || !ground.keeps(Rule::DeadStill) {
            let trigger = Trigger::Death(peer, Cause::from_code(event.cause));
            self.seek_armed(ground, event, trigger, seen);
        }
    }

    /// Seeks what was armed for the death of a peer's controller.
    fn on_controller(&mut self, ground: &mut impl Ground, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        if ground.peer(peer).is_some_and(|peer| peer.controller_dead != 0) {
            self.seek_armed(ground, event, Trigger::Controller(peer), seen);
        }
    }

    /// Seeks the armed groups that the peer has just handed to this node.
    fn on_word(&mut self, ground: &mut impl Ground, event: &Event, seen: BootTime) {
        let peer = NodeId(event.peer);
        let armed = self.armed(peer);
        if armed == [false; GROUPS] {
            return;
        }
        let Some(state) = ground.peer(peer) else { return };
        let steps = steps(event, seen);
        for index in (0..GROUPS).filter(|index| armed[*index]) {
            let group = GroupId(index as u8);
            let Some(record) = ground.record(group) else { continue };
            let word = identity::find(&state.words, record.fingerprint, index);
            if word.is_some_and(|word| word::hands_over(&record, &self.terms, word)) {
                self.disarm(peer, index);
                self.begin(ground, group, Trigger::Release(peer), steps);
            }
        }
    }

    fn seek_armed(
        &mut self,
        ground: &mut impl Ground,
        event: &Event,
        trigger: Trigger,
        seen: BootTime,
    ) {
        let peer = NodeId(event.peer);
        let steps = steps(event, seen);
        for (index, armed) in self.armed(peer).into_iter().enumerate() {
            if armed {
                self.disarm(peer, index);
                self.begin(ground, GroupId(index as u8), trigger, steps);
            }
        }
    }

    fn armed(&self, peer: NodeId) -> Groups {
        let index = peer.0.wrapping_sub(1) as usize;
        self.armed.get(index).copied().unwrap_or_default()
    }

    fn disarm(&mut self, peer: NodeId, group: usize) {
        if let Some(armed) = self.armed.get_mut(peer.0.wrapping_sub(1) as usize) {
            armed[group] = false;
        }
    }

    fn ask_record(&self, ground: &mut impl Ground, group: GroupId) -> Asked {
        let Some(order) = ground.order(Order::new(Op::Seek, group.0)) else {
            return Asked::Refused;
        };
        match order.code {
            DONE => Asked::Sought(order.record),
            code if code == SeekError::Bound as u8 => Asked::Later(order.record.until_ns),
            // The daemon stores it within its next round.
            code if code == SeekError::Generation as u8 => {
                Asked::Later(ground.now().ns() + self.interval_ns)
            }
            _ => Asked::Refused,
        }
    }

    /// Returns how long to wait before the voters are asked again, this long into a seek.
    fn ask_ns(&self, sought_ns: u64) -> u64 {
        if sought_ns < EAGER_NS { self.interval_ns.min(ASK_NS) } else { self.interval_ns }
    }
}

/// What the record said to a wish to seek.
enum Asked {
    /// It seeks, or holds already.
    Sought(Record),
    /// This node's own vote is given away until then.
    Later(u64),
    /// It cannot; the daemon will see why, and ask again when that has passed.
    Refused,
}

/// The steps of a takeover that an event sets off.
fn steps(event: &Event, seen: BootTime) -> Steps {
    let verdict = BootTime(event.at_ns);
    Steps { due: BootTime(event.due_ns), verdict, seen, ..Steps::default() }
}

#[cfg(test)]
#[path = "pursuit_tests.rs"]
mod tests;
