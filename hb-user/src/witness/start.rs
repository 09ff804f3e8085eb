//! Attaching the kernel half, and telling it of its clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    thread,
    time::Duration,
};

use hb_ebpf::{
    homes::HOMES,
    lease::{
        Record, Terms,
        identity::Places,
        op::{Op, Order},
        start::{is_learner, learned_generation, told_generation},
    },
    maps::{MAX_LINKS, Peer},
    wire::GROUPS,
};

pub use super::outcome::{Outcome, Standing};
use super::{
    Lock, WitnessError,
    generation::{Reserved, refill, reserve},
    patience,
    prepare::{Prepared, files, prepare},
};
use crate::{
    beginning::{Begin, Beginning, Step},
    clock,
    config::HostView,
    kernel::{KernelError, Mode, Place, WITNESS_OBJECT, Witness, WitnessMaps},
    nonce,
    selftest::{Trial, Verdict},
    state_dir::StateDir,
};

/// Between two looks for interfaces that are not there.
const NETWORK_LOOK: Duration = Duration::from_millis(200);
/// How often a learner looks whether it has heard everybody.
const LOOK: Duration = Duration::from_millis(5);
/// Who asks at all asks within this.
const ASKED_WITHIN: Duration = Duration::from_millis(200);
/// A trial of those who ask is over within this.
const TRIAL: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone, Debug)]
pub struct Request {
    /// Configurations, one for each cluster, or directories of them.
    pub configs: Vec<PathBuf>,
    /// Where the kernel half is pinned.
    pub pins: PathBuf,
    /// Whether the operator says that this machine never voted in these clusters.
    pub confirm: bool,
    /// How long a learner waits for the nodes.
    pub wait: Duration,
    /// Whether interfaces are to be attached to in generic mode.
    pub generic: bool,
}

/// Attaches the kernel half and has it vote in the clusters of the configurations, besides those
/// that it knows. Returns once every learner has heard its nodes, or the wait is over. A cluster whose
/// interfaces are not there yet is taken once they are; what came of each step goes to `tell`, and what is
/// waited for to `warn`. Told to end while it waits, it does.
///
/// # Errors
///
/// [`WitnessError`]; until it has attached itself and stored its numbers it has changed nothing that
/// it did not undo.
pub fn run(
    request: &Request,
    mut tell: impl FnMut(&Outcome),
    mut warn: impl FnMut(&str),
) -> Result<(), WitnessError> {
    patience::ignore_hangups();
    let began = clock::now();
    let mut files = files(&request.configs)?;
    let (mut given_up, mut said) = (None, String::new());
    while !files.is_empty() {
        let (clusters, waiting) = prepare(&files)?;
        if !clusters.is_empty() {
            tell(&seat_all(clusters, request)?);
        }
        let waited = clock::now().since(began);
        let (over, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|one| one.limit.is_some_and(|limit| waited >= limit));
        given_up = given_up.or_else(|| over.into_iter().next().map(|one| one.errors));
        files = waiting.iter().map(|one| one.path.clone()).collect();
        let missing = waiting.iter().map(|one| one.errors.to_string().replace('\n', "; "));
        let missing = missing.collect::<Vec<_>>().join("; ");
        if !missing.is_empty() && missing != said {
            warn(&format!("waits for the network: {missing}"));
            said = missing;
        }
        if !files.is_empty() && patience::told_to_end_within(NETWORK_LOOK)? {
            return Ok(());
        }
    }
    given_up.map_or(Ok(()), |errors| Err(errors.into()))
}

/// Does so for clusters that this host has everything for.
fn seat_all(clusters: Vec<Prepared>, request: &Request) -> Result<Outcome, WitnessError> {
    let host = HostView::read().map_err(WitnessError::Interfaces)?;
    let _lock = Lock::take(&request.pins)?;
    let maps = WitnessMaps::open(&request.pins)?;
    let mut seats = assign(clusters, maps.as_ref())?;
    drop(maps);

    let mut witness = Witness::open(WITNESS_OBJECT, &request.pins)?;
    let begun = attach(&mut witness, &seats, &host, request.generic).and_then(|attached| {
        for seat in &mut seats {
            seat.store(request.confirm)?;
        }
        Ok(attached)
    });
    let attached = match begun {
        Ok(attached) => attached,
        Err(error) => {
            // The error at hand is the one that matters.
            drop(witness.undo());
            return Err(error);
        }
    };
    let mut standings = Vec::new();
    for seat in &seats {
        standings.push(seat.take(&mut witness)?);
    }
    witness.detach_others();
    let attached = try_native(&mut witness, &seats, attached)?;
    wait(&witness, &mut seats, &mut standings, request.wait)?;
    let attached = attached.into_iter().map(|held| (held.interface, held.mode, held.reason));
    let attached = attached.collect();
    let names = seats.iter().map(|seat| seat.prepared.name().to_owned());
    Ok(Outcome { attached, clusters: names.zip(standings).collect() })
}

