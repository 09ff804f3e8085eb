//! What is heard on the interfaces of service addresses. Where a link fell silent and the other nodes live
//! elsewhere, the neighbourhood is asked too: what answers says that the interface works here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hb_ebpf::{
    maps::Life,
    time::BootTime,
    wire::{FLAG_ANSWERS_HEARD, GROUPS},
};

use super::Daemon;
use crate::{
    clock,
    config::{self, HostView, Interface},
    core::{Evidence, Input},
    kernel::Mode,
    ping::Pings,
};

/// Silence of a link that lets the neighbourhood be asked, where deadtime is shorter.
const SILENT: Duration = Duration::from_millis(200);
/// An interface to which nothing came for so long is deaf; a node that nobody answered for so long is not
/// heard.
const DEAF: Duration = Duration::from_millis(1500);
/// What both nodes hear is looked at four times a second, and a frame carries it at once.
const LAG: Duration = Duration::from_secs(1);
/// Time between two looks, and two questions, while a link is silent.
const LOOK: Duration = Duration::from_millis(250);
/// The same once a link has been silent for long.
const LOOK_LATER: Duration = Duration::from_secs(1);
/// For how long that is looked at often.
const OFTEN: Duration = Duration::from_secs(10);

/// What is known of the interfaces of service addresses, and what was told of them.
#[derive(Default)]
pub(super) struct Hearing {
    /// By name.
    ears: BTreeMap<String, Ear>,
    told: [Evidence; GROUPS],
    pings: Pings,
    asked: BootTime,
    /// Number of the newest question.
    sequence: u16,
}

/// An interface, as it was seen last.
#[derive(Clone, Debug)]
struct Ear {
    /// What a packet counter means anything for.
    state: State,
    received: u32,
    /// When something was received last, or could be again.
    since: BootTime,
    /// A link of it was heard since.
    heard: bool,
    /// Since when a link of it works one way at most.
    broken_since: Option<BootTime>,
    /// When the neighbourhood answered last.
    answered: Arc<AtomicU64>,
}

/// What makes an interface another one, or deaf for a while by this node's own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    index: u32,
    /// It is up and has carrier.
    works: bool,
    /// How the program is attached; some cards lose the link when that changes.
    mode: Option<Mode>,
}

/// What is known of the links of an interface whose other nodes live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Links {
    /// On one of them another node is silent, or says that it does not hear this one.
    broken: bool,
    /// On one of them another node is heard.
    heard: bool,
}

impl Links {
    /// Takes in a link: whether the other node is heard on it, and says that it hears this one; and whether
    /// both have the same links. Else the other one may not have this link, or another in its place, and its
    /// silence says nothing.
    fn take(&mut self, heard: bool, hears_this_node: bool, same: bool) {
        self.broken |= if heard { !hears_this_node } else { same };
        self.heard |= heard;
    }
}

impl Ear {
    fn new(state: State, received: u32, now: BootTime) -> Self {
        let answered = Arc::new(AtomicU64::new(now.0));
        Self { state, received, since: now, heard: false, broken_since: None, answered }
    }

    /// Takes in a look at the interface.
    fn see(&mut self, state: State, received: u32, now: BootTime) {
        if self.state != state {
            *self = Self::new(state, received, now);
        } else if self.received != received {
            (self.received, self.since) = (received, now);
        }
    }

    /// Takes in a look at its links.
    fn hear(&mut self, links: Links, now: BootTime) {
        let broken = self.state.works && links.broken;
        self.broken_since = broken.then(|| self.broken_since.unwrap_or(now));
        if links.heard {
            (self.since, self.heard) = (now, true);
        }
    }

    /// Tells whether it is too early to say what is heard here since the interface is in use.
    fn is_pending(&self, now: BootTime) -> bool {
        let began = self.broken_since.is_some_and(|since| now.since(since) < DEAF);
        began && !self.heard && !self.is_deaf(now)
    }

    /// Tells whether nothing arrives, although another node lives.
    fn is_deaf(&self, now: BootTime) -> bool {
        self.broken_since.is_some() && now.since(self.since) >= DEAF
    }

    /// Tells whether nobody answers, although another node lives.
    fn is_unheard(&self, now: BootTime) -> bool {
        let answered = BootTime(self.answered.load(Ordering::Relaxed));
        self.broken_since.is_some_and(|since| now.since(answered.max(since)) >= DEAF)
    }
}

