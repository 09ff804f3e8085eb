//! A kernel half of its own, and the peer it talks to.

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path as FilePath, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hb_ebpf::{
    maps::{Event, EventKind, Link, Path, Peer, PeerKeys, Timing, Transport},
    refusal::Refusal,
    siphash::Key,
    time::BootTime,
    wire::{Be32, Be64, Frame, Kind, MAGIC, VERSION},
};
use hb_user::{
    clock,
    id::{LinkId, NodeId},
    kernel::{Counters, Events, Identity, Kernel, OBJECT, Shared, remove_pins},
};

use super::{
    namespace::with_guard,
    packets::{self, Shape},
};

pub(crate) const CLUSTER: u32 = 0xc0ff_ee01;
/// The node whose kernel half it is.
pub(crate) const ME: NodeId = NodeId(2);
pub(crate) const PEER: NodeId = NodeId(1);
pub(crate) const LINK: LinkId = LinkId(0);
/// Which link that is.
pub(crate) const LINK_IS: u32 = 0x6c69_6e6b;
pub(crate) const NONCE: u64 = 0xabcd_ef01;
/// Loopback, in every namespace.
pub(crate) const INTERFACE: u32 = 1;
/// Ids of the live keys.
pub(crate) const KEY_IDS: [u8; 2] = [1, 7];

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A stamp that never grows old.
const AHEAD: BootTime = BootTime(u64::MAX);

/// A directory for pins, removed on drop with all that is in it.
pub(crate) struct Pins(PathBuf);

impl Pins {
    pub(crate) fn new() -> Self {
        static MOUNTED: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        MOUNTED.call_once(|| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
                let mut mount = Command::new("mount");
                let status = mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status().unwrap();
                assert!(status.success(), "cannot mount /sys/fs/bpf (needs root)");
            }
        });
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/sys/fs/bpf/hb-test-{}-{count}", std::process::id()));
        with_guard(|guard| guard.path(&path));
        Self(path)
    }

    pub(crate) fn path(&self) -> &FilePath {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        remove_pins(&self.0).unwrap();
    }
}

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: CLUSTER,
        id: ME,
        incarnation: 40,
        nonce: NONCE,
        config_hash: 0x1234_5678,
        groups: 0,
        controller_deadtime_ns: 50_000_000,
    }
}

pub(crate) fn keys() -> PeerKeys {
    let key = |n| Key { words: [n, !n] };
    PeerKeys {
        ids: KEY_IDS,
        reserved: [0; 6],
        receive: [key(0x11), key(0x12)],
        transmit: [key(0x21), key(0x22)],
    }
}

/// A kernel half that is introduced, knows the keys of [`PEER`] and a path to it, and is watched
/// over by a controller and a prober that never tire.
pub(crate) struct Rig {
    pub(crate) kernel: Kernel,
    pub(crate) shared: Shared,
    pub(crate) shape: Shape,
    events: Events,
    _pins: Pins,
}

impl Rig {
    /// One with a UDP/IPv4 link.
    pub(crate) fn new() -> Self {
        Self::with(Shape { transport: Transport::Udp4, tags: 0 })
    }

    pub(crate) fn with(shape: Shape) -> Self {
        let pins = Pins::new();
        let mut kernel = Kernel::open(OBJECT, pins.path()).unwrap();
        let shared = kernel.share().unwrap();
        shared.introduce(&identity());
        shared.stamp_controller(AHEAD);
        kernel.set_keys(PEER, &keys()).unwrap();
        kernel.set_path(PEER, LINK, &path(shape.transport)).unwrap();
        let events = kernel.events().unwrap();
        let rig = Self { kernel, shared, shape, events, _pins: pins };
        rig.shared.stamp_probe(PEER, AHEAD);
        rig
    }

    /// A kernel half alone, introduced to nobody.
    pub(crate) fn of(pins: &Pins) -> Kernel {
        Kernel::open(OBJECT, pins.path()).unwrap()
    }

    /// One that has heard the peer, and the peer.
    pub(crate) fn acquainted() -> (Self, Sender) {
        let mut rig = Self::new();
        let mut sender = Sender::new();
        let probe = sender.probe();
        assert_eq!(rig.run(&probe).0, XDP_TX);
        assert_eq!(rig.expect_event().kind, EventKind::Up as u8);
        assert_eq!(rig.peer().life, 1);
        (rig, sender)
    }

    /// Runs the program on a frame, as it is.
    pub(crate) fn run(&self, frame: &Frame) -> (u32, Vec<u8>) {
        self.run_packet(&packets::wrap(self.shape, frame))
    }

    pub(crate) fn run_packet(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        self.kernel.run_packet(packet, INTERFACE).unwrap()
    }

    pub(crate) fn peer(&self) -> Peer {
        self.shared.peer(PEER).unwrap()
    }

    pub(crate) fn link(&self) -> Link {
        self.shared.link(PEER, LINK).unwrap().1
    }

    /// Counters of [`LINK`], and of frames that name no link.
    pub(crate) fn counters(&self) -> [Counters; 2] {
        [Some((PEER, LINK)), None].map(|slot| self.kernel.refused(slot).unwrap())
    }

