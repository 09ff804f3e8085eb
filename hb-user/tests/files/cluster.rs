//! Two nodes, and a witness where there are promises, under one clock.

use std::fmt;

use hb_ebpf::{
    lease::{
        Policy, Record, Terms, Timing, gate, holder,
        identity::{self, Places},
        op::{self, DONE, Op, Order},
        start, terms, word,
    },
    time::BootTime,
    wire::{GROUPS, GroupWord, Health, State},
};
use hb_user::beginning::{Begin, Beginning, Step};

use crate::file::{ADDRESSES, File};

/// Machines that hold groups; a witness comes after them.
pub(crate) const NODES: usize = 2;

const MS: u64 = 1_000_000;
/// Between two looks of everybody at everything.
const TICK: u64 = 10 * MS;
/// So long after a change everything has to be as it will stay: longer than any wait.
const SETTLED: u64 = 60;
const DEADTIME: u64 = 40 * MS;

/// A rule left out, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bent {
    Nothing,
    /// A group is its place in the file.
    GroupsAreIndexes,
    /// A group that begins beside records that are found takes part at once.
    NothingIsWaitedFor,
    /// A node that decides alone takes what another one does not have.
    TakesWhatAPeerLacks,
    /// Addresses are given to their groups before records are dismissed.
    AddressesFirst,
}

/// How a machine is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It leaves, and its records with it.
    Orderly,
    /// It was killed, and its records are found.
    InPlace,
}

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    TwoGates { address: usize, now: u64 },
    AnotherGroup { address: usize, machine: usize },
    NotServed { group: (char, u8) },
    Interrupted { machine: usize },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TwoGates { address, now } => {
                write!(f, "two gates are open for address {address} at {} ms", now / MS)
            }
            Self::AnotherGroup { address, machine } => write!(
                f,
                "address {address} is open at machine {machine} by a record of another group"
            ),
            Self::NotServed { group } => write!(f, "nobody, or not one alone, serves {group:?}"),
            Self::Interrupted { machine } => {
                write!(f, "machine {machine} was restarted in place, and a gate closed")
            }
        }
    }
}

/// A machine.
struct Machine {
    /// What it goes by; `None` while no daemon runs, and before the first.
    file: Option<File>,
    terms: Terms,
    /// The kernel half: none while it is away.
    up: bool,
    records: [Record; GROUPS],
    /// Which record decides about each address, and for which addresses that one was won.
    addresses: [Option<u8>; ADDRESSES],
    /// Places that frames tell of.
    end: u8,
    /// The newest words of each machine.
    heard: Vec<[GroupWord; GROUPS]>,
    generation: u32,
    parted: Option<u64>,
}

/// All of them.
pub(crate) struct Cluster {
    policy: Policy,
    bent: Bent,
    now: u64,
    machines: Vec<Machine>,
}

fn lengths(policy: Policy, own: usize) -> Terms {
    let timing = Timing {
        lease_ns: 4 * TICK,
        margin_ns: TICK / 2,
        drain_ns: TICK * 7 / 10,
        seek_ns: 7 * TICK,
        rho: terms::RHO_DEFAULT,
        interval_ns: TICK,
        deadtime_ns: 2 * TICK,
        controller_deadtime_ns: DEADTIME,
    };
    let voters: &[u8] = if policy == Policy::Witness { &[1, 2, 3] } else { &[1, 2] };
    let witness = (policy == Policy::Witness).then_some(3);
    let terms = Terms::new(policy, &timing, voters, own as u8 + 1, witness).expect("usable terms");
    // So that a wait for what was lost takes some looks and not hundreds.
    Terms { longest_lease_ns: 10 * TICK, ..terms }
}

