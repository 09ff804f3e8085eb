//! An authentic frame has arrived: what it changes.

use crate::{
    gather::Gathered,
    maps::{Life, Link, Node, Peer, PeerLock, Stream},
    refusal::Refusal,
    time::L_MAX_NS,
    window::Window,
    wire::{Frame, GROUPS, GroupWord, KNOWN_FEATURES, Kind},
    words,
};

/// Words of memory that the groups' words of a frame take.
const GROUP_WORDS: usize = GROUPS * size_of::<GroupWord>() / 8;

/// What an arrival changed and the daemon has to hear of, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News(pub u32);

impl News {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The peer was heard, for the first time or again.
    pub const UP: u32 = 1;
    /// It said something new.
    pub const SAID: u32 = 2;
    /// Its controller died or came back.
    pub const CONTROLLER: u32 = 4;
    /// The link was heard again.
    pub const LINK: u32 = 8;
    /// The frame was not fresh and changed nothing.
    pub const UNFRESH: u32 = 16;

    /// Tells whether `bit` is among the news.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// Tells whether the frame echoes this boot nonce and one of our transmit times younger than
/// `L_max`. Only such a frame counts; any other authentic one may stem from before a restart.
#[inline(always)]
#[must_use]
pub fn is_fresh(frame: &Frame, nonce: u64, now: u64) -> bool {
    let echo = frame.echo_ns.get();
    frame.receiver_nonce.get() == nonce && echo != 0 && now.saturating_sub(echo) < L_MAX_NS
}

/// Tells whether the frame is of the life of the peer that we know.
#[inline(always)]
fn is_known_life(frame: &Frame, peer: &Peer) -> bool {
    frame.incarnation.get() == peer.incarnation && frame.sender_nonce.get() == peer.nonce
}

/// Tells, before the tag is computed, whether the window would refuse the frame. A frame of
/// another life is let through to be authenticated.
///
/// # Errors
///
/// [`Refusal::Replay`].
#[inline(always)]
pub fn screen(frame: &Frame, stream: &Stream) -> Result<(), Refusal> {
    if is_of_life(frame, stream) && !stream.window.admits(frame.sequence.get()) {
        return Err(Refusal::Replay);
    }
    Ok(())
}

#[inline(always)]
fn is_of_life(frame: &Frame, stream: &Stream) -> bool {
    frame.incarnation.get() == stream.incarnation
        && frame.sender_nonce.get() == stream.nonce
        && frame.link_fingerprint.get() == stream.link
}

/// Refuses an authentic frame that asks for what this program does not understand.
///
/// # Errors
///
/// [`Refusal::MustUnderstand`].
#[inline(always)]
pub fn understand(frame: &Frame) -> Result<(), Refusal> {
    if frame.must_understand.get() & !KNOWN_FEATURES != 0 {
        return Err(Refusal::MustUnderstand);
    }
    Ok(())
}

/// How a frame came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// What it is.
    pub kind: Kind,
    /// Number that its link has here.
    pub link: u8,
    /// When it arrived.
    pub now: u64,
}

/// Takes note of an authentic frame. Runs under the peer's lock: no call leaves it.
///
/// A frame of a new life (incarnation above the known one, or any after the peer was silent for
/// `L_max`, which a peer that lost its state directory needs) starts the windows afresh.
///
/// # Errors
///
/// [`Refusal::Replay`] or [`Refusal::Incarnation`]; then nothing has changed.
#[inline(always)]
pub fn note(
    frame: &Frame,
    arrival: Arrival,
    node: &Node,
    lock: &mut PeerLock,
    peer: &mut Peer,
    link: &mut Link,
) -> Result<News, Refusal> {
    let Arrival { kind, link: number, now } = arrival;
    if !is_fresh(frame, node.nonce, now) {
        return Ok(News(News::UNFRESH));
    }
    let known = is_known_life(frame, peer);
    if !known {
        let silent = now.saturating_sub(peer.last_arrival_ns) > L_MAX_NS;
        if frame.incarnation.get() <= peer.incarnation && !silent {
            return Err(Refusal::Incarnation);
        }
    }
    let stream = lock.stream(number, frame.kind);
    let continued = is_of_life(frame, stream);
    let sequence = frame.sequence.get();
    let admitted =
        if continued { stream.window.admits(sequence) } else { Window::EMPTY.admits(sequence) };
    if !admitted {
        return Err(Refusal::Replay);
    }
    if !continued {
        stream.nonce = frame.sender_nonce.get();
        stream.incarnation = frame.incarnation.get();
        stream.link = frame.link_fingerprint.get();
        stream.window = Window::EMPTY;
    }
    stream.window.take(sequence);

    let mut news = Gathered::none_yet(&mut lock.gathered);
    peer.count_sequence();
    if !known {
        peer.nonce = frame.sender_nonce.get();
        peer.incarnation = frame.incarnation.get();
        news.add(News::SAID);
    }
    hear(peer, number, now, &mut news);
    listen(frame, kind, node, peer, !known, &mut news);
    measure(frame, kind, link, now, continued);
    peer.count_sequence();
    Ok(News(news.get()))
}

