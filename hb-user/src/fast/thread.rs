//! The thread: it does what the order of steps says, by the system's means.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{Arc, mpsc},
};

use hb_ebpf::{
    lease::{Record, op::Order},
    maps::{Event, MAX_NODES, Peer, PeerKeys},
    time::BootTime,
    wire::{GROUPS, Health},
};

use super::{
    Command, Effect, EffectError, Fast, FastError, Queue, Rebinds, Report, Running, Setup,
    TargetCounters, deputy::Deputy, poller::Poller, probe::Streams,
};
use crate::{
    address::{AddressSocket, Done, Vip},
    announce::Gateways,
    clock,
    engine::takeover::{
        AddressChange, Next, Peers, Production, Rebound, Shape, Takeover, Token, World,
    },
    id::{GroupId, NodeId},
    kernel::{Events, Judge, Leases, Shared},
    realtime::{self, Demand, Mutex, Policy},
};

/// Commands and reports under way at once; both are drained as soon as they ring.
const QUEUE: usize = 256;
/// Stack touched before the first wait.
const STACK: usize = 64 * 1024;

pub(super) fn start(setup: Setup) -> Result<Fast, FastError> {
    let system = |action| move |source| FastError::System { action, source };
    let commands = Arc::new(Queue::new(QUEUE).map_err(system("make a queue of commands"))?);
    let reports = Arc::new(Queue::new(QUEUE).map_err(system("make a queue of reports"))?);
    let token = Arc::new(Token::default());
    let counters: Arc<[_]> = setup.targets.iter().map(TargetCounters::new).collect();
    let addresses = AddressSocket::open()?;
    let poller = Poller::new(&[setup.events.as_raw_fd(), commands.bell().as_raw_fd()])
        .map_err(system("make an epoll descriptor"))?;
    let demand = setup.demand;
    let interval_ns = setup.interval.as_nanos() as u64;
    let shared = Arc::clone(&setup.shared);
    let streams = Streams::new(setup.targets, shared, setup.terms, Arc::clone(&counters))
        .map_err(system("make a lock that inherits priorities"))?;
    let streams = Arc::new(streams);
    let deputy = Deputy::start(Arc::clone(&streams), interval_ns, demand.fifo_priority)
        .map_err(system("start a second thread"))?;
    let rebinds: Rebinds =
        Arc::new(Mutex::new(Vec::new()).map_err(system("make a lock that inherits priorities"))?);
    let mut watched = [false; MAX_NODES];
    if setup.judge.is_some() {
        for target in counters.iter() {
            if let Some(watched) = watched.get_mut(usize::from(target.peer.0).wrapping_sub(1)) {
                *watched = true;
            }
        }
    }
    let shapes: Vec<Shape> = setup.effects.iter().map(Effect::shape).collect();
    let now_ns = clock::now().ns();
    let takeover = Takeover::new(Production, setup.terms, &shapes, watched, interval_ns, now_ns);
    let hands = Hands {
        rebinds: Arc::clone(&rebinds),
        streams,
        deputy,
        reserved: false,
        effects: setup.effects,
        leases: setup.leases,
        shared: setup.shared,
        addresses,
        events: setup.events,
        judge: setup.judge,
        commands: Arc::clone(&commands),
        reports: Arc::clone(&reports),
        token: Arc::clone(&token),
    };
    let mut worker = Worker { takeover, hands, poller };
    let (sender, started) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("hb-fast".to_owned())
        .spawn(move || {
            // Before it has a budget, which is short.
            let locked = realtime::lock_memory();
            let running = Running {
                scheduling: realtime::prefer_deadline(demand),
                locked,
                stack: realtime::prefault_stack(STACK)
                    .map_err(|error| error.to_string())
                    .and_then(|()| realtime::tighten_timers().map_err(|error| error.to_string())),
            };
            worker.hands.reserved = matches!(running.scheduling.policy, Policy::Deadline { .. });
            if sender.send(running).is_ok() {
                worker.run();
            }
        })
        .map_err(system("start a thread"))?;
    let gone = || io::Error::other("the thread ended before it began");
    let running = started.recv().map_err(|_| gone()).map_err(system("start a thread"))?;
    Ok(Fast { commands, reports, token, counters, running, rebinds, thread: Some(thread) })
}

struct Worker {
    takeover: Takeover<Production>,
    hands: Hands,
    poller: Poller,
}

/// What the thread sees and acts with.
struct Hands {
    rebinds: Rebinds,
    streams: Arc<Streams>,
    deputy: Deputy,
    /// CPU time is reserved for this thread.
    reserved: bool,
    effects: Vec<Effect>,
    leases: Leases,
    shared: Arc<Shared>,
    addresses: AddressSocket,
    events: Events,
    judge: Option<Judge>,
    commands: Arc<Queue<Command>>,
    reports: Arc<Queue<Report>>,
    token: Arc<Token>,
}

