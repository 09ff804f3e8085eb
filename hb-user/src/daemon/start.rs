//! From a prepared node to a running one, in the order that leaves nothing half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hb_ebpf::{
    gate,
    lease::{
        identity::Places,
        op::{Op, Order},
    },
    maps::{LAYOUT, MAX_LINKS, MAX_NODES, Transport},
    time::BootTime,
    wire::{GROUPS, Health},
};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Daemon, EngineKind, act, anew,
    clean::Cleaner,
    disk::Disk,
    fence::Fences,
    gate_report::{GateNode, GatePlace},
    keys::Keys,
    prepare::{self, LocalVip, Prepared, pins},
    records, regroup,
    relink::Links,
    reload::Source,
    removal,
    resources::{Worker, describe, rule},
    setup::{core_setup, held},
    start_error::StartError,
    strays::{self, Strays},
    survey::Surveyor,
};
use crate::{
    beginning::Begin,
    clock,
    config::{Config, Engine, GateMode, HostView, LinkAddress, LocalLink, Policy},
    core::{Core, storage::Storage},
    engine::controller::{
        self, Controller,
        start::{self as begin, Found, Life},
    },
    fast::{Fast, Outlet, Setup as FastSetup, Target},
    id::{GroupId, LinkId, NodeId},
    kernel::{
        GateView, Identity, Kernel, KernelError, Leases, OBJECT, PinsLock, Shared, gated_addresses,
    },
    key::peer_keys,
    link::{Ends, LinkSocket},
    logging, nonce,
    notify::Notifiers,
    realtime::Demand,
    sockets::SweepError,
    state_dir::StateDir,
};

/// Looks at the two clocks before they are taken for two, and how far the reading of one may be off
/// while the kernel adjusts it.
const CLOCK_LOOKS: u32 = 5;
const CLOCK_NEAR_NS: u64 = 20_000;

/// Starts the node. If it fails, the kernel half that was found is as it was, and a new one gone.
/// Programs are run by `background`.
pub(super) fn start(
    mut prepared: Prepared,
    state: StateDir,
    background: &Handle,
    source: Source,
    log_lost: logging::Lost,
) -> Result<Daemon, StartError> {
    let pins = pins(&prepared.config, &prepared.local);
    let fresh = !pins.exists();
    let cluster = prepared.config.cluster_id();
    prepared.stray = strays::of_this_cluster(std::mem::take(&mut prepared.stray), cluster)?;
    let mut addresses = prepare::addresses(&prepared.config);
    addresses.extend(prepared.stray.iter().map(|stray| stray.ip));
    let terms = prepared.config.terms(prepared.local.me.id)?;
    let deadtime_ns = prepared.config.timers.controller_deadtime().as_nanos() as u64;
    let started = assemble(prepared, state, &pins, background, source, log_lost);
    if started.is_err()
        && fresh
        && let Err(error) = removal::undo(&pins, addresses, &terms, deadtime_ns)
    {
        // The error of the start is the one that is returned.
        tracing::error!(error = describe(&error), "what the start made stays behind");
    }
    started
}

