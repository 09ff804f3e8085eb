//! The fast path of a daemon: the order of steps that the daemon runs, on a machine that is late, refuses and
//! stops, and what that order may not do.

use std::{cell::Cell, collections::VecDeque};

use hb_ebpf::{
    epoch::Epoch,
    lease::{
        Record,
        op::{Op, Order},
    },
    maps::{Event, MAX_NODES, Peer, PeerKeys},
    time::BootTime,
    wire::{GROUPS, Health, State},
};
use hb_user::{
    address::{Change, ChangeError, Done, Vip},
    announce::Gateways,
    engine::takeover::{
        AWAY, AddressChange, Command, EffectError, Next, Peers, Rebound, Report, Rule, Rules,
        Shape, Takeover, Token, World,
    },
    id::{GroupId, NodeId},
    realtime::{Demand, Policy},
};

use crate::{
    kernel::Kernel,
    machine::Machine,
    plan::{INTERVAL, MS, Plan},
    rng::Rng,
};

/// The longest that reports wait for a ring while the thread has nothing to do.
const QUIET: u64 = MS;
/// Reports that the queue holds.
const QUEUE: usize = 256;

/// Keeps every rule but one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Without(pub(crate) Option<Rule>);

impl Rules for Without {
    fn keeps(&self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}

/// The service addresses of a machine, and what is wrong with them; both outlive a daemon.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// By group and place: the epoch of the record when it was put up last, if it is there.
    pub(crate) up: Vec<Vec<Option<Epoch>>>,
    /// Those that cannot be added, by place.
    pub(crate) fail_adds: u64,
    pub(crate) fail_removes: bool,
    /// Somebody holds the kernel's lock of interfaces for long, or for seconds.
    pub(crate) slow: bool,
    /// There is no room for every report.
    pub(crate) full: bool,
}

impl Addresses {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            up: vec![vec![None; plan.vips]; plan.groups],
            fail_adds: 0,
            fail_removes: false,
            slow: false,
            full: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.up.iter_mut().for_each(|group| group.fill(None));
    }

    /// Returns the latest epoch in which one of a group was put up, if one is there.
    pub(crate) fn epoch(&self, group: usize) -> Option<Epoch> {
        self.up[group].iter().copied().flatten().max()
    }

    pub(crate) fn are_all_up(&self, group: usize) -> bool {
        self.up[group].iter().all(Option::is_some)
    }

    /// Returns those of a group that are not there, by place.
    pub(crate) fn missing(&self, group: usize) -> u64 {
        let places = self.up[group].iter().enumerate();
        places.filter(|(_, up)| up.is_none()).map(|(place, _)| 1 << place).sum()
    }
}

/// When the thread goes round next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wake {
    /// By the machine's clock.
    At(u64),
    /// Once the kernel has changed an address, which takes so long.
    Blocked(u64),
    /// The daemon was killed meanwhile.
    Dead,
}

pub(crate) struct Fast {
    engine: Takeover<Without>,
    hands: Hands,
    pub(crate) commands: VecDeque<Command>,
    token: Token,
    /// How often it went round, also as of the last question that was answered.
    rounds: u64,
    asked: Option<u64>,
}

/// What the thread has beside the order of steps, and what was seen of it.
pub(crate) struct Hands {
    pub(crate) reports: VecDeque<Report>,
    shape: Shape,
    rng: Rng,
    /// The daemon was woken.
    pub(crate) rung: bool,
    /// There is a report for which it was not.
    unrung: bool,
    /// When the deputy probes next, and since when it stands in.
    deputy: Option<(u64, u64)>,
    /// What the kernel is asked to change, and whether it has.
    change: Option<(AddressChange, bool)>,
    /// The epoch in which a record was seen to hold, until it was ordered not to.
    held: [Cell<Option<Epoch>>; GROUPS],
    /// By group, places: up by what the kernel said last, announced, and refused without a word so far.
    answered: [u64; GROUPS],
    announced: [u64; GROUPS],
    untold: [u64; GROUPS],
    /// What this daemon has taken and not given up since.
    pub(crate) taken: [bool; GROUPS],
    /// Somebody asked for what is held, and was not answered.
    owed: [bool; GROUPS],
    /// A release was not said yet.
    unsaid: bool,
    /// What was heard in this turn, probes that left, and when the last ones did without a reason.
    heard: usize,
    probes: usize,
    idle_probes: [u64; 2],
    /// Steps before the daemon is killed.
    pub(crate) dies_in: Option<u32>,
    /// What it did and may not do.
    pub(crate) wrong: Option<String>,
    pub(crate) counts: Counts,
}

