//! A kernel half of its own, with no daemon: its controller and its prober never tire.

use std::{
    fs,
    path::{Path as FilePath, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use hb_ebpf::{
    gate,
    lease::{
        Policy, Terms,
        op::{DONE, Op, Order},
        terms::{RHO_DEFAULT, Timing},
    },
    maps::{Path, PeerKeys, Transport},
    siphash::Key,
    time::BootTime,
    wire::GROUPS,
};
use hb_user::{
    clock,
    id::{LinkId, NodeId},
    kernel::{Identity, Kernel, OBJECT, Shared, remove_pins},
};

use crate::{bpf::Program, packets, stand_in::StandIn};

/// The cluster it is in.
pub const CLUSTER: u32 = 0xc0ff_ee02;
/// The node it is of.
pub const ME: NodeId = NodeId(2);
/// The peer it knows.
pub const PEER: NodeId = NodeId(1);
/// The one link to it.
pub const LINK: LinkId = LinkId(0);

const NONCE: u64 = 0xabcd_ef02;
const CONFIG_HASH: u64 = 0x1234_5678;
const KEY_ID: u8 = 1;
const MS: u64 = 1_000_000;
/// A stamp that never grows old.
const AHEAD: BootTime = BootTime(u64::MAX);

/// A directory for pins, removed on drop with all that is in it.
#[derive(Debug)]
struct Pins(PathBuf);

impl Pins {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ::lab::mounts::ensure()?;
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self(FilePath::new(PLACE).join(format!("{PREFIX}{}-{count}", process::id()))))
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
    pub shared: Shared,
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
        kernel.set_keys(PEER, &keys())?;
        let mut address = [0; 16];
        match transport {
            Transport::Ethernet => {}
            Transport::Udp4 => address[..4].copy_from_slice(&packets::PEER_V4),
            Transport::Udp6 => address = packets::PEER_V6,
        }
        let transport_code = transport as u8;
        let path = Path {
            interface,
            transport: transport_code,
            min_hops: 255,
            mac,
            reserved: [0; 4],
            address,
        };
        kernel.set_path(PEER, LINK, &path)?;
        kernel.set_vips(&[(packets::VIP_V4.into(), 0), (packets::VIP_V6.into(), 0)])?;
        kernel.set_gate(&gate::Settings { mode: gate::Mode::On as u8, reserved: [0; 7] })?;
        shared.stamp_probe(PEER, AHEAD);
        Ok(Self { kernel, shared, _pins: pins })
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
        let now = clock::now();
        StandIn {
            id: PEER,
            to: ME,
            link: LINK,
            cluster: CLUSTER,
            config_hash: CONFIG_HASH,
            key: (KEY_ID, keys().receive[0]),
            nonce: 0x77,
            known: NONCE,
            echo: (now.ns(), now),
            sequences: [0; 2],
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
            let order = Order { generation: 1, ..Order::new(op, 0) };
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

fn terms() -> Result<Terms> {
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

fn keys() -> PeerKeys {
    let key = |n: u64| Key { words: [n, !n] };
    PeerKeys {
        ids: [KEY_ID, 0],
        reserved: [0; 6],
        receive: [key(0x11), Key::default()],
        transmit: [key(0x21), Key::default()],
    }
}
