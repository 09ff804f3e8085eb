//! The heartbeat frame, version 4, byte for byte.
//!
//! One fixed size for probes and answers, so that an answer is the probe rewritten in place and
//! never larger than what was asked. All integers are big-endian and sit at multiples of their
//! size; the tag is the eight output bytes of SipHash-2-4 over everything before it. Magic,
//! version, key id and tag keep their offsets in every version.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    epoch::Epoch,
    siphash::{self, Key},
    words,
};

/// EtherType of a heartbeat on a raw link: IEEE 802 Local Experimental 1.
pub const ETHERTYPE: u16 = 0x88b5;
/// UDP port of a heartbeat, both source and destination: `ha-cluster`.
pub const UDP_PORT: u16 = 694;
/// First bytes of every heartbeat.
pub const MAGIC: [u8; 4] = *b"hb\xf5\x94";
/// The version this crate speaks.
pub const VERSION: u8 = 5;
/// Features whose meaning a receiver has to know; version 4 defines none.
pub const KNOWN_FEATURES: u16 = 0;
/// Groups whose words one frame carries.
pub const GROUPS: usize = 8;
/// Bytes of a frame, after the Ethernet or UDP header.
pub const FRAME_LEN: usize = size_of::<Frame>();

const WORDS: usize = FRAME_LEN / 8;
const SIGNED_WORDS: usize = WORDS - 1;

macro_rules! big_endian {
    ($($(#[$doc:meta])* $name:ident($int:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(transparent)]
        pub struct $name($int);

        impl $name {
            /// Stores `value` in network byte order.
            #[inline(always)]
            #[must_use]
            pub const fn new(value: $int) -> Self {
                Self(value.to_be())
            }

            /// Returns the value.
            #[inline(always)]
            #[must_use]
            pub const fn get(self) -> $int {
                <$int>::from_be(self.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.get().fmt(f)
            }
        }
    )*};
}

big_endian! {
    /// A big-endian 16-bit integer.
    Be16(u16);
    /// A big-endian 32-bit integer.
    Be32(u32);
    /// A big-endian 64-bit integer.
    Be64(u64);
}

/// The two kinds of heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for an answer.
    Probe = 1,
    /// Answers a probe.
    Answer = 2,
}

impl Kind {
    /// Returns the kind of a code from the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Probe),
            2 => Some(Self::Answer),
            _ => None,
        }
    }
}

/// In [`Frame::flags`]: an answer from the receiver arrived on this link within `L_max`.
pub const FLAG_ANSWERS_HEARD: u32 = 1;
/// In [`Frame::flags`]: the sender's daemon is leaving in order; the silence to come is no death.
pub const FLAG_LEAVING: u32 = 2;

/// What a node says of itself and one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Does not hold the group.
    Idle = 0,
    /// Seeks to hold it.
    Seeking = 1,
    /// Holds it.
    Holding = 2,
    /// Held it and gave it to the successor.
    Released = 3,
}

impl State {
    /// Returns the state of a code from the wire, whatever [`WORD_ENDLESS`] and the [`Standing`] say
    /// beside it.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code & !(WORD_ENDLESS | Standing::MASK << Standing::SHIFT) {
            1 => Self::Seeking,
            2 => Self::Holding,
            3 => Self::Released,
            _ => Self::Idle,
        }
    }
}

/// How well a node is placed to hold a group; the lower the better. Each flag counts for more than all
/// before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing(u8);

impl Standing {
    /// On a link of an interface of the group's addresses another node is silent or does not hear this
    /// one, and nobody else answers there either.
    pub const UNHEARD: Self = Self(1);
    /// On a link of such an interface the other nodes fell silent, and nothing else arrives there.
    pub const DEAF: Self = Self(2);
    /// No target of a ping group of such an interface answers.
    pub const UNREACHED: Self = Self(4);
    /// Such an interface is not there, is down or has no carrier.
    pub const NO_PATH: Self = Self(8);
    /// Nobody at all was heard while no other node was.
    pub const ISOLATED: Self = Self(16);
    const MASK: u8 = 31;
    const SHIFT: u8 = 2;