    /// Runs a packet that is refused for `reason`, counted among those that name no link if
    /// `nowhere`; nothing else may change.
    pub(crate) fn refused(&self, packet: &[u8], reason: Refusal, nowhere: bool) {
        let (peer, link, mut counters) = (self.peer(), self.link(), self.counters());
        let (verdict, left) = self.run_packet(packet);
        assert_eq!(verdict, XDP_DROP, "{reason:?}");
        assert_eq!(left, packet, "{reason:?}");
        assert_eq!(self.peer(), peer, "{reason:?}");
        assert_eq!(self.link(), link, "{reason:?}");
        counters[usize::from(nowhere)][reason as usize] += 1;
        assert_eq!(self.counters(), counters, "{reason:?}");
    }

    /// What was counted of frames that were not fresh.
    pub(crate) fn unfresh(&self) -> u64 {
        self.counters()[0][0]
    }

    /// Sets timers that cast no doubt on this machine, which may be slow.
    pub(crate) fn set_timing(&self, peer: NodeId, timing: [u64; 4]) {
        const MS: u64 = 1_000_000;
        let [interval, warn, dead, init_dead] = timing.map(|ms| ms * MS);
        self.shared.set_timing(
            peer,
            &Timing {
                interval_ns: interval,
                warn_ns: warn,
                dead_ns: dead,
                init_dead_ns: init_dead,
                doubt_max_ns: 100 * MS,
                late_ns: 3_600_000 * MS,
            },
        );
    }

    /// Returns the next event, which has to have woken a sleeping reader.
    pub(crate) fn expect_event(&mut self) -> Event {
        if let Some(event) = self.events.take() {
            return event;
        }
        let mut poll =
            libc::pollfd { fd: self.events.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let patience = PATIENCE.as_millis() as i32;
        // SAFETY: one valid entry.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience) };
        assert_eq!(ready, 1, "no event came");
        self.events.take().expect("woken without an event")
    }

    /// Returns the next event if it is there already.
    pub(crate) fn pending_event(&mut self) -> Option<Event> {
        self.events.take()
    }

    /// Tells whether a reader that sleeps on the ring would wake.
    pub(crate) fn is_readable(&self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.events.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }
}

/// The path to the peer as [`packets`] addresses it.
pub(crate) fn path(transport: Transport) -> Path {
    let (mut address, mut own_address) = ([0; 16], [0; 16]);
    match transport {
        Transport::Ethernet => {}
        Transport::Udp4 => {
            address[..4].copy_from_slice(&packets::PEER_V4);
            own_address[..4].copy_from_slice(&packets::MY_V4);
        }
        Transport::Udp6 => (address, own_address) = (packets::PEER_V6, packets::MY_V6),
    }
    Path {
        interface: INTERFACE,
        transport: transport as u8,
        min_hops: 255,
        mac: packets::PEER_MAC,
        own_mac: packets::MY_MAC,
        reserved: [0; 2],
        fingerprint: LINK_IS,
        address,
        own_address,
    }
}

/// The node at the other end.
pub(crate) struct Sender {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u32,
    pub(crate) nonce: u64,
    pub(crate) revision: u32,
    /// What it echoes of our nonce.
    pub(crate) known: u64,
    /// What it echoes of our transmit times; the present if none.
    pub(crate) echo: Option<u64>,
    /// Which of the live keys it signs with.
    pub(crate) key: usize,
    /// Of the newest frame.
    pub(crate) sequence: u64,
}

impl Sender {
    /// One that knows us.
    pub(crate) fn new() -> Self {
        Self {
            id: PEER,
            incarnation: 5,
            nonce: 0x77,
            revision: 1,
            known: NONCE,
            echo: None,
            key: 0,
            sequence: 0,
        }
    }

    pub(crate) fn probe(&mut self) -> Frame {
        self.frame(Kind::Probe)
    }

    pub(crate) fn answer(&mut self) -> Frame {
        self.frame(Kind::Answer)
    }

    /// The next frame, signed.
    pub(crate) fn frame(&mut self, kind: Kind) -> Frame {
        self.sequence += 1;
        let now = clock::now().ns();
        let frame = Frame {
            magic: MAGIC,
            version: VERSION,
            kind: kind as u8,
            cluster: Be32::new(CLUSTER),
            source: self.id.0,
            destination: ME.0,
            link: LINK.0,
            link_fingerprint: Be32::new(LINK_IS),
            incarnation: Be32::new(self.incarnation),
            revision: Be32::new(self.revision),
            sender_nonce: Be64::new(self.nonce),
            receiver_nonce: Be64::new(self.known),
            sequence: Be64::new(self.sequence),
            transmit_ns: Be64::new(now + 1_000_000_000_000),
            echo_ns: Be64::new(self.echo.unwrap_or(now)),
            ..Frame::default()
        };
        self.signed(frame)
    }

    /// Signs a frame that was changed.
    pub(crate) fn signed(&self, mut frame: Frame) -> Frame {
        frame.key_id = KEY_IDS[self.key];
        frame.sign(&keys().receive[self.key]);
        frame
    }
}
