//! What nodes say of their BFD sessions on the wire (RFC 5880, section 4.1; port 3784 by RFC 5881).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;

use crate::{
    addresses::{Link, Machine, NODES},
    capture::ETHERNET,
    clock::{self, RealTime},
    socket::Socket,
    switch::{Switch, port_name},
};

/// State of a session, as its sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Down, also by an administrator.
    Down,
    /// On its way up.
    Init,
    /// Up.
    Up,
}

/// A control packet left a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// When it came out of the node's port.
    pub at: BootTime,
    /// Which node sent it.
    pub node: Machine,
    /// What it says.
    pub state: State,
}

/// Watches the ports of both nodes until [`Sessions::finish`].
#[derive(Debug)]
pub struct Sessions {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Said>>>>,
}

const LOOK_INTERVAL: Duration = Duration::from_millis(1);

impl Sessions {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// If a socket or a thread cannot be made.
    pub fn watch(switch: &Switch) -> Result<Self> {
        let open = |node: Machine| {
            let socket = Socket::packet_on(&port_name(node, Link::Client))?;
            socket.keep_times(4 << 20)?;
            Ok((node, socket))
        };
        let taps: Vec<(Machine, Socket)> = switch
            .netns()
            .enter(|| NODES.into_iter().map(open).collect::<std::io::Result<_>>())?
            .context("cannot watch the switch")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = stop.clone();
            thread::Builder::new()
                .name("bfd-watch".into())
                .spawn(move || read(&taps, &stop))
                .context("cannot start the watcher")?
        };
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops, and returns what was said in order of time.
    ///
    /// # Errors
    ///
    /// If a socket broke meanwhile.
    pub fn finish(mut self) -> Result<Vec<Said>> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the watcher was finished twice")?;
        let mut said = thread.join().map_err(|_| anyhow!("the watcher panicked"))??;
        said.sort_by_key(|said| said.at);
        Ok(said)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn read(taps: &[(Machine, Socket)], stop: &AtomicBool) -> Result<Vec<Said>> {
    let mut said = Vec::new();
    let mut buffer = [0; 256];
    let mut last_round = false;
    let mut clock = RealTime::sample();
    loop {
        clock = clock.again();
        for (node, socket) in taps {
            while let Some(received) =
                socket.receive(&mut buffer, clock).context("the tap broke")?
            {
                if let Some(state) = parse(&buffer[..received.length.min(buffer.len())]) {
                    let at = received.at.unwrap_or_else(clock::now);
                    said.push(Said { at, node: *node, state });
                }
            }
        }
        if last_round {
            return Ok(said);
        }
        last_round = stop.load(Ordering::Acquire);
        thread::sleep(LOOK_INTERVAL);
    }
}

/// Reads the state from an IPv4 control packet, `None` from any other frame.
fn parse(frame: &[u8]) -> Option<State> {
    if frame.get(12..ETHERNET)? != [8, 0] {
        return None;
    }
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let udp = ip.get(header..)?;
    if ip.get(9)? != &(libc::IPPROTO_UDP as u8) || udp.get(2..4)? != 3784_u16.to_be_bytes() {
        return None;
    }
    // Behind the UDP header: version and diagnostic, then two bits of state.
    match udp.get(9)? >> 6 {
        0 | 1 => Some(State::Down),
        2 => Some(State::Init),
        _ => Some(State::Up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16, state: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 52, 0, 0, 0, 0, 255, 17, 0, 0]);
        frame.extend([0; 8]);
        frame.extend([0xc0, 0]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 32, 0, 0, 0x20, state << 6]);
        frame
    }

    #[test]
    fn states_are_read_from_control_packets_alone() {
        for (bits, state) in [(0, State::Down), (1, State::Down), (2, State::Init), (3, State::Up)]
        {
            assert_eq!(parse(&packet(3784, bits)), Some(state));
        }
        assert_eq!(parse(&packet(3785, 3)), None);
        let whole = packet(3784, 3);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "of {length} bytes");
        }
    }
}
