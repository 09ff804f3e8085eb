//! What the kernel half of a witness has heard and promised.
//!
//! As with [`crate::status`], the report is a contract: fields are added, never renamed or given
//! another meaning; times are ages or remainders in microseconds at the moment of the report, and
//! what never happened is absent (`null`).

mod render;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use hb_ebpf::{
    epoch::Epoch,
    homes::PLACES,
    lease::{Record, start::is_learner},
    maps::{MAX_LINKS, Node, Transport},
    refusal::Refusal,
    time::BootTime,
    wire::FLAG_ANSWERS_HEARD,
};
use serde::{Deserialize, Serialize};

use super::{WitnessError, generation::refill};
use crate::{
    clock,
    config::{Config, HostView, Local, differing},
    id::{LinkId, NodeId},
    kernel::{Counters, Mode, Place, WitnessMaps},
};

pub use render::render;

/// Probes answered without one answer heard, after which the driver is under suspicion.
const UNHEARD_ANSWERS: u64 = 20;

/// Everything a witness knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WitnessReport {
    /// Version of the command that reports.
    pub version: String,
    /// Interfaces that heartbeats are answered on.
    pub interfaces: Vec<InterfaceStatus>,
    /// The clusters.
    pub clusters: Vec<ClusterStatus>,
}

/// An interface the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name; absent if it is gone.
    pub name: Option<String>,
    /// Its index.
    pub index: u32,
    /// `native`, `generic` or `tcx`.
    pub mode: String,
}

/// A cluster this machine votes in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name, if a configuration of it was given.
    pub name: Option<String>,
    /// Its number in the frames.
    pub id: u32,
    /// Whether the configuration given is the one at work; absent if none was given.
    pub config_matches: Option<bool>,
    /// Id of this machine there.
    pub witness_id: u8,
    /// Starts of this machine without a record.
    pub incarnation: u32,
    /// Whether it takes no part before it has heard every node, or an operator confirms.
    pub learner: bool,
    /// How long it still takes no part, after it started without a record.
    pub blocked_us: Option<u64>,
    /// Highest generation that it may promise: the one on its disk.
    pub generation: u32,
    /// Highest generation that it has heard of.
    pub generation_heard: u32,
    /// The nodes, in the order of the voters.
    pub nodes: Vec<NodeStatus>,
    /// The groups.
    pub groups: Vec<PromiseStatus>,
    /// Frames refused, by reason, that named no voter or no link there could be.
    pub refused: BTreeMap<String, u64>,
    /// What an operator should mend, one sentence each.
    pub warnings: Vec<String>,
}

/// A node of such a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, if a configuration was given.
    pub name: Option<String>,
    /// Its id.
    pub id: u8,
    /// When it was last heard.
    pub heard_us_ago: Option<u64>,
    /// How often its daemon started; absent before it was heard.
    pub incarnation: Option<u32>,
    /// Whether its daemon is alive, by its own frames; absent before it was heard.
    pub controller_alive: Option<bool>,
    /// Whether its configuration is the one at work here; absent before it was heard.
    pub config_matches: Option<bool>,
    /// Sections in which it is seen to differ; one in sixteen is not.
    #[serde(default)]
    pub config_differs: Vec<String>,
    /// Its links to this machine.
    pub links: Vec<LinkStatus>,
    /// Frames refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Authentic frames that echoed nothing of this machine's life, and so counted for nothing.
    pub unfresh: u64,
}

/// A link of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name, if a configuration was given.
    pub name: Option<String>,
    /// Its number.
    pub link: u8,
    /// `ethernet`, `udp4` or `udp6`.
    pub transport: String,
    /// When the node was last heard there.
    pub heard_us_ago: Option<u64>,
    /// Probes heard that counted.
    pub received: u64,
    /// Probes answered.
    pub answered: u64,
    /// Whether the node hears the answers.
    pub answers_heard: bool,
    /// Id of the key that the node sends with; absent before it was heard.
    pub key: Option<u8>,
}

/// What is promised of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseStatus {
    /// Its name, if a configuration was given.
    pub name: Option<String>,
    /// Place of its record on this machine.
    pub group: u8,
    /// Node that has the promise; absent if nobody has, or it has run out.
    pub promised_to: Option<u8>,
    /// Epoch of the last promise, 0 for none.
    pub epoch: u64,
    /// How long the promise still binds.
    pub for_us: Option<u64>,
    /// Whether that epoch was released.
    pub released: bool,
    /// At or below this epoch nothing is promised anew.
    pub recorded: u64,
}

