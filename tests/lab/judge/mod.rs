//! The judge: asks both nodes for the service at once, whatever ARP says, and watches what leaves
//! each of them at its port of the switch. One clock stamps all of it.
//!
//! What it proves is said by [`verdict`]; what it cannot see is a packet that leaves a node by
//! another port than the client network's, where no service address is configured.

mod probe;
mod tap;
pub mod verdict;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;

pub use self::verdict::{Departure, Departures, NodeClaim};
use crate::{
    addresses::{Machine, NODES},
    clock,
    netns::Netns,
};

/// Asks both nodes this often.
pub const INTERVAL: Duration = Duration::from_micros(500);

/// A judge at work.
#[derive(Debug)]
pub struct Judge {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Departures>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Judge {
    /// Begins to ask from within `client` and to watch the ports of `switch`.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn start(client: &Netns, switch: &Netns) -> Result<Self> {
        let taps = switch.enter(|| tap::Taps::open().context("cannot watch the switch"))??;
        let prober =
            client.enter(|| probe::Prober::open().context("cannot probe both nodes"))??;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Departures::default()));
        let watcher = {
            let (stop, seen) = (stop.clone(), seen.clone());
            thread::Builder::new()
                .name("judge-watch".into())
                .spawn(move || tap::watch(&taps, &stop, &seen))
                .context("cannot start the judge")?
        };
        let asker = {
            let (stop, entry) = (stop.clone(), client.entry()?);
            thread::Builder::new()
                .name("judge-ask".into())
                .spawn(move || {
                    entry.enter().context("cannot enter the client's namespace")?;
                    prober.run(&stop)
                })
                .context("cannot start the judge's questions")?
        };
        Ok(Self { stop, seen, threads: vec![watcher, asker] })
    }

    /// Returns the newest departure of a node; `None` before the first.
    #[must_use]
    pub fn newest(&self, node: Machine) -> Option<Departure> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.answers.iter().rev().find(|departure| departure.node == node).copied()
    }

    /// Waits until any node has answered after `since`; returns which and when, or `None` after
    /// `limit`.
    #[must_use]
    pub fn wait_for_service(&self, since: BootTime, limit: Duration) -> Option<Departure> {
        let end = clock::now().after(limit);
        loop {
            let found = {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.answers.iter().find(|departure| departure.at > since).copied()
            };
            if found.is_some() || clock::now() > end {
                return found;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops, and returns all that was seen, in order of time.
    ///
    /// # Errors
    ///
    /// If a socket broke meanwhile.
    pub fn finish(mut self) -> Result<Departures> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of the judge panicked"))??;
        }
        let mut seen =
            std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.answers.sort_by_key(|departure| departure.at);
        seen.claims.sort_by_key(|claim| claim.at);
        Ok(seen)
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Returns the place of a node in arrays with one entry for each.
fn place(node: Machine) -> usize {
    NODES.iter().position(|&n| n == node).unwrap_or_default()
}