/// A cluster on its way to its home.
struct Seating {
    prepared: Prepared,
    home: u32,
    state: StateDir,
    /// What is there; `None` for a new cluster.
    known: Option<Known>,
    /// Incarnation and nonce of this life.
    life: (u32, u64),
    plan: Plan,
    /// Where the groups have their records.
    places: Places,
}

/// A cluster that is known already.
struct Known {
    terms: Terms,
    life: (u32, u64),
    /// Of all places, also those that are of no group.
    records: [Record; GROUPS],
}

/// What to do with the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing, they go on.
    Keep,
    /// Begin; these generations are on the disk.
    Start(Reserved),
    /// Those of groups that are new begin, the others go on; these generations are on the disk.
    Regroup(Reserved),
    /// Begin without a number.
    Learn,
    /// Go on with more generations.
    Refill(u32),
}

impl Known {
    /// The records that are of a group.
    fn live(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.fingerprint != 0)
    }

    fn is_learner(&self) -> bool {
        // A command may have been killed when it had dismissed all of them.
        let none = self.live().next().is_none();
        self.live().any(is_learner) || (none && self.records.iter().any(is_learner))
    }
}

/// Opens the state directories and finds a home for every cluster. Changes nothing.
fn assign(
    clusters: Vec<Prepared>,
    maps: Option<&WitnessMaps>,
) -> Result<Vec<Seating>, WitnessError> {
    let homes: BTreeMap<u32, u32> = match maps {
        Some(maps) => maps.clusters()?.into_iter().collect(),
        None => BTreeMap::new(),
    };
    let mut taken: BTreeSet<u32> = homes.values().copied().collect();
    let mut seats = Vec::new();
    for mut prepared in clusters {
        let (home, known) = match (homes.get(&prepared.config.cluster_id()), maps) {
            (Some(&home), Some(maps)) => (home, Some(known(maps, home)?)),
            _ => {
                let free = (0..HOMES as u32).find(|home| !taken.contains(home));
                let full = || WitnessError::Full { name: prepared.name().to_owned(), most: HOMES };
                (free.ok_or_else(full)?, None)
            }
        };
        taken.insert(home);
        let state = StateDir::open(&prepared.local.state_dir)?;
        // Also what a command left there that was killed.
        let found = maps.map_or(Ok([Record::default(); GROUPS]), |maps| records(maps, home))?;
        let found = found.map(|record| record.fingerprint);
        let places = Places::new(&found, &prepared.config.groups_wanted());
        prepared.config.place(&places);
        let (life, plan) = ((0, 0), Plan::Keep);
        seats.push(Seating { prepared, home, state, known, life, plan, places });
    }
    Ok(seats)
}

fn known(maps: &WitnessMaps, home: u32) -> Result<Known, KernelError> {
    let node = maps.node(home)?;
    let life = (node.incarnation, node.nonce);
    Ok(Known { terms: maps.terms(home)?, life, records: records(maps, home)? })
}

fn records(maps: &WitnessMaps, home: u32) -> Result<[Record; GROUPS], KernelError> {
    let mut records = [Record::default(); GROUPS];
    for (place, record) in records.iter_mut().enumerate() {
        *record = maps.record(home, place as u8)?;
    }
    Ok(records)
}