/// Looks at what is pinned at `pins`; `configs` give it names.
///
/// # Errors
///
/// [`WitnessError::Absent`] if nothing is there; others if it cannot be read.
pub fn report(configs: &[Config], pins: &Path) -> Result<WitnessReport, WitnessError> {
    let absent = || WitnessError::Absent(pins.to_owned());
    let maps = WitnessMaps::open(pins)?.ok_or_else(absent)?;
    let host = HostView::read().map_err(WitnessError::Interfaces)?;
    let attached = maps.interfaces()?;
    let interfaces = attached.iter().map(|&(index, mode)| InterfaceStatus {
        name: host.interfaces.iter().find(|i| i.index == index).map(|i| i.name.clone()),
        index,
        mode: mode.as_str().to_owned(),
    });
    let mut clusters = Vec::new();
    for (id, home) in maps.clusters()? {
        let config = configs.iter().find(|config| config.cluster_id() == id);
        let names = config.and_then(|config| Some((config, config.for_witness()?)));
        clusters.push(Look { maps: &maps, home, names, attached: &attached }.cluster(id)?);
    }
    Ok(WitnessReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interfaces: interfaces.collect(),
        clusters,
    })
}

/// A look at one cluster.
struct Look<'a> {
    maps: &'a WitnessMaps,
    home: u32,
    names: Option<(&'a Config, Local)>,
    attached: &'a [(u32, Mode)],
}