impl Cluster {
    /// Machines that have run with `file` for a while.
    pub(crate) fn serving(policy: Policy, bent: Bent, file: &File) -> Result<Self, Wrong> {
        let count = NODES + usize::from(policy == Policy::Witness);
        let machine = |own| Machine {
            file: None,
            terms: lengths(policy, own),
            up: false,
            records: [Record::default(); GROUPS],
            addresses: [None; ADDRESSES],
            end: 0,
            heard: vec![[GroupWord::default(); GROUPS]; count],
            generation: 1,
            parted: Some(1),
        };
        let machines = (0..count).map(machine).collect();
        let mut cluster = Self { policy, bent, now: 1000 * MS, machines };
        for own in 0..count {
            cluster.start(own, file, usize::MAX)?;
        }
        cluster.settle()?;
        cluster.all_are_served(file)?;
        Ok(cluster)
    }

    /// Restarts a machine with a file. A witness never goes away.
    pub(crate) fn restart(&mut self, own: usize, file: &File, kind: Kind) -> Result<(), Wrong> {
        if own < NODES && kind == Kind::Orderly && self.machines[own].up {
            self.leave(own)?;
        }
        let open = self.open(own);
        let kept: Vec<_> = self.machines[own].records.map(|record| record.fingerprint).to_vec();
        self.start(own, file, usize::MAX)?;
        let machine = &self.machines[own];
        let goes_on = |place: usize| machine.records[place].fingerprint == kept[place];
        let closed =
            (0..GROUPS).any(|place| open[place] && goes_on(place) && !self.open(own)[place]);
        if closed && self.bent == Bent::Nothing {
            return Err(Wrong::Interrupted { machine: own });
        }
        Ok(())
    }

    /// Kills a machine's daemon, and the next one after so many steps of its start; tells whether there
    /// were so many.
    pub(crate) fn killed_after(
        &mut self,
        own: usize,
        file: &File,
        steps: usize,
    ) -> Result<bool, Wrong> {
        let all = self.start(own, file, steps)?;
        if !all {
            // Nobody looks after it for a while.
            self.machines[own].file = None;
            for _ in 0..2 {
                self.tick()?;
            }
        }
        Ok(!all)
    }

    fn leave(&mut self, own: usize) -> Result<(), Wrong> {
        for place in 0..GROUPS {
            let machine = &mut self.machines[own];
            holder::release(&mut machine.records[place], &machine.terms, 0, self.now);
            close(&mut machine.records[place], self.now);
            if machine.records[place].state() == State::Seeking {
                machine.records[place].state = State::Idle as u8;
            }
        }
        self.machines[own].file = None;
        for _ in 0..8 {
            self.tick()?;
        }
        let machine = &mut self.machines[own];
        let part = |record: &mut Record| start::part(record, &machine.terms, self.now);
        let ends: Option<Vec<u64>> = machine.records.iter_mut().map(part).collect();
        machine.parted = ends.and_then(|ends| ends.into_iter().max());
        machine.up = false;
        machine.end = 0;
        machine.records = [Record::default(); GROUPS];
        machine.addresses = [None; ADDRESSES];
        self.tick()
    }

    /// Starts a daemon as `daemon/start.rs`, or the command of a witness; tells whether all of its steps
    /// were taken, and not only the first so many.
    fn start(&mut self, own: usize, file: &File, most: usize) -> Result<bool, Wrong> {
        let by_index = self.bent == Bent::GroupsAreIndexes;
        let machine = &mut self.machines[own];
        let name = |index| if by_index { index as u32 + 1 } else { file.fingerprint(index) };
        let wanted: Vec<u32> = (0..file.0.len()).map(name).collect();
        let found = machine.records.map(|record| record.fingerprint);
        let places = Places::new(&found, &wanted);
        let mut fingerprints = [0; GROUPS];
        for (index, fingerprint) in wanted.iter().enumerate() {
            fingerprints[usize::from(places.of(index).expect("a place for each group"))] =
                *fingerprint;
        }
        let beginning = if machine.up {
            Beginning::Found(places.begun().next().map(|_| {
                machine.generation += 1;
                machine.generation
            }))
        } else {
            machine.generation += 1;
            Beginning::New(machine.generation, machine.parted.take().map(BootTime))
        };
        let begin = Begin { beginning, places, fingerprints, new_terms: !machine.up };
        let mut steps = begin.steps();
        if self.bent == Bent::AddressesFirst {
            steps.rotate_right(1);
        }
        machine.up = true;
        let taken = steps.len().min(most);
        for step in steps.iter().take(taken) {
            self.step(own, file, places, *step);
            self.look()?;
            self.exchange()?;
        }
        if taken < steps.len() {
            return Ok(false);
        }
        let machine = &mut self.machines[own];
        machine.end = places.end();
        machine.file = Some(file.clone());
        self.look()?;
        Ok(true)
    }