    /// Returns the standing with `flag` as well, if `so`.
    #[must_use]
    pub const fn with(self, flag: Self, so: bool) -> Self {
        if so { Self(self.0 | flag.0) } else { self }
    }

    /// Returns the part of it that says what the node hears.
    #[must_use]
    pub const fn evidence(self) -> Self {
        Self(self.0 & (Self::UNHEARD.0 | Self::DEAF.0 | Self::UNREACHED.0))
    }

    /// Tells whether it has that flag.
    #[must_use]
    pub const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    /// Returns the standing in the number of [`Self::code`]; further bits mean nothing.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        Self(code & Self::MASK)
    }

    /// Returns its number, below 32.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    #[inline(always)]
    const fn from_word(state: u8) -> Self {
        Self::from_code(state >> Self::SHIFT)
    }

    /// Returns what a [`GroupWord::state`] says of it.
    #[inline(always)]
    #[must_use]
    pub const fn in_word(self) -> u8 {
        self.0 << Self::SHIFT
    }
}

/// How a group fares on the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Not ready to take it: the daemon is joining, or resources are starting.
    Starting = 0,
    /// Serving, and all its resources run.
    Healthy = 1,
    /// A resource failed here; the node does not want the group back before an operator clears it.
    Failed = 2,
    /// Resources are stopping, or the node is leaving.
    Stopping = 3,
    /// Not serving, ready to take it.
    Standby = 4,
    /// An interface of its addresses is not there, is down or has no carrier, or was so a moment ago.
    NoPath = 5,
    /// Not serving, and able to: an operator wants this node not to take it.
    Aside = 6,
}

impl Health {
    /// Returns the health of a code from the wire; an unknown one is read as failed, which never
    /// gets a node chosen.
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Starting,
            1 => Self::Healthy,
            3 => Self::Stopping,
            4 => Self::Standby,
            5 => Self::NoPath,
            6 => Self::Aside,
            _ => Self::Failed,
        }
    }
}

/// What the sender says of one group: 40 bytes. All zero is of no group.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GroupWord {
    /// A [`State`] in the low two bits, a [`Standing`] in the five above, and [`WORD_ENDLESS`].
    pub state: u8,
    /// A [`Health`].
    pub health: u8,
    /// Node the sender believes to hold the group; 0 for nobody.
    pub holder: u8,
    /// With [`State::Released`], the node the group was given to; otherwise 0.
    pub successor: u8,
    /// Length of the lease asked for, in nanoseconds; 0 asks for none.
    pub lease_ns: Be32,
    /// Epoch of the sender's own record: what it holds, seeks or released, else the highest heard.
    pub epoch: Be64,
    /// Epoch of the promise the sender has given; 0 for none. With a `promise_lease_ns` of 0 it says
    /// that the release of that epoch was taken.
    pub promise_epoch: Be64,
    /// Transmit time, on the receiver's clock, of the request that set the promise's end. Of a holder
    /// that nobody promises anything: for how long it has held, in nanoseconds.
    pub promise_t0_ns: Be64,
    /// Length of the lease promised, in nanoseconds; [`UNLIMITED`] for a promise without an end.
    pub promise_lease_ns: Be32,
    /// Which group it is of: the fingerprint of its name and addresses; 0 for none.
    pub fingerprint: Be32,
}

/// In [`GroupWord::promise_lease_ns`]: the promise ends only when its node is heard to need it no
/// more, or is fenced.
pub const UNLIMITED: u32 = u32::MAX;
/// In [`GroupWord::state`]: the sender holds without an end.
pub const WORD_ENDLESS: u8 = 0x80;

