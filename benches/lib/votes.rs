//! A machine that only votes, and nodes that ask it: each cluster has two, and the first of them seeks
//! all eight groups.

use anyhow::{Context, Result, anyhow, ensure};
use hb_ebpf::{
    homes::{HOMES, PLACES},
    lease::{
        Policy, Terms, holder,
        op::{Op, Order},
        start,
        terms::{RHO_DEFAULT, Timing},
        word,
    },
    maps::{LAYOUT, MAX_LINKS, Node, Path, PeerKeys, Transport},
    siphash::Key,
    wire::{Frame, GROUPS},
};
use hb_user::{
    clock,
    id::{LinkId, NodeId},
    kernel::{Place, Seat, WITNESS_OBJECT, Witness},
};
use zerocopy::FromZeros;

use crate::{
    bpf::Program,
    cable::{Cable, INTERFACE},
    half::{LINK_IS, Pins},
    packets::{MY_MAC, PEER_MAC},
    stand_in::{StandIn, fingerprint, standing_by},
};

const WITNESS: NodeId = NodeId(3);
const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];
const NONCE: u64 = 0x5eed;
const KEY_ID: u8 = 1;
const GENERATION: u32 = 1;
const MS: u64 = 1_000_000;
/// The first cluster's id; the others follow.
const FIRST: u32 = 0x00b0_0000;

/// The witness.
pub struct Votes {
    witness: Witness,
    program: Program,
    clusters: u32,
    _pins: Pins,
}

fn terms(policy: Policy, own: NodeId) -> Result<Terms> {
    let timing = Timing {
        lease_ns: 50 * MS,
        margin_ns: 2 * MS,
        drain_ns: 5 * MS,
        seek_ns: 150 * MS,
        rho: RHO_DEFAULT,
        interval_ns: MS,
        deadtime_ns: 5 * MS,
        controller_deadtime_ns: 50 * MS,
    };
    let voters = [NODES[0].0, NODES[1].0, WITNESS.0];
    Terms::new(policy, &timing, &voters, own.0, Some(WITNESS.0)).map_err(|error| anyhow!("{error}"))
}

/// The key of frames from a node of a cluster, or to it.
fn key(cluster: u32, node: NodeId, from_node: bool) -> Key {
    Key { words: [cluster.into(), u64::from(node.0) << 1 | u64::from(from_node)] }
}

fn seat(cluster: u32, policy: Policy, interface: u32) -> Result<Seat> {
    let mut node = Node::new_zeroed();
    (node.layout, node.nonce, node.cluster) = (LAYOUT, NONCE, cluster);
    (node.id, node.groups, node.incarnation) = (WITNESS.0, GROUPS as u8, 1);
    node.controller_stamp_ns = u64::MAX;
    let mut seat = Seat {
        node,
        terms: terms(policy, WITNESS)?,
        keys: [PeerKeys::default(); PLACES],
        paths: [[Path::default(); MAX_LINKS]; PLACES],
    };
    for (place, id) in NODES.into_iter().enumerate() {
        let mut keys = PeerKeys { ids: [KEY_ID, 0], ..PeerKeys::default() };
        keys.receive[0] = key(cluster, id, true);
        keys.transmit[0] = key(cluster, id, false);
        seat.keys[place] = keys;
        seat.paths[place][0] = Path {
            interface,
            transport: Transport::Ethernet as u8,
            min_hops: 255,
            mac: PEER_MAC,
            own_mac: MY_MAC,
            reserved: [0; 2],
            fingerprint: LINK_IS,
            address: [0; 16],
            own_address: [0; 16],
        };
    }
    Ok(seat)
}

impl Votes {
    /// Puts a witness of so many clusters at the node's end of the cable.
    ///
    /// # Errors
    ///
    /// What is missing: a privilege, or a feature of the kernel.
    pub fn open(cable: &Cable, clusters: u32) -> Result<Self> {
        ensure!(clusters as usize <= HOMES, "a witness has room for {HOMES} clusters");
        let pins = Pins::new()?;
        let index = cable.node_index;
        let witness = cable.node.enter(|| -> Result<Witness> {
            let mut witness = Witness::open(WITNESS_OBJECT, pins.path())?;
            for home in 0..clusters {
                let cluster = FIRST + home;
                // Where nothing is promised there is nothing to wait for.
                witness.seat(home, &seat(cluster, Policy::Available, index)?)?;
                for group in 0..GROUPS as u8 {
                    let fingerprint = fingerprint(group.into());
                    let order = Order {
                        fingerprint,
                        generation: GENERATION,
                        ..Order::new(Op::Start, group)
                    };
                    witness.order(home, order)?;
                }
                witness.seat(home, &seat(cluster, Policy::Witness, index)?)?;
                witness.admit(cluster, home)?;
            }
            witness.attach(INTERFACE, index, None)?;
            Ok(witness)
        })??;
        let program = Program::of(witness.program_fd()?).context("no file descriptor is left")?;
        Ok(Self { witness, program, clusters, _pins: pins })
    }

    /// Returns the program that votes.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns all nodes of all clusters, and how to find the one a frame is for.
    ///
    /// # Errors
    ///
    /// If the lengths of the leases do not fit.
    pub fn nodes(
        &self,
    ) -> Result<(Vec<StandIn>, impl Fn(&Frame) -> Option<usize> + Send + 'static)> {
        let now = clock::now();
        let terms = terms(Policy::Witness, NODES[0])?;
        let mut nodes = Vec::new();
        for cluster in FIRST..FIRST + self.clusters {
            for id in NODES {
                let mut words = standing_by();
                if id == NODES[0] {
                    let mut record = start::start(&terms, GENERATION, 0);
                    holder::seek(&mut record, &terms, now.ns())
                        .map_err(|error| anyhow!("a node cannot seek: {error:?}"))?;
                    for (group, said) in words.iter_mut().enumerate() {
                        record.fingerprint = fingerprint(group);
                        word::speak(&record, &terms, true, now.ns(), said);
                    }
                }
                nodes.push(StandIn {
                    id,
                    to: WITNESS,
                    link: LinkId(0),
                    link_fingerprint: LINK_IS,
                    cluster,
                    config_hash: 1,
                    key: (KEY_ID, key(cluster, id, true)),
                    nonce: u64::from(cluster) << 8 | u64::from(id.0),
                    known: NONCE,
                    echo: (now.ns(), now),
                    sequences: [0; 2],
                    words,
                });
            }
        }
        let clusters = self.clusters;
        let who = move |frame: &Frame| {
            let cluster = frame.cluster.get().checked_sub(FIRST).filter(|&home| home < clusters)?;
            let place = NODES.iter().position(|id| id.0 == frame.destination)?;
            Some(cluster as usize * NODES.len() + place)
        };
        Ok((nodes, who))
    }

    /// Returns how many groups are promised to the node that seeks them.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to show a record.
    pub fn promised(&self) -> Result<usize> {
        let now = clock::now().ns();
        let mut count = 0;
        for home in 0..self.clusters {
            for group in 0..GROUPS as u8 {
                let record = self.witness.maps().record(home, group)?;
                count += usize::from(record.is_bound(now));
            }
        }
        Ok(count)
    }

    /// Returns how many frames were heard of all nodes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to show a link.
    pub fn heard(&self) -> Result<u64> {
        let mut count = 0;
        for home in 0..self.clusters {
            for place in 0..NODES.len() as u32 {
                count += self.witness.maps().link(Place { home, place }, 0)?.received;
            }
        }
        Ok(count)
    }
}
