//! Single orders of steps; whole clusters of them are in the simulation.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Policy, Record,
        op::{DONE, NOTHING, Op, Order},
        start as record_start,
    },
    maps::{Life, Peer},
    time::BootTime,
    wire::{GROUPS, Standing, State},
};
use zerocopy::FromZeros;

use super::{Begin, Controller, Left, News, Next, Parting, Sweep, Swept, World, leave, start};
use crate::{
    beginning::Beginning,
    core::{
        Core, Input,
        storage::{Storage, Write},
        testing::{A, B, GROUP, setup},
    },
    id::{GroupId, NodeId},
};

const STAND_BACK: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(8);

/// A machine that notes what it is asked for, and whose kernel answers only if it is told to.
struct Bench {
    now: BootTime,
    record: Record,
    peer: Peer,
    warm: bool,
    answered: bool,
    answers_probes: bool,
    /// Orders that are carried out; the answers of the others are lost.
    answers: bool,
    carries_out: bool,
    called: RefCell<Vec<String>>,
}

impl Bench {
    fn new() -> Self {
        Self {
            now: BootTime(1_000_000_000),
            record: Record { generation: 1, ..Record::default() },
            peer: Peer { life: Life::Alive as u8, watched: 1, ..Peer::new_zeroed() },
            warm: false,
            answered: true,
            answers_probes: true,
            answers: true,
            carries_out: true,
            called: RefCell::default(),
        }
    }

    fn controller(&self, learner: bool) -> Controller {
        let mut controller = Controller::new(Begin {
            core: Core::new(setup(A), self.now).unwrap(),
            storage: Storage::new(1, &BTreeMap::new(), crate::core::Aside::Nothing),
            tick: TICK,
            learner,
            new_voters: None,
            now: self.now,
        });
        let mut world = Self::new();
        while !matches!(controller.next(&mut world), Next::Rest) {}
        controller
    }

    fn call(&self, call: impl Into<String>) {
        self.called.borrow_mut().push(call.into());
    }

    /// Returns what it was asked for since this was asked last.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.called.borrow_mut())
    }

    /// Returns the orders of those.
    fn orders(&self) -> Vec<String> {
        let calls = self.calls();
        calls.into_iter().filter_map(|call| Some(call.strip_prefix("order ")?.to_owned())).collect()
    }
}

impl World for Bench {
    fn now(&self) -> BootTime {
        self.now
    }

    fn policy(&self) -> Policy {
        Policy::Safe
    }

    fn others(&self) -> Vec<NodeId> {
        vec![B]
    }

    fn groups(&self) -> Vec<GroupId> {
        vec![GROUP]
    }

    fn fingerprints(&self) -> [u32; GROUPS] {
        [0; GROUPS]
    }

    fn is_warm(&self, _: GroupId) -> bool {
        self.warm
    }

    fn config_hash(&self) -> u64 {
        7
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.call(format!("peer {peer}"));
        Some(self.peer)
    }

    fn answers(&self, _: NodeId) -> bool {
        self.answers_probes
    }

    fn record(&self, _: GroupId) -> Option<Record> {
        self.call("record");
        Some(self.record)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.call(format!("order {:?}", Op::from_code(order.op).unwrap()));
        if self.carries_out {
            match Op::from_code(order.op) {
                Some(Op::Start) => self.record = Record { generation: 9, ..Record::default() },
                Some(Op::FenceFailed) => self.record.fencing = 0,
                Some(Op::FenceAsk) => self.record.fencing = 1,
                Some(Op::Placed) => self.record.standing = order.node,
                _ => {}
            }
        }
        let answer = Order { code: DONE, record: self.record, ..order };
        self.answers.then_some(answer)
    }

    fn fast_path_answers(&mut self) -> bool {
        self.call("answers");
        true
    }

    fn stamp(&mut self) {
        self.call("stamp");
    }