impl GroupWord {
    /// Makes it the word of no group yet, with the code of a [`Health`].
    #[inline(always)]
    pub fn reset(&mut self, health: u8) {
        let head = u64::from_ne_bytes([0, health, 0, 0, 0, 0, 0, 0]);
        words::copy(self.memory(), &[head, 0, 0, 0, 0]);
    }

    /// Takes over what `other` says, but for the health.
    #[inline(always)]
    pub fn say(&mut self, other: &Self) {
        let health = self.health;
        words::copy(self.memory(), zerocopy::transmute_ref!(other));
        self.health = health;
    }

    #[inline(always)]
    fn memory(&mut self) -> &mut [u64; 5] {
        zerocopy::transmute_mut!(self)
    }

    /// Returns the sender's state.
    #[must_use]
    pub const fn state(&self) -> State {
        State::from_code(self.state)
    }

    /// Tells whether the sender holds without an end.
    #[inline(always)]
    #[must_use]
    pub const fn is_endless(&self) -> bool {
        self.state & WORD_ENDLESS != 0
    }

    /// Returns how well the sender is placed to hold the group.
    #[inline(always)]
    #[must_use]
    pub const fn standing(&self) -> Standing {
        Standing::from_word(self.state)
    }

    /// Returns the sender's health.
    #[must_use]
    pub const fn health(&self) -> Health {
        Health::from_code(self.health)
    }

    /// Returns the epoch of the sender's record.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch.get())
    }
}

/// A heartbeat, 424 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Frame {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`].
    pub version: u8,
    /// Which of the cluster's keys signed it, 1 to 255.
    pub key_id: u8,
    /// Feature bits a receiver has to know, else it refuses the frame.
    pub must_understand: Be16,
    /// Feature bits a receiver may ignore.
    pub features: Be16,
    /// A [`Kind`].
    pub kind: u8,
    /// Which eight groups the words are of: groups `8 * page` and up.
    pub page: u8,
    /// Which cluster is speaking.
    pub cluster: Be32,
    /// Node that sent it, 1 to 64.
    pub source: u8,
    /// Node it is for.
    pub destination: u8,
    /// Number of the link on the machine that probed, 0 to 3. Which link it is, `link_fingerprint` says.
    pub link: u8,
    /// Why the sender refuses the receiver's frames: a code of [`crate::refusal::Refusal`], or 0.
    pub refused: u8,
    /// Number of the sender's daemon starts.
    pub incarnation: Be32,
    /// Grows whenever the sender changes what it says of its groups, renewals of requests and promises
    /// apart, or its flags; starts over with an incarnation.
    pub revision: Be32,
    /// `FLAG_*` bits.
    pub flags: Be32,
    /// Random number of the sender's kernel half.
    pub sender_nonce: Be64,
    /// The receiver's, as last seen by the sender; 0 if never.
    pub receiver_nonce: Be64,
    /// Position in the stream of this source, destination, link and kind, from 1.
    pub sequence: Be64,
    /// Sender's `CLOCK_BOOTTIME` at transmission, in nanoseconds.
    pub transmit_ns: Be64,
    /// Newest transmit time received from the other side on this link; 0 if none.
    pub echo_ns: Be64,
    /// Which link it was sent on: a fingerprint of how it travels and of its two ends, never 0.
    pub link_fingerprint: Be32,
    /// How long before transmission that one arrived, in nanoseconds; 2^32 - 1 for longer.
    pub echo_age_ns: Be32,
    /// Time since the sender's daemon last stamped its map slot, in nanoseconds.
    pub controller_age_ns: Be64,
    /// Fingerprint of the sender's configuration.
    pub config_hash: Be64,
    /// Words of the page's eight groups.
    pub groups: [GroupWord; GROUPS],
    /// SipHash-2-4 of everything before it, as its eight output bytes.
    pub tag: [u8; 8],
}

const _: () = assert!(size_of::<GroupWord>() == 40);
const _: () = assert!(FRAME_LEN == 424);
const _: () = assert!(core::mem::offset_of!(Frame, groups) == 96);
const _: () = assert!(core::mem::offset_of!(Frame, tag) == 416);