    fn step(&mut self, own: usize, file: &File, places: Places, step: Step) {
        let (bent, now) = (self.bent, self.now);
        let machine = &mut self.machines[own];
        match step {
            Step::Order(mut order) => {
                if bent == Bent::NothingIsWaitedFor && order.now_ns == 0 {
                    order.now_ns = 1;
                }
                let record = &mut machine.records[usize::from(order.group)];
                op::apply(&mut order, record, &machine.terms, now);
                close(record, now);
            }
            // They are the same throughout.
            Step::Terms => {}
            Step::Addresses => {
                for (address, place) in machine.addresses.iter_mut().enumerate() {
                    // One that no group has any more is closed for good, whatever comes to its place.
                    *place = file.owner(address).and_then(|index| places.of(index));
                }
            }
        }
    }

    /// Lets things go on for long enough.
    pub(crate) fn settle(&mut self) -> Result<(), Wrong> {
        (0..SETTLED).try_for_each(|_| self.tick())
    }

    fn tick(&mut self) -> Result<(), Wrong> {
        self.now += TICK;
        self.look()?;
        for own in 0..NODES {
            if self.machines[own].file.is_some() {
                self.decide(own);
                self.look()?;
                self.exchange()?;
            }
        }
        self.exchange()
    }

    /// Every machine hears every other one.
    fn exchange(&mut self) -> Result<(), Wrong> {
        for from in 0..self.machines.len() {
            for to in 0..self.machines.len() {
                if from != to && self.machines[from].up && self.machines[to].up {
                    let words = self.words(from);
                    self.hear(from, to, &words);
                }
            }
        }
        self.look()
    }

    fn words(&self, from: usize) -> [GroupWord; GROUPS] {
        let machine = &self.machines[from];
        let mut words = [GroupWord::default(); GROUPS];
        for (record, word) in machine.records.iter().zip(&mut words).take(machine.end.into()) {
            word.health = Health::Standby as u8;
            word::speak(record, &machine.terms, true, self.now, word);
        }
        words
    }

    fn hear(&mut self, from: usize, to: usize, words: &[GroupWord; GROUPS]) {
        let now = self.now;
        let machine = &mut self.machines[to];
        machine.heard[from] = *words;
        for place in 0..usize::from(machine.end) {
            let record = &mut machine.records[place];
            if let Some(word) = identity::find(words, record.fingerprint, place) {
                word::hear(record, &machine.terms, from as u8 + 1, now, word, now);
                close(record, now);
            }
        }
    }

    /// A daemon that wants every group, but of those that another node holds.
    fn decide(&mut self, own: usize) {
        for place in 0..self.machines[own].end {
            let at = usize::from(place);
            if self.machines[own].records[at].fingerprint == 0 {
                continue;
            }
            self.order(own, Op::Cleaned, place);
            let wanted = start::generation_wanted(&self.machines[own].records[at]);
            if let Some(wanted) = wanted {
                let machine = &mut self.machines[own];
                machine.generation = machine.generation.max(wanted);
                self.order(own, Op::GenerationStored, place);
            }
            match self.machines[own].records[at].state() {
                State::Idle | State::Released if self.may_take(own, at) => {
                    self.order(own, Op::Seek, place);
                }
                State::Seeking => {
                    self.order(own, Op::GiveUp, place);
                }
                State::Holding => {
                    self.order(own, Op::StepDown, place);
                }
                State::Idle | State::Released => {}
            }
        }
    }

