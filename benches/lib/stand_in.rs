//! Who speaks in place of a peer: makes frames that the node under test takes for the peer's.

use hb_ebpf::{
    siphash::Key,
    time::BootTime,
    wire::{Be32, Be64, Frame, GROUPS, GroupWord, Health, Kind, MAGIC, VERSION},
};
use hb_user::id::{LinkId, NodeId};

/// A peer that answers and asks, and never holds anything.
#[derive(Clone, Debug)]
pub struct StandIn {
    /// Who it is.
    pub id: NodeId,
    /// Whom it talks to.
    pub to: NodeId,
    /// On which link.
    pub link: LinkId,
    /// Which one that is.
    pub link_fingerprint: u32,
    /// Of the cluster.
    pub cluster: u32,
    /// Fingerprint of the configuration it claims to have.
    pub config_hash: u64,
    /// Which key it signs with, by its id and by itself.
    pub key: (u8, Key),
    /// Its boot nonce.
    pub nonce: u64,
    /// The other's boot nonce; 0 before it heard one.
    pub known: u64,
    /// Newest transmit time heard of the other, and when that arrived.
    pub echo: (u64, BootTime),
    /// Numbers of its newest probe and answer.
    pub sequences: [u64; 2],
    /// What it says of its groups.
    pub words: [GroupWord; GROUPS],
}

/// What a node says that stands by in every group.
#[must_use]
pub fn standing_by() -> [GroupWord; GROUPS] {
    std::array::from_fn(|group| GroupWord {
        health: Health::Standby as u8,
        fingerprint: Be32::new(fingerprint(group)),
        ..GroupWord::default()
    })
}

/// Returns what stands for a group in frames and records.
#[must_use]
pub const fn fingerprint(group: usize) -> u32 {
    0x6772_0000 + group as u32
}

impl StandIn {
    /// Returns the next frame, signed, as sent at `now`.
    pub fn frame(&mut self, kind: Kind, now: BootTime) -> Frame {
        let sequence = &mut self.sequences[usize::from(kind == Kind::Answer)];
        *sequence += 1;
        let (echo, heard) = self.echo;
        let mut frame = Frame {
            magic: MAGIC,
            version: VERSION,
            key_id: self.key.0,
            kind: kind as u8,
            cluster: Be32::new(self.cluster),
            source: self.id.0,
            destination: self.to.0,
            link: self.link.0,
            incarnation: Be32::new(1),
            revision: Be32::new(1),
            sender_nonce: Be64::new(self.nonce),
            receiver_nonce: Be64::new(self.known),
            sequence: Be64::new(*sequence),
            transmit_ns: Be64::new(now.ns()),
            echo_ns: Be64::new(echo),
            link_fingerprint: Be32::new(self.link_fingerprint),
            echo_age_ns: Be32::new(now.ns().saturating_sub(heard.ns()) as u32),
            config_hash: Be64::new(self.config_hash),
            groups: self.words,
            ..Frame::default()
        };
        frame.sign(&self.key.1);
        frame
    }

    /// Takes note of a frame of the other that arrived at `now`.
    pub fn hear(&mut self, frame: &Frame, now: BootTime) {
        self.known = frame.sender_nonce.get();
        self.echo = (frame.transmit_ns.get(), now);
    }
}
