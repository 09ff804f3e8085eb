//! The lab's power switch, and the fence agent that asks it: options on standard input, one
//! `name=value` a line, and an exit status, as fence agents have it.
//!
//! A node that is switched off is cut from every wire in one instant and then has no process left;
//! only after that does the agent report success.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hb_ebpf::time::BootTime;

use crate::{
    addresses::{Machine, NODES},
    clock,
    netns::Netns,
    switch::Wires,
};

/// A request that the switch got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// When it was done, or refused.
    pub at: BootTime,
    /// Which node was to be switched off.
    pub node: Machine,
    /// Whether it was.
    pub done: bool,
}

#[derive(Debug, Default)]
struct State {
    /// By the place of the node in `NODES`.
    broken: [AtomicBool; NODES.len()],
    ended: AtomicBool,
    requests: Mutex<Vec<Fenced>>,
    supply: Arc<Mutex<()>>,
}

/// What loses its power with a node.
#[derive(Debug)]
pub(crate) struct Plug {
    /// The name of its namespace.
    pub(crate) namespace: String,
    /// Where its kernel half is pinned.
    pub(crate) pins: PathBuf,
}

/// The power switch of the nodes.
#[derive(Debug)]
pub struct PowerSwitch {
    socket: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

/// Why neither end waits longer for the other.
const PATIENCE: Duration = Duration::from_secs(5);

impl PowerSwitch {
    /// Begins to listen on `socket`.
    ///
    /// # Errors
    ///
    /// If the socket or a thread cannot be made.
    pub(crate) fn start(socket: &Path, wires: Wires, nodes: [Plug; NODES.len()]) -> Result<Self> {
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let state = Arc::new(State::default());
        let thread = {
            let state = state.clone();
            thread::Builder::new()
                .name("power-switch".into())
                .spawn(move || serve(&listener, &state, &wires, &nodes))
                .context("cannot start the power switch")?
        };
        Ok(Self { socket: socket.into(), state, thread: Some(thread) })
    }

    /// Has the requests for these nodes fail from now on, and those nodes not switched off; those for
    /// the others succeed.
    pub fn set_broken(&self, nodes: &[Machine]) {
        for (place, node) in NODES.iter().enumerate() {
            self.state.broken[place].store(nodes.contains(node), Ordering::Release);
        }
    }

    /// Returns what is locked while a node is switched off. Lock it while one boots or is plugged in
    /// again: no machine does while its power is being cut.
    #[must_use]
    pub fn supply(&self) -> Arc<Mutex<()>> {
        self.state.supply.clone()
    }

    /// Returns the requests since the last call.
    #[must_use]
    pub fn take_requests(&self) -> Vec<Fenced> {
        std::mem::take(&mut self.state.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for PowerSwitch {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        // Wakes the thread, which then sees that it is to end.
        let woken = UnixStream::connect(&self.socket);
        if let Some(thread) = self.thread.take()
            && woken.is_ok()
            && thread.join().is_err()
        {
            eprintln!("lab: the power switch panicked");
        }
    }
}

fn serve(listener: &UnixListener, state: &State, wires: &Wires, nodes: &[Plug; NODES.len()]) {
    for stream in listener.incoming() {
        if state.ended.load(Ordering::Acquire) {
            return;
        }
        let done = stream.context("cannot accept a connection").and_then(|stream| {
            let answer = answer(&stream, state, wires, nodes);
            let word = match &answer {
                Ok((word, _)) => (*word).to_owned(),
                Err(error) => format!("error {error:#}"),
            };
            (&stream).write_all(word.as_bytes()).context("cannot answer a fence agent")?;
            match answer? {
                // Its programs end later than its processes, behind wires that are cut.
                (_, Some(off)) => off.node.wait_until_detached(),
                (_, None) => Ok(()),
            }
        });
        if let Err(error) = done {
            eprintln!("lab: power switch: {error:#}");
        }
    }
}

/// A node that is being switched off.
struct Off<'a> {
    node: Netns,
    _supply: MutexGuard<'a, ()>,
}

/// Does what an agent asks for. Returns what to tell it, and the node if one was switched off.
fn answer<'a>(
    stream: &UnixStream,
    state: &'a State,
    wires: &Wires,
    nodes: &[Plug; NODES.len()],
) -> Result<(&'static str, Option<Off<'a>>)> {
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait for an agent")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("cannot read from a fence agent")?;
    let (action, name) = line.trim().split_once(' ').context("a fence agent said no action")?;
    let place = NODES
        .iter()
        .position(|node| node.name() == name)
        .with_context(|| format!("no plug {name:?}"))?;
    let node = NODES[place];
    match action {
        "off" | "reboot" => {
            let done = !state.broken[place].load(Ordering::Acquire);
            let mut off = None;
            if done {
                let supply = state.supply.lock().unwrap_or_else(PoisonError::into_inner);
                wires.cut(node);
                let node = Netns::open(&nodes[place].namespace)?;
                node.lose_power(&nodes[place].pins)?;
                off = Some(Off { node, _supply: supply });
            }
            let at = clock::now();
            let mut requests = state.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(Fenced { at, node, done });
            Ok((if done { "ok" } else { "the power switch is broken" }, off))
        }
        "monitor" => Ok(("ok", None)),
        "status" => {
            let on = !Netns::open(&nodes[place].namespace)?.processes()?.is_empty();
            Ok((if on { "ok" } else { "off" }, None))
        }
        _ => bail!("action {action:?} is none of off, reboot, monitor and status"),
    }
}

/// The agent's own side; `arguments` are the power switch's socket.
///
/// # Errors
///
/// If the switch did not do what was asked: the node may be on. The exit status says so.
pub fn agent(arguments: &[String]) -> Result<()> {
    let [socket] = arguments else {
        bail!("lab-fence needs a socket, got {arguments:?}");
    };
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("cannot read options")?;
    let request = request(&text)?;
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("no power switch listens on {socket}"))?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait")?;
    (&stream).write_all(request.as_bytes()).context("cannot write to the power switch")?;
    let mut said = String::new();
    (&stream).read_to_string(&mut said).context("the power switch does not answer")?;
    ensure!(said == "ok", "the power switch said {said:?}");
    Ok(())
}

/// Makes a line for the switch of an agent's options.
fn request(options: &str) -> Result<String> {
    let option = |name: &str| {
        let values = options.lines().filter_map(|line| line.trim().split_once('='));
        values.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next_back()
    };
    let action = option("action").context("no option action")?;
    let plug = option("plug").context("no option plug")?;
    ensure!(!action.contains(char::is_whitespace), "action {action:?} is no word");
    Ok(format!("{action} {plug}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_fence_agents_read_them() {
        let options = "# a comment\naction=off\nnodename=b\n plug=b \n";
        assert_eq!(request(options).unwrap(), "off b\n");
        assert!(request("action=off\n").is_err());
        assert!(request("plug=b\n").is_err());
        assert!(request("action=off now\nplug=b\n").is_err());
    }
}