    fn watch(&mut self, peer: NodeId) -> bool {
        self.call(format!("watch {peer}"));
        true
    }

    fn set_buddy(&mut self, _: NodeId, _: Option<NodeId>) {}

    fn write(&mut self, write: Write) {
        self.call(format!("write {write:?}"));
    }

    fn delay_fence(&mut self, node: NodeId) {
        self.call(format!("delay {node}"));
    }

    fn is_answered(&self, _: NodeId) -> bool {
        self.answered
    }

    fn stand_back(&self) -> Duration {
        STAND_BACK
    }

    fn run_agent(&mut self, _: NodeId, asked: &[(GroupId, Epoch)]) -> Result<(), String> {
        self.call(format!(
            "agent {:?}",
            asked.iter().map(|(_, epoch)| epoch.0).collect::<Vec<_>>()
        ));
        Ok(())
    }

    fn await_silence(&mut self, _: Vec<(GroupId, Epoch)>) {
        self.call("silence");
    }

    fn sweep(&mut self, _: GroupId, number: u64) -> Sweep {
        self.call(format!("sweep {number}"));
        Sweep::Begun
    }

    fn warm(&mut self, _: GroupId) {
        self.call("warm");
    }

    fn cool(&mut self, _: GroupId) {
        self.call("cool");
    }
}

fn position(calls: &[String], call: &str) -> usize {
    calls.iter().position(|known| known == call).unwrap_or_else(|| panic!("{call}: {calls:?}"))
}

#[test]
fn a_round_stamps_after_an_answer_and_looks_at_peers_before_records() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    controller.on_tick(&mut world);
    let calls = world.calls();
    assert!(position(&calls, "answers") < position(&calls, "stamp"));
    assert!(position(&calls, &format!("peer {B}")) < position(&calls, "record"));
}

#[test]
fn after_a_pause_the_core_hears_of_peers_before_anything_else() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    controller.feed(Input::Clear { group: GROUP });
    world.now = world.now.after(TICK * 2);
    assert!(!controller.catch_up(&mut world));
    world.now = world.now.after(TICK * 4);
    assert!(controller.catch_up(&mut world));
    let inputs: Vec<_> = controller.inputs.iter().collect();
    assert!(matches!(inputs[..], [Input::Peer { peer: B, .. }, Input::Clear { .. }]), "{inputs:?}");

    // A timeout that comes first waits for that as well.
    let mut controller = world.controller(false);
    world.now = world.now.after(TICK * 4);
    controller.on_timeout(&mut world);
    assert!(matches!(controller.inputs.front(), Some(Input::Peer { peer: B, .. })));
}

#[test]
fn only_the_newest_end_of_open_work_counts_and_once() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    let done = || Swept::Done(Ok(()));
    // Dropped twice, for the first took long.
    controller.on_dropped(&mut world, GROUP, Ok(()));
    controller.on_dropped(&mut world, GROUP, Ok(()));
    controller.on_swept(&mut world, GROUP, 1, done());
    assert_eq!(world.orders(), Vec::<String>::new());
    controller.on_swept(&mut world, GROUP, 2, Swept::More);
    controller.on_swept(&mut world, GROUP, 2, done());
    assert_eq!(world.orders(), ["Cleaned"]);
    controller.on_swept(&mut world, GROUP, 2, done());
    assert_eq!(world.orders(), Vec::<String>::new());

    // Held and lost again since.
    controller.on_dropped(&mut world, GROUP, Ok(()));
    world.record.epoch += 1;
    controller.on_swept(&mut world, GROUP, 3, done());
    assert_eq!(world.orders(), Vec::<String>::new());
    // A record that began anew was not held since.
    controller.on_dropped(&mut world, GROUP, Ok(()));
    world.record.epoch = 0;
    controller.on_swept(&mut world, GROUP, 4, done());
    assert_eq!(world.orders(), ["Cleaned"]);
    controller.on_dropped(&mut world, GROUP, Ok(()));
    controller.on_swept(&mut world, GROUP, 5, Swept::Done(Err("refused".to_owned())));
    assert_eq!(world.orders(), Vec::<String>::new());
}