/// What is slow or may fail comes first; frames are answered once the node is introduced, probes
/// leave from the start of the fast path on, and the watch begins last.
fn assemble(
    prepared: Prepared,
    mut state: StateDir,
    pins: &std::path::Path,
    background: &Handle,
    source: Source,
    log_lost: logging::Lost,
) -> Result<Daemon, StartError> {
    let Prepared { mut config, local, keys, interfaces, vips, stray } = prepared;
    let aside = state.aside()?;
    let in_use = || StartError::InUse(pins.to_owned());
    let pins_lock = PinsLock::make(pins)?.ok_or_else(in_use)?;
    let mut kernel = Kernel::open(OBJECT, pins)?;
    // To load takes long enough for somebody's clean-up.
    let pins_lock = match kernel.pinnings(&pins_lock).look() {
        Some(missing) => {
            let (pins, lock) = kernel.pin_again(&missing)?;
            tracing::warn!(pins, "somebody removed pins: made anew");
            lock.unwrap_or(pins_lock)
        }
        None => pins_lock,
    };
    let leases = kernel.leases()?;
    if let Some(ahead_ns) = set_off(&leases)? {
        return Err(StartError::Clock { ahead_ns });
    }
    let engine = engine(&config, &kernel)?;
    let shared = Arc::new(kernel.share()?);

    // A record is one of this boot, of this layout and of this configuration.
    let earlier = shared.node();
    let has_record = kernel.found() && earlier.layout == LAYOUT;
    let resumes = has_record && earlier.config_hash == config.fingerprint();
    let terms = config.terms(local.me.id)?;
    let (found, learns) = records::found(&shared);
    let places = Places::new(&found, &config.groups_wanted());
    config.place(&places);
    let fingerprints = config.fingerprints();
    let vips = records::by_place(&config, vips);
    let found = Found {
        records: has_record,
        // The nonce outlives the daemon: with the number of an earlier life it would be that life.
        incarnation: earlier.incarnation,
        learns,
        lacks: places.begun().next().is_some(),
    };
    let promises = config.cluster.policy != Policy::Available;
    let life = begin::number(&mut state, found, &config.voter_set(), promises)?;
    let Life { incarnation, beginning, new_voters } = life;
    let nonce =
        if has_record { earlier.nonce } else { nonce::draw().map_err(StartError::Random)? };
    let identity = Identity {
        cluster: config.cluster_id(),
        id: local.me.id,
        incarnation,
        nonce,
        config_hash: config.fingerprint(),
        groups: places.end(),
        controller_deadtime_ns: config.timers.controller_deadtime().as_nanos() as u64,
    };
    // Attaching may take tens of milliseconds. Frames are answered only once the node has been
    // introduced, so a new kernel half never speaks for a daemon that is not there yet.
    for (name, (index, _)) in &interfaces {
        let attached = kernel.attach(name, *index, local.attach(name))?;
        super::log_attachment(attached);
    }
    let mode = match config.gate.mode {
        GateMode::On => gate::Mode::On,
        GateMode::DryRun => gate::Mode::DryRun,
        GateMode::Bypass => gate::Mode::Bypass,
    };
    kernel.set_gate(&gate::Settings { mode: mode as u8, ..Default::default() })?;
    // What the gate looked after before, and the configuration does not name any more, is kept from
    // everybody: another node may serve it by now. A gate that is not pinned any more is one too.
    let mut before = gated_addresses(pins)?;
    if let Some(earlier) = GateView::find(config.cluster_id(), local.me.id)? {
        before.extend(earlier.vips.iter().map(|vip| vip.address));
    }
    let gated = strays::of_no_group(&vips, &stray, before);
    let guarded = strays::guarded(&config, &vips, &gated);
    if !has_record {
        // Closed from the first moment that anything looks.
        kernel.set_vips(&guarded)?;
    }
    let host = HostView::read().map_err(StartError::Interfaces)?;
    let mut gates = kernel.gates(config.cluster_id(), local.me.id)?;
    super::gate::cover_first(&mut gates, &host)?;
    kernel.detach_others();
    if let Err(why) = kernel.hear_carriers() {
        tracing::warn!(why, "a lost carrier is heard of by the kernel's notices alone");
    }

    let mut outlets = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for link in &local.links {
        let missing = || StartError::Ends(link.name.to_string());
        let (index, mac) = *interfaces.get(link.own.interface.as_str()).ok_or_else(missing)?;
        for (peer, end) in link.others() {
            let ends = ends(link, mac, end.address).ok_or_else(missing)?;
            paths.insert((*peer, link.id), link.path(index, host.comes_to(index), end.address));
            let socket = LinkSocket::open(index, ends)?;
            let fingerprint = link.fingerprint(end.address);
            outlets.insert((link.id, *peer), Outlet { socket, fingerprint });
        }
    }
    // Of links that may come later as well.
    let others = local.peers.iter().map(|node| node.id).chain(local.witness_id());
    let others: Vec<_> = others.collect();
    let every = (0..MAX_LINKS as u8).map(LinkId);
    let every = every.flat_map(|link| others.iter().map(move |peer| (link, *peer)));
    let targets = every.map(|(link, peer)| {
        let keys = peer_keys(&keys, identity.cluster, local.me.id, peer);
        Target { peer, link, outlet: outlets.remove(&(link, peer)), keys }
    });
    let targets: Vec<_> = targets.collect();
    let anew = anew::Anew::new(&interfaces, &vips);
    let mut effects = Vec::new();
    for (place, vips) in vips.iter().enumerate() {
        effects.push(regroup::effect(config.group(GroupId(place as u8)), vips)?);
    }

    // Nothing can be wrong with the node any more: say who it is.
    let mut live_keys = BTreeMap::new();
    for peer in (1..=MAX_NODES as u8).map(NodeId) {
        let known = local.peers.iter().map(|node| node.id).chain(local.witness_id());
        let known = known.into_iter().any(|id| id == peer);
        let shared_keys = known.then(|| peer_keys(&keys, identity.cluster, local.me.id, peer));
        kernel.set_keys(peer, &shared_keys.unwrap_or_default())?;
        live_keys.extend(shared_keys.map(|keys| (peer, keys)));
        for link in (0..MAX_LINKS as u8).map(LinkId) {
            kernel.set_path(peer, link, &paths.remove(&(peer, link)).unwrap_or_default())?;
        }
        if known {
            shared.set_timing(peer, &config.timers.of_peer());
        }
    }
    let vows = match config.cluster.policy {
        Policy::Safe => records::vows(&config, &state)?,
        Policy::Witness | Policy::Available => BTreeMap::new(),
    };
    let new_terms = kernel.terms()? != terms;
    let begin = Begin { beginning, places, fingerprints, new_terms };
    let mut hands =
        records::Hands { kernel: &mut kernel, leases: &leases, terms: &terms, guarded: &guarded };
    begin::begin(&mut hands, &begin)?;
    let strays = Strays::begin(gated, &stray);
    let learner = begin::take_up(&mut hands, config.groups.iter().map(|group| group.id), &vows)?;
    if !resumes {
        // How a group fared that is here no more says nothing of another.
        let mut health = shared.published();
        places.dismissed().chain(places.begun()).for_each(|place| {
            health[usize::from(place) % GROUPS] = Health::Starting as u8;
        });
        shared.publish(&health, false);
    }
    shared.introduce(&identity);
    shared.stamp_controller(clock::now());

    let now = clock::now();
    let core = Core::new(core_setup(&config, &local, &shared, aside), now)?;
    let holding = |group| held(&shared, GroupId(group as u8)).is_some();
    let resuming = std::array::from_fn(holding);
    let judge = match engine.0 {
        EngineKind::User => Some(kernel.judge()?),
        EngineKind::KernelTimer => None,
    };
    let fast = Fast::start(FastSetup {
        targets,
        interval: config.timers.interval(),
        effects,
        shared: Arc::clone(&shared),
        events: kernel.events()?,
        judge,
        leases: kernel.leases()?,
        terms,
        demand: Demand::of_prober(config.timers.interval()),
    })?;

    let cleaner = cleaner(&config, &vips)?;
    shared.stamp_controller(clock::now());

    let (done, results) = mpsc::unbounded_channel();
    let workers = (0..GROUPS as u8)
        .map(|place| {
            let group = config.group(GroupId(place))?;
            (!group.resources.is_empty()).then(|| {
                let rule = rule(&config, &local, group);
                Worker::spawn(background, group.id, rule, done.clone())
            })
        })
        .collect();

    let groups = config.groups.iter();
    let groups = groups.map(|group| (group.fingerprint(), group.name.to_string())).collect();
    let node = Some(GateNode { cluster: config.cluster_id(), id: local.me.id, terms });
    let place = GatePlace { pins: pins.to_owned(), node, groups };
    let surveyor = Surveyor::start(background.clone(), place, gates, kernel.generic()?)
        .map_err(StartError::Cover)?;

    let storage = Storage::new(state.generation()?, &vows, aside);
    let disk = Disk::start(state).map_err(StartError::Disk)?;
    let tick = config.timers.tick();
    let controller =
        Controller::new(controller::Begin { core, storage, tick, learner, new_voters, now });

    let mut daemon = Daemon {
        links: Links::new(&local),
        notifiers: Notifiers::start(&config.notifies, background),
        incarnation,
        started: now,
        tick,
        resuming,
        trials: BTreeMap::new(),
        memory: BTreeMap::new(),
        resource_states: BTreeMap::new(),
        keys: Keys::new(&keys, live_keys),
        disk,
        config,
        local,
        vips,
        fingerprints,
        strays,
        controller,
        kernel,
        shared,
        leases,
        confirmations: Vec::new(),
        asides: Vec::new(),
        fast,
        workers,
        done,
        results,
        engine,
        lost_events: 0,
        source,
        retiming: None,
        pending: None,
        unsettled: BTreeSet::new(),
        log_lost,
        told_lost: 0,
        counted: BootTime::NEVER,
        pauses: Default::default(),
        peers_pauses: BTreeMap::new(),
        defended: BTreeMap::new(),
        upkeep: Default::default(),
        fences: Fences::new(background.clone()),
        surveyor,
        cleaner,
        ended: BTreeMap::new(),
        macs: Default::default(),
        anew,
        paths: Default::default(),
        hearing: Default::default(),
        routes: Default::default(),
        pins_lock,
        unpinned: None,
    };
    daemon.ask_pings();
    daemon.listen(now);
    for peer in daemon.others() {
        daemon.watch(peer, true)?;
    }
    Ok(daemon)
}