impl Frame {
    /// Returns the tag that `key` gives this frame.
    #[inline(always)]
    #[must_use]
    pub fn expected_tag(&self, key: &Key) -> [u8; 8] {
        let words: &[u64; WORDS] = zerocopy::transmute_ref!(self);
        // The tag's own word is last and not covered.
        let Some(signed) = words.first_chunk::<SIGNED_WORDS>() else { return [0; 8] };
        siphash::tag(key, signed).to_le_bytes()
    }

    /// Signs the frame.
    #[inline(always)]
    pub fn sign(&mut self, key: &Key) {
        self.tag = self.expected_tag(key);
    }

    /// Tells whether `key` signed the frame. Takes the same time whatever the tag.
    ///
    /// ```
    /// use hb_ebpf::{
    ///     siphash::Key,
    ///     wire::{Be64, Frame, Kind, MAGIC, VERSION},
    /// };
    ///
    /// let key = Key { words: [1, 2] };
    /// let mut frame = Frame { magic: MAGIC, version: VERSION, kind: Kind::Probe as u8, ..Frame::default() };
    /// frame.sign(&key);
    /// assert!(frame.is_signed_by(&key));
    /// frame.sequence = Be64::new(7);
    /// assert!(!frame.is_signed_by(&key));
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn is_signed_by(&self, key: &Key) -> bool {
        u64::from_ne_bytes(self.expected_tag(key)) ^ u64::from_ne_bytes(self.tag) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_word_is_reset_to_its_health() {
        let mut word = GroupWord::read_from_bytes(&[7; 40]).unwrap();
        word.reset(Health::Standby as u8);
        assert_eq!(word, GroupWord { health: 4, ..GroupWord::default() });
    }

    #[test]
    fn big_endian_on_the_wire() {
        let frame = Frame { sequence: Be64::new(0x0102_0304_0506_0708), ..Frame::default() };
        let bytes = frame.as_bytes();
        assert_eq!(bytes[48..56], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(frame.sequence.get(), 0x0102_0304_0506_0708);
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), FRAME_LEN)) {
            let frame = Frame::read_from_bytes(&bytes).unwrap();
            prop_assert_eq!(frame.as_bytes(), &bytes[..]);
        }

        #[test]
        fn every_flipped_bit_is_refused(
            bytes in prop::collection::vec(any::<u8>(), FRAME_LEN),
            low: u64,
            high: u64,
        ) {
            let key = Key { words: [low, high] };
            let mut frame = Frame::read_from_bytes(&bytes).unwrap();
            frame.sign(&key);
            prop_assert!(frame.is_signed_by(&key));
            for bit in 0..FRAME_LEN * 8 {
                let mut flipped = frame.as_bytes().to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let flipped = Frame::read_from_bytes(&flipped).unwrap();
                prop_assert!(!flipped.is_signed_by(&key), "bit {}", bit);
            }
        }

        #[test]
        fn another_key_is_refused(bytes in prop::collection::vec(any::<u8>(), FRAME_LEN), low: u64) {
            let mut frame = Frame::read_from_bytes(&bytes).unwrap();
            frame.sign(&Key { words: [low, 0] });
            let other = Key { words: [low, 1] };
            prop_assert!(!frame.is_signed_by(&other));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes: Vec<u8> = (0..FRAME_LEN).map(|n| n as u8).collect();
        for len in 0..FRAME_LEN {
            assert!(Frame::read_from_bytes(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn unknown_codes_are_read_safely() {
        let all = WORD_ENDLESS | Standing::from_code(u8::MAX).in_word();
        assert_eq!(State::from_code(State::Holding as u8 | all), State::Holding);
        assert_eq!(Health::from_code(9), Health::Failed);
        assert_eq!(Kind::from_code(0), None);
    }
}
