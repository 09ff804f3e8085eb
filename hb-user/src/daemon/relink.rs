//! Links of another configuration, taken while the daemon runs.
//!
//! A link keeps its number for as long as the daemon lives, and a number that was one link's is never another's:
//! a stream of frames goes on where it was when its link comes back. An interface that is new gets the program
//! first. Then the kernel half is told whose frames come from where, and the fast path by which sockets
//! probes leave. No machine that is heard loses the last link on which it is.

use std::collections::BTreeSet;

use hb_ebpf::maps::{Life, MAX_LINKS, Path};
use tokio::sync::oneshot;

use super::{Daemon, prepare::Prepared, resources::describe, start::ends};
use crate::{
    config::{HostView, LinkEnd, Local, LocalLink},
    control::Reply,
    fast::{Outlet, Rebind},
    id::{LinkId, NodeId},
    link::LinkSocket,
};

/// Numbers of links, and links that wait to be taken.
pub(super) struct Links {
    /// The link that each number is of since the start, whether it is there still or not.
    numbered: [Option<LocalLink>; MAX_LINKS],
    pending: Option<Pending>,
}

/// A configuration whose links can be taken, once the program is on their interfaces.
struct Pending {
    prepared: Prepared,
    /// What is taken, for people.
    keys: String,
    reply: Option<oneshot::Sender<Reply>>,
    /// Interfaces that another thread attaches to.
    asked: BTreeSet<String>,
}

impl Links {
    /// Begins with the links of the start.
    pub(super) fn new(local: &Local) -> Self {
        let mut numbered = [const { None }; MAX_LINKS];
        for link in &local.links {
            if let Some(place) = numbered.get_mut(usize::from(link.id.0)) {
                *place = Some(link.clone());
            }
        }
        Self { numbered, pending: None }
    }

    /// Gives every link of `new` the number that it has or had here, else one that was none's yet.
    fn number(&self, new: &mut Local) -> Result<(), String> {
        let mut taken = [false; MAX_LINKS];
        let names: Vec<_> = new.links.iter().map(|link| link.name.clone()).collect();
        for (link, name) in new.links.iter_mut().zip(names) {
            let free = |place: &usize| taken.get(*place) == Some(&false);
            let known = |place: &usize| self.numbered.get(*place).and_then(Option::as_ref);
            let all = || (0..MAX_LINKS).filter(free);
            let is_it = |place: &usize| known(place).is_some_and(|known| is_same(known, link));
            // Of two with the same addresses, the one on the same interface.
            let here = |place: &usize| {
                known(place).is_some_and(|known| known.own.interface == link.own.interface)
            };
            let place = all()
                .find(|place| is_it(place) && here(place))
                .or_else(|| all().find(is_it))
                .or_else(|| all().find(|place| known(place).is_none()))
                .ok_or_else(|| {
                    format!(
                        "restart hb on this node to apply: link {name} would be the {}th since it started",
                        MAX_LINKS + 1
                    )
                })?;
            taken[place] = true;
            link.id = LinkId(place as u8);
        }
        Ok(())
    }
}

/// Tells whether two are one link by what frames say, to any machine.
fn is_same(one: &LocalLink, other: &LocalLink) -> bool {
    one.others().any(|(peer, end)| {
        let its = other.others().find(|(node, _)| node == peer);
        its.is_some_and(|(_, its)| is_way(one, end, other, its))
    })
}

/// Tells whether frames to a machine have the same two ends on both links.
fn is_way(one: &LocalLink, end: &LinkEnd, other: &LocalLink, its: &LinkEnd) -> bool {
    one.transport == other.transport
        && one.fingerprint(end.address) == other.fingerprint(its.address)
}

/// Returns the link of a number to a machine, and its end there.
fn way(local: &Local, id: LinkId, peer: NodeId) -> Option<(&LocalLink, &LinkEnd)> {
    let link = local.links.iter().find(|link| link.id == id)?;
    let (_, end) = link.others().find(|(node, _)| *node == peer)?;
    Some((link, end))
}

/// Tells whether the way to `peer` by the link of that number stays as it is.
fn stays(old: &Local, new: &Local, id: LinkId, peer: NodeId) -> bool {
    let (Some((old, end)), Some((new, its))) = (way(old, id, peer), way(new, id, peer)) else {
        return false;
    };
    is_way(old, end, new, its) && old.own.interface == new.own.interface
}

fn numbers() -> impl Iterator<Item = LinkId> {
    (0..MAX_LINKS as u8).map(LinkId)
}

impl Daemon {
    /// Begins to take the links of `prepared`. Without an error who asked is answered later.
    ///
    /// # Errors
    ///
    /// Why not, for people; then nothing was changed.
    pub(super) fn begin_relink(
        &mut self,
        mut prepared: Prepared,
        keys: String,
        reply: &mut Option<oneshot::Sender<Reply>>,
    ) -> Result<(), String> {
        self.links.number(&mut prepared.local)?;
        self.keeps_hearing(&prepared.local)?;
        tracing::info!(keys, "configuration read again: taking links");
        let reply = reply.take();
        self.links.pending = Some(Pending { prepared, keys, reply, asked: BTreeSet::new() });
        // What is to be done follows from the next look at the interfaces.
        self.surveyor.cover();
        Ok(())
    }