#[test]
fn a_fence_begins_for_the_epoch_that_is_sought_and_the_record_hears_first() {
    let mut world = Bench::new();
    world.peer.life = Life::Dead as u8;
    let mut controller = world.controller(false);
    world.record.state = State::Seeking as u8;
    world.record.epoch = 0x102;
    controller.fence(&mut world, GROUP, Epoch(0x101), B);
    controller.fence(&mut world, GROUP, Epoch(0x102), B);
    world.calls();
    controller.on_fence_due(&mut world, B);
    let calls = world.calls();
    assert!(position(&calls, "order FenceAsk") < position(&calls, "agent [258]"), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| *call == "order FenceAsk").count(), 1);

    // Another one that is asked for meanwhile waits for an agent of its own.
    controller.fence(&mut world, GROUP, Epoch(0x103), B);
    assert!(!world.calls().iter().any(|call| call.starts_with("delay")));
    controller.on_agent(&mut world, B, &Err("refused".to_owned()));
    let calls = world.calls();
    assert!(position(&calls, "order FenceFailed") < position(&calls, &format!("delay {B}")));
    // It is heard by then.
    world.peer.life = Life::Alive as u8;
    world.record.epoch = 0x103;
    controller.on_fence_due(&mut world, B);
    assert_eq!(world.orders(), Vec::<String>::new());
}

#[test]
fn a_node_that_nobody_answers_lets_the_other_one_fence_first() {
    let mut world = Bench::new();
    world.peer.life = Life::Dead as u8;
    world.answered = false;
    let mut controller = world.controller(false);
    (world.record.state, world.record.epoch) = (State::Seeking as u8, 0x102);
    let due = |controller: &mut Controller, world: &mut Bench| {
        controller.fence(world, GROUP, Epoch(0x102), B);
        position(&world.calls(), &format!("delay {B}"));
        controller.on_fence_due(world, B);
        let calls = world.calls();
        let begins = calls.iter().any(|call| call.starts_with("agent"));
        assert_eq!(begins, calls.iter().any(|call| call == "order FenceAsk"), "{calls:?}");
        begins
    };
    for _ in 0..2 {
        assert!(!due(&mut controller, &mut world));
        assert_eq!(controller.take_news(), [News::StandsBack(B)]);
        // It lives, and nobody else did anything: once is enough.
        assert!(due(&mut controller, &mut world));
        assert_eq!(controller.take_news(), []);
        controller.on_agent(&mut world, B, &Err("refused".to_owned()));
        world.record.fencing = 0;
    }
    // It was heard meanwhile: this is another cut.
    assert!(!due(&mut controller, &mut world));
    world.peer.life = Life::Alive as u8;
    controller.on_tick(&mut world);
    world.peer.life = Life::Dead as u8;
    assert!(!due(&mut controller, &mut world));
}

#[test]
fn the_core_hears_of_a_node_that_is_heard_and_answers_nothing() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    for (life, answers, deaf) in [
        (Life::Alive, true, false),
        (Life::Alive, false, true),
        (Life::Late, false, true),
        (Life::Dead, false, false),
    ] {
        (world.peer.life, world.answers_probes) = (life as u8, answers);
        controller.inputs.clear();
        controller.look_at(&world, B);
        let told = controller.inputs.iter().find_map(|input| match input {
            Input::Peer { facts, .. } => Some(facts.deaf),
            _ => None,
        });
        assert_eq!(told, Some(deaf), "{life:?}, answers: {answers}");
    }
}

