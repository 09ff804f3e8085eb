//! Loading, pinning, attaching and running the programs of the kernel half.
//!
//! Everything the kernel half consists of is pinned below `/sys/fs/bpf/hb/<cluster>/<node>`: it
//! goes on answering while the daemon is gone, and a new daemon finds it there.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path as FilePath, PathBuf},
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, MapInfo, RingBuf},
    pin::PinError,
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use hb_ebpf::{
    gate::{Bounce, COUNTS, Claims, MAX_MACS, MAX_VIPS, Settings, Vip},
    lease::Terms,
    maps::{
        self, GroupLock, LAYOUT, Lease, Link, MAX_NODES, Node, Path, Peer, PeerKeys, PeerLock,
        PeerTimer, Recorded, SLOTS,
    },
    refusal::COUNTERS,
    wire::GROUPS,
};

mod carriers;
mod gate;
mod handles;
mod tcx;
mod trial;
mod values;

use carriers::Traced;
pub use gate::Way;
pub(super) use handles::Heard;
pub use handles::{Events, Judge, KernelLog, Leases};
pub(super) use tcx::Tcx;
pub use values::GateCounters;

use super::{
    attach::{Attachment, Generic, Mode},
    chain,
    error::{Cause, KernelError, describe},
    kept::Kept,
    owner::{self, Wanted},
    pins::{GATE_MAP, freeze, remove_pins},
    shared::Shared,
    undisturbed::Undisturbed,
};
use crate::{
    id::NodeId,
    own_path::{self, NotOurs},
};

/// The compiled kernel half; `cargo xtask build-ebpf` makes it.
#[cfg(not(feature = "other-objects"))]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../kernel/hb-node.bpf.o");

/// The compiled kernel half of a machine that only votes.
#[cfg(not(feature = "other-objects"))]
pub static WITNESS_OBJECT: &[u8] = aya::include_bytes_aligned!("../../../kernel/hb-witness.bpf.o");

/// A rebuild of the compiled kernel half.
#[cfg(feature = "other-objects")]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("HB_KERNEL_OBJECT"));

/// A rebuild of that of a machine that only votes.
#[cfg(feature = "other-objects")]
pub static WITNESS_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("HB_WITNESS_OBJECT"));

/// A map that outlives whoever loaded it: its name, the size of its values and how many there are.
pub(super) type Pinned = (&'static str, usize, usize);

/// The map that processes may read and none may write; both halves have it.
pub(super) const SHOWN: &str = "LEASES";

/// What an object has to hold.
pub(super) struct Half {
    /// Maps to be pinned.
    pub(super) pinned: &'static [Pinned],
    /// Programs to be loaded.
    pub(super) programs: &'static [&'static str],
    /// The program that needs timers, if there is one: a kernel may refuse it.
    pub(super) timers: Option<&'static str>,
    /// Whether it stops what leaves.
    pub(super) gate: bool,
    /// Whether it has the program that tells of carriers.
    pub(super) carriers: bool,
}

/// The kernel half of a node.
pub(super) const NODE_HALF: Half = Half {
    pinned: &PINNED,
    programs: &["heartbeat", "watch", "judge", "order"],
    timers: Some("arm"),
    gate: true,
    carriers: true,
};

const PINNED: [Pinned; 22] = [
    ("NODE", size_of::<Node>(), 1),
    ("PEERS", size_of::<Peer>(), MAX_NODES),
    ("LINKS", size_of::<Link>(), SLOTS),
    ("PATHS", size_of::<Path>(), SLOTS),
    ("KEYS", size_of::<PeerKeys>(), MAX_NODES),
    ("LOCKS", size_of::<PeerLock>(), MAX_NODES),
    ("TERMS", size_of::<Terms>(), 1),
    ("GROUPS", size_of::<GroupLock>(), GROUPS),
    ("RECORDS", size_of::<Recorded>(), GROUPS),
    (SHOWN, size_of::<Lease>(), GROUPS),
    ("GATE", size_of::<Settings>(), 1),
    ("VIPS4", size_of::<Vip>(), MAX_VIPS),
    ("VIPS6", size_of::<Vip>(), MAX_VIPS),
    ("GATED", size_of::<[u64; COUNTS]>(), MAX_VIPS),
    ("BOUNCES", size_of::<Bounce>(), MAX_VIPS),
    ("CLAIMS", size_of::<Claims>(), MAX_VIPS),
    ("MACS", size_of::<u8>(), MAX_MACS),
    ("BURIED", size_of::<u64>(), 1),
    ("TIMERS", size_of::<PeerTimer>(), MAX_NODES),
    ("EVENTS", 0, maps::EVENTS_BYTES),
    ("REFUSED", size_of::<[u64; COUNTERS]>(), SLOTS + 1),
    ("LOST", size_of::<u64>(), 1),
];