/// Returns by how much this process's clock is ahead of the kernel half's, if the two are not one: in
/// another time namespace, leases and stamps would be of no use.
fn set_off(leases: &Leases) -> Result<Option<i128>, KernelError> {
    let mut ahead_ns = 0;
    for _ in 0..CLOCK_LOOKS {
        let before = clock::now().ns();
        let kernel = leases.order(Order::new(Op::Read, 0))?.now_ns;
        let after = clock::now().ns();
        if before <= kernel + CLOCK_NEAR_NS && kernel <= after + CLOCK_NEAR_NS {
            return Ok(None);
        }
        ahead_ns = i128::from(before) - i128::from(kernel);
    }
    Ok(Some(ahead_ns))
}

/// Decides who counts the misses, and why.
fn engine(config: &Config, kernel: &Kernel) -> Result<(EngineKind, String), StartError> {
    match (config.cluster.engine, kernel.timers()) {
        (Engine::User, _) => Ok((EngineKind::User, "configured: engine = \"user\"".to_owned())),
        (_, Ok(())) => Ok((EngineKind::KernelTimer, "the kernel has BPF timers".to_owned())),
        (Engine::Auto, Err(refusal)) => {
            Ok((EngineKind::User, format!("the kernel refuses BPF timers: {refusal}")))
        }
        (Engine::Kernel, Err(refusal)) => Err(StartError::Engine(refusal.to_owned())),
    }
}