#[test]
fn a_node_that_is_heard_and_answers_nothing_is_fenced_like_one_that_is_silent() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    (world.record.state, world.record.epoch) = (State::Seeking as u8, 0x102);
    for answers in [true, false] {
        world.answers_probes = answers;
        controller.fence(&mut world, GROUP, Epoch(0x102), B);
        world.calls();
        controller.on_fence_due(&mut world, B);
        assert_eq!(world.orders().contains(&"FenceAsk".to_owned()), !answers);
    }
}

#[test]
fn a_fence_that_nobody_will_report_is_ended() {
    let mut world = Bench::new();
    world.peer.life = Life::Dead as u8;
    let mut controller = world.controller(false);
    world.record.state = State::Seeking as u8;
    world.record.epoch = 0x102;
    controller.fence(&mut world, GROUP, Epoch(0x102), B);
    world.answers = false;
    controller.on_fence_due(&mut world, B);
    assert_eq!((world.orders(), world.record.fencing), (vec!["FenceAsk".to_owned()], 1));
    world.answers = true;
    controller.look_at_records(&mut world);
    assert_eq!((world.orders(), world.record.fencing), (vec!["FenceFailed".to_owned()], 0));

    // One that runs is not, nor one that waits for the last packets.
    controller.fence(&mut world, GROUP, Epoch(0x102), B);
    controller.on_fence_due(&mut world, B);
    controller.look_at_records(&mut world);
    assert_eq!(world.orders(), ["FenceAsk"]);
}

#[test]
fn a_learner_of_whose_start_nothing_was_heard_starts_again() {
    let mut world = Bench::new();
    world.record = record_start::start_as_learner();
    let mut controller = world.controller(true);
    controller.look_at_records(&mut world);
    assert_eq!(world.orders(), Vec::<String>::new(), "nothing is stored yet");
    (world.answers, world.carries_out) = (false, false);
    controller.on_written(&mut world, Ok(()));
    assert_eq!((world.orders(), controller.is_learner()), (vec!["Start".to_owned()], true));
    (world.answers, world.carries_out) = (true, true);
    controller.look_at_records(&mut world);
    assert_eq!((world.orders(), controller.is_learner()), (vec!["Start".to_owned()], false));
    controller.look_at_records(&mut world);
    assert_eq!(world.orders(), Vec::<String>::new());
}

#[test]
fn a_record_that_began_anew_hears_again_how_this_node_is_placed() {
    let mut world = Bench::new();
    let mut controller = world.controller(false);
    let standing = Standing::NO_PATH;
    controller.placed[0] = Some(standing);
    controller.look_at_records(&mut world);
    assert_eq!(
        (world.orders(), world.record.standing),
        (vec!["Placed".to_owned()], standing.code())
    );
    controller.look_at_records(&mut world);
    assert_eq!(world.orders(), Vec::<String>::new());
}

#[test]
fn no_address_is_warm_while_something_is_left_of_an_epoch_or_an_interface_has_no_gate() {
    let mut world = Bench::new();
    world.warm = true;
    let mut controller = world.controller(false);
    controller.on_dropped(&mut world, GROUP, Ok(()));
    controller.on_swept(&mut world, GROUP, 1, Swept::Done(Ok(())));
    while !matches!(controller.next(&mut world), Next::Rest) {}
    controller.core.handle(Input::ResourcesStopped { group: GROUP, result: Ok(()) }, world.now);
    while !matches!(controller.next(&mut world), Next::Rest) {}
    assert_eq!(controller.warm_groups(|_| true), [GROUP], "{:?}", controller.core.view());
    let warms = |controller: &mut Controller, world: &mut Bench| {
        controller.keep_warm(world);
        world.calls().iter().any(|call| call == "warm")
    };
    world.record.unclean = 1;
    assert!(!warms(&mut controller, &mut world));
    world.record.unclean = 0;
    controller.on_gated(&mut world, Vec::new(), false);
    assert!(!warms(&mut controller, &mut world));
    controller.on_gated(&mut world, Vec::new(), true);
    assert!(warms(&mut controller, &mut world));
    assert!(!warms(&mut controller, &mut world), "it was asked for a moment ago");
    controller.on_gated(&mut world, Vec::new(), false);
    assert_eq!(world.calls(), ["cool"]);
}

