//! A kernel half of its own, with no daemon: its controller and its prober never tire.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hb_ebpf::{
    gate,
    lease::{
        Policy, Terms,
        op::{DONE, Op, Order},
        terms::{RHO_DEFAULT, Timing},
    },
    maps::{MAX_NODES, Path, PeerKeys, Timing as Timers, Transport},
    siphash::Key,
    time::BootTime,
    wire::GROUPS,
};
use hb_user::{
    clock,
    id::{GroupId, LinkId, NodeId},
    kernel::{Guarded, Identity, Kernel, OBJECT, Shared, remove_pins},
};

use crate::{
    bpf::Program,
    packets,
    stand_in::{StandIn, fingerprint, standing_by},
};

/// The cluster it is in.
pub const CLUSTER: u32 = 0xc0ff_ee02;
/// The node it is of.
pub const ME: NodeId = NodeId(2);
/// The peer it knows.
pub const PEER: NodeId = NodeId(1);
/// The one link to it.
pub const LINK: LinkId = LinkId(0);
/// Which link that is, as frames say it.
pub const LINK_IS: u32 = 0x6c69_6e6b;

const NONCE: u64 = 0xabcd_ef02;
const CONFIG_HASH: u64 = 0x1234_5678;
const KEY_ID: u8 = 1;
const MS: u64 = 1_000_000;
/// A stamp that never grows old.
const AHEAD: BootTime = BootTime(u64::MAX);

/// A directory for pins, removed on drop with all that is in it.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ::lab::mounts::ensure()?;
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(FilePath::new(PLACE).join(format!("{PREFIX}{}-{count}", process::id()))))
    }
}

impl Pins {
    pub(crate) fn path(&self) -> &FilePath {
        &self.0
    }
}

const PLACE: &str = "/sys/fs/bpf";
const PREFIX: &str = "hb-bench-";

