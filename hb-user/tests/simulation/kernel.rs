//! The kernel half of a machine: the library's own decisions on the library's own records, bound
//! together as `hb_ebpf`'s programs bind them.

use std::collections::VecDeque;

use hb_ebpf::{
    answer::{self, Reply, Stamp},
    arrival::{self, Arrival, News},
    deadline::{self, Others},
    epoch::Epoch,
    lease::{
        Record, Terms, gate, holder,
        identity::{self, Places},
        op::{self, Op, Order},
        start, word,
    },
    maps::{self, Cause, Event, EventKind, LeaseNews, Life, Link, Node, Peer, PeerLock},
    pause::{self, Jump},
    wire::{FLAG_LEAVING, Frame, GROUPS, Health, Kind, State},
};
use hb_user::beginning::{Begin, Beginning, Step};
use zerocopy::FromZeros;

use crate::plan::{CONTROLLER_DEADTIME, DEADTIME, INTERVAL, Plan, id};

/// As in `program/silence.rs`: a controller so old is gone, and nobody watches any more.
const ABANDONED: u64 = 1_000_000_000;
/// As in `daemon/hands.rs`: a machine that is heard and has not answered for so long does not hear this one.
const UNANSWERED: u64 = 2 * DEADTIME;
const LINK: u8 = 0;
/// Events that the ring buffer holds.
const RING: usize = 512;

/// What a kernel half has of another machine.
pub(crate) struct Contact {
    pub(crate) id: u8,
    pub(crate) peer: Peer,
    link: Link,
    lock: PeerLock,
    /// Probes sent.
    sequence: u64,
    /// When its timer fires, by this machine's clock, and how often it was set.
    pub(crate) timer: Option<u64>,
    pub(crate) set: u64,
}

/// A kernel half.
pub(crate) struct Kernel {
    pub(crate) node: Node,
    pub(crate) terms: Terms,
    pub(crate) records: Vec<Record>,
    pub(crate) contacts: Vec<Contact>,
    watches_clocks: bool,
    /// Groups that begin beside records that are found take part at once.
    unwaited: bool,
    /// The ring buffer, and what the timeline has not told yet.
    pub(crate) events: VecDeque<Event>,
    pub(crate) news: Vec<Event>,
    pub(crate) told: Vec<(u8, u64, u64)>,
    /// Frames that leave.
    pub(crate) out: Vec<Frame>,
}

impl Kernel {
    /// A new one, which takes no part before its records are begun.
    pub(crate) fn new(plan: &Plan, me: usize, nonce: u64) -> Self {
        let contact = |index| Contact {
            id: id(index).0,
            peer: Peer { timing: plan.timing(), ..Peer::new_zeroed() },
            link: Link::new_zeroed(),
            lock: PeerLock {
                lock: maps::bpf_spin_lock::default(),
                gathered: 0,
                streams: Default::default(),
                answers: Default::default(),
            },
            sequence: 0,
            timer: None,
            set: 0,
        };
        let others = (0..plan.cluster.machines()).filter(|other| *other != me);
        Self {
            node: Node {
                layout: maps::LAYOUT,
                nonce,
                controller_deadtime_ns: CONTROLLER_DEADTIME,
                cluster: 1,
                id: id(me).0,
                groups: plan.groups as u8,
                ..Node::new_zeroed()
            },
            terms: plan.terms(me),
            records: vec![Record { blocked_until_ns: u64::MAX, ..Record::default() }; plan.groups],
            unwaited: plan.unwaited,
            contacts: others.map(contact).collect(),
            watches_clocks: plan.watches_clocks,
            events: VecDeque::new(),
            news: Vec::new(),
            told: vec![(0, 0, 0); plan.groups],
            out: Vec::new(),
        }
    }

    pub(crate) fn contact(&self, id: u8) -> Option<&Contact> {
        self.contacts.iter().find(|contact| contact.id == id)
    }

    pub(crate) fn peer(&self, id: u8) -> Option<&Peer> {
        self.contact(id).map(|contact| &contact.peer)
    }

