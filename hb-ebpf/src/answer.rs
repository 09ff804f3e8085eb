//! What this node says: the part of a frame that probes and answers share, and the answer itself.

use crate::{
    lease::{Record, Terms, word},
    maps::{Link, MAX_LINKS, Node, PeerLock, Words},
    time::L_MAX_NS,
    wire::{
        Be16, Be32, Be64, FLAG_ANSWERS_HEARD, Frame, GROUPS, GroupWord, KNOWN_FEATURES, Kind,
        MAGIC, VERSION,
    },
};

/// What differs from frame to frame.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Position in the stream.
    pub sequence: u64,
    /// The other side's nonce, 0 if not known.
    pub receiver_nonce: u64,
    /// Newest transmit time of the other side on this link, 0 if none.
    pub echo_ns: u64,
    /// How long ago that arrived, in nanoseconds; [`u32::MAX`] for longer.
    pub echo_age_ns: u32,
    /// When an answer of the other side last arrived on this link.
    pub last_answer_ns: u64,
    /// Transmit time.
    pub now: u64,
    /// Why we refuse what the other side sends, 0 if we do not.
    pub refused: u8,
}

/// Fills everything but addressing (cluster, nodes, link and its fingerprint, key id, page), what [`speak_of`] says of
/// each group, and the tag.
///
/// The controller's age is computed here, by whoever transmits, so it keeps growing while the
/// daemon is frozen.
#[inline(always)]
pub fn fill(frame: &mut Frame, kind: Kind, node: &Node, stamp: &Stamp) {
    frame.magic = MAGIC;
    frame.version = VERSION;
    frame.must_understand = Be16::new(0);
    frame.features = Be16::new(KNOWN_FEATURES);
    frame.kind = kind as u8;
    frame.refused = stamp.refused;
    frame.incarnation = Be32::new(node.incarnation);
    frame.sender_nonce = Be64::new(node.nonce);
    frame.receiver_nonce = Be64::new(stamp.receiver_nonce);
    frame.sequence = Be64::new(stamp.sequence);
    frame.transmit_ns = Be64::new(stamp.now);
    frame.echo_ns = Be64::new(stamp.echo_ns);
    frame.echo_age_ns = Be32::new(stamp.echo_age_ns);
    frame.controller_age_ns = Be64::new(stamp.now.saturating_sub(node.controller_stamp_ns));
    frame.config_hash = Be64::new(node.config_hash);
    let heard =
        stamp.last_answer_ns != 0 && stamp.now.saturating_sub(stamp.last_answer_ns) < L_MAX_NS;
    let heard = if heard { FLAG_ANSWERS_HEARD } else { 0 };
    speak(frame, &node.words, heard);
}

/// Copies how the groups fare. A copy is whole if the generation has not moved meanwhile: once it
/// has, the writer may be at this half again. Four looks outlast any writer that does not publish
/// faster than we copy.
#[inline(always)]
fn speak(frame: &mut Frame, words: &Words, flags: u32) {
    for _ in 0..4 {
        let generation = generation(words);
        let half = (generation & 1) as usize;
        if let (Some(healths), Some(own)) = (words.healths.get(half), words.flags.get(half)) {
            for (word, health) in frame.groups.iter_mut().zip(healths) {
                word.reset(*health);
            }
            frame.flags = Be32::new(flags | own);
        }
        frame.revision = Be32::new(generation);
        if self::generation(words) == generation {
            break;
        }
    }
}

/// Says what `record` holds of `group`, in a frame that is filled; `now` is its transmit time.
///
/// The changes of all records and of the healths add up to the revision: each only grows.
#[inline(always)]
pub fn speak_of(
    frame: &mut Frame,
    group: usize,
    record: &Record,
    terms: &Terms,
    node: &Node,
    now: u64,
) {
    let lives = controller_lives(node, now);
    if let Some(word) = frame.groups.get_mut(group & (GROUPS - 1)) {
        word::speak(record, terms, lives, now, word);
    }
    frame.revision = Be32::new(frame.revision.get().wrapping_add(record.changes));
}

const _: () = assert!(GROUPS.is_power_of_two());

/// Tells whether the controller of this node is younger than its deadtime.
#[inline(always)]
#[must_use]
pub fn controller_lives(node: &Node, now: u64) -> bool {
    now.saturating_sub(node.controller_stamp_ns) <= node.controller_deadtime_ns
}

#[inline(always)]
fn generation(words: &Words) -> u32 {
    // SAFETY: a reference is valid to read; volatile, because the daemon writes it meanwhile.
    unsafe { core::ptr::read_volatile(&raw const words.generation) }
}

/// What is known of an answer while its probe is still read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reply {
    /// Position in the stream.
    pub sequence: u64,
    /// When an answer of the other side last arrived.
    pub last_answer_ns: u64,
    /// What to say of each group, but for its health.
    words: [GroupWord; GROUPS],
    /// How often the record of each group has changed.
    changes: [u32; GROUPS],
}

impl Reply {
    /// Numbers the next answer on the link of that number. Runs under the peer's lock.
    #[inline(always)]
    pub fn number(&mut self, lock: &mut PeerLock, link: &mut Link, number: u8) {
        let answers = &mut lock.answers[number as usize & (MAX_LINKS - 1)];
        *answers += 1;
        link.answered += 1;
        self.sequence = *answers;
        self.last_answer_ns = link.last_answer_ns;
    }

    /// Notes what `record` holds of `group` at `now`. Runs under the group's lock.
    #[inline(always)]
    pub fn note(&mut self, group: usize, record: &Record, terms: &Terms, lives: bool, now: u64) {
        let group = group & (GROUPS - 1);
        word::speak(record, terms, lives, now, &mut self.words[group]);
        self.changes[group] = record.changes;
    }

    /// Says what was noted of `group`, in a frame that is filled.
    #[inline(always)]
    fn say(&self, frame: &mut Frame, group: usize) {
        let group = group & (GROUPS - 1);
        frame.groups[group].say(&self.words[group]);
        frame.revision = Be32::new(frame.revision.get().wrapping_add(self.changes[group]));
    }
}

/// Rewrites an authentic probe into its answer; the tag is left to [`Frame::sign`]. `now` is when the
/// probe arrived, to which all times in the answer relate. What the reply has of the first `noted`
/// groups is said, the others are left to [`speak_of`]. `refused` is the code of a
/// [`Refusal`](crate::refusal::Refusal) to tell of, or 0.
#[inline(always)]
pub fn answer(frame: &mut Frame, node: &Node, reply: &Reply, noted: u32, now: u64, refused: u8) {
    let stamp = Stamp {
        sequence: reply.sequence,
        receiver_nonce: frame.sender_nonce.get(),
        echo_ns: frame.transmit_ns.get(),
        echo_age_ns: 0,
        last_answer_ns: reply.last_answer_ns,
        now,
        refused,
    };
    (frame.source, frame.destination) = (frame.destination, frame.source);
    frame.page = 0;
    fill(frame, Kind::Answer, node, &stamp);
    for group in 0..GROUPS {
        if (group as u32) < noted {
            reply.say(frame, group);
        }
    }
}

/// Begins a probe for `destination`, before [`fill`]: `link` is the number that the link has here, and its
/// fingerprint.
pub fn address(frame: &mut Frame, node: &Node, destination: u8, link: (u8, u32), key_id: u8) {
    frame.cluster = Be32::new(node.cluster);
    frame.source = node.id;
    frame.destination = destination;
    frame.link = link.0;
    frame.link_fingerprint = Be32::new(link.1);
    frame.key_id = key_id;
    frame.page = 0;
}

#[cfg(test)]
mod tests;
