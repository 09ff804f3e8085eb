//! Stories of the order of steps, each also with a rule broken that it tells of.

use std::collections::VecDeque;

use hb_ebpf::{
    lease::{Policy, Timing, op},
    maps::{Cause, PeerKeys},
    wire::{Health, State},
};
use zerocopy::FromZeros;

use super::*;
use crate::{
    address::{Change, ChangeError, Vip},
    announce::Gateways,
    realtime::{Demand, Policy as Scheduled},
};

const ME: u8 = 1;
const PEER: NodeId = NodeId(2);
const GROUP: GroupId = GroupId(0);
const MS: u64 = 1_000_000;
const START: u64 = 5_000_000_000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Heard,
    Commanded,
    Round,
    Ordered(op::Op),
    Probed,
    ProbedOnly(u8),
    Announced(usize),
    In,
    Back,
    Told(Told, bool),
    Rung,
    Added(usize),
    Removed(usize),
}

/// What was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Event,
    Sought,
    Refused,
    Took(bool),
    Warmed(bool),
    Dropped(bool),
    Other,
}

/// Keeps every rule but one.
#[derive(Clone, Copy, Debug)]
struct Without(Option<Rule>);

impl Rules for Without {
    fn keeps(&self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}

/// A machine on which nothing happens by itself.
struct Machine {
    now: u64,
    terms: Terms,
    record: Record,
    peer: Peer,
    events: VecDeque<Event>,
    commands: VecDeque<Command>,
    /// Addresses that the kernel refuses, by place.
    refused: u64,
    done: Vec<Call>,
}

impl World for Machine {
    fn now(&self) -> BootTime {
        BootTime(self.now)
    }

    fn event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        self.done.extend(event.map(|_| Call::Heard));
        event
    }

    fn command(&mut self) -> Option<Command> {
        let command = self.commands.pop_front();
        self.done.extend(command.map(|_| Call::Commanded));
        command
    }

    fn went_round(&mut self) {
        self.done.push(Call::Round);
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        (group == GROUP).then_some(self.record)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        (peer == PEER).then_some(self.peer)
    }

    fn order(&mut self, mut order: Order) -> Option<Order> {
        self.done.extend(op::Op::from_code(order.op).map(Call::Ordered));
        op::apply(&mut order, &mut self.record, &self.terms, self.now);
        Some(order)
    }

    fn count_misses(&mut self, _: NodeId) -> bool {
        false
    }

    fn publish(&mut self, _: &[Health; GROUPS], _: bool) {}

    fn probe(&mut self) {
        self.done.push(Call::Probed);
    }

    fn probe_these(&mut self, peers: &Peers) {
        let those = peers.iter().zip(1..).filter(|(wanted, _)| **wanted);
        self.done.extend(those.map(|(_, id)| Call::ProbedOnly(id)));
    }

    fn set_keys(&mut self, _: NodeId, _: &PeerKeys, _: usize, _: bool) {}

    fn pace(&mut self, _: u64, _: Demand) -> Option<(Scheduled, i32)> {
        None
    }

    fn vip(&self, _: GroupId, place: usize) -> Option<Vip> {
        Vip::new(2, [192, 0, 2, place as u8 + 1].into(), 32).ok()
    }

    fn announce(&mut self, _: GroupId, place: usize) -> u32 {
        self.done.push(Call::Announced(place));
        0
    }

    fn set_mac(&mut self, _: GroupId, _: u32, _: [u8; 6]) -> bool {
        true
    }

    fn set_gateways(&mut self, _: GroupId, _: u32, _: Gateways) -> bool {
        true
    }

    fn rebind(&mut self, mut tell: impl FnMut(GroupId, Rebound)) {
        tell(GROUP, Rebound::Addresses(1));
    }

    fn stand_in(&mut self) {
        self.done.push(Call::In);
    }

    fn stand_back(&mut self) {
        self.done.push(Call::Back);
    }