    /// A frame arrives, as in `program/hear.rs`. Its tag was checked.
    pub(crate) fn hear(&mut self, mut frame: Frame, now: u64) {
        // Nobody was introduced.
        if self.node.incarnation == 0 {
            return;
        }
        let Some(kind) = Kind::from_code(frame.kind) else { return };
        let Some(contact) = self.contacts.iter_mut().find(|known| known.id == frame.source) else {
            return;
        };
        let (lock, peer, link) = (&mut contact.lock, &mut contact.peer, &mut contact.link);
        if arrival::screen(&frame, lock.stream(frame.link, frame.kind)).is_err() {
            return;
        }
        let arrival = Arrival { kind, link: LINK, now };
        let Ok(news) = arrival::note(&frame, arrival, &self.node, lock, peer, link) else {
            return;
        };
        let mut reply = Reply::default();
        if let Kind::Probe = kind {
            reply.number(lock, link, LINK);
        }
        let mut jump = Jump::None;
        if !news.has(News::UNFRESH) && self.watches_clocks {
            jump = pause::judge(&mut link.clock, &frame, &self.terms, now);
        }
        self.tell(news, frame.source, now);
        self.jumped(jump, frame.source, now);
        let mut noted = 0;
        if !news.has(News::UNFRESH) {
            noted = self.records.len();
            for group in 0..noted {
                self.listen(&frame, group, &mut reply, now);
            }
        }
        if let Kind::Answer = kind {
            return;
        }
        answer::answer(&mut frame, &self.node, &reply, noted as u32, now, 0);
        if noted == 0 {
            self.speak(&mut frame, now);
        }
        self.out.push(frame);
    }

    /// As `jumped` in `program/records.rs`, and what `program/steps.rs` says of it.
    fn jumped(&mut self, jump: Jump, peer: u8, now: u64) {
        let (ours, by) = match jump {
            Jump::None => return,
            Jump::Ahead(by) => (true, by),
            Jump::Behind(by) => (false, by),
        };
        for record in &mut self.records {
            let before = *record;
            if ours {
                start::clock_jumped(record, &self.terms, now);
            } else {
                start::other_clock_jumped(record, &self.terms, now);
            }
            record.count_change(&before);
            close(record, now);
        }
        let mut event = event(EventKind::Paused, peer, LINK, now);
        (event.cause, event.silence_ns) = (ours.into(), by);
        self.push(event);
    }

    /// As `tell` in `program/steps.rs`.
    fn tell(&mut self, news: News, peer: u8, now: u64) {
        let kind = if news.has(News::UP) {
            EventKind::Up
        } else if news.has(News::CONTROLLER) {
            EventKind::Controller
        } else if news.has(News::SAID) {
            EventKind::Said
        } else {
            return;
        };
        self.push(event(kind, peer, 0, now));
    }

    /// As `listen` in `program/records.rs`.
    fn listen(&mut self, frame: &Frame, group: usize, reply: &mut Reply, now: u64) {
        let record = &mut self.records[group];
        let said = identity::find(&frame.groups, record.fingerprint, group).copied();
        let (said, transmit) = (said.unwrap_or_default(), frame.transmit_ns.get());
        let before = record.state();
        let lives = answer::controller_lives(&self.node, now);
        if !lives {
            holder::abandon(record, &self.terms, now);
        }
        let heard = word::hear(record, &self.terms, frame.source, transmit, &said, now);
        reply.note(group, record, &self.terms, lives, now);
        close(record, now);
        if let Some(news) = LeaseNews::of(before, record, heard.released) {
            let mut event = event(EventKind::Lease, frame.source, group as u8, now);
            event.cause = news as u8;
            self.push(event);
        }
    }

    fn speak(&self, frame: &mut Frame, now: u64) {
        for (group, record) in self.records.iter().enumerate() {
            answer::speak_of(frame, group, record, &self.terms, &self.node, now);
        }
    }

    /// Sends a probe to every other machine, as `fast/probe.rs`.
    pub(crate) fn probe(&mut self, now: u64) {
        self.probe_those(now, |_| true);
    }