    /// Tells whether links wait to be taken.
    pub(super) const fn is_relinking(&self) -> bool {
        self.links.pending.is_some()
    }

    /// Gives up links that wait: this node leaves.
    pub(super) fn relink_no_more(&mut self) {
        if let Some(pending) = self.links.pending.take() {
            self.end_relink(pending, Err("this node is leaving".to_owned()));
        }
    }

    /// Checks that every machine that is heard now goes on to be heard on a link that stays.
    fn keeps_hearing(&self, new: &Local) -> Result<(), String> {
        for peer in self.others() {
            let life = self.maps().peer(peer).map(|state| Life::from_code(state.life));
            if !matches!(life, Some(Life::Alive | Life::Late)) {
                continue;
            }
            let is_heard = |id: LinkId| {
                let state = self.maps().link(peer, id);
                state.is_some_and(|(state, _)| state.links_up & 1 << id.0 != 0)
            };
            if !numbers().any(|id| stays(&self.local, new, id, peer) && is_heard(id)) {
                return Err(format!(
                    "{} is heard on no link that stays as it is: first add a link and have every node \
                     read its file, then change or remove another",
                    self.node_name(peer)
                ));
            }
        }
        Ok(())
    }

    /// Goes on with links that wait, by the interfaces as they are now.
    pub(super) fn look_at_links(&mut self, host: &HostView) {
        let Some(mut pending) = self.links.pending.take() else { return };
        let local = &pending.prepared.local;
        let mut waits = false;
        for link in &local.links {
            let name = link.own.interface.as_str();
            let Some(found) = host.interface(name) else {
                let error = format!("interface {name} of link {} is gone", link.name);
                return self.end_relink(pending, Err(error));
            };
            let attached = self.kernel.attachments().iter().any(|held| held.index == found.index);
            if !attached {
                waits = true;
                if pending.asked.insert(name.to_owned()) {
                    let only = local.attach(name);
                    self.surveyor.attach(name.to_owned(), found.index, only);
                }
            }
        }
        if waits {
            self.links.pending = Some(pending);
            return;
        }
        let taken = self
            .keeps_hearing(&pending.prepared.local)
            .and_then(|()| self.relink(&pending.prepared.local, host));
        self.end_relink(pending, taken);
    }

    /// Another thread could not attach to an interface. Tells whether links waited for that.
    pub(super) fn relink_fails(&mut self, interface: &str, error: &str) -> bool {
        let waits = |pending: &mut Pending| pending.asked.contains(interface);
        let Some(pending) = self.links.pending.take_if(waits) else { return false };
        self.end_relink(pending, Err(error.to_owned()));
        true
    }

    /// Goes by these links from now on.
    fn relink(&mut self, new: &Local, host: &HostView) -> Result<(), String> {
        let mut rebind = Rebind::default();
        let mut paths = Vec::new();
        let mut moved = Vec::new();
        // What may fail comes first.
        for peer in self.others() {
            for id in numbers() {
                let (old, wanted) = (way(&self.local, id, peer), way(new, id, peer));
                let Some((link, end)) = wanted else {
                    if old.is_some() {
                        rebind.outlets.push((peer, id, None));
                        paths.push((peer, id, Path::default()));
                    }
                    continue;
                };
                let name = link.own.interface.as_str();
                let found =
                    host.interface(name).ok_or_else(|| format!("interface {name} is gone"))?;
                let comes_to = host.comes_to(found.index);
                if !stays(&self.local, new, id, peer) {
                    let ends = ends(link, found.mac, end.address)
                        .ok_or_else(|| format!("interface {name} has no MAC address"))?;
                    let socket =
                        LinkSocket::open(found.index, ends).map_err(|error| describe(&error))?;
                    let fingerprint = link.fingerprint(end.address);
                    rebind.outlets.push((peer, id, Some(Outlet { socket, fingerprint })));
                    moved.push((id, found.index, comes_to));
                } else if old.is_some_and(|(old, _)| old.min_hops == link.min_hops) {
                    continue;
                }
                paths.push((peer, id, link.path(found.index, comes_to, end.address)));
            }
        }
        for (peer, id, path) in paths {
            self.kernel.set_path(peer, id, &path).map_err(|error| describe(&error))?;
            self.trials.remove(&(peer, id));
        }
        if !self.fast.rebind(rebind) {
            return Err("the fast path takes no commands: restart hb on this node".to_owned());
        }
        for (id, index, comes_to) in moved {
            self.macs.moved(id, index, comes_to);
        }
        for link in &new.links {
            if let Some(place) = self.links.numbered.get_mut(usize::from(link.id.0)) {
                *place = Some(link.clone());
            }
            if let Some(found) = host.interface(link.own.interface.as_str()) {
                self.anew.bind_link(&found.name, found.index);
            }
        }
        self.local = new.clone();
        Ok(())
    }

