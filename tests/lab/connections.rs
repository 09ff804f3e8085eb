//! Connections that the client keeps open to the service addresses, across whatever happens to the
//! nodes; the responders send on them all the time.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::{addresses::STREAM_PORT, clock, netns::Netns};

/// To each address, so that one is open also while another waits for a node that is gone.
const EACH: usize = 2;
/// A connection on which nothing has come for so long is given up, and made anew.
const SILENCE: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(500);
/// Between two attempts, and between two looks whether to end.
const STEP: Duration = Duration::from_millis(20);

/// Connections, open until they are finished.
#[derive(Debug)]
pub struct Connections {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Connections {
    /// Begins to connect to these addresses from within `netns`, each time anew when one ends.
    ///
    /// # Errors
    ///
    /// If a thread cannot be made.
    pub fn start(netns: &Netns, addresses: &[IpAddr]) -> Result<Self> {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for &address in addresses.iter().flat_map(|address| [address; EACH]) {
            let (entry, stop, received) = (netns.entry()?, stop.clone(), received.clone());
            let thread = thread::Builder::new().name("connection".into()).spawn(move || {
                entry.enter().context("cannot enter the client's namespace")?;
                while !stop.load(Ordering::Acquire) {
                    keep(SocketAddr::new(address, STREAM_PORT), &stop, &received);
                    thread::sleep(STEP);
                }
                Ok(())
            });
            threads.push(thread.context("cannot start a thread for a connection")?);
        }
        Ok(Self { stop, received, threads })
    }

    /// Ends them; returns how many bytes came on all of them.
    ///
    /// # Errors
    ///
    /// If the client's namespace could not be entered.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
        }
        Ok(self.received.load(Ordering::Relaxed))
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Keeps one connection for as long as it lasts.
fn keep(to: SocketAddr, stop: &AtomicBool, received: &AtomicU64) {
    // Nobody serves, perhaps: it is tried again.
    let Ok(mut stream) = TcpStream::connect_timeout(&to, ATTEMPT) else { return };
    if stream.set_read_timeout(Some(STEP)).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    let mut heard = clock::now();
    while !stop.load(Ordering::Acquire) && clock::now().since(heard) < SILENCE {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                received.fetch_add(count as u64, Ordering::Relaxed);
                heard = clock::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
