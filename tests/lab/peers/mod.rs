//! Other failover software in the place of `hb`, to be measured beside it: one small adapter each,
//! and [`Rig`], which runs any of them in a lab.
//!
//! Each comes as its Debian package installs it. What it reads and writes is private to the node it
//! runs on: see [`cage`].

pub mod cage;
mod frr;
mod heartbeat;
mod keepalived;
mod pacemaker;
mod rig;
mod ucarp;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::addresses::Machine;

pub use self::{
    frr::Frr,
    heartbeat::Heartbeat,
    keepalived::{Keepalived, NOTIFY},
    pacemaker::Pacemaker,
    rig::Rig,
    ucarp::Ucarp,
};

/// A file of a peer's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it lies, below the directory that the cage shows at [`cage::HOME`].
    pub path: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// Its text.
    pub text: String,
}

impl File {
    fn plain(path: &'static str, text: impl Into<String>) -> Self {
        Self { path, mode: 0o644, text: text.into() }
    }

    fn secret(path: &'static str, text: impl Into<String>) -> Self {
        Self { path, mode: 0o600, text: text.into() }
    }

    fn script(path: &'static str, text: impl Into<String>) -> Self {
        Self { path, mode: 0o755, text: text.into() }
    }
}

/// How one sees from outside that a peer has noticed a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The other node answers at the service address.
    ByService,
    /// It serves nothing; the other node says on the wire that its BFD session is down.
    BySession,
}

/// What a benchmark has to know of another failover software.
pub trait Peer {
    /// Returns its word on the command line and in tables.
    fn name(&self) -> &'static str;

    /// Returns its timers in a few words.
    fn config(&self) -> &'static str;

    /// Returns the Debian packages it comes in.
    fn packages(&self) -> &'static [&'static str];

    /// Returns the services those packages would start with the machine, which is not wanted.
    fn services(&self) -> &'static [&'static str];

    /// Returns the programs that must be there after the packages were installed.
    fn programs(&self) -> &'static [&'static str];

    /// Returns its configuration on a node.
    fn files(&self, node: Machine) -> Vec<File>;

    /// Returns the directories of the system that are empty and its own: for state and sockets.
    fn empty(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns what of its files is shown where, each relative to [`cage::HOME`].
    fn shown(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Returns the shell commands that start it on a node. The last one may go on for ever.
    fn commands(&self, node: Machine) -> String;

    /// Returns how the names of its processes begin, that of the one to be asked to leave first.
    fn processes(&self) -> &'static [&'static str];

    /// Returns how it is judged.
    fn judged(&self) -> Judged {
        Judged::ByService
    }

    /// Returns the time between two of its heartbeats: a fault happens anywhere within it.
    fn period(&self) -> Duration;

    /// Returns how long one node has to serve, and it alone, before both are taken as settled.
    fn settle(&self) -> Duration;

    /// Returns whether the nodes say that they are one cluster; `homes` are their directories.
    ///
    /// # Errors
    ///
    /// If what they say cannot be read.
    fn is_joined(&self, homes: &[PathBuf; 2]) -> Result<bool> {
        let _ = homes;
        Ok(true)
    }

    /// Returns how long it may take to settle.
    fn start_limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Returns how long a takeover may take.
    fn move_limit(&self) -> Duration;
}

/// Returns all, in the order they are shown in.
#[must_use]
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(Keepalived { real_time: false }),
        Box::new(Keepalived { real_time: true }),
        Box::new(Heartbeat),
        Box::new(Ucarp),
        Box::new(Pacemaker),
        Box::new(Frr),
    ]
}

/// Returns the programs of a peer that are not there.
#[must_use]
pub fn missing(peer: &dyn Peer) -> Vec<&'static str> {
    peer.programs().iter().copied().filter(|program| !Path::new(program).exists()).collect()
}