/// How often the kernel is asked for a timer, and how long after a refusal.
const ARM_TRIES: u32 = 10;
const ARM_PAUSE: Duration = Duration::from_millis(1);

/// What `BPF_PROG_TEST_RUN` returns for a request that was carried out.
const XDP_PASS: u32 = 2;

/// Counters of refused frames, by [`hb_ebpf::refusal::Refusal`] code.
pub type Counters = [u64; COUNTERS];

/// The kernel half.
pub struct Kernel {
    ebpf: Ebpf,
    pub(super) pins: PathBuf,
    found: bool,
    timers: Result<(), String>,
    /// Whether the kernel's own types are known well enough to hear of carriers, else why not.
    traced: Result<(), String>,
    /// What is pinned but for attachments.
    pub(super) kept: Vec<Kept>,
    tcx: Tcx,
    pub(super) attachments: Vec<Attachment>,
}

impl Kernel {
    /// Loads the programs over the maps pinned at `pins`, or over new ones that are then pinned
    /// there. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// [`KernelError::Foreign`] if the maps there are of another layout; they are left alone.
    pub fn open(object: &'static [u8], pins: &FilePath) -> Result<Self, KernelError> {
        Self::open_half(&NODE_HALF, object, pins)
    }

    /// Does the same for any kernel half.
    pub(super) fn open_half(
        half: &'static Half,
        object: &'static [u8],
        pins: &FilePath,
    ) -> Result<Self, KernelError> {
        let _undisturbed = Undisturbed::begin();
        own_path::make(pins).map_err(|error| unusable(pins, error))?;
        // One left alone by an interrupted removal must not be taken for one of ours unseen.
        let found = half.pinned.iter().any(|(name, ..)| pins.join(name).exists());
        if found {
            check_pins(half.pinned, pins)?;
        }
        let paths = pinned_paths(half, pins);
        let traced = if half.carriers { Traced::find() } else { Err("not asked for".to_owned()) };
        let mut loader = EbpfLoader::new();
        if let Ok(traced) = &traced {
            traced.tell(&mut loader);
        }
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let ebpf = loader.load(object).map_err(|source| KernelError::Load(Box::new(source)))?;
        // The gate goes by it, and applications are given descriptors of it.
        let shown = pins.join(SHOWN);
        freeze(&shown).map_err(|source| KernelError::Freeze { pin: shown, source })?;
        let kept = paths.into_iter().map(|(_, pin)| {
            let failed = |source| KernelError::Pins { path: pin.clone(), source };
            Kept::map(pin.clone()).map_err(failed)
        });
        let kept = kept.collect::<Result<Vec<_>, _>>()?;
        let maps = kept.iter().filter_map(Kept::map_id).collect();
        let mut kernel = Self {
            ebpf,
            pins: pins.to_owned(),
            found,
            timers: Ok(()),
            traced: traced.map(drop),
            kept,
            tcx: Tcx::new(half, object, pins.to_owned(), maps),
            attachments: Vec::new(),
        };
        for &program in half.programs {
            let refused = |source| KernelError::Program { program, source: Box::new(source) };
            kernel.program(program)?.load().map_err(refused)?;
        }
        if half.gate {
            for way in [Way::In, Way::Out] {
                let program = way.program();
                let refused = |source| KernelError::Program { program, source: Box::new(source) };
                kernel.gate_program(way)?.load().map_err(refused)?;
            }
        }
        if let Some(timers) = half.timers {
            kernel.timers = kernel.program(timers)?.load().map_err(|error| describe(&error));
        }
        Ok(kernel)
    }

    /// Checks the maps of `half` that are pinned at `pins`, and that nobody else can have put them
    /// there.
    pub(super) fn check_half(half: &Half, pins: &FilePath) -> Result<(), KernelError> {
        own_path::open(pins).map_err(|error| unusable(pins, error))?;
        check_pins(half.pinned, pins)
    }

    /// Checks that what is pinned at `pins` is the kernel half of a node, of this version.
    ///
    /// # Errors
    ///
    /// [`KernelError::Foreign`].
    pub fn check(pins: &FilePath) -> Result<(), KernelError> {
        Self::check_half(&NODE_HALF, pins)
    }