    fn report(&mut self, report: Report, ring: bool) {
        let told = match report {
            Report::Event(_) => Told::Event,
            Report::Sought { .. } => Told::Sought,
            Report::Refused { .. } => Told::Refused,
            Report::Took { result, .. } => Told::Took(result.is_ok()),
            Report::Warmed { result, .. } => Told::Warmed(result.is_ok()),
            Report::Dropped { result, .. } => Told::Dropped(result.is_ok()),
            Report::Rescheduled { .. } => Told::Other,
        };
        self.done.push(Call::Told(told, ring));
    }

    fn ring(&mut self) {
        self.done.push(Call::Rung);
    }
}

/// The order of steps on such a machine.
struct Story {
    machine: Machine,
    takeover: Takeover<Without>,
}

impl Story {
    /// A node alone, which holds what it seeks at once.
    fn new(shape: Shape, broken: Option<Rule>) -> Self {
        let timing = Timing {
            lease_ns: 20 * MS,
            margin_ns: MS,
            drain_ns: 2 * MS,
            seek_ns: 10 * MS,
            rho: 205,
            interval_ns: MS,
            deadtime_ns: 5 * MS,
            controller_deadtime_ns: 100 * MS,
        };
        let terms = Terms::new(Policy::Available, &timing, &[ME, PEER.0], ME, None).unwrap();
        let recorded = Epoch::floor(1).0;
        let machine = Machine {
            now: START,
            terms,
            record: Record { recorded, generation: 1, ..Record::default() },
            peer: Peer { life: Life::Alive as u8, ..Peer::new_zeroed() },
            events: VecDeque::new(),
            commands: VecDeque::new(),
            refused: 0,
            done: Vec::new(),
        };
        let nobody = [false; MAX_NODES];
        let takeover = Takeover::new(Without(broken), terms, &[shape], nobody, MS, START);
        Self { machine, takeover }
    }

    fn hear(&mut self, kind: EventKind) {
        let event = Event {
            kind: kind as u8,
            peer: PEER.0,
            cause: Cause::Silence as u8,
            ..Event::new_zeroed()
        };
        self.machine.events.push_back(event);
    }

    /// Goes on to the next change, or until there is nothing to do.
    fn step(&mut self) -> Next {
        loop {
            match self.takeover.turn(&mut self.machine) {
                Next::Wait(0) => {}
                next => return next,
            }
        }
    }

    /// The kernel makes the change that was asked for.
    fn change(&mut self, change: AddressChange) {
        let AddressChange { group, place, change } = change;
        let done = if change == Change::Remove { Call::Removed } else { Call::Added };
        self.machine.done.push(done(place));
        let vip = self.machine.vip(group, place).unwrap();
        let refused = change != Change::Remove && self.machine.refused & (1 << place) != 0;
        let refusal = EffectError::from(ChangeError::Refused { change, vip, errno: 1 });
        let result = if refused { Err(refusal) } else { Ok(Done::Added) };
        self.takeover.changed(&mut self.machine, result);
    }

    /// Goes on until there is nothing to do; returns what was done, but for ordinary rounds.
    fn run(&mut self) -> Vec<Call> {
        while let Next::Change(change) = self.step() {
            self.change(change);
        }
        self.done()
    }

    fn command(&mut self, command: Command) -> Vec<Call> {
        self.machine.commands.push_back(command);
        self.run()
    }

    fn done(&mut self) -> Vec<Call> {
        let ordinary = |call: &Call| matches!(call, Call::Round | Call::Heard | Call::Commanded);
        let done = std::mem::take(&mut self.machine.done);
        done.into_iter().filter(|call| !ordinary(call)).collect()
    }

    /// A story in which the group is taken and everything was said.
    fn taken(shape: Shape, broken: Option<Rule>) -> Self {
        let mut story = Self::new(shape, broken);
        story.command(Command::Seek { group: GROUP });
        story.machine.now += 2 * MS;
        story.run();
        story
    }
}

/// Runs a story with all rules, and with one broken, which has to show.
fn tells<T: PartialEq + std::fmt::Debug>(rule: Rule, story: impl Fn(Option<Rule>) -> T) -> T {
    let right = story(None);
    assert_ne!(story(Some(rule)), right, "{rule:?} is broken, and it does not show");
    right
}

