//! Attaching the kernel half, and telling it of its clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    thread,
    time::Duration,
};

use hb_ebpf::{
    homes::HOMES,
    lease::{
        Record, Terms,
        op::Op,
        start::{is_learner, learned_generation},
    },
    maps::MAX_LINKS,
    wire::GROUPS,
};

use super::{
    Lock, WitnessError,
    generation::{Reserved, refill, reserve},
    prepare::{Prepared, files, prepare},
};
use crate::{
    clock,
    config::{HostView, Readable},
    kernel::{KernelError, Mode, Place, WITNESS_OBJECT, Witness, WitnessMaps},
    nonce,
    state_dir::StateDir,
};

/// How often a learner looks whether it has heard everybody.
const LOOK: Duration = Duration::from_millis(5);

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

/// What came of it. Displays a line for each interface and cluster.
#[derive(Debug)]
pub struct Outcome {
    /// Interfaces attached to, how, and why not natively.
    pub attached: Vec<(String, Mode, Option<String>)>,
    /// What became of each cluster, in the order of the configurations.
    pub clusters: Vec<(String, Standing)>,
}

/// What became of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is new here, and the machine votes once this has passed.
    New(Duration),
    /// It was here with other voters or leases: the machine votes again once this has passed.
    Reconfigured(Duration),
    /// It was here; its records stay as they are.
    Known,
    /// The machine has no numbers of it and takes no part before these nodes were heard.
    Learner(Vec<String>),
    /// It was a learner, and is none any more: it votes once this has passed.
    Confirmed(Duration),
}

impl Outcome {
    /// Returns the interfaces that are not attached to natively, and why.
    pub fn slow(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attached
            .iter()
            .filter_map(|(interface, _, reason)| Some((interface.as_str(), reason.as_deref()?)))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (interface, mode, _) in &self.attached {
            writeln!(f, "{interface}: attached in {} mode", mode.as_str())?;
        }
        for (name, standing) in &self.clusters {
            match standing {
                Standing::New(wait) => writeln!(f, "{name}: added, votes in {}", Readable(*wait)),
                Standing::Reconfigured(wait) => writeln!(
                    f,
                    "{name}: voters or leases were changed; what was promised binds still, votes \
                     again in {}",
                    Readable(*wait)
                ),
                Standing::Known => writeln!(f, "{name}: votes, its records were kept"),
                Standing::Confirmed(wait) => {
                    writeln!(f, "{name}: every node was heard, votes in {}", Readable(*wait))
                }
                Standing::Learner(unheard) => writeln!(
                    f,
                    "{name}: does not vote: there is no number of an earlier start on this disk, \
                     and not heard: {}; start them and run `hb witness` again, or, if this machine \
                     never voted in this cluster, run `hb witness --confirm`",
                    unheard.join(", ")
                ),
            }?;
        }
        Ok(())
    }
}

/// Attaches the kernel half and has it vote in the clusters of the configurations, besides those
/// that it knows. Returns once every learner has heard its nodes, or the wait is over.
///
/// # Errors
///
/// [`WitnessError`]; until it has attached itself and stored its numbers it has changed nothing that
/// it did not undo.
pub fn run(request: &Request) -> Result<Outcome, WitnessError> {
    let clusters = prepare(&files(&request.configs)?)?;
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
    wait(&witness, &mut seats, &mut standings, request.wait)?;
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
}

/// A cluster that is known already.
struct Known {
    terms: Terms,
    life: (u32, u64),
    records: Vec<Record>,
}

/// What to do with the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing, they go on.
    Keep,
    /// Begin; these generations are on the disk.
    Start(Reserved),
    /// Begin without a number.
    Learn,
    /// Go on with more generations.
    Refill(u32),
}