/// Attaches to every interface of a link, of the clusters that are known already as well: all of
/// them run the program of this version then.
fn attach(
    witness: &mut Witness,
    seats: &[Seating],
    host: &HostView,
    generic: bool,
) -> Result<Vec<Attached>, WitnessError> {
    let mut wanted: BTreeMap<u32, &str> = BTreeMap::new();
    for seat in seats {
        let interfaces = &seat.prepared.interfaces;
        wanted.extend(interfaces.iter().map(|(name, index)| (*index, name.as_str())));
    }
    let homes: BTreeSet<u32> = seats.iter().map(|seat| seat.home).collect();
    for (_, home) in witness.maps().clusters()? {
        if homes.contains(&home) {
            continue;
        }
        for place in 0..usize::from(witness.maps().terms(home)?.count) as u32 {
            for link in 0..MAX_LINKS as u32 {
                let path = witness.maps().path(Place { home, place }, link)?;
                let found = host.interfaces.iter().find(|found| found.index == path.interface);
                wanted.extend(found.map(|found| (found.index, found.name.as_str())));
            }
        }
    }
    let mut attached = Vec::new();
    for (index, name) in wanted {
        let mut wishes = seats.iter().filter_map(|seat| seat.prepared.local.attach(name));
        let only = if generic { Some(Mode::Generic) } else { wishes.next() };
        let held = witness.attach(name, index, only)?;
        let (mode, reason) = (held.mode, held.reason.clone());
        attached.push(Attached { interface: name.to_owned(), index, mode, reason, only });
    }
    Ok(attached)
}

/// An interface that the program is attached to.
struct Attached {
    interface: String,
    index: u32,
    mode: Mode,
    /// Why not natively.
    reason: Option<String>,
    /// The mode that it has to be.
    only: Option<Mode>,
}

/// Puts native attachments on [trial](crate::selftest) for as long as nodes ask and have not said that they
/// hear the answers. Where nobody hears them, the attachment falls back to generic mode.
fn try_native(
    witness: &mut Witness,
    seats: &[Seating],
    attached: Vec<Attached>,
) -> Result<Vec<Attached>, WitnessError> {
    let (mut on_trial, mut settled): (Vec<_>, Vec<_>) =
        attached.into_iter().partition(|held| held.mode == Mode::Native && held.only.is_none());
    let mut trials: BTreeMap<(Place, u32), Trial> = BTreeMap::new();
    let began = clock::now();
    while !on_trial.is_empty() {
        let now = clock::now();
        let mut pending = Vec::new();
        for held in on_trial {
            let mut asked = false;
            let mut verdicts = Vec::new();
            for (at, link) in links_by(witness.maps(), seats, held.index)? {
                let state = witness.maps().link(at, link)?;
                let trial = trials.entry((at, link)).or_insert_with(|| Trial::new(&state, now));
                asked |= trial.is_asked(&state);
                verdicts.push(trial.look(&state, now));
            }
            let failed = verdicts.contains(&Verdict::Failed);
            if verdicts.contains(&Verdict::Passed) {
                settled.push(held);
            } else if failed {
                let reason = "self-test failed: no node heard the answers sent in native mode";
                let now = witness.fall_back(held.index, reason.to_owned())?;
                let (mode, reason) = (now.mode, now.reason.clone());
                settled.push(Attached { mode, reason, ..held });
            } else if now.since(began) < if asked { TRIAL } else { ASKED_WITHIN } {
                pending.push(held);
            } else {
                settled.push(held);
            }
        }
        on_trial = pending;
        thread::sleep(LOOK);
    }
    Ok(settled)
}

/// Returns the links of all seats by an interface.
fn links_by(
    maps: &WitnessMaps,
    seats: &[Seating],
    interface: u32,
) -> Result<Vec<(Place, u32)>, KernelError> {
    let mut found = Vec::new();
    for seat in seats {
        for place in 0..usize::from(maps.terms(seat.home)?.count) as u32 {
            for link in 0..MAX_LINKS as u32 {
                let at = Place { home: seat.home, place };
                if maps.path(at, link)?.interface == interface {
                    found.push((at, link));
                }
            }
        }
    }
    Ok(found)
}