fn two() -> Shape {
    Shape { addresses: 2, ..Shape::default() }
}

#[test]
fn a_group_is_won_put_up_announced_and_told_of_in_this_order() {
    let done = tells(Rule::AnnouncedWhenUp, |broken| {
        Story::new(two(), broken).command(Command::Seek { group: GROUP })
    });
    let mut expected = vec![Call::Ordered(op::Op::Seek), Call::In];
    expected.extend([Call::Added(0), Call::Announced(0), Call::Added(1), Call::Announced(1)]);
    expected.extend([Call::Told(Told::Took(true), false), Call::Probed, Call::Back, Call::Probed]);
    assert_eq!(done, expected);
    for rule in [Rule::DeputyStandsIn, Rule::DeputyStandsBack] {
        tells(rule, |broken| Story::new(two(), broken).command(Command::Seek { group: GROUP }));
    }
}

#[test]
fn a_group_is_given_away_said_so_and_then_taken_down() {
    let release = Command::Release { group: GROUP, successor: Some(PEER) };
    let story = |broken| Story::taken(two(), broken).command(release);
    let done = tells(Rule::ReleasedFirst, story);
    let mut expected = vec![Call::Ordered(op::Op::Release), Call::Probed];
    expected.extend([Call::In, Call::Removed(0), Call::Removed(1)]);
    expected.extend([Call::Told(Told::Dropped(true), false), Call::Back]);
    assert_eq!(done[..expected.len()], expected);
    tells(Rule::ReleaseSaid, story);
    tells(Rule::DroppedAfterTheLast, story);
}

#[test]
fn a_lost_group_is_taken_down_and_one_that_came_back_is_given_away_before() {
    for (regained, rule) in [(false, Rule::LostTakenDown), (true, Rule::RegainedReleased)] {
        let done = tells(rule, |broken| {
            let mut story = Story::taken(two(), broken);
            let end = story.machine.now;
            story.machine.record.lease_end_ns = if regained { end + MS } else { end - 1 };
            story.command(Command::Drop { group: GROUP })
        });
        let released = done.contains(&Call::Ordered(op::Op::Release));
        assert_eq!(released, regained, "{done:?}");
        assert!(done.contains(&Call::Told(Told::Dropped(true), true)), "{done:?}");
    }
}

#[test]
fn what_is_asked_for_once_more_is_answered_and_not_done_again() {
    let done = tells(Rule::TookRepeated, |broken| {
        Story::taken(two(), broken).command(Command::Seek { group: GROUP })
    });
    assert!(done.contains(&Call::Told(Told::Took(true), true)), "{done:?}");
    assert!(!done.contains(&Call::Added(0)), "{done:?}");
}

#[test]
fn a_release_ends_a_take_that_is_under_way() {
    let done = tells(Rule::TakeDownEndsATake, |broken| {
        let mut story = Story::new(two(), broken);
        story.machine.commands.push_back(Command::Seek { group: GROUP });
        let Next::Change(first) = story.step() else { panic!("nothing to change") };
        story.machine.commands.push_back(Command::Release { group: GROUP, successor: None });
        story.change(first);
        story.run()
    });
    assert!(!done.contains(&Call::Added(1)), "{done:?}");
    assert!(!done.contains(&Call::Told(Told::Took(true), true)), "{done:?}");
    assert!(done.contains(&Call::Told(Told::Dropped(true), false)), "{done:?}");
}

#[test]
fn a_refused_address_is_told_of_and_fails_the_group_only_where_all_are_needed() {
    for (all, refused) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let story = |broken| {
            let mut story = Story::new(Shape { all, ..two() }, broken);
            story.machine.refused = refused;
            story.command(Command::Seek { group: GROUP })
        };
        let done = tells(Rule::RefusalsTold, story);
        let took = done.iter().find_map(|call| match call {
            Call::Told(Told::Took(well), _) => Some(*well),
            _ => None,
        });
        assert_eq!(took, Some(!all && refused != 3), "{done:?}");
        let told = done.iter().filter(|call| matches!(call, Call::Told(Told::Refused, _)));
        assert_eq!(told.count(), if refused == 3 { 2 } else { 1 });
        if all && refused == 1 {
            tells(Rule::AllWhereAllAreNeeded, story);
        }
    }
}

