//! Two network namespaces with a veth cable between them, nothing else in either.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use ::lab::{netns::Netns, socket};
use anyhow::{Context, Result};

use crate::packets::{MY_MAC, PEER_MAC};

/// Name of the interface at either end.
pub const INTERFACE: &str = "hb0";

/// The cable and the machines at its ends. Gone on drop.
#[derive(Debug)]
pub struct Cable {
    /// Where the node under test is; its MAC address is [`MY_MAC`].
    pub node: Netns,
    /// Where its peers are; the MAC address there is [`PEER_MAC`].
    pub peers: Netns,
    /// Index of the interface on the node's side.
    pub node_index: u32,
    /// Index of the interface on the peers' side.
    pub peers_index: u32,
}

impl Cable {
    /// Lays it.
    ///
    /// # Errors
    ///
    /// If `ip` is missing or refuses a step.
    pub fn lay() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let make =
            |side: &str| Netns::create(&format!("hb-bench-{}-{count}-{side}", process::id()));
        let (node, peers) = (make("node")?, make("peers")?);
        for side in [&node, &peers] {
            // Neighbour discovery would be frames that nobody asked for.
            side.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        node.ip_batch(&format!(
            "link add {INTERFACE} address {} type veth peer name {INTERFACE} address {} netns {}",
            text(MY_MAC),
            text(PEER_MAC),
            peers.name()
        ))?;
        for side in [&node, &peers] {
            side.ip(&["link", "set", INTERFACE, "up"])?;
        }
        let index = |side: &Netns| -> Result<u32> {
            side.enter(|| socket::interface_index(INTERFACE))?
                .with_context(|| format!("no interface {INTERFACE}"))
        };
        let (node_index, peers_index) = (index(&node)?, index(&peers)?);
        Ok(Self { node, peers, node_index, peers_index })
    }
}