/// What happened, to see that it does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) partial: u64,
    pub(crate) lost: u64,
    pub(crate) restored: u64,
}

/// The fast path with the kernel half of its machine, at one time.
struct Turn<'a> {
    hands: &'a mut Hands,
    commands: &'a mut VecDeque<Command>,
    token: &'a Token,
    rounds: &'a mut u64,
    kernel: &'a mut Kernel,
    addresses: &'a mut Addresses,
    now: u64,
}

impl Fast {
    pub(crate) fn new(plan: &Plan, kernel: &Kernel, seed: u64, now: u64) -> Self {
        let shape = Shape {
            addresses: plan.vips,
            resources: plan.resources,
            warm: plan.warm,
            all: plan.all,
        };
        let shapes = vec![shape; plan.groups];
        let (rules, nobody) = (Without(plan.broken), [false; MAX_NODES]);
        let hands = Hands {
            reports: VecDeque::new(),
            shape,
            rng: Rng::new(seed),
            rung: false,
            unrung: false,
            deputy: None,
            change: None,
            held: Default::default(),
            answered: [0; GROUPS],
            announced: [0; GROUPS],
            untold: [0; GROUPS],
            taken: [false; GROUPS],
            owed: [false; GROUPS],
            unsaid: false,
            heard: 0,
            probes: 0,
            idle_probes: [0; 2],
            dies_in: None,
            wrong: None,
            counts: Counts::default(),
        };
        Self {
            engine: Takeover::new(rules, kernel.terms, &shapes, nobody, INTERVAL, now),
            hands,
            commands: VecDeque::new(),
            token: Token::default(),
            rounds: 0,
            asked: None,
        }
    }

    pub(crate) fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }

    /// Tells whether the thread went round since this was asked last, or may be away.
    pub(crate) fn went_round(&mut self, now: u64, answers_for_it: bool) -> bool {
        if answers_for_it {
            self.token.answer();
        }
        let shown = self.token.is_shown(BootTime(now));
        let away = self.hands.deputy.is_some_and(|(_, since)| now - since < AWAY.as_nanos() as u64);
        let round = self.asked.is_none_or(|asked| self.rounds > asked);
        if shown && !away && !round {
            self.hands.is_wrong("is taken to go round, and does not");
        }
        if round && shown {
            self.asked = Some(self.rounds);
        }
        shown
    }

    /// Returns when the deputy probes next, by the machine's clock.
    pub(crate) fn deputy(&self) -> Option<u64> {
        self.hands.deputy.map(|(due, _)| due)
    }

    /// The deputy probes, if it is time.
    pub(crate) fn stand_in(&mut self, machine: &mut Machine<'_>) {
        if let Some((due, _)) = &mut self.hands.deputy
            && *due <= machine.now
        {
            machine.kernel.probe(machine.now);
            *due += INTERVAL;
        }
    }

    /// Goes on until it has to wait.
    pub(crate) fn turn(&mut self, machine: &mut Machine<'_>) -> Wake {
        let Self { engine, hands, commands, token, rounds, .. } = self;
        let Machine { kernel, addresses, now, .. } = machine;
        (hands.heard, hands.probes) = (0, 0);
        let changed = hands.change.take();
        let mut turn = Turn { hands, commands, token, rounds, kernel, addresses, now: *now };
        if let Some((change, made)) = changed {
            let result = turn.change(change, made);
            turn.hands.take_in(change, &result);
            engine.changed(&mut turn, result);
            turn.hands.heard += 1;
        }
        let next = engine.turn(&mut turn);
        if turn.is_dead() {
            return Wake::Dead;
        }
        match next {
            Next::Change(change) => {
                turn.look_at_change(change);
                let slow = turn.addresses.slow;
                // The lock may be had at once, and the answer come late.
                let made = turn.hands.rng.chance(300) && turn.try_change(change).is_ok();
                turn.hands.change = Some((change, made));
                Wake::Blocked(turn.hands.takes(slow))
            }
            Next::Wait(for_ns) => {
                turn.look_at_rest(for_ns);
                Wake::At(turn.now + for_ns.max(1))
            }
            Next::Exit => unreachable!("no command says so"),
        }
    }
}