#[test]
fn warm_addresses_are_only_announced_unless_some_were_being_taken_down() {
    let shape = Shape { warm: true, ..two() };
    let done = tells(Rule::DoubtedOnceTouched, |broken| {
        let mut story = Story::new(shape, broken);
        let warmed = story.command(Command::Warm { group: GROUP });
        assert!(warmed.contains(&Call::Told(Told::Warmed(true), true)), "{warmed:?}");
        assert!(!warmed.iter().any(|call| matches!(call, Call::Announced(_))), "{warmed:?}");
        story.machine.commands.push_back(Command::Cool { group: GROUP });
        let Next::Change(first) = story.step() else { panic!("nothing to change") };
        story.machine.commands.push_back(Command::Seek { group: GROUP });
        story.change(first);
        story.run()
    });
    assert!(done.contains(&Call::Added(0)) && done.contains(&Call::Added(1)), "{done:?}");

    let mut story = Story::new(shape, None);
    story.command(Command::Warm { group: GROUP });
    let done = story.command(Command::Seek { group: GROUP });
    assert!(!done.contains(&Call::Added(0)), "{done:?}");
    assert!(done.contains(&Call::Announced(0)) && done.contains(&Call::Announced(1)), "{done:?}");
}

#[test]
fn what_is_taken_is_neither_warmed_nor_cooled() {
    for command in [Command::Warm { group: GROUP }, Command::Cool { group: GROUP }] {
        let shape = Shape { warm: true, ..two() };
        let done = tells(Rule::WarmedApart, |broken| Story::taken(shape, broken).command(command));
        assert_eq!(done, []);
    }
}

#[test]
fn what_was_dropped_is_not_put_back_and_of_the_rest_only_what_is_missing() {
    let restore = Command::Restore { group: GROUP, missing: 2 };
    let done = tells(Rule::RestoredIfTaken, |broken| {
        let mut story = Story::taken(two(), broken);
        story.command(Command::Drop { group: GROUP });
        story.command(restore)
    });
    assert_eq!(done, []);
    let done = Story::taken(two(), None).command(restore);
    assert_eq!(done, [Call::In, Call::Added(1), Call::Announced(1), Call::Back]);
}

#[test]
fn a_round_is_shown_once_everything_was_heard() {
    let done = tells(Rule::RoundShownAtItsEnd, |broken| {
        let mut story = Story::new(Shape::default(), broken);
        story.hear(EventKind::Link);
        story.hear(EventKind::Link);
        story.machine.commands.push_back(Command::Rebind);
        story.step();
        let heard = |call: &Call| matches!(call, Call::Round | Call::Heard | Call::Commanded);
        story.machine.done.into_iter().filter(heard).collect::<Vec<_>>()
    });
    assert_eq!(done, [Call::Heard, Call::Heard, Call::Commanded, Call::Round]);
}

#[test]
fn after_a_stall_one_probe_leaves_and_the_next_an_interval_later() {
    let waited = tells(Rule::MissedProbesLeftOut, |broken| {
        let mut story = Story::new(Shape::default(), broken);
        assert_eq!(story.run(), [Call::Probed]);
        story.machine.now += 10 * MS + MS / 2;
        let probes = story.run().len();
        (probes, story.step())
    });
    assert_eq!(waited, (1, Next::Wait(MS)));
}