pub(super) fn ends(link: &LocalLink, mac: Option<[u8; 6]>, peer: LinkAddress) -> Option<Ends> {
    match link.own.address.ends(peer)? {
        Ends::Ethernet { peer, .. } => Some(Ends::Ethernet { own: mac?, peer }),
        ends => Some(ends),
    }
}

/// Starts what ends connections to addresses that go. Where promises are given it has to work.
fn cleaner(config: &Config, vips: &[Vec<LocalVip>]) -> Result<Option<Cleaner>, SweepError> {
    let addresses = |group: &Vec<LocalVip>| group.iter().map(|local| local.vip.ip()).collect();
    match Cleaner::start(vips.iter().map(addresses).collect()) {
        Err(error) if config.cluster.policy == Policy::Available => {
            tracing::warn!(
                error = describe(&error),
                "connections to an address that moves away are left to end by themselves"
            );
            Ok(None)
        }
        started => started.map(Some),
    }
}

impl Daemon {
    /// Returns the peers.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        self.local.peers.iter().map(|peer| peer.id).collect()
    }

    /// Returns all other machines: the peers, and the witness if there is one.
    pub(super) fn others(&self) -> Vec<NodeId> {
        self.peers().into_iter().chain(self.local.witness_id()).collect()
    }

    /// Begins to watch a peer, whoever counts its misses.
    pub(super) fn watch(&mut self, peer: NodeId, forget: bool) -> Result<(), KernelError> {
        act::watch(&mut self.kernel, self.engine.0, peer, forget)
    }

    /// Returns the shared maps.
    pub(super) fn maps(&self) -> &Shared {
        &self.shared
    }
}

/// Tells how a link travels, in the word of the configuration.
pub(super) const fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Ethernet => "ethernet",
        Transport::Udp4 => "udp4",
        Transport::Udp6 => "udp6",
    }
}