    /// Tells whether the maps were there before.
    #[must_use]
    pub fn found(&self) -> bool {
        self.found
    }

    /// Tells whether the kernel lets us use its timers, else why not.
    ///
    /// # Errors
    ///
    /// The kernel's words.
    pub fn timers(&self) -> Result<(), &str> {
        self.timers.as_ref().copied().map_err(String::as_str)
    }

    /// Maps the shared maps.
    ///
    /// # Errors
    ///
    /// [`KernelError::Mmap`]; [`KernelError::Foreign`] if found maps have another layout number.
    pub fn share(&self) -> Result<Shared, KernelError> {
        let shared = Shared::new(
            self.fd("NODE")?,
            self.fd("PEERS")?,
            self.fd("LINKS")?,
            self.fd("RECORDS")?,
        )
        .map_err(KernelError::Mmap)?;
        let layout = shared.node().layout;
        if layout != LAYOUT && layout != 0 {
            return Err(KernelError::Foreign {
                path: self.pins.clone(),
                what: format!("layout {layout:#x} instead of {LAYOUT:#x}"),
            });
        }
        Ok(shared)
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Xdp, KernelError> {
        self.ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Missing(name))
    }

    fn data(&self, name: &'static str) -> Result<&MapData, KernelError> {
        match self.ebpf.map(name) {
            Some(Map::Array(data) | Map::RingBuf(data)) => Ok(data),
            _ => Err(KernelError::Missing(name)),
        }
    }

    fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        Ok(self.data(name)?.fd().as_fd())
    }

    /// Attaches the program to an interface in one mode.
    pub(super) fn link(
        &mut self,
        interface: &str,
        index: u32,
        mode: Mode,
    ) -> Result<Hold, Refused> {
        match mode {
            Mode::Native | Mode::Generic => {
                handles::link(self.program("heartbeat")?, interface, index, mode)
            }
            Mode::Tcx => self.tcx.link(interface),
        }
    }

    /// Puts this daemon's program in the place of the one at the other end of a pinned link.
    pub(super) fn adopt(&mut self, mode: Mode, pin: &FilePath) -> Result<Hold, Refused> {
        match mode {
            Mode::Native | Mode::Generic => {
                let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
                let program = self.program("heartbeat")?;
                let id = program.attach_to_link(link)?;
                Ok(Hold(FdLink::try_from(program.take_link(id)?)?))
            }
            Mode::Tcx => self.tcx.adopt(pin),
        }
    }

    /// Begins to watch `peer`, with a timer of the kernel. `forget` that it was ever heard, and
    /// initdead applies; else it has one deadtime from now.
    ///
    /// # Errors
    ///
    /// [`KernelError::Request`].
    pub fn arm(&mut self, peer: NodeId, forget: bool) -> Result<(), KernelError> {
        // A program may not wait for memory: `bpf_timer_init` now and then finds none that is free
        // at that instant, and the next try does.
        for _ in 1..ARM_TRIES {
            match self.request("arm", peer, forget) {
                Err(KernelError::Request { .. }) => thread::sleep(ARM_PAUSE),
                done => return done,
            }
        }
        self.request("arm", peer, forget)
    }

    /// Begins to watch `peer` without a timer: call [`Judge::judge`] when it is due.
    ///
    /// # Errors
    ///
    /// [`KernelError::Request`].
    pub fn watch(&mut self, peer: NodeId, forget: bool) -> Result<(), KernelError> {
        self.request("watch", peer, forget)
    }

    fn request(
        &mut self,
        step: &'static str,
        peer: NodeId,
        forget: bool,
    ) -> Result<(), KernelError> {
        handles::ask(self.program(step)?, step, peer, forget)
    }

    /// Takes the reader of events; once.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] the second time.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Missing("EVENTS"))?;
        let failed =
            |source| KernelError::Map { map: "EVENTS", step: "open", source: Box::new(source) };
        RingBuf::try_from(map).map(Events).map_err(failed)
    }

    /// Returns what the daemon's own engine judges with, for a thread of its own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`] if the program cannot be pinned and opened again.
    pub fn judge(&mut self) -> Result<Judge, KernelError> {
        self.handle("judge").map(Judge)
    }

    /// Returns what asks for changes of the groups' records, for a thread of its own.
    ///
    /// # Errors
    ///
    /// As for [`judge`](Self::judge).
    pub fn leases(&mut self) -> Result<Leases, KernelError> {
        self.handle("order").map(Leases)
    }

    /// Returns what attaches in generic mode, and to interfaces made anew, for a thread of its own.
    ///
    /// # Errors
    ///
    /// As for [`judge`](Self::judge).
    pub fn generic(&mut self) -> Result<Generic, KernelError> {
        let program = self.handle("heartbeat").map(Heard)?;
        // The handle holds it.
        if let Some(pinned) = self.kept.pop() {
            let _ = fs::remove_file(pinned.pin);
        }
        Ok(Generic::new(self.pins.clone(), program, self.tcx.again()))
    }

    /// Returns one more hold on a program.
    fn handle(&mut self, name: &'static str) -> Result<Xdp, KernelError> {
        let failed = |source| KernelError::Program { program: name, source: Box::new(source) };
        let pin = self.pins.join(name);
        // An earlier daemon's holds an earlier program.
        let _ = fs::remove_file(&pin);
        self.program(name)?.pin(&pin).map_err(unpinned(&pin))?;
        self.kept.retain(|kept| kept.pin != pin);
        let unkept = |source| KernelError::Pins { path: pin.clone(), source };
        self.kept.push(Kept::program(pin.clone()).map_err(unkept)?);
        Xdp::from_pin(&pin, XdpAttachType::Interface).map_err(failed)
    }

    /// Opens the kernel half's own log, for the `log` facade.
    ///
    /// # Errors
    ///
    /// [`KernelError::Log`].
    pub fn log(&mut self) -> Result<KernelLog, KernelError> {
        EbpfLogger::init(&mut self.ebpf)
            .map(KernelLog)
            .map_err(|source| KernelError::Log(Box::new(source)))
    }

    /// Takes the programs off the interfaces and removes every pin: nothing is left. The gate goes
    /// last, also where its pins are gone already.
    ///
    /// # Errors
    ///
    /// [`KernelError::Pins`] if a pin cannot be removed; the rest is removed all the same.
    pub fn remove(self) -> Result<(), KernelError> {
        let pins = self.pins.clone();
        let gate = match self.fd(GATE_MAP) {
            Ok(map) => Some(chain::describe_map(map).map_err(KernelError::Chain)?.id),
            // A witness has none.
            Err(_) => None,
        };
        drop(self);
        remove_pins(&pins)?;
        gate.map_or(Ok(0), |map| owner::remove(Wanted::Over(map))).map(drop)
    }
}