/// What a start and a clean stop do, in their order.
#[derive(Default)]
struct Steps {
    done: Vec<String>,
    generation: u32,
    voters: Option<String>,
    /// The group whose record does not know when what it promised is over.
    unknown: Option<u8>,
}

impl Steps {
    fn step<T>(&mut self, name: &str, result: T) -> Result<T, ()> {
        self.done.push(name.to_owned());
        Ok(result)
    }
}

impl start::Numbers for Steps {
    type Error = ();

    fn reserve_incarnation(&mut self, earlier: u32) -> Result<u32, ()> {
        self.step("incarnation", earlier + 1)
    }

    fn take_note(&mut self) -> Result<Option<BootTime>, ()> {
        self.step("note", Some(BootTime(5)))
    }

    fn voters(&mut self) -> Result<Option<String>, ()> {
        Ok(self.voters.clone())
    }

    fn store_voters(&mut self, _: &str) -> Result<(), ()> {
        self.step("voters", ())
    }

    fn generation(&mut self) -> Result<u32, ()> {
        Ok(self.generation)
    }

    fn reserve_generation(&mut self) -> Result<u32, ()> {
        let next = self.generation + 1;
        self.step("generation", next)
    }
}

impl Parting for Steps {
    type Error = ();

    fn take_away(&mut self) -> Result<bool, ()> {
        self.step("take away", true)
    }

    fn order(&mut self, order: Order) -> Result<Order, String> {
        let known = self.unknown != Some(order.group);
        let code = if known { DONE } else { NOTHING };
        let done = self.step("part", Order { code, now_ns: 10 + u64::from(order.group), ..order });
        done.map_err(|()| String::new())
    }

    fn note(&mut self, end: BootTime) -> Result<(), String> {
        self.step(&format!("note {}", end.ns()), ()).map_err(|()| String::new())
    }
}

#[test]
fn a_start_has_its_numbers_on_the_disk_and_the_note_gone_before_records_begin() {
    let found = start::Found { records: false, incarnation: 9, learns: false, lacks: true };
    let mut steps = Steps { generation: 3, ..Steps::default() };
    let life = start::number(&mut steps, found, "1 2 w", true).unwrap();
    // A version that stored no voters had these.
    assert_eq!(steps.done, ["incarnation", "note", "voters", "generation"]);
    assert_eq!(life.incarnation, 1, "of another boot nothing is known");
    assert_eq!((life.beginning, life.new_voters), (Beginning::New(4, Some(BootTime(5))), None));

    let mut steps = Steps { generation: 3, voters: Some("1 2".to_owned()), ..Steps::default() };
    let life = start::number(&mut steps, found, "1 2 w", true).unwrap();
    assert_eq!(steps.done, ["incarnation", "note"]);
    assert_eq!((life.beginning, life.new_voters.as_deref()), (Beginning::Lost, Some("1 2 w")));
    let life = start::number(&mut steps, start::Found { records: true, ..found }, "1 2", true);
    assert_eq!(life.unwrap().incarnation, 10);
}

#[test]
fn a_clean_stop_leaves_its_note_last_and_only_if_every_record_knows() {
    let mut steps = Steps::default();
    let last = 9 + GROUPS as u64;
    assert_eq!(leave(&mut steps), Ok(Left::Noted(BootTime(last))));
    let mut expected = vec!["take away".to_owned()];
    expected.extend((0..GROUPS).map(|_| "part".to_owned()));
    expected.push(format!("note {last}"));
    assert_eq!(steps.done, expected);
    let mut steps = Steps { unknown: Some(2), ..Steps::default() };
    assert_eq!(leave(&mut steps), Ok(Left::Unknown));
    assert!(!steps.done.iter().any(|step| step.starts_with("note")));
}