impl Worker {
    fn run(&mut self) {
        let Self { takeover, hands, poller } = self;
        loop {
            match takeover.turn(hands) {
                Next::Change(change) => {
                    let result = hands.change(change);
                    takeover.changed(hands, result);
                }
                Next::Wait(0) => {}
                Next::Wait(for_ns) => poller.wait(for_ns),
                Next::Exit => return,
            }
        }
    }
}

impl Hands {
    /// Asks the kernel, and waits for it.
    fn change(&mut self, change: AddressChange) -> Result<Done, EffectError> {
        let AddressChange { group, place, change } = change;
        let effect = self.effects.get(usize::from(group.0)).ok_or(EffectError::Unknown)?;
        effect.change(&mut self.addresses, place, change)
    }

    fn effect(&self, group: GroupId) -> Option<&Effect> {
        self.effects.get(usize::from(group.0))
    }

    fn effect_mut(&mut self, group: GroupId) -> Option<&mut Effect> {
        self.effects.get_mut(usize::from(group.0))
    }
}

impl World for Hands {
    fn now(&self) -> BootTime {
        clock::now()
    }

    fn event(&mut self) -> Option<Event> {
        self.events.take()
    }

    fn command(&mut self) -> Option<Command> {
        self.commands.pop()
    }

    fn went_round(&mut self) {
        self.token.answer();
    }

    fn record(&self, group: GroupId) -> Option<Record> {
        self.shared.record(group)
    }

    fn peer(&self, peer: NodeId) -> Option<Peer> {
        self.shared.peer(peer)
    }

    fn order(&mut self, order: Order) -> Option<Order> {
        self.leases.order(order).ok()
    }

    fn count_misses(&mut self, peer: NodeId) -> bool {
        self.judge.as_ref().is_some_and(|judge| judge.judge(peer).is_ok())
    }

    fn publish(&mut self, health: &[Health; GROUPS], leaving: bool) {
        self.shared.publish(&health.map(|health| health as u8), leaving);
    }

    fn probe(&mut self) {
        self.streams.probe();
    }

    fn probe_these(&mut self, peers: &Peers) {
        let index = |peer: NodeId| usize::from(peer.0).wrapping_sub(1);
        self.streams.probe_those(|peer| peers.get(index(peer)).is_some_and(|wanted| *wanted));
    }

    fn set_keys(&mut self, peer: NodeId, keys: &PeerKeys, slot: usize, trial: bool) {
        self.streams.set_keys(peer, keys, slot, trial);
    }

    fn pace(&mut self, interval_ns: u64, demand: Demand) -> Option<(Policy, i32)> {
        self.deputy.pace(interval_ns);
        self.reserved.then(|| realtime::reserve_anew(demand))
    }

    fn vip(&self, group: GroupId, place: usize) -> Option<Vip> {
        self.effect(group)?.vip(place)
    }

    fn announce(&mut self, group: GroupId, place: usize) -> u32 {
        self.effect(group).map_or(0, |effect| effect.announce(place))
    }

    fn set_mac(&mut self, group: GroupId, interface: u32, mac: [u8; 6]) -> bool {
        self.effect_mut(group)
            .is_some_and(|effect| effect.announce_by(interface, |known| known.at(mac)))
    }

    fn set_gateways(&mut self, group: GroupId, interface: u32, gateways: Gateways) -> bool {
        self.effect_mut(group)
            .is_some_and(|effect| effect.announce_by(interface, |known| known.asking(gateways)))
    }

    /// Takes up what is ready, and leaves what it had in its place.
    fn rebind(&mut self, mut tell: impl FnMut(GroupId, Rebound)) {
        let Self { rebinds, streams, effects, .. } = self;
        for rebind in rebinds.lock().iter_mut().filter(|rebind| !rebind.done) {
            streams.rebind(&mut rebind.outlets);
            for (group, made) in &mut rebind.effects {
                if let Some(effect) = effects.get_mut(usize::from(group.0)) {
                    tell(*group, Rebound::Addresses(effect.rebind(made)));
                }
            }
            for (group, made) in &mut rebind.groups {
                if let Some(effect) = effects.get_mut(usize::from(group.0)) {
                    std::mem::swap(effect, made);
                    tell(*group, Rebound::Group(effect.shape()));
                }
            }
            rebind.done = true;
        }
    }

    fn stand_in(&mut self) {
        self.deputy.stand_in();
        self.token.go_away(clock::now());
    }

    fn stand_back(&mut self) {
        self.deputy.stand_back();
        self.token.come_back();
    }

    fn report(&mut self, report: Report, ring: bool) {
        let _ = if ring { self.reports.push(report) } else { self.reports.put(report) };
    }

    fn ring(&mut self) {
        self.reports.bell().ring();
    }
}