impl Hands {
    fn is_wrong(&mut self, what: impl Into<String>) {
        self.wrong.get_or_insert(what.into());
    }

    /// How long the kernel takes to change an address.
    fn takes(&mut self, slow: bool) -> u64 {
        match slow {
            true if self.rng.chance(100) => self.rng.within(2_100 * MS, 3_500 * MS),
            true => self.rng.within(MS, 150 * MS),
            false => self.rng.within(5_000, 60_000),
        }
    }

    /// Takes note of what the kernel said.
    fn take_in(&mut self, change: AddressChange, result: &Result<Done, EffectError>) {
        let (group, bit) = (usize::from(change.group.0), 1 << change.place);
        match change.change {
            Change::Remove => self.answered[group] &= !bit,
            Change::Add | Change::Adopt if result.is_ok() => self.answered[group] |= bit,
            Change::Add | Change::Adopt => {
                self.answered[group] &= !bit;
                self.untold[group] |= bit;
            }
        }
        if change.change == Change::Remove {
            self.announced[group] &= !bit;
        }
    }
}

impl Turn<'_> {
    /// The kernel changes an address, unless it has.
    fn change(&mut self, change: AddressChange, made: bool) -> Result<Done, EffectError> {
        let done = if change.change == Change::Remove { Done::Removed } else { Done::Added };
        if made { Ok(done) } else { self.try_change(change) }
    }

    fn try_change(&mut self, change: AddressChange) -> Result<Done, EffectError> {
        let AddressChange { group, place, change } = change;
        let (group, addresses) = (usize::from(group.0), &mut *self.addresses);
        let refused = match change {
            Change::Remove => addresses.fail_removes,
            Change::Add | Change::Adopt => addresses.fail_adds & (1 << place) != 0,
        };
        if refused {
            let vip = vip(group, place);
            return Err(ChangeError::Refused { change, vip, errno: 1 }.into());
        }
        let epoch = Epoch(self.kernel.records[group].epoch);
        let up = &mut addresses.up[group][place];
        let there = up.is_some();
        *up = (change != Change::Remove).then_some(epoch);
        Ok(match (change, there) {
            (Change::Remove, true) => Done::Removed,
            (Change::Remove, false) => Done::Missing,
            (_, true) => Done::AlreadyThere,
            (_, false) => Done::Added,
        })
    }

    /// Looks whether an address may be changed like that, and the leases last meanwhile.
    fn look_at_change(&mut self, change: AddressChange) {
        let group = usize::from(change.group.0);
        let (hands, state) = (&mut *self.hands, self.kernel.state(group));
        let (held, warm) = (hands.held[group].get().is_some(), hands.shape.warm);
        match change.change {
            // One that is sought may be won this instant, and nobody here has heard.
            Change::Remove if state == State::Holding && held => {
                hands.is_wrong(format!("takes down group {group} behind an open gate"));
            }
            Change::Add | Change::Adopt if !held && !warm => {
                hands.is_wrong(format!("puts up group {group} while its record is {state:?}"));
            }
            _ => {}
        }
        if hands.deputy.is_none() {
            hands.is_wrong("waits for the kernel, and nobody probes");
        }
        self.look_at_words();
    }

    /// Looks whether there is nothing left to do.
    fn look_at_rest(&mut self, for_ns: u64) {
        self.look_at_words();
        let now = self.now;
        let seeks = self.kernel.records.iter().any(|record| record.state() == State::Seeking);
        let hands = &mut *self.hands;
        if hands.unrung && for_ns > QUIET {
            hands.is_wrong(format!("keeps reports to itself for {for_ns} ns"));
        }
        if for_ns > 0 && hands.deputy.is_some() {
            hands.is_wrong("has the deputy probe beside it");
        }
        for group in 0..GROUPS {
            if hands.untold[group] != 0 {
                hands.is_wrong(format!("does not say that an address of group {group} failed"));
            }
            if for_ns > 0 && hands.owed[group] {
                hands.is_wrong(format!("does not say that group {group} is taken"));
            }
        }
        if hands.probes > 0 && hands.heard == 0 && !seeks {
            // One may be late, and the next on time.
            if hands.idle_probes.first().is_some_and(|last| now - last < INTERVAL / 2) {
                hands.is_wrong("makes up for probes that it missed");
            }
            hands.idle_probes = [hands.idle_probes[1], now];
        }
    }

    /// Looks whether what was released is said.
    fn look_at_words(&mut self) {
        if self.hands.unsaid {
            self.hands.is_wrong("gives a group away and does not say so");
        }
    }

    /// Counts one step; tells whether the daemon is gone.
    fn dies(&mut self) -> bool {
        if let Some(steps) = &mut self.hands.dies_in {
            *steps = steps.saturating_sub(1);
        }
        self.is_dead()
    }

    fn is_dead(&self) -> bool {
        self.hands.dies_in == Some(0)
    }

    fn look_at_report(&mut self, report: &Report) {
        let hands = &mut *self.hands;
        let all = (1 << hands.shape.addresses) - 1;
        match *report {
            Report::Took { group, result, epoch, .. } => {
                let group = usize::from(group.0);
                hands.owed[group] = false;
                if result.is_err() {
                    return;
                }
                hands.taken[group] = true;
                let (up, announced) = (hands.answered[group], hands.announced[group]);
                if up == 0 || (hands.shape.all && up != all) {
                    hands.is_wrong(format!("took group {group}, and of its addresses has {up:b}"));
                }
                if up & !announced != 0 {
                    hands.is_wrong(format!("took group {group}, and announced {announced:b}"));
                }
                let held = hands.held[group].get();
                if held.is_none() && self.kernel.state(group) == State::Seeking {
                    hands.is_wrong(format!("took group {group} in {epoch:?} and seeks it"));
                }
                hands.counts.partial += u64::from(up != all);
            }
            Report::Dropped { group, result: Ok(()), .. } => {
                let group = usize::from(group.0);
                if self.addresses.epoch(group).is_some() {
                    let missing = self.addresses.missing(group);
                    hands.is_wrong(format!("dropped group {group}, and only {missing:b} is gone"));
                }
            }
            Report::Refused { vip, .. } => {
                for group in 0..self.kernel.records.len() {
                    let same = |place: &usize| self::vip(group, *place) == vip;
                    if let Some(place) = (0..hands.shape.addresses).find(same) {
                        hands.untold[group] &= !(1 << place);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Returns the address of a group at a place.
fn vip(group: usize, place: usize) -> Vip {
    let ip = [192, 0, 2, (10 * group + place + 1) as u8];
    Vip::new(2, ip.into(), 32).expect("an address")
}

impl World for Turn<'_> {
    fn now(&self) -> BootTime {
        BootTime(self.now)
    }

    fn event(&mut self) -> Option<Event> {
        let event = self.kernel.events.pop_front();
        self.hands.heard += usize::from(event.is_some());
        event
    }

    fn command(&mut self) -> Option<Command> {
        let command = self.commands.pop_front()?;
        self.hands.heard += 1;
        match command {
            Command::Seek { group } => {
                let holds = self.kernel.state(usize::from(group.0)) == State::Holding;
                self.hands.owed[usize::from(group.0)] |= holds;
            }
            Command::Restore { .. } => self.hands.counts.restored += 1,
            _ => {}
        }
        Some(command)
    }

    fn went_round(&mut self) {
        if !self.commands.is_empty() {
            self.hands.is_wrong("shows that it went round, and has not heard everything");
        }
        if !self.dies() {
            self.token.answer();
            *self.rounds += 1;
        }
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        let record = self.kernel.records.get(usize::from(group.0)).copied()?;
        if record.state() == State::Holding {
            self.hands.held[usize::from(group.0)].set(Some(Epoch(record.epoch)));
        }
        Some(record)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.kernel.peer(peer.0).copied()
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        if self.dies() {
            return None;
        }
        let group = usize::from(order.group);
        let before = self.kernel.state(group);
        let asked = Op::from_code(order.op);
        let order = self.kernel.order(order, self.now);
        let hands = &mut *self.hands;
        match (asked, order.record.state()) {
            (_, State::Holding) => hands.held[group].set(Some(Epoch(order.record.epoch))),
            (Some(Op::Seek), _) => {}
            (asked, _) => {
                hands.held[group].set(None);
                hands.taken[group] = false;
                hands.announced[group] = 0;
                hands.owed[group] = false;
                hands.unsaid |= asked == Some(Op::Release) && before == State::Holding;
            }
        }
        Some(order)
    }

    fn count_misses(&mut self, _: NodeId) -> bool {
        false
    }

    fn publish(&mut self, health: &[Health; GROUPS], leaving: bool) {
        if !self.dies() {
            self.kernel.publish(*health, leaving);
        }
    }

    fn probe(&mut self) {
        if !self.dies() {
            self.kernel.probe(self.now);
            self.hands.probes += 1;
            self.hands.unsaid = false;
        }
    }

    fn probe_these(&mut self, peers: &Peers) {
        if !self.dies() {
            self.kernel.probe_those(self.now, |id| peers[usize::from(id) - 1]);
        }
    }

    fn set_keys(&mut self, _: NodeId, _: &PeerKeys, _: usize, _: bool) {
        unreachable!("frames are not signed here");
    }

    fn pace(&mut self, _: u64, _: Demand) -> Option<(Policy, i32)> {
        unreachable!("no machine is given another interval");
    }

    fn vip(&self, group: GroupId, place: usize) -> Option<Vip> {
        Some(vip(group.0.into(), place))
    }

    fn announce(&mut self, group: GroupId, place: usize) -> u32 {
        if !self.dies() {
            self.hands.announced[usize::from(group.0)] |= 1 << place;
        }
        0
    }

    fn set_mac(&mut self, _: GroupId, _: u32, _: [u8; 6]) -> bool {
        false
    }

    fn set_gateways(&mut self, _: GroupId, _: u32, _: Gateways) -> bool {
        false
    }

    fn rebind(&mut self, _: impl FnMut(GroupId, Rebound)) {}

    fn stand_in(&mut self) {
        self.hands.deputy = Some((self.now + INTERVAL, self.now));
        self.token.go_away(BootTime(self.now));
    }

    fn stand_back(&mut self) {
        self.hands.deputy = None;
        self.token.come_back();
    }

    fn report(&mut self, report: Report, ring: bool) {
        if self.dies() {
            return;
        }
        self.look_at_report(&report);
        let hands = &mut *self.hands;
        let full = self.addresses.full && hands.rng.chance(400);
        if full || hands.reports.len() >= QUEUE {
            hands.counts.lost += 1;
            return;
        }
        hands.reports.push_back(report);
        hands.unrung |= !ring;
        if ring {
            self.ring();
        }
    }

    fn ring(&mut self) {
        (self.hands.rung, self.hands.unrung) = (true, false);
    }
}