impl Seating {
    /// Brings the disk to where the records may go, before they do.
    fn store(&mut self, confirm: bool) -> Result<(), WitnessError> {
        let stored = self.state.generation()?;
        if let Some(known) = &self.known {
            self.life = known.life;
            if known.is_learner() {
                self.plan = Plan::Learn;
                if confirm {
                    let learned = self.learned(&known.records, &[])?;
                    self.plan = Plan::Start(self.reserve(stored, learned)?);
                }
                return Ok(());
            }
            let granted = known.live().map(|record| record.generation).min().unwrap_or(0);
            let heard = known.records.iter().map(|record| record.highest().generation()).max();
            let heard = heard.unwrap_or(0);
            if self.places.begun().next().is_some() {
                // Above all that was promised of whatever had their addresses; the disk may be a new one.
                let most = known.records.iter().map(|record| record.generation).max();
                let reserved = self.reserve(stored.max(most.unwrap_or(0)), heard)?;
                self.plan = Plan::Regroup(reserved);
                return Ok(());
            }
            self.plan = match refill(granted, heard) {
                Some(more) => {
                    self.state.raise_generation(more)?;
                    Plan::Refill(more)
                }
                None => {
                    // The disk may be a new one under records that are still there.
                    let most = known.records.iter().map(|record| record.generation).max();
                    self.state.raise_generation(most.unwrap_or(0))?;
                    Plan::Keep
                }
            };
            return Ok(());
        }
        self.life =
            (self.state.reserve_incarnation(0)?, nonce::draw().map_err(WitnessError::Random)?);
        self.plan = if stored == 0 && !confirm {
            Plan::Learn
        } else {
            Plan::Start(self.reserve(stored, 0)?)
        };
        Ok(())
    }

    /// Returns the generation above all that a learner heard of, by its records and by the words of those
    /// it heard: of groups that it does not have any more it may have promised epochs as well.
    fn learned(&self, records: &[Record], heard: &[Peer]) -> Result<u32, WitnessError> {
        let learned = records.iter().map(learned_generation);
        let told = heard.iter().map(|peer| told_generation(&peer.words).checked_add(1));
        let learned: Option<Vec<u32>> = learned.chain(told).collect();
        let most = learned.and_then(|all| all.into_iter().max());
        most.ok_or_else(|| WitnessError::UsedUp(self.prepared.name().to_owned()))
    }

    /// Returns the generation above all that was heard of.
    fn heard(&self, maps: &WitnessMaps) -> Result<u32, WitnessError> {
        let peers = self.prepared.local.peers.iter();
        let places = peers.filter_map(|peer| self.prepared.terms.place(peer.id.0));
        let heard = places.map(|place| maps.peer(Place { home: self.home, place: place as u32 }));
        self.learned(&records(maps, self.home)?, &heard.collect::<Result<Vec<_>, _>>()?)
    }

    /// Stores what a start begins with.
    fn reserve(&mut self, stored: u32, learned: u32) -> Result<Reserved, WitnessError> {
        let used_up = || WitnessError::UsedUp(self.prepared.name().to_owned());
        let reserved = reserve(stored, learned).ok_or_else(used_up)?;
        self.state.raise_generation(reserved.stored)?;
        Ok(reserved)
    }

    /// Gives the cluster its home.
    fn take(&self, witness: &mut Witness) -> Result<Standing, WitnessError> {
        let cluster = self.prepared.config.cluster_id();
        let (incarnation, nonce) = self.life;
        let mut seat = self.prepared.seat(nonce, incarnation);
        // What was spoken of is spoken of for a whole life, or words would seem older than earlier ones.
        let spoken = self.known.iter().flat_map(|known| known.records.iter().zip(1..));
        let spoken = spoken.filter(|(record, _)| record.changes != 0).map(|(_, end)| end).max();
        seat.node.groups = seat.node.groups.max(spoken.unwrap_or(0));
        let before = self.known.as_ref().map(|known| known.terms);
        let reconfigured = before.is_some_and(|terms| terms != seat.terms);
        if before.is_none() {
            // A command that was killed may have left something.
            witness.clear_members(self.home)?;
        }
        let beginning = match (self.plan, before) {
            (Plan::Start(reserved), None) => Beginning::New(reserved.floor, None),
            (_, None) => Beginning::Lost,
            (Plan::Regroup(reserved), Some(_)) => Beginning::Found(Some(reserved.floor)),
            (_, Some(_)) => Beginning::Found(None),
        };
        let steps = Begin {
            beginning,
            places: self.places,
            fingerprints: self.prepared.config.fingerprints(),
            new_terms: before.is_none() || reconfigured,
        };
        for step in steps.steps() {
            match step {
                Step::Order(order) => drop(witness.order(self.home, order)?),
                Step::Terms => {
                    if before.is_some_and(|terms| terms.voters != seat.terms.voters) {
                        witness.dismiss(cluster)?;
                        witness.quiesce()?;
                        witness.clear_members(self.home)?;
                    }
                    witness.seat(self.home, &seat)?;
                }
                Step::Addresses => witness.seat(self.home, &seat)?,
            }
        }
        let learns = self.known.as_ref().is_some_and(Known::is_learner);
        let begun = self.begin(witness, learns)?;
        if before.is_none() || reconfigured {
            witness.admit(cluster, self.home)?;
        }
        let old = before.map_or(0, |terms| terms.amnesia_ns());
        let wait = Duration::from_nanos(old.max(seat.terms.amnesia_ns()));
        Ok(match (begun, self.plan) {
            (Some(standing), _) => standing,
            (None, _) if before.is_none() => Standing::New(self.amnesia()),
            (None, Plan::Start(_)) => Standing::Confirmed(self.amnesia()),
            (None, _) if reconfigured => Standing::Reconfigured(wait),
            (None, Plan::Regroup(_)) => Standing::Regrouped(wait),
            (None, _) => Standing::Known,
        })
    }