/// Says of a directory that cannot be used for pins what to do.
pub(super) fn unusable(pins: &FilePath, error: NotOurs) -> KernelError {
    match error {
        NotOurs::Open { source, .. } => KernelError::Pins { path: pins.to_owned(), source },
        other => other.into(),
    }
}

/// A program's hold on an interface.
#[derive(Debug)]
pub(super) struct Hold(FdLink);

fn unpinned(pin: &FilePath) -> impl FnOnce(PinError) -> KernelError {
    let interface = pin.display().to_string();
    |source| KernelError::PinLink { interface, source: Box::new(source) }
}

/// Why the kernel did not attach a program.
pub(super) type Refused = Cause;

impl Hold {
    /// Pins the link, so that it outlives this process.
    pub(super) fn pin(self, interface: &str, pin: &FilePath) -> Result<Self, KernelError> {
        let pinned = self.0.pin(pin).map_err(|source| KernelError::PinLink {
            interface: interface.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self(pinned.into()))
    }
}

/// Returns where each map of a half is pinned.
fn pinned_paths(half: &Half, pins: &FilePath) -> Vec<(&'static str, PathBuf)> {
    half.pinned.iter().map(|(name, ..)| (*name, pins.join(name))).collect()
}

/// Compares the kinds and sizes of pinned maps with those of this version.
fn check_pins(pinned: &[Pinned], pins: &FilePath) -> Result<(), KernelError> {
    for &(name, value, entries) in pinned {
        let foreign = |what| KernelError::Foreign { path: pins.to_owned(), what };
        let info = MapInfo::from_pin(pins.join(name))
            .map_err(|error| foreign(format!("map {name}: {error}")))?;
        let found = (info.value_size() as usize, info.max_entries() as usize);
        if found != (value, entries) {
            let (size, count) = found;
            return Err(foreign(format!(
                "map {name} has {count} values of {size} bytes instead of {entries} of {value}"
            )));
        }
    }
    Ok(())
}