    /// Sends one to each of those.
    pub(crate) fn probe_those(&mut self, now: u64, wanted: impl Fn(u8) -> bool) {
        for at in 0..self.contacts.len() {
            if !wanted(self.contacts[at].id) {
                continue;
            }
            let contact = &mut self.contacts[at];
            contact.sequence += 1;
            contact.peer.probe_ns = now;
            let link = &contact.link;
            let stamp = Stamp {
                sequence: contact.sequence,
                receiver_nonce: contact.peer.nonce,
                echo_ns: link.transmit_ns,
                echo_age_ns: now.saturating_sub(link.transmit_arrival_ns) as u32,
                last_answer_ns: link.last_answer_ns,
                now,
                refused: 0,
            };
            let mut frame = Frame::default();
            answer::address(&mut frame, &self.node, contact.id, (LINK, 0), 1);
            answer::fill(&mut frame, Kind::Probe, &self.node, &stamp);
            self.speak(&mut frame, now);
            self.out.push(frame);
        }
    }

    /// Carries out an order, as `order` in `program/records.rs`.
    pub(crate) fn order(&mut self, mut order: Order, now: u64) -> Order {
        let group = usize::from(order.group);
        op::apply(&mut order, &mut self.records[group], &self.terms, now);
        close(&mut self.records[group], now);
        order
    }

    pub(crate) fn state(&self, group: usize) -> State {
        self.records[group].state()
    }

    pub(crate) fn publish(&mut self, healths: [Health; GROUPS], leaving: bool) {
        let words = &mut self.node.words;
        words.generation = words.generation.wrapping_add(1);
        let half = (words.generation & 1) as usize;
        words.healths[half] = healths.map(|health| health as u8);
        words.flags[half] = if leaving { FLAG_LEAVING } else { 0 };
    }

    /// Begins to watch a machine, as `begin` in `program/silence.rs`.
    pub(crate) fn watch(&mut self, peer: u8, forget: bool, now: u64) {
        let Some(contact) = self.contacts.iter_mut().find(|known| known.id == peer) else { return };
        let peer = &mut contact.peer;
        peer.started_ns = now;
        peer.watched = 1;
        peer.misses = 0;
        peer.doubt_since_ns = 0;
        if forget {
            peer.life = Life::Unheard as u8;
            peer.links_up = 0;
        }
        peer.due_ns = now + INTERVAL;
        contact.set_timer(Some(now + INTERVAL));
    }

    /// A timer fires, as `tick` in `program/silence.rs`.
    pub(crate) fn tick(&mut self, at: usize, now: u64) {
        let age = now.saturating_sub(self.node.controller_stamp_ns);
        let abandoned = age > ABANDONED && age > self.node.controller_deadtime_ns;
        let others = self.others(self.contacts[at].peer.buddy, now);
        let contact = &mut self.contacts[at];
        let peer = &mut contact.peer;
        let (before, missed) = (Life::from_code(peer.life), peer.misses);
        if abandoned {
            peer.watched = 0;
            contact.set_timer(None);
            self.push(event(EventKind::Unwatched, self.contacts[at].id, 0, now));
            return;
        }
        let decision = deadline::decide(peer, others, now);
        peer.life = decision.life as u8;
        peer.misses = decision.misses;
        peer.doubt_since_ns = decision.doubt_since_ns;
        peer.due_ns = decision.due_ns;
        if decision.life == Life::Dead && before != Life::Dead {
            peer.cause = decision.cause as u8;
            peer.verdict_ns = now;
            peer.links_up = 0;
        }
        contact.set_timer(Some(decision.due_ns.max(now + 1)));
        let first = missed == 0 && decision.misses > 0 && decision.life != Life::Dead;
        if first && before != Life::Dead {
            self.push(event(EventKind::Missed, self.contacts[at].id, 0, now));
        }
        let kind = match decision.life {
            life if life == before => return,
            Life::Dead => EventKind::Dead,
            Life::Late => EventKind::Late,
            Life::Alive | Life::Unheard => return,
        };
        let mut event = event(kind, self.contacts[at].id, 0, now);
        event.cause = decision.cause as u8;
        event.silence_ns = decision.silence_ns;
        self.push(event);
    }

    /// What does not fit is lost.
    fn push(&mut self, event: Event) {
        self.news.push(event);
        if self.events.len() < RING {
            self.events.push_back(event);
        }
    }

    fn others(&self, buddy: u8, now: u64) -> Others {
        let Some(buddy) = self.peer(buddy) else { return Others::None };
        let alive = matches!(Life::from_code(buddy.life), Life::Alive | Life::Late);
        if buddy.watched == 0 || !alive {
            Others::None
        } else if now.saturating_sub(buddy.last_arrival_ns) <= 2 * INTERVAL {
            Others::Fresh
        } else {
            Others::Overdue
        }
    }