/// The deadlines move.
#[inline(always)]
fn hear(peer: &mut Peer, link: u8, now: u64, news: &mut Gathered<'_>) {
    match Life::from_code(peer.life) {
        Life::Alive => {}
        Life::Late => peer.life = Life::Alive as u8,
        Life::Unheard | Life::Dead => {
            peer.life = Life::Alive as u8;
            news.add(News::UP);
        }
    }
    if now > peer.last_arrival_ns {
        peer.last_arrival_ns = now;
    }
    peer.misses = 0;
    peer.doubt_since_ns = 0;
    let bit = 1u8 << (link & 7);
    if peer.links_up & bit == 0 {
        peer.links_up |= bit;
        news.add(News::LINK);
    }
}

/// What the peer says of itself. Words are ordered by revision, so that frames that overtake each
/// other on two links never bring back old ones.
#[inline(always)]
fn listen(
    frame: &Frame,
    kind: Kind,
    node: &Node,
    peer: &mut Peer,
    new_life: bool,
    news: &mut Gathered<'_>,
) {
    let revision = frame.revision.get();
    let newer = revision.wrapping_sub(peer.revision) as i32 > 0;
    if new_life || (newer && frame.page == 0) {
        peer.revision = revision;
        let (to, from): (&mut [u64; GROUP_WORDS], _) =
            (zerocopy::transmute_mut!(&mut peer.words), zerocopy::transmute_ref!(&frame.groups));
        words::copy(to, from);
        peer.flags = frame.flags.get();
        news.add(News::SAID);
    }
    // The rest has no number of its own: what a slow link delivers late is not news.
    let transmit = frame.transmit_ns.get();
    if !new_life && transmit < peer.transmit_ns {
        return;
    }
    peer.transmit_ns = transmit;
    // Only an answer is about a frame of ours.
    if matches!(kind, Kind::Answer) && peer.refused != frame.refused {
        peer.refused = frame.refused;
        news.add(News::SAID);
    }
    if peer.config_hash != frame.config_hash.get() {
        peer.config_hash = frame.config_hash.get();
        news.add(News::SAID);
    }
    peer.controller_age_ns = frame.controller_age_ns.get();
    let dead = u8::from(peer.controller_age_ns > node.controller_deadtime_ns);
    if peer.controller_dead != dead {
        peer.controller_dead = dead;
        news.add(News::CONTROLLER);
    }
}

/// Measures the link. A stream that is not `continued` has no past to compare with: the peer's
/// clock may have started over since, and each link learns so by itself.
#[inline(always)]
fn measure(frame: &Frame, kind: Kind, link: &mut Link, now: u64, continued: bool) {
    if continued && link.last_arrival_ns != 0 {
        link.gaps.record(now.saturating_sub(link.last_arrival_ns));
    }
    if now > link.last_arrival_ns {
        link.last_arrival_ns = now;
    }
    link.received += 1;
    link.flags = frame.flags.get();
    let transmit = frame.transmit_ns.get();
    if !continued || transmit > link.transmit_ns {
        link.transmit_ns = transmit;
        link.transmit_arrival_ns = now;
    }
    if let Kind::Probe = kind {
        link.probe_key = frame.key_id;
    }
    if let Kind::Answer = kind {
        if link.answer_key != frame.key_id {
            link.answer_key = frame.key_id;
            link.answer_key_changes = link.answer_key_changes.wrapping_add(1);
        }
        let there = frame.echo_age_ns.get().into();
        let rtt = now.saturating_sub(frame.echo_ns.get()).saturating_sub(there);
        link.rtt_ns = rtt;
        link.rtts.record(rtt);
        let offset = transmit.wrapping_sub(now.wrapping_sub(rtt / 2)) as i64;
        let first = !continued || link.last_answer_ns == 0;
        link.last_answer_ns = now;
        link.offset_ns = if first {
            offset
        } else {
            link.offset_ns.wrapping_add(offset.wrapping_sub(link.offset_ns) >> 3)
        };
    }
}

#[cfg(test)]
mod tests;