impl Hearing {
    /// The group at that place is another one now: nothing was told of it.
    pub(super) fn forget(&mut self, place: usize) {
        if let Some(told) = self.told.get_mut(place) {
            *told = Evidence::default();
        }
    }

    fn evidence(&self, interface: &str, now: BootTime) -> Evidence {
        let ear = self.ears.get(interface);
        let deaf = ear.is_some_and(|ear| ear.is_deaf(now));
        let unheard = ear.is_some_and(|ear| ear.is_unheard(now));
        Evidence {
            pending: ear.is_none_or(|ear| ear.is_pending(now)),
            unheard: unheard.then(|| format!("nobody answers this node on {interface}")),
            deaf: deaf.then(|| format!("nothing arrives on {interface}")),
            unreached: self.pings.unreached(interface, now),
            lag: LAG + self.pings.interval(interface),
        }
    }
}

impl Daemon {
    /// Has the ping groups of the configuration asked, and no others any more.
    pub(super) fn ask_pings(&mut self) {
        self.hearing.pings = self.surveyor.ask(&self.config.pings, self.local.me.id);
    }

    /// Takes in the packets that the interfaces have received.
    pub(super) fn look_at_ears(&mut self, host: &HostView) {
        let now = clock::now();
        let served = self.served();
        self.hearing.ears.retain(|name, _| served.contains(name));
        for name in served {
            let Some(Interface { index, up, carrier, received, .. }) = host.interface(&name) else {
                self.hearing.ears.remove(&name);
                continue;
            };
            let attached = self.kernel.attachments().iter().find(|held| held.interface == name);
            let mode = attached.map(|held| held.mode);
            let state = State { index: *index, works: *up && *carrier, mode };
            let ears = &mut self.hearing.ears;
            let ear = ears.entry(name).or_insert_with(|| Ear::new(state, *received, now));
            ear.see(state, *received, now);
        }
    }

    /// Looks at the links, asks the neighbourhood where one is silent, and tells the core what is heard.
    /// Called at every tick.
    pub(super) fn listen(&mut self, now: BootTime) {
        let links: Vec<_> = self.hearing.ears.keys().map(|name| self.links_of(name, now)).collect();
        for (ear, links) in self.hearing.ears.values_mut().zip(links) {
            ear.hear(links, now);
        }
        self.ask_where_silent(now);
        for group in self.groups() {
            let place = usize::from(group.0);
            let Some(vips) = self.vips.get(place) else { continue };
            let unreached = self.routes.lacks(place, now).map(str::to_owned);
            let routed = Evidence { unreached, lag: LAG, ..Evidence::default() };
            let heard = vips.iter().map(|vip| self.hearing.evidence(&vip.interface, now));
            let evidence = heard.fold(routed, Evidence::and);
            let Some(told) = self.hearing.told.get_mut(place) else { continue };
            if *told != evidence {
                let before = std::mem::replace(told, evidence.clone());
                let name = self.group_name(group);
                match (&before.unreached, &evidence.unreached) {
                    (None, Some(error)) => {
                        tracing::warn!(group = name, error, "clients may not be reached from here");
                    }
                    (Some(_), None) => tracing::info!(group = name, "clients are reached again"),
                    _ => {}
                }
                self.feed(Input::Heard { group, evidence });
            }
        }
    }

