//! Everything that can be found wrong before anything is touched.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use hb_ebpf::{
    homes::PLACES,
    lease::Terms,
    maps::{LAYOUT, MAX_LINKS, Node, PeerKeys},
};
use zerocopy::FromZeros as _;

use super::WitnessError;
use crate::{
    config::{Config, ConfigErrors, HostView, Local, Name},
    id::NodeId,
    kernel::Seat,
    key::{ClusterKeys, peer_keys},
    trust,
};

/// A cluster in which this machine could vote.
#[derive(Debug)]
pub struct Prepared {
    /// Its configuration.
    pub config: Config,
    /// As this machine sees it.
    pub local: Local,
    /// What its promises go by.
    pub terms: Terms,
    /// Its keys.
    keys: ClusterKeys,
    /// Indexes of the interfaces of its links, by name.
    pub interfaces: BTreeMap<String, u32>,
}

/// Returns the configuration files that `given` names: a directory stands for those in it whose
/// names end in `.toml`, in their order.
///
/// # Errors
///
/// [`WitnessError::Directory`], [`WitnessError::Empty`].
pub fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, WitnessError> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unread = |source| WitnessError::Directory { path: path.clone(), source };
        let entries = fs::read_dir(path).map_err(unread)?;
        let entries: io::Result<Vec<_>> =
            entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut found: Vec<_> = entries
            .map_err(unread)?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        if found.is_empty() {
            return Err(WitnessError::Empty(path.clone()));
        }
        found.sort_unstable();
        files.append(&mut found);
    }
    Ok(files)
}

/// A cluster whose interfaces, or addresses of this machine, are not there yet.
#[derive(Debug)]
pub struct Waiting {
    /// Its configuration file.
    pub path: PathBuf,
    /// What is missing.
    pub errors: ConfigErrors,
    /// How long the file says to wait for that; `None` for as long as it takes.
    pub limit: Option<Duration>,
}

/// Checks the configurations in `files`, this host against them, and the keys. Changes nothing. Returns
/// the clusters in which this machine could vote, and those for which it has to wait.
///
/// # Errors
///
/// The first [`WitnessError`] found that does not pass by itself.
pub fn prepare(files: &[PathBuf]) -> Result<(Vec<Prepared>, Vec<Waiting>), WitnessError> {
    let host = HostView::read().map_err(WitnessError::Interfaces)?;
    let (mut clusters, mut waiting) = (Vec::new(), Vec::new());
    let mut known: Vec<(u32, PathBuf, String)> = Vec::new();
    for file in files {
        let config = Config::load(file)?;
        let (id, name) = (config.cluster_id(), config.cluster.name.to_string());
        let limit = config.cluster.network_wait;
        match one(config, &host) {
            Err(WitnessError::Config(errors)) if errors.may_pass() => {
                waiting.push(Waiting { path: file.clone(), errors, limit });
            }
            prepared => clusters.push(prepared?),
        }
        if let Some((_, path, other)) = known.iter().find(|(known, ..)| *known == id) {
            return Err(WitnessError::Twice {
                paths: [path.clone(), file.clone()],
                names: [other.clone(), name],
            });
        }
        known.push((id, file.clone(), name));
    }
    Ok((clusters, waiting))
}

fn one(config: Config, host: &HostView) -> Result<Prepared, WitnessError> {
    trust::check(config.path())?;
    let no_witness = || WitnessError::NoWitness {
        path: config.path().to_owned(),
        policy: config.cluster.policy.as_str(),
    };
    let local = config.for_witness().ok_or_else(no_witness)?;
    let keys = ClusterKeys::load(&config.cluster.key_file)?;
    let terms = config.terms(local.me.id)?;
    config.check_host(&local, host)?;
    let interfaces = local
        .links
        .iter()
        .filter_map(|link| host.interface(link.own.interface.as_str()))
        .map(|found| (found.name.clone(), found.index))
        .collect();
    Ok(Prepared { config, local, terms, keys, interfaces })
}

impl Prepared {
    /// Returns the name of the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.cluster.name.as_str()
    }

    /// Returns the name of a voter.
    #[must_use]
    pub fn voter(&self, id: NodeId) -> Option<&Name> {
        let nodes = self.local.peers.iter().chain([&self.local.me]);
        nodes.into_iter().find(|node| node.id == id).map(|node| &node.name)
    }

    /// Returns what the kernel half goes by: who this machine is, with the nonce and incarnation
    /// of its life, and whose frames it takes from where.
    #[must_use]
    pub fn seat(&self, nonce: u64, incarnation: u32) -> Seat {
        let cluster = self.config.cluster_id();
        let mut node = Node::new_zeroed();
        node.layout = LAYOUT;
        node.nonce = nonce;
        node.config_hash = self.config.fingerprint();
        // There is no controller that could die: its age is 0 for ever.
        node.controller_stamp_ns = u64::MAX;
        node.controller_deadtime_ns = self.config.timers.controller_deadtime().as_nanos() as u64;
        node.cluster = cluster;
        node.incarnation = incarnation;
        node.id = self.local.me.id.0;
        let end = self.config.groups.iter().map(|group| group.id.0 + 1).max();
        node.groups = end.unwrap_or(0);
        let mut seat = Seat {
            node,
            terms: self.terms,
            keys: [PeerKeys::default(); PLACES],
            paths: [[hb_ebpf::maps::Path::default(); MAX_LINKS]; PLACES],
        };
        for peer in &self.local.peers {
            let Some(place) = self.terms.place(peer.id.0) else { continue };
            seat.keys[place] = peer_keys(&self.keys, cluster, self.local.me.id, peer.id);
            for link in &self.local.links {
                let interface = self.interfaces.get(link.own.interface.as_str());
                let end = link.peers.iter().find(|(id, _)| *id == peer.id);
                let (Some(interface), Some((_, end))) = (interface, end) else { continue };
                // Nobody would write a new MAC address here if the interface got one.
                let path = link.path(*interface, None, end.address);
                seat.paths[place][usize::from(link.id.0)] = path;
            }
        }
        seat
    }
}