/// Removes what a run that was killed left.
fn sweep() {
    let Ok(entries) = fs::read_dir(PLACE) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner
            && !FilePath::new("/proc").join(pid).exists()
            && let Err(error) = remove_pins(&entry.path())
        {
            eprintln!("cannot remove what an earlier benchmark left: {error}");
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove_pins(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The kernel half.
pub struct Half {
    /// Its programs and maps.
    pub kernel: Kernel,
    /// Its shared maps.
    pub shared: Arc<Shared>,
    transport: Transport,
    interface: u32,
    mac: [u8; 6],
    _pins: Pins,
}

impl Half {
    /// Loads it, with `groups` groups of policy `available`, a service address of either family, and
    /// a link to [`PEER`] on `interface`, where frames come from `mac`.
    ///
    /// # Errors
    ///
    /// What is missing: a privilege, or a feature of the kernel.
    pub fn open(groups: u8, transport: Transport, interface: u32, mac: [u8; 6]) -> Result<Self> {
        ensure!(usize::from(groups) <= GROUPS, "{groups} groups are more than a frame carries");
        let pins = Pins::new()?;
        let mut kernel = Kernel::open(OBJECT, &pins.0)?;
        let shared = kernel.share()?;
        shared.introduce(&Identity {
            cluster: CLUSTER,
            id: ME,
            incarnation: 1,
            nonce: NONCE,
            config_hash: CONFIG_HASH,
            groups,
            controller_deadtime_ns: 50 * MS,
        });
        shared.stamp_controller(AHEAD);
        kernel.set_terms(&terms()?)?;
        kernel.set_gate(&gate::Settings { mode: gate::Mode::On as u8, ..Default::default() })?;
        let guarded = |address| Guarded { address, group: Some(GroupId(0)), warm: false };
        kernel.set_vips(&[guarded(packets::VIP_V4.into()), guarded(packets::VIP_V6.into())])?;
        let shared = Arc::new(shared);
        let mut half = Self { kernel, shared, transport, interface, mac, _pins: pins };
        half.introduce(PEER)?;
        half.shared.stamp_probe(PEER, AHEAD);
        Ok(half)
    }

    /// Has it know one more peer, at the other end of the same link.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn introduce(&mut self, peer: NodeId) -> Result<()> {
        let (mut address, mut own_address) = ([0; 16], [0; 16]);
        match self.transport {
            Transport::Ethernet => {}
            Transport::Udp4 => {
                address[..4].copy_from_slice(&packets::PEER_V4);
                own_address[..4].copy_from_slice(&packets::MY_V4);
            }
            Transport::Udp6 => (address, own_address) = (packets::PEER_V6, packets::MY_V6),
        }
        let path = Path {
            interface: self.interface,
            transport: self.transport as u8,
            min_hops: 255,
            mac: self.mac,
            own_mac: packets::MY_MAC,
            reserved: [0; 2],
            fingerprint: LINK_IS,
            address,
            own_address,
        };
        self.kernel.set_path(peer, LINK, &path)?;
        self.kernel.set_keys(peer, &keys(peer))?;
        Ok(())
    }

    /// Begins to count the misses of a peer: five are its death.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn watch(&mut self, peer: NodeId, interval: Duration) -> Result<()> {
        let interval_ns = interval.as_nanos() as u64;
        self.shared.set_timing(
            peer,
            &Timers {
                interval_ns,
                warn_ns: 3 * interval_ns,
                dead_ns: 5 * interval_ns,
                init_dead_ns: 1000 * MS,
                doubt_max_ns: 100 * MS,
                late_ns: interval_ns,
            },
        );
        self.kernel.arm(peer, true)?;
        Ok(())
    }

    /// Returns one of its programs.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn program(&self, name: &'static str) -> Result<Program> {
        Program::of(self.kernel.program_fd(name)?).context("no file descriptor is left")
    }

    /// Returns who speaks for [`PEER`].
    #[must_use]
    pub fn stand_in(&self) -> StandIn {
        self.stand_in_for(PEER)
    }

    /// Returns who speaks for a peer.
    #[must_use]
    pub fn stand_in_for(&self, peer: NodeId) -> StandIn {
        let now = clock::now();
        StandIn {
            id: peer,
            to: ME,
            link: LINK,
            link_fingerprint: LINK_IS,
            cluster: CLUSTER,
            config_hash: CONFIG_HASH,
            key: (KEY_ID, keys(peer).receive[0]),
            nonce: 0x77 + u64::from(peer.0),
            known: NONCE,
            echo: (now.ns(), now),
            sequences: [0; 2],
            words: standing_by(),
        }
    }

    /// Has it hold group 0: its gate opens.
    ///
    /// # Errors
    ///
    /// If it does not come to hold the group.
    pub fn hold(&mut self) -> Result<()> {
        let leases = self.kernel.leases()?;
        for (op, word) in [(Op::Start, "start"), (Op::Cleaned, "clean"), (Op::Seek, "seek")] {
            let order = Order { generation: 1, fingerprint: fingerprint(0), ..Order::new(op, 0) };
            let done = leases.order(order)?;
            ensure!(
                done.code == DONE || op == Op::Cleaned,
                "group 0 would not {word}: code {}",
                done.code
            );
        }
        Ok(())
    }
}

/// Returns all nodes that a kernel half can know besides itself.
pub fn peers() -> impl Iterator<Item = NodeId> {
    (1..=MAX_NODES as u8).map(NodeId).filter(|&id| id != ME)
}

/// Returns lengths that fit each other, and who votes.
///
/// # Errors
///
/// If they do not fit.
pub fn terms() -> Result<Terms> {
    let timing = Timing {
        lease_ns: 20 * MS,
        margin_ns: 2 * MS,
        drain_ns: 5 * MS,
        seek_ns: 60 * MS,
        rho: RHO_DEFAULT,
        interval_ns: MS,
        deadtime_ns: 5 * MS,
        controller_deadtime_ns: 50 * MS,
    };
    Terms::new(Policy::Available, &timing, &[PEER.0, ME.0], ME.0, None)
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Returns the keys that the kernel half shares with a peer.
#[must_use]
pub fn keys(peer: NodeId) -> PeerKeys {
    let key = |n: u64| Key { words: [n, u64::from(peer.0)] };
    PeerKeys {
        ids: [KEY_ID, 0],
        reserved: [0; 6],
        receive: [key(0x11), Key::default()],
        transmit: [key(0x21), Key::default()],
    }
}