    /// Does what the disk allows the records beyond that, in which one `learns` so far. Returns a learner's
    /// standing.
    fn begin(&self, witness: &Witness, learns: bool) -> Result<Option<Standing>, WitnessError> {
        let all = || self.places.kept().chain(self.places.begun());
        let stored = match self.plan {
            Plan::Keep => return Ok(None),
            Plan::Learn => return Ok(Some(Standing::Learner(Vec::new()))),
            Plan::Refill(stored) | Plan::Regroup(Reserved { stored, .. }) => stored,
            Plan::Start(reserved) => {
                // Of the same groups as before; a new cluster's have begun, and begin once more.
                // To store it took a while, in which a learner may have heard of something newer.
                let heard = if learns { self.heard(witness.maps())? } else { 0 };
                if heard > reserved.stored {
                    return Err(WitnessError::UsedUp(self.prepared.name().to_owned()));
                }
                let generation = reserved.floor.max(heard);
                for place in all() {
                    let order = Order { generation, ..Order::new(Op::Start, place) };
                    witness.order(self.home, order)?;
                }
                reserved.stored
            }
        };
        for place in all() {
            let order = Order { generation: stored, ..Order::new(Op::GenerationStored, place) };
            witness.order(self.home, order)?;
        }
        Ok(None)
    }

    fn amnesia(&self) -> Duration {
        Duration::from_nanos(self.prepared.terms.amnesia_ns())
    }

    /// Returns the names of the nodes that were not heard in this life.
    fn unheard(&self, maps: &WitnessMaps) -> Result<Vec<String>, WitnessError> {
        let mut unheard = Vec::new();
        for peer in &self.prepared.local.peers {
            let Some(place) = self.prepared.terms.place(peer.id.0) else { continue };
            let heard = maps.peer(Place { home: self.home, place: place as u32 })?;
            if heard.last_arrival_ns == 0 {
                unheard.push(peer.name.to_string());
            }
        }
        Ok(unheard)
    }
}

/// Waits until the learners have heard every node of theirs, and ends their being learners then:
/// whatever they may have promised before they lost their numbers, those they promised it to know
/// the epoch.
fn wait(
    witness: &Witness,
    seats: &mut [Seating],
    standings: &mut [Standing],
    limit: Duration,
) -> Result<(), WitnessError> {
    let end = clock::now().after(limit);
    loop {
        let mut waiting = false;
        for (seat, standing) in seats.iter_mut().zip(&mut *standings) {
            if !matches!(standing, Standing::Learner(_)) {
                continue;
            }
            let unheard = seat.unheard(witness.maps())?;
            if unheard.is_empty() {
                // A frame counts as an arrival before its words are taken.
                witness.quiesce()?;
                let learned = seat.heard(witness.maps())?;
                let stored = seat.state.generation()?;
                seat.plan = Plan::Start(seat.reserve(stored, learned)?);
                seat.begin(witness, true)?;
                *standing = Standing::Confirmed(seat.amnesia());
            } else {
                waiting = true;
                *standing = Standing::Learner(unheard);
            }
        }
        if !waiting || clock::now() >= end {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}