impl Look<'_> {
    fn cluster(&self, id: u32) -> Result<ClusterStatus, WitnessError> {
        let node = self.maps.node(self.home)?;
        let terms = self.maps.terms(self.home)?;
        let mut nodes = Vec::new();
        let mut interfaces = BTreeSet::new();
        for (place, &voter) in terms.voters.iter().enumerate().take(terms.count.into()) {
            if voter == terms.own {
                continue;
            }
            let at = Place { home: self.home, place: place as u32 };
            nodes.push(self.node(at, NodeId(voter), &node)?);
            for link in 0..MAX_LINKS as u32 {
                interfaces.insert(self.maps.path(at, link)?.interface);
            }
        }
        interfaces.remove(&0);
        let records =
            (0..node.groups).map(|group| Ok((group, self.maps.record(self.home, group)?)));
        let records: Vec<(u8, Record)> = records.collect::<Result<_, WitnessError>>()?;
        let (places, records): (Vec<u8>, Vec<Record>) =
            records.into_iter().filter(|(_, record)| record.fingerprint != 0).unzip();
        let now = clock::now();
        let nowhere = Place { home: self.home, place: PLACES as u32 - 1 };
        let mut status = ClusterStatus {
            name: self.names.as_ref().map(|(config, _)| config.cluster.name.to_string()),
            id,
            config_matches: self
                .names
                .as_ref()
                .map(|(config, _)| config.fingerprint() == node.config_hash),
            witness_id: node.id,
            incarnation: node.incarnation,
            learner: records.iter().any(is_learner),
            blocked_us: records
                .iter()
                .filter(|record| !is_learner(record))
                .filter_map(|record| left(now, record.blocked_until_ns))
                .max(),
            generation: records.iter().map(|record| record.generation).min().unwrap_or(0),
            generation_heard: records
                .iter()
                .map(|record| record.highest().generation())
                .max()
                .unwrap_or(0),
            nodes,
            groups: records
                .iter()
                .zip(places)
                .map(|(record, group)| self.promise(group, record, now))
                .collect(),
            refused: reasons(&self.maps.refused(nowhere)?),
            warnings: Vec::new(),
        };
        status.warnings = self.warnings(&status, &interfaces);
        Ok(status)
    }

    fn node(&self, at: Place, id: NodeId, own: &Node) -> Result<NodeStatus, WitnessError> {
        let peer = self.maps.peer(at)?;
        let refused = self.maps.refused(at)?;
        let heard = peer.last_arrival_ns != 0;
        let name = self.names.as_ref().and_then(|(_, local)| {
            let found = local.peers.iter().find(|peer| peer.id == id)?;
            Some(found.name.to_string())
        });
        let mut links = Vec::new();
        for link in 0..MAX_LINKS as u8 {
            let path = self.maps.path(at, link.into())?;
            if path.interface == 0 {
                continue;
            }
            let state = self.maps.link(at, link.into())?;
            let now = clock::now();
            links.push(LinkStatus {
                name: self.names.as_ref().and_then(|(_, local)| {
                    let found = local.links.iter().find(|found| found.id == LinkId(link))?;
                    Some(found.name.to_string())
                }),
                link,
                transport: transport(path.transport).to_owned(),
                heard_us_ago: ago(now, state.last_arrival_ns),
                received: state.received,
                answered: state.answered,
                // A node that hears no answer has nothing of ours to echo: no probe of its counts.
                answers_heard: state.received != 0 && state.flags & FLAG_ANSWERS_HEARD != 0,
                key: (state.probe_key != 0).then_some(state.probe_key),
            });
        }
        Ok(NodeStatus {
            name,
            id: id.0,
            heard_us_ago: ago(clock::now(), peer.last_arrival_ns),
            incarnation: heard.then_some(peer.incarnation),
            controller_alive: heard.then_some(peer.controller_dead == 0),
            config_matches: heard.then_some(peer.config_hash == own.config_hash),
            config_differs: if heard {
                differing(own.config_hash, peer.config_hash)
                    .into_iter()
                    .map(str::to_owned)
                    .collect()
            } else {
                Vec::new()
            },
            links,
            refused: reasons(&refused),
            unfresh: refused[0],
        })
    }

    fn promise(&self, group: u8, record: &Record, now: BootTime) -> PromiseStatus {
        let name = self.names.as_ref().and_then(|(config, _)| {
            let named =
                config.groups.iter().find(|named| named.fingerprint() == record.fingerprint);
            named.map(|named| named.name.to_string())
        });
        let for_us = left(now, record.until_ns);
        PromiseStatus {
            name,
            group,
            promised_to: for_us.map(|_| Epoch(record.promised).node()),
            epoch: record.promised,
            for_us,
            released: record.released != 0,
            recorded: record.recorded,
        }
    }

    fn warnings(&self, status: &ClusterStatus, interfaces: &BTreeSet<u32>) -> Vec<String> {
        let mut warnings = Vec::new();
        if status.learner {
            warnings.push(
                "learner: there is no number of an earlier start on this disk; it votes once \
                 `hb witness` runs while every node is heard, or after `hb witness --confirm`"
                    .to_owned(),
            );
        } else if status.generation_heard > status.generation {
            warnings.push(format!(
                "generation {} was heard, and only {} are on the disk: this machine gives NO VOTE \
                 for its epochs; run `hb witness`",
                status.generation_heard, status.generation
            ));
        } else if refill(status.generation, status.generation_heard).is_some() {
            warnings.push(format!(
                "{} generations are left on the disk, each start of a node without its record uses \
                 one; run `hb witness` to reserve more",
                status.generation - status.generation_heard
            ));
        }
        if status.config_matches == Some(false) {
            warnings.push(
                "the configuration given is not the one at work here; run `hb witness` to take it"
                    .to_owned(),
            );
        }
        for interface in interfaces {
            if !self.attached.iter().any(|(index, _)| index == interface) {
                warnings.push(format!(
                    "nothing is attached to the interface of index {interface}, which a link uses; \
                     run `hb witness`"
                ));
            }
        }
        for node in &status.nodes {
            let who = node.name.clone().unwrap_or_else(|| NodeId(node.id).to_string());
            if node.config_matches == Some(false) {
                let within = match &node.config_differs[..] {
                    [] => String::new(),
                    sections => format!(" in [{}]", sections.join("], [")),
                };
                warnings
                    .push(format!("the configuration of {who} differs from the one here{within}"));
            }
            for link in &node.links {
                if link.answered >= UNHEARD_ANSWERS && link.received == 0 {
                    let name = link.name.clone().unwrap_or_else(|| link.link.to_string());
                    warnings.push(format!(
                        "{} probes of {who} were answered on link {name}, and it heard none of the \
                         answers: if nothing is cut, the driver loses them; run `hb witness \
                         --generic`",
                        link.answered
                    ));
                }
            }
        }
        warnings
    }
}

fn transport(code: u8) -> &'static str {
    const CODES: [(Transport, &str); 3] =
        [(Transport::Ethernet, "ethernet"), (Transport::Udp4, "udp4"), (Transport::Udp6, "udp6")];
    CODES.iter().find(|(known, _)| *known as u8 == code).map_or("unknown", |(_, name)| name)
}

fn reasons(counters: &Counters) -> BTreeMap<String, u64> {
    Refusal::ALL
        .iter()
        .map(|refusal| (refusal.as_str().to_owned(), counters[*refusal as usize]))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn ago(now: BootTime, then_ns: u64) -> Option<u64> {
    (then_ns != 0).then(|| now.since(BootTime(then_ns)).as_micros() as u64)
}

/// Returns how far `until_ns` lies ahead.
fn left(now: BootTime, until_ns: u64) -> Option<u64> {
    (until_ns > now.ns()).then(|| BootTime(until_ns).since(now).as_micros() as u64)
}
