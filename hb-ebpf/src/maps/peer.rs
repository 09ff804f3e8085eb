//! A peer: where its frames come from, what is known of it, and its timer.

use core::sync::atomic::{Ordering, compiler_fence};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MAX_LINKS, bpf_spin_lock};
use crate::{
    histogram::Histogram,
    pause::Bounds,
    siphash::Key,
    window::Window,
    wire::{GROUPS, GroupWord},
};

/// How frames travel on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// Raw Ethernet.
    Ethernet = 1,
    /// UDP over IPv4.
    Udp4 = 2,
    /// UDP over IPv6.
    Udp6 = 3,
}

/// Where frames of one link to one peer may come from, and to. Map `PATHS`, by [`slot`](super::slot); all zero
/// refuses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Path {
    /// Interface it has to arrive on; 0 for a link that does not exist.
    pub interface: u32,
    /// A [`Transport`].
    pub transport: u8,
    /// Least TTL or hop limit taken.
    pub min_hops: u8,
    /// The peer's MAC address, for [`Transport::Ethernet`].
    pub mac: [u8; 6],
    /// The MAC address that frames come to; zero if it may be any but that of a group.
    pub own_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
    /// Which link it is, as frames say it; 0 for one that does not exist.
    pub fingerprint: u32,
    /// The peer's IP address in network byte order, IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// The IP address of this end, likewise.
    pub own_address: [u8; 16],
}

impl Path {
    /// Tells whether a frame to that MAC address is one to this end. One to a group (broadcast, multicast)
    /// is not: an answer would have that for a source.
    #[inline(always)]
    #[must_use]
    pub fn leads_to(&self, mac: [u8; 6]) -> bool {
        mac[0] & 1 == 0 && (self.own_mac == [0; 6] || self.own_mac == mac)
    }
}

/// Keys shared with one peer. Map `KEYS`, by [`peer_index`](super::peer_index).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PeerKeys {
    /// Key ids of the two live keys; 0 for none.
    pub ids: [u8; 2],
    /// Zero.
    pub reserved: [u8; 6],
    /// Keys of frames from the peer.
    pub receive: [Key; 2],
    /// Keys of frames to the peer.
    pub transmit: [Key; 2],
}

impl PeerKeys {
    /// Returns the keys (receive, transmit) of `id`.
    #[inline(always)]
    #[must_use]
    pub fn of(&self, id: u8) -> Option<(&Key, &Key)> {
        if id == 0 {
            None
        } else if self.ids[0] == id {
            Some((&self.receive[0], &self.transmit[0]))
        } else if self.ids[1] == id {
            Some((&self.receive[1], &self.transmit[1]))
        } else {
            None
        }
    }
}

/// Timers for one peer, in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Timing {
    /// Time between two probes on a link.
    pub interval_ns: u64,
    /// Silence that is logged.
    pub warn_ns: u64,
    /// Silence that means dead.
    pub dead_ns: u64,
    /// The first `dead_ns` after the watch began, for a peer that never spoke.
    pub init_dead_ns: u64,
    /// How long doubt may put off a verdict.
    pub doubt_max_ns: u64,
    /// A timer this late casts doubt on ourselves.
    pub late_ns: u64,
}

/// What the kernel holds of a peer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Life {
    /// Watched, and never heard since.
    Unheard = 0,
    /// Heard within deadtime.
    Alive = 1,
    /// Silent for warntime.
    Late = 2,
    /// Silent for deadtime.
    Dead = 3,
}

impl Life {
    /// Returns the life of a code from the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Alive,
            2 => Self::Late,
            3 => Self::Dead,
            _ => Self::Unheard,
        }
    }
}

/// What makes a silent peer dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// No verdict yet.
    None = 0,
    /// Every link silent for deadtime.
    Silence = 1,
    /// Never heard within initdead.
    NeverHeard = 2,
    /// Silent, and doubt in ourselves lasted for `doubt_max`.
    DoubtExhausted = 3,
}

impl Cause {
    /// Returns the cause of a code from the map.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Silence,
            2 => Self::NeverHeard,
            3 => Self::DoubtExhausted,
            _ => Self::None,
        }
    }

    /// Returns the cause in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Silence => "silence",
            Self::NeverHeard => "never-heard",
            Self::DoubtExhausted => "doubt-exhausted",
        }
    }
}

/// One peer. Map `PEERS`, by [`peer_index`](super::peer_index), mapped into the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Peer {
    /// Written by the daemon before the watch begins.
    pub timing: Timing,
    /// Written by the daemon: when its prober last sent a probe to this peer.
    pub probe_ns: u64,

    /// Odd while the kernel writes what follows.
    pub sequence: u32,
    /// A [`Life`].
    pub life: u8,
    /// The [`Cause`] of the last verdict.
    pub cause: u8,
    /// 1 while a timer (or the daemon's own engine) counts the misses.
    pub watched: u8,
    /// 1 while the newest frame says that the peer's controller is dead.
    pub controller_dead: u8,
    /// Code of the refusal the peer last told us of, 0 for none.
    pub refused: u8,
    /// Bit per link that was heard within deadtime.
    pub links_up: u8,
    /// Written by the daemon: another live node, whose silence would be ours; 0 for none.
    pub buddy: u8,
    /// Zero.
    pub reserved: u8,
    /// `FLAG_*` bits of the newest frame.
    pub flags: u32,
    /// Daemon starts of the peer.
    pub incarnation: u32,
    /// Revision of `words`.
    pub revision: u32,
    /// Intervals of silence since the last arrival.
    pub misses: u32,
    /// Zero.
    pub reserved2: u32,
    /// Boot nonce of the peer's kernel half.
    pub nonce: u64,
    /// When the watch began.
    pub started_ns: u64,
    /// Last fresh arrival on any link.
    pub last_arrival_ns: u64,
    /// When the timer was to fire next.
    pub due_ns: u64,
    /// When the last verdict was written.
    pub verdict_ns: u64,
    /// Since when doubt puts off a verdict, 0 for no doubt.
    pub doubt_since_ns: u64,
    /// Misses ever.
    pub misses_total: u64,
    /// Intervals ever in which no probe of ours left, and verdicts put off.
    pub doubts_total: u64,
    /// Verdicts of death ever.
    pub deaths_total: u64,
    /// Transmit time of the newest frame, by whatever link it came.
    pub transmit_ns: u64,
    /// Controller age in the newest frame.
    pub controller_age_ns: u64,
    /// Configuration fingerprint in the newest frame.
    pub config_hash: u64,
    /// Group words of `revision`.
    pub words: [GroupWord; GROUPS],
}