    /// Returns the epoch under which packets of the group pass now.
    pub(crate) fn open(&self, group: usize, now: u64) -> Option<Epoch> {
        let record = &self.records[group];
        let (stamp, deadtime) = (self.node.controller_stamp_ns, self.node.controller_deadtime_ns);
        gate::passes(gate::until(record), stamp, deadtime, now).then_some(Epoch(record.epoch))
    }

    /// Returns when, by this machine's clock, the last packet passes if nothing happens before.
    pub(crate) fn last_packet(&self, group: usize) -> u64 {
        match gate::until(&self.records[group]) {
            hb_ebpf::lease::ENDLESS => {
                self.node.controller_stamp_ns + self.node.controller_deadtime_ns
            }
            until => until.saturating_sub(1),
        }
    }

    /// Brings the records of a witness to their beginning beside those that are there, as its command does.
    pub(crate) fn begin(
        &mut self,
        beginning: Beginning,
        groups: [u32; GROUPS],
        terms: Terms,
        now: u64,
    ) {
        let places = self.places(groups);
        let new_terms = self.terms != terms;
        for step in (Begin { beginning, places, fingerprints: groups, new_terms }).steps() {
            match step {
                Step::Order(order) => drop(self.order_to_begin(order, now)),
                Step::Terms => self.terms = terms,
                Step::Addresses => {}
            }
        }
    }

    /// Carries out an order of a start.
    pub(crate) fn order_to_begin(&mut self, mut order: Order, now: u64) -> Order {
        if self.unwaited && order.fingerprint != 0 && order.node != 0 {
            order.now_ns = 1;
        }
        self.order(order, now)
    }

    /// Returns which records go on with those groups, and which begin.
    pub(crate) fn places(&self, groups: [u32; GROUPS]) -> Places {
        let found =
            std::array::from_fn(|at| self.records.get(at).map_or(0, |record| record.fingerprint));
        let wanted = &groups[..self.records.len()];
        let places = Places::new(&found, wanted);
        // The groups are in the same order in every file, so that addresses can be told by it.
        assert!((0..wanted.len()).all(|group| places.of(group) == Some(group as u8)));
        places
    }

    /// Has all records hold and seek nothing, as `close` in `daemon/removal/mod.rs`.
    pub(crate) fn close_all(&mut self, now: u64) {
        for group in 0..self.records.len() {
            let op = match self.state(group) {
                State::Holding => Op::Release,
                State::Seeking => Op::TermsChanged,
                State::Idle | State::Released => continue,
            };
            self.order(Order::new(op, group as u8), now);
        }
    }

    /// Returns until when the records are bound, or packets that they let pass may leave.
    pub(crate) fn bound_until(&self) -> u64 {
        let until = |record: &Record| {
            let promise = if record.vow == 0 { record.until_ns } else { 0 };
            let wait = if record.open_until_ns == 0 { 0 } else { self.terms.wait_ns() };
            promise.max(record.open_until_ns + wait)
        };
        self.records.iter().map(until).max().unwrap_or(0)
    }
}

impl Contact {
    fn set_timer(&mut self, timer: Option<u64>) {
        self.timer = timer;
        self.set += 1;
    }

    pub(crate) fn is_alive(&self) -> bool {
        matches!(Life::from_code(self.peer.life), Life::Alive | Life::Late)
    }

    /// Tells whether it answers probes; so does one that was not asked for long enough.
    pub(crate) fn answers(&self, now: u64) -> bool {
        let asks = now.saturating_sub(self.peer.probe_ns) < DEADTIME;
        let since = self.link.last_answer_ns.max(self.peer.started_ns);
        !asks || now.saturating_sub(since) < UNANSWERED
    }
}

/// As `close` in `program/records.rs`: here a step takes no time.
fn close(record: &mut Record, now: u64) {
    if let Some(changes) = record.closing() {
        record.closed(changes, now);
    }
}

pub(crate) fn event(kind: EventKind, peer: u8, link: u8, now: u64) -> Event {
    Event {
        kind: kind as u8,
        peer,
        link,
        cause: Cause::None as u8,
        interface: 0,
        at_ns: now,
        due_ns: now,
        silence_ns: 0,
    }
}