    /// Takes the rest of a configuration whose links were taken, or says why they were not.
    fn end_relink(&mut self, pending: Pending, taken: Result<(), String>) {
        let Pending { prepared, keys, mut reply, .. } = pending;
        let outcome = match taken {
            Ok(()) => {
                self.config.links.clone_from(&prepared.config.links);
                // Groups of the same file may take a while; others are to see at once that links differ.
                self.shared.set_config_hash(self.config.fingerprint());
                self.take_on(prepared, keys, &mut reply)
                    .map_err(|error| format!("the links were taken, and nothing else: {error}"))
            }
            Err(error) => {
                self.restore_level();
                Err(format!("nothing was changed: {error}"))
            }
        };
        self.end_reload(outcome, reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const GOOD: &str = include_str!("../../../packaging/hb.toml");

    fn local(text: &str) -> Local {
        let config = Config::parse(text, std::path::Path::new("hb.toml")).unwrap();
        config.for_node("a").unwrap()
    }

    /// The names and numbers of the links of `text`, read by a node that began with `GOOD`.
    fn numbered(links: &Links, text: &str) -> Result<(Local, Vec<(String, u8)>), String> {
        let mut new = local(text);
        links.number(&mut new)?;
        let numbers = new.links.iter().map(|link| (link.name.to_string(), link.id.0)).collect();
        Ok((new, numbers))
    }

    fn pairs(all: &[(&str, u8)]) -> Vec<(String, u8)> {
        all.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    /// The two links of `GOOD`, each as its text, and what stands before and after them.
    fn parts() -> [&'static str; 4] {
        let (before, rest) = GOOD.split_once("[[link]]").unwrap();
        let (client, rest) = rest.split_once("[[link]]").unwrap();
        let (cable, after) = rest.split_once("# 1 to 8 groups").unwrap();
        [before, client, cable, after]
    }

    #[test]
    fn a_link_keeps_its_number_wherever_it_stands_and_whatever_its_name() {
        let links = Links::new(&local(GOOD));
        let [before, client, cable, after] = parts();
        let turned = format!("{before}[[link]]{cable}[[link]]{client}#{after}");
        let (_, numbers) = numbered(&links, &turned).unwrap();
        assert_eq!(numbers, pairs(&[("cable", 1), ("client", 0)]));
        let other = turned.replace("\"cable\"", "\"direct\"");
        let (_, numbers) = numbered(&links, &other).unwrap();
        assert_eq!(numbers, pairs(&[("direct", 1), ("client", 0)]));
    }

    #[test]
    fn a_number_is_never_another_links() {
        let mut links = Links::new(&local(GOOD));
        for (last, number) in [(0x0c, 2), (0x0d, 3)] {
            let text = GOOD.replace("02:00:00:00:00:0b", &format!("02:00:00:00:00:{last:02x}"));
            let (new, numbers) = numbered(&links, &text).unwrap();
            assert_eq!(numbers, pairs(&[("client", 0), ("cable", number)]));
            links.numbered[usize::from(number)] = Some(new.links[1].clone());
        }
        let fifth = GOOD.replace("02:00:00:00:00:0b", "02:00:00:00:00:0e");
        let error = numbered(&links, &fifth).unwrap_err();
        assert!(error.contains("restart") && error.contains("link cable"), "{error}");
        let (_, numbers) = numbered(&links, GOOD).unwrap();
        assert_eq!(numbers, pairs(&[("client", 0), ("cable", 1)]), "it comes back to its own");
    }

    #[test]
    fn a_way_stays_while_its_ends_and_its_interface_do() {
        let old = local(GOOD);
        let witness = old.witness_id().unwrap();
        let [client, cable] = [LinkId(0), LinkId(1)];
        let b = NodeId(2);
        assert!(stays(&old, &old, client, b) && stays(&old, &old, client, witness));
        assert!(!stays(&old, &old, cable, witness), "it is not on that link");
        for (from, to, kept) in [
            ("name = \"cable\"", "name = \"other\"", [true; 3]),
            ("multihop = 0", "multihop = 1", [true; 3]),
            ("\"192.0.2.9\"", "\"192.0.2.8\"", [true, false, true]),
            ("\"192.0.2.2\"", "\"192.0.2.3\"", [false, true, true]),
            ("interface = \"eth1\"", "interface = \"eth2\"", [true, true, false]),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let new = local(&GOOD.replace(from, to));
            let found = [
                stays(&old, &new, client, b),
                stays(&old, &new, client, witness),
                stays(&old, &new, cable, b),
            ];
            assert_eq!(found, kept, "{to}");
        }
    }
}