impl Peer {
    /// Counts the sequence on, at the begin and at the end of a change. Neither is merged with the
    /// other, or moved past what is changed, by the compiler; the processors we know store in order.
    #[inline(always)]
    pub fn count_sequence(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let next = self.sequence.wrapping_add(1);
        // SAFETY: a reference is valid to write.
        unsafe { core::ptr::write_volatile(&raw mut self.sequence, next) };
        compiler_fence(Ordering::SeqCst);
    }
}

/// One link to one peer. Map `LINKS`, by [`slot`](super::slot), mapped into the daemon; covered by the
/// [`Peer::sequence`] of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Link {
    /// Last fresh arrival.
    pub last_arrival_ns: u64,
    /// Last answer to a probe of ours.
    pub last_answer_ns: u64,
    /// Newest transmit time of the peer, to be echoed.
    pub transmit_ns: u64,
    /// When that one arrived.
    pub transmit_arrival_ns: u64,
    /// Fresh frames.
    pub received: u64,
    /// Probes of the peer answered.
    pub answered: u64,
    /// Round trip of the newest answer.
    pub rtt_ns: u64,
    /// Peer's clock minus ours, smoothed by 1/8.
    pub offset_ns: i64,
    /// `FLAG_*` bits of the newest frame on this link.
    pub flags: u32,
    /// Key id of the newest probe of the peer: the key it sends with. 0 for none yet.
    pub probe_key: u8,
    /// Key id of the newest answer, that of the probe it is for. 0 for none yet.
    pub answer_key: u8,
    /// MAC address that the newest fresh frame on this link came from.
    pub mac: [u8; 6],
    /// Grows with each answer under another key than the one before: a probe under a second key
    /// was answered, so the peer knows that key.
    pub answer_key_changes: u32,
    /// What frames on this link say of the peer's clock.
    pub clock: Bounds,
    /// Round trips of answers.
    pub rtts: Histogram,
    /// Times between arrivals.
    pub gaps: Histogram,
}

/// One stream of frames: those of one kind on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// Nonce of the peer's life that `window` is of.
    pub nonce: u64,
    /// Incarnation of that life.
    pub incarnation: u32,
    /// Fingerprint of the link that `window` is of.
    pub link: u32,
    /// What was taken.
    pub window: Window,
}

impl PeerLock {
    /// Returns the stream of a kind of frame on the link of that number. The masks change
    /// nothing; they show the verifier what the checks have shown us.
    #[inline(always)]
    pub fn stream(&mut self, link: u8, kind: u8) -> &mut Stream {
        &mut self.streams[link as usize & (MAX_LINKS - 1)][kind as usize & 1]
    }
}

/// What only the kernel sees of a peer: the lock of its records and what is decided under it. Map
/// `LOCKS`, by [`peer_index`](super::peer_index); a map with a lock in it cannot be mapped into the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PeerLock {
    /// Guards this entry, [`Peer`] and its [`Link`]s.
    pub lock: bpf_spin_lock,
    /// Where bits are [gathered](crate::gather) under the lock; without meaning afterwards.
    pub gathered: u32,
    /// Per link, the streams of answers (0) and of probes (1).
    pub streams: [[Stream; 2]; MAX_LINKS],
    /// Per link, the sequence number of the last answer.
    pub answers: [u64; MAX_LINKS],
}

/// What an unattached program is asked to do, as the packet it is run on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// Node id of the peer it is about.
    pub peer: u8,
    /// 1 to forget that the peer was ever heard, so that initdead applies; 0 to give it one
    /// deadtime from now.
    pub forget: u8,
    /// Zero; the kernel takes no packet shorter than an Ethernet header.
    pub reserved: [u8; 14],
}

/// A timer of the kernel (`linux/bpf.h`); the name is what the verifier looks for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct bpf_timer {
    opaque: [u64; 2],
}

/// The timer of one peer. Map `TIMERS`, by [`peer_index`](super::peer_index); on its own, because a map with a timer
/// in it cannot be mapped into the daemon and updating an element stops its timer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PeerTimer {
    /// The timer.
    pub timer: bpf_timer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_id_zero() {
        assert!(PeerKeys::default().of(0).is_none());
        let keys = PeerKeys { ids: [3, 0], ..PeerKeys::default() };
        assert!(keys.of(3).is_some());
        assert!(keys.of(4).is_none());
    }
}