    /// The interfaces of service addresses.
    fn served(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.vips.iter().flatten().map(|vip| vip.interface.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn links_of(&self, interface: &str, now: BootTime) -> Links {
        let silence = self.config.timers.deadtime().max(SILENT);
        let own = self.maps().node();
        let mut all = Links::default();
        for link in self.local.links.iter().filter(|link| link.own.interface.as_str() == interface)
        {
            for (peer, _) in &link.peers {
                let Some(other) = self.maps().peer(*peer) else { continue };
                if !matches!(Life::from_code(other.life), Life::Alive | Life::Late) {
                    continue;
                }
                let Some((_, state)) = self.shared.link(*peer, link.id) else { continue };
                all.take(
                    now.since(BootTime(state.last_arrival_ns)) < silence,
                    state.flags & FLAG_ANSWERS_HEARD != 0,
                    config::same_links(own.config_hash, other.config_hash),
                );
            }
        }
        all
    }

    fn ask_where_silent(&mut self, now: BootTime) {
        let broken = |ear: &Ear| ear.broken_since.map(|since| now.since(since));
        let shortest = self.hearing.ears.values().filter_map(broken).min();
        let Some(shortest) = shortest else { return };
        let pause = if shortest < OFTEN { LOOK } else { LOOK_LATER };
        if now.since(self.hearing.asked) < pause {
            return;
        }
        self.hearing.asked = now;
        self.hearing.sequence = self.hearing.sequence.wrapping_add(1);
        for (name, ear) in self.hearing.ears.iter().filter(|(_, ear)| broken(ear).is_some()) {
            let (answered, sequence) = (Arc::clone(&ear.answered), self.hearing.sequence);
            self.surveyor.ask_around(name.clone(), sequence, LOOK_LATER, answered);
        }
        self.surveyor.cover();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: State = State { index: 2, works: true, mode: None };

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000 + ms * 1_000_000)
    }

    fn silent() -> Links {
        Links { broken: true, heard: false }
    }

    #[test]
    fn an_interface_is_deaf_when_a_link_is_silent_and_nothing_else_comes() {
        let mut ear = Ear::new(WELL, 7, at(0));
        ear.hear(Links { heard: true, broken: false }, at(1000));
        assert!(!ear.is_deaf(at(9000)), "a quiet network is none without a silent link");
        ear.hear(silent(), at(1200));
        ear.see(WELL, 7, at(2000));
        assert!(!ear.is_deaf(at(2400)), "the link was heard a moment ago");
        assert!(ear.is_deaf(at(2600)));
        ear.see(WELL, 8, at(2700));
        assert!(!ear.is_deaf(at(2700)), "somebody answered");
        assert!(ear.is_deaf(at(4300)));
        ear.hear(Links { heard: true, broken: true }, at(4400));
        assert!(!ear.is_deaf(at(4400)), "another link of it is heard");
    }

    #[test]
    fn the_silence_of_a_link_that_the_other_node_lacks_says_nothing() {
        let of = |heard, hears_this_node, same| {
            let mut links = Links::default();
            links.take(heard, hears_this_node, same);
            (links.broken, links.heard)
        };
        assert_eq!(of(false, false, true), (true, false));
        assert_eq!(of(false, false, false), (false, false));
        // It has the link that it is heard on, whatever else differs.
        for same in [true, false] {
            assert_eq!(of(true, true, same), (false, true));
            assert_eq!(of(true, false, same), (true, true));
        }
        let mut both = Links::default();
        both.take(false, false, true);
        both.take(true, true, true);
        assert_eq!(both, Links { broken: true, heard: true });
    }

    #[test]
    fn what_was_never_heard_is_pending_until_it_is_sure() {
        let mut ear = Ear::new(WELL, 7, at(0));
        assert!(!ear.is_pending(at(0)), "the other node does not live");
        ear.hear(silent(), at(10));
        assert!(ear.is_pending(at(10)) && ear.is_pending(at(1400)));
        assert!(!ear.is_pending(at(1520)) && ear.is_deaf(at(1520)));
        let mut heard = ear.clone();
        heard.hear(Links { broken: false, heard: true }, at(20));
        heard.hear(silent(), at(500));
        assert!(!heard.is_pending(at(600)), "it was heard before");
    }

    #[test]
    fn what_this_node_did_to_an_interface_is_waited_out() {
        let others = [
            State { index: 3, ..WELL },
            State { works: false, ..WELL },
            State { mode: Some(Mode::Generic), ..WELL },
        ];
        for other in others {
            let mut ear = Ear::new(WELL, 7, at(0));
            ear.hear(silent(), at(100));
            assert!(ear.is_deaf(at(1600)));
            ear.see(other, 7, at(1700));
            ear.hear(silent(), at(1700));
            assert!(!ear.is_deaf(at(3100)), "{other:?}");
            assert_eq!(ear.is_deaf(at(3300)), other.works, "{other:?}");
        }
    }

    #[test]
    fn who_is_not_answered_for_a_while_is_not_heard() {
        let mut ear = Ear::new(WELL, 7, at(0));
        let heard = Links { broken: true, heard: true };
        ear.hear(heard, at(5000));
        assert!(!ear.is_unheard(at(6400)), "nobody was asked before");
        assert!(ear.is_unheard(at(6600)) && !ear.is_deaf(at(6400)));
        ear.answered.store(at(6700).0, Ordering::Relaxed);
        assert!(!ear.is_unheard(at(8100)) && ear.is_unheard(at(8300)));
        ear.hear(Links { broken: false, heard: true }, at(8400));
        assert!(!ear.is_unheard(at(9900)), "the link works");
    }
}
