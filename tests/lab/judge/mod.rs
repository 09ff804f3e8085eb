//! The judge: asks both nodes for the service at once, whatever ARP says, and watches what leaves
//! each of them at its ports of the switch. One clock stamps all of it.
//!
//! What it proves is said by [`verdict`].

mod probe;
mod tap;
pub mod verdict;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;

pub use self::verdict::{Departure, Departures, Packet};
use crate::{
    addresses::{Machine, NODES, VIPS},
    clock,
    netns::Netns,
};

/// Asks both nodes this often, each time for the next address of either family.
pub const INTERVAL: Duration = Duration::from_micros(500);

/// A judge at work.
#[derive(Debug)]
pub struct Judge {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Departures>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Judge {
    /// Begins to ask from within `client` and to watch the ports of `switch`. The addresses of each of
    /// `lines` are those of one group, and are judged together.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn start(client: &Netns, switch: &Netns, lines: Vec<Vec<IpAddr>>) -> Result<Self> {
        let asked: Vec<_> = VIPS
            .into_iter()
            .filter(|address| lines.is_empty() || lines.concat().contains(address))
            .collect();
        let taps = switch.enter(|| tap::Taps::open().context("cannot watch the switch"))??;
        let prober =
            client.enter(|| probe::Prober::open(&asked).context("cannot probe both nodes"))??;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Departures { lines, ..Departures::default() }));
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

    /// Returns the newest packet of an address that neither answered nor claimed; `None` before the
    /// first.
    #[must_use]
    pub fn newest_data(&self, address: IpAddr) -> Option<Packet> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |packet: &&Packet| packet.address == address && packet.what == verdict::What::Data;
        seen.packets.iter().rev().find(of).copied()
    }

    /// Waits until each of these addresses was answered for by any node after `since`; returns the
    /// first answer of the one that was last, or after `limit` those that nobody answered for.
    ///
    /// # Errors
    ///
    /// Those.
    pub fn wait_for_service(
        &self,
        addresses: &[IpAddr],
        since: BootTime,
        limit: Duration,
    ) -> Result<Option<Departure>, Vec<IpAddr>> {
        let end = clock::now().after(limit);
        let mut missing = addresses.to_vec();
        let mut last = None;
        loop {
            let found: Vec<Departure> = {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let after = seen.answers.partition_point(|answer| answer.at <= since);
                let later = &seen.answers[after..];
                let first = |address: &IpAddr| later.iter().find(|a| a.address == *address);
                missing.iter().filter_map(first).copied().collect()
            };
            missing.retain(|address| found.iter().all(|answer| answer.address != *address));
            last = found.into_iter().chain(last).max_by_key(|answer| answer.at);
            if missing.is_empty() {
                return Ok(last);
            }
            if clock::now() > end {
                return Err(missing);
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
        seen.packets.sort_by_key(|packet| packet.at);
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