    fn may_take(&self, own: usize, place: usize) -> bool {
        let machine = &self.machines[own];
        let fingerprint = machine.records[place].fingerprint;
        let other = 1 - own;
        let word = identity::find(&machine.heard[other], fingerprint, place);
        let held = word.is_some_and(|word| word.state() == State::Holding);
        // Each node comes to hold some groups. The name of a group is in its upper bytes.
        let by_index = self.bent == Bent::GroupsAreIndexes;
        let name = if by_index { fingerprint } else { fingerprint >> 8 };
        let turn = (self.now / TICK / 8 + u64::from(name)) % 2 == own as u64;
        let lacks = self.policy == Policy::Available && self.machines[other].up && word.is_none();
        turn && !(held && self.machines[other].up)
            && (!lacks || self.bent == Bent::TakesWhatAPeerLacks)
    }

    fn order(&mut self, own: usize, op: Op, place: u8) -> bool {
        let machine = &mut self.machines[own];
        let mut order = Order { generation: machine.generation, ..Order::new(op, place) };
        let record = &mut machine.records[usize::from(place)];
        op::apply(&mut order, record, &machine.terms, self.now);
        close(record, self.now);
        order.code == DONE
    }

    /// Tells of each place whether its record lets packets pass.
    fn open(&self, own: usize) -> [bool; GROUPS] {
        let machine = &self.machines[own];
        let open =
            |record: Record| gate::passes(gate::until(&record), self.now, DEADTIME, self.now);
        machine.records.map(|record| machine.up && open(record))
    }

    /// Judges every address as the gates have it.
    fn look(&self) -> Result<(), Wrong> {
        for address in 0..ADDRESSES {
            let mut open = 0;
            for own in 0..NODES {
                let machine = &self.machines[own];
                let Some(place) = machine.addresses[address].map(usize::from) else { continue };
                if !self.open(own)[place] {
                    continue;
                }
                open += 1;
                let of = machine.records[place].fingerprint;
                let by_index = self.bent == Bent::GroupsAreIndexes;
                if !by_index && of & 1 << address == 0 {
                    return Err(Wrong::AnotherGroup { address, machine: own });
                }
            }
            if open > 1 {
                return Err(Wrong::TwoGates { address, now: self.now });
            }
        }
        Ok(())
    }

    fn served(&self, file: &File, index: usize) -> Result<(), Wrong> {
        let fingerprint = match self.bent {
            Bent::GroupsAreIndexes => index as u32 + 1,
            _ => file.fingerprint(index),
        };
        let serves = |own: usize| {
            let open = self.open(own);
            let records = self.machines[own].records;
            (0..GROUPS).any(|place| open[place] && records[place].fingerprint == fingerprint)
        };
        let serving = (0..NODES).filter(|own| serves(*own)).count();
        if serving == 1 { Ok(()) } else { Err(Wrong::NotServed { group: file.0[index] }) }
    }

    /// Asserts that one node serves each group of a file.
    pub(crate) fn all_are_served(&self, file: &File) -> Result<(), Wrong> {
        (0..file.0.len()).try_for_each(|index| self.served(file, index))
    }

    /// Asserts it of the groups that both files have.
    pub(crate) fn unchanged_are_served(&self, old: &File, new: &File) -> Result<(), Wrong> {
        let both = (0..old.0.len()).filter(|index| new.0.contains(&old.0[*index]));
        both.into_iter().try_for_each(|index| self.served(old, index))
    }
}

/// As `close` in `hb-ebpf/src/program/records.rs`: here a step takes no time.
fn close(record: &mut Record, now: u64) {
    if let Some(changes) = record.closing() {
        record.closed(changes, now);
    }
}
