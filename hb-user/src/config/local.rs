//! The configuration as one node sees it.

use std::path::PathBuf;

use hb_ebpf::maps::{Path, Transport};

use super::{Attach, Config, Link, LinkAddress, LinkEnd, Name, Node, Witness, nearest::suggestion};
use crate::{
    id::{LinkId, NodeId},
    kernel::Mode,
};

/// The configuration as one node sees it: who it is, who the others are, and which end of each
/// link is whose.
#[derive(Clone, Debug)]
pub struct Local {
    /// This node.
    pub me: Node,
    /// The others, by rank.
    pub peers: Vec<Node>,
    /// The machine that votes and never serves, if there is one.
    pub witness: Option<Witness>,
    /// The links, in the order of the file; on a witness, those it is on.
    pub links: Vec<LocalLink>,
    /// This node's own state directory: `<state_dir>/<cluster>-<node>`, so that nodes of a lab can
    /// share the parent.
    pub state_dir: PathBuf,
    /// Path of the control socket: the configured one, else `/run/hb/<cluster>-<node>.sock`.
    pub control_socket: PathBuf,
}

/// A link as one node sees it.
#[derive(Clone, Debug)]
pub struct LocalLink {
    /// The number it has here.
    pub id: LinkId,
    /// Its name.
    pub name: Name,
    /// How frames travel on it.
    pub transport: Transport,
    /// Least TTL or hop limit taken.
    pub min_hops: u8,
    /// How the program sits on its interface.
    pub attach: Attach,
    /// This node's end.
    pub own: LinkEnd,
    /// The peers' ends, by rank.
    pub peers: Vec<(NodeId, LinkEnd)>,
    /// The witness's end, if it is on this link.
    pub witness: Option<(NodeId, LinkEnd)>,
}

impl Local {
    /// Returns the only mode in which the program may sit on an interface, if one of its links wants that.
    #[must_use]
    pub fn attach(&self, interface: &str) -> Option<Mode> {
        let mut links = self.links.iter().filter(|link| link.own.interface.as_str() == interface);
        links.find_map(|link| link.attach.only())
    }

    /// Returns the id of the witness, if there is one.
    #[must_use]
    pub fn witness_id(&self) -> Option<NodeId> {
        self.witness.as_ref().map(|witness| witness.id)
    }
}

impl LocalLink {
    /// Returns every other end of the link: the peers' by rank, then the witness's.
    pub fn others(&self) -> impl Iterator<Item = &(NodeId, LinkEnd)> {
        self.peers.iter().chain(&self.witness)
    }

    /// Returns where frames of a machine whose end has `address` have to come from, and to, `interface`
    /// being the index of this end's interface and `mac` the address that IP packets come to there;
    /// `None` if that may be any but one of a group.
    #[must_use]
    pub fn path(&self, interface: u32, mac: Option<[u8; 6]>, address: LinkAddress) -> Path {
        // Of different kinds are no ends of a link: nothing is taken.
        let ends = self.own.address.ends(address);
        ends.map_or_else(Path::default, |ends| ends.path(interface, mac, self.min_hops))
    }

    /// Returns which link to the machine whose end has `address` it is, as frames say it; 0 for none.
    #[must_use]
    pub fn fingerprint(&self, address: LinkAddress) -> u32 {
        self.own.address.ends(address).map_or(0, |ends| ends.fingerprint())
    }
}

/// Why a host is no node of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The name given is no node's.
    #[error("--node {name:?} is no node of cluster {cluster}; {hint}")]
    Given {
        /// The name.
        name: String,
        /// Name of the cluster.
        cluster: String,
        /// The node that may be meant, or all of them.
        hint: String,
    },
    /// The host's name is no node's.
    #[error(
        "this host is called {hostname:?} (uname -n), which is no node of cluster {cluster} \
         ({hint}); put that name into [[node]], or tell which node it is with --node NAME"
    )]
    Host {
        /// The host's name.
        hostname: String,
        /// Name of the cluster.
        cluster: String,
        /// The node that may be meant, or all of them.
        hint: String,
    },
}

impl Config {
    /// Finds out which node this host is: the one called `given` if there is such a wish, else the
    /// one called like the host, exactly.
    ///
    /// # Errors
    ///
    /// [`IdentifyError`] names the host and the nodes there are.
    pub fn identify(&self, given: Option<&str>, hostname: &str) -> Result<Local, IdentifyError> {
        let name = given.unwrap_or(hostname);
        self.for_node(name).ok_or_else(|| {
            let cluster = self.cluster.name.to_string();
            let nodes = self.nodes.iter().map(|node| node.name.as_str());
            if given.is_some() {
                let hint = suggestion(name, "nodes", nodes);
                return IdentifyError::Given { name: name.into(), cluster, hint };
            }
            let first_label = |name: &str| name.split('.').next().map(str::to_lowercase);
            let near = nodes.clone().find(|node| first_label(node) == first_label(hostname));
            let hint = match near {
                Some(node) => format!("did you mean {node:?}?"),
                None => format!("nodes: {}", nodes.collect::<Vec<_>>().join(", ")),
            };
            IdentifyError::Host { hostname: hostname.into(), cluster, hint }
        })
    }

    /// Returns the configuration as the node called `name` sees it, or `None` if there is none.
    #[must_use]
    pub fn for_node(&self, name: &str) -> Option<Local> {
        let me = self.node(name)?.clone();
        let witness = self.witness.clone();
        let links = self.links.iter().map(|link| local_link(link, me.id, witness.as_ref()));
        let links = links.collect::<Option<_>>()?;
        Some(self.local(me, witness, links))
    }

    /// Returns the configuration as the machine that only votes sees it, or `None` if there is
    /// none. It is a node of its own name and id there, without a witness beside it.
    #[must_use]
    pub fn for_witness(&self) -> Option<Local> {
        let Witness { name, id } = self.witness.clone()?;
        let links = self.links.iter().filter_map(|link| local_link(link, id, None)).collect();
        Some(self.local(Node { name, id }, None, links))
    }

    fn local(&self, me: Node, witness: Option<Witness>, links: Vec<LocalLink>) -> Local {
        let peers = self.nodes.iter().filter(|node| node.id != me.id).cloned().collect();
        let own_name = format!("{}-{}", self.cluster.name, me.name);
        let control_socket = match &self.cluster.control_socket {
            Some(path) => path.clone(),
            None => PathBuf::from(format!("/run/hb/{own_name}.sock")),
        };
        let state_dir = self.cluster.state_dir.join(own_name);
        Local { me, peers, witness, links, state_dir, control_socket }
    }
}

fn local_link(link: &Link, me: NodeId, witness: Option<&Witness>) -> Option<LocalLink> {
    let witness = witness.map(|witness| witness.id);
    Some(LocalLink {
        id: link.id,
        name: link.name.clone(),
        transport: link.transport,
        min_hops: link.min_hops(),
        attach: link.attach,
        own: link.end(me)?.clone(),
        peers: link
            .ends()
            .filter(|(node, _)| *node != me && Some(*node) != witness)
            .map(|(node, end)| (node, end.clone()))
            .collect(),
        witness: witness.and_then(|id| Some((id, link.end(id)?.clone()))),
    })
}