#[test]
fn a_late_peer_is_told_of_after_a_quiet_moment_and_a_death_that_needs_more_at_once() {
    let done = tells(Rule::QuietEndsWithARing, |broken| {
        let mut story = Story::new(Shape::default(), broken);
        story.run();
        story.hear(EventKind::Late);
        assert_eq!(story.run(), [Call::Told(Told::Event, false)]);
        story.machine.now += MS;
        story.run()
    });
    assert_eq!(done, [Call::Probed, Call::Rung]);

    // It seeks and has not won, since its own vote is another's.
    let mut story = Story::new(Shape::default(), None);
    story.machine.record.until_ns = START + 50 * MS;
    story.machine.record.promised = Epoch::floor(1).next(PEER.0).unwrap().0;
    story.machine.terms = Terms { policy: Policy::Witness as u8, ..story.machine.terms };
    let mut groups = [false; GROUPS];
    groups[0] = true;
    story.command(Command::Arm { peer: PEER, groups });
    story.hear(EventKind::Late);
    story.run();
    story.machine.peer.life = Life::Dead as u8;
    story.hear(EventKind::Dead);
    let done = story.run();
    assert_eq!(story.machine.record.state(), State::Idle);
    let told = [Call::Rung, Call::Told(Told::Event, true)];
    assert!(done.windows(2).any(|pair| pair == told), "{done:?}");
}

#[test]
fn a_death_that_is_over_sets_nothing_off() {
    let done = tells(Rule::DeadStill, |broken| {
        let mut story = Story::new(two(), broken);
        let mut groups = [false; GROUPS];
        groups[0] = true;
        story.command(Command::Arm { peer: PEER, groups });
        story.hear(EventKind::Dead);
        story.run()
    });
    assert_eq!(done, [Call::Told(Told::Event, true)]);
}

#[test]
fn a_peer_that_missed_is_probed_more_often_until_it_is_heard() {
    let mut story = Story::new(Shape::default(), None);
    story.run();
    story.machine.peer.misses = 1;
    story.hear(EventKind::Missed);
    assert_eq!(story.run(), [Call::ProbedOnly(PEER.0)]);
    story.machine.now += MS / 4;
    assert_eq!(story.run(), [Call::ProbedOnly(PEER.0)]);
    story.machine.peer.misses = 0;
    story.machine.now += MS / 4;
    assert_eq!(story.run(), []);
    assert_eq!(story.step(), Next::Wait(MS / 2));
}

#[test]
fn an_address_of_another_interface_is_asked_for_again() {
    let shape = Shape { warm: true, ..two() };
    let mut story = Story::new(shape, None);
    story.command(Command::Warm { group: GROUP });
    story.command(Command::Rebind);
    let done = story.command(Command::Seek { group: GROUP });
    assert!(done.contains(&Call::Added(0)), "{done:?}");
}

/// The kernel was waited for, and meanwhile another node took the group.
#[test]
fn a_seek_that_was_given_up_before_it_began_is_none() {
    let ends = [
        Command::GiveUp { group: GROUP },
        Command::Drop { group: GROUP },
        Command::Release { group: GROUP, successor: None },
    ];
    for end in ends {
        let done = tells(Rule::SoughtWhenHeardOut, |broken| {
            let mut story = Story::new(two(), broken);
            story.machine.commands.push_back(Command::Seek { group: GROUP });
            story.command(end)
        });
        assert!(!done.contains(&Call::Ordered(op::Op::Seek)), "{end:?}: {done:?}");
    }
    let mut story = Story::new(two(), None);
    story.machine.commands.push_back(Command::GiveUp { group: GROUP });
    let done = story.command(Command::Seek { group: GROUP });
    assert!(done.contains(&Call::Ordered(op::Op::Seek)), "{done:?}");
}

#[test]
fn a_change_is_asked_for_until_it_is_answered() {
    let mut story = Story::new(two(), None);
    story.machine.commands.push_back(Command::Seek { group: GROUP });
    let first = story.step();
    story.hear(EventKind::Late);
    assert_eq!(story.step(), first);
    assert!(matches!(first, Next::Change(AddressChange { place: 0, change: Change::Add, .. })));
    let Next::Change(change) = first else { unreachable!() };
    story.change(change);
    story.run();
    // An answer to nothing is no answer.
    story.takeover.changed(&mut story.machine, Ok(Done::Added));
    assert_eq!(story.done(), []);
}

#[test]
fn every_rule_has_its_place_in_the_list() {
    for (place, rule) in Rule::ALL.into_iter().enumerate() {
        assert_eq!(rule as usize, place);
        assert!(Production.keeps(rule));
    }
}