impl Known {
    fn is_learner(&self) -> bool {
        self.records.iter().any(is_learner)
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
    for prepared in clusters {
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
        seats.push(Seating { prepared, home, state, known, life: (0, 0), plan: Plan::Keep });
    }
    Ok(seats)
}

fn known(maps: &WitnessMaps, home: u32) -> Result<Known, KernelError> {
    let node = maps.node(home)?;
    let records = (0..GROUPS as u8).map(|group| maps.record(home, group));
    Ok(Known {
        terms: maps.terms(home)?,
        life: (node.incarnation, node.nonce),
        records: records.collect::<Result<_, _>>()?,
    })
}

/// Attaches to every interface of a link, of the clusters that are known already as well: all of
/// them run the program of this version then.
fn attach(
    witness: &mut Witness,
    seats: &[Seating],
    host: &HostView,
    generic: bool,
) -> Result<Vec<(String, Mode, Option<String>)>, WitnessError> {
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
        let held = witness.attach(name, index, generic)?;
        attached.push((name.to_owned(), held.mode, held.reason.clone()));
    }
    Ok(attached)
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
                    let learned = self.learned(&known.records)?;
                    self.plan = Plan::Start(self.reserve(stored, learned)?);
                }
                return Ok(());
            }
            let granted = known.records.iter().map(|record| record.generation).min().unwrap_or(0);
            let heard = known.records.iter().map(|record| record.highest().generation()).max();
            self.plan = match refill(granted, heard.unwrap_or(0)) {
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

    fn learned(&self, records: &[Record]) -> Result<u32, WitnessError> {
        let learned: Option<Vec<u32>> = records.iter().map(learned_generation).collect();
        let most = learned.and_then(|all| all.into_iter().max());
        most.ok_or_else(|| WitnessError::UsedUp(self.prepared.name().to_owned()))
    }

    /// Returns the generation above all that the records have heard of.
    fn heard(&self, maps: &WitnessMaps) -> Result<u32, WitnessError> {
        self.learned(&known(maps, self.home)?.records)
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
        let seat = self.prepared.seat(nonce, incarnation);
        let Some(known) = &self.known else {
            // A command that was killed may have left something.
            witness.clear_members(self.home)?;
            witness.seat(self.home, &seat)?;
            let standing = self.begin(witness, false)?;
            witness.admit(cluster, self.home)?;
            return Ok(standing.unwrap_or_else(|| Standing::New(self.amnesia())));
        };
        let reconfigured = known.terms != seat.terms;
        if reconfigured {
            // Whatever was promised by the old terms binds for as long as they say; nothing is
            // promised between them and the new ones.
            witness.order(self.home, Op::TermsChanged, 0)?;
            if known.terms.voters != seat.terms.voters {
                witness.dismiss(cluster)?;
                witness.quiesce()?;
                witness.clear_members(self.home)?;
            }
        }
        witness.seat(self.home, &seat)?;
        if reconfigured {
            witness.order(self.home, Op::TermsChanged, 0)?;
            witness.admit(cluster, self.home)?;
        }
        let begun = self.begin(witness, known.is_learner())?;
        let wait = known.terms.amnesia_ns().max(seat.terms.amnesia_ns());
        Ok(match begun {
            Some(standing) => standing,
            None if matches!(self.plan, Plan::Start(_)) => Standing::Confirmed(self.amnesia()),
            None if reconfigured => Standing::Reconfigured(Duration::from_nanos(wait)),
            None => Standing::Known,
        })
    }

    /// Brings the records to their beginning, in which one `learns` so far. Returns a learner's
    /// standing.
    fn begin(&self, witness: &Witness, learns: bool) -> Result<Option<Standing>, WitnessError> {
        match self.plan {
            Plan::Keep => {}
            Plan::Refill(stored) => {
                witness.order(self.home, Op::GenerationStored, stored)?;
            }
            Plan::Start(reserved) => {
                // To store it took a while, in which a learner may have heard of something newer.
                let heard = if learns { self.heard(witness.maps())? } else { 0 };
                if heard > reserved.stored {
                    return Err(WitnessError::UsedUp(self.prepared.name().to_owned()));
                }
                witness.order(self.home, Op::Start, reserved.floor.max(heard))?;
                witness.order(self.home, Op::GenerationStored, reserved.stored)?;
            }
            Plan::Learn => {
                if self.known.is_none() {
                    witness.order(self.home, Op::Learner, 0)?;
                }
                return Ok(Some(Standing::Learner(Vec::new())));
            }
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
