//! The processes of a node: its responder and its daemon.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    addresses::Machine,
    clock,
    disk::{Disk, Plug},
    netns::{self, Netns},
    responder::Order,
};

/// A process in a node's namespace, killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
    /// Held open: the responder ends when it closes.
    input: Option<ChildStdin>,
    /// Whether it was told to end in order.
    told: AtomicBool,
}

impl Process {
    pub(crate) fn spawn(command: Command, what: String, log: &Path) -> Result<Self> {
        Self::spawn_on(None, command, what, log)
    }

    /// Starts a process that writes to `disk`.
    fn spawn_on(
        disk: Option<&Disk>,
        mut command: Command,
        what: String,
        log: &Path,
    ) -> Result<Self> {
        let plug = disk.map(|disk| disk.plug(&mut command)).transpose()?;
        let output = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .stdout(output.try_clone().context("cannot duplicate a log handle")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let input = child.stdin.take();
        plug.map_or(Ok(()), Plug::serve)?;
        Ok(Self { child, what, log: log.into(), input, told: AtomicBool::new(false) })
    }

    /// Returns its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Returns the file its output goes to.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends it a signal. The pid is not reused before the process is waited for, here.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn signal(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGTERM {
            self.told.store(true, Ordering::Relaxed);
        }
        netns::signal(self.pid(), signal)
    }

    /// Returns whether it was told to end in order.
    #[must_use]
    pub fn was_told_to_end(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Returns how it ended, or `None` while it runs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.what))
    }

    /// Gives a responder an order and waits until it is carried out.
    ///
    /// # Errors
    ///
    /// If it has ended, or does not obey within five seconds.
    pub fn order(&mut self, order: Order) -> Result<()> {
        let done = match order {
            Order::Hold => "held",
            Order::Read => "reads",
        };
        let before = self.count_lines(done)?;
        let input =
            self.input.as_mut().with_context(|| format!("{} takes no orders", self.what))?;
        input
            .write_all(&[order as u8])
            .with_context(|| format!("cannot write to {}", self.what))?;
        self.wait_for_line(done, before + 1)
    }

    fn count_lines(&self, wanted: &str) -> Result<usize> {
        let said = fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(said.lines().filter(|&line| line == wanted).count())
    }

    /// Waits until it has said a line so often.
    fn wait_for_line(&mut self, line: &str, times: usize) -> Result<()> {
        let end = clock::now().after(Duration::from_secs(5));
        while self.count_lines(line)? < times {
            self.check()?;
            ensure!(clock::now() < end, "{} does not say {line:?} within 5 s", self.what);
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it goes on for longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = clock::now().after(limit);
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(clock::now() < end, "{} did not end within {limit:?}", self.what);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns an error that names the process, its end and the last lines of its log, if it has
    /// ended.
    ///
    /// # Errors
    ///
    /// That one.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        let how = status
            .signal()
            .map_or_else(|| format!("with {status}"), |signal| format!("by signal {signal}"));
        bail!(
            "{} ended {how}; its log {} ends: {}",
            self.what,
            self.log.display(),
            tail(&self.log)?
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("lab: cannot end {}: {error}", self.what);
        }
    }
}

/// Starts a responder in the namespace of `node` and waits until it answers; it ends with this
/// process or after `limit`. It reads its node's leases at `leases`.
///
/// # Errors
///
/// If it does not start.
pub fn respond(
    agent: &Path,
    node: Machine,
    netns: &Netns,
    log: &Path,
    limit: Duration,
    leases: &Path,
) -> Result<Process> {
    let mut command = netns.command(agent)?;
    command
        .args(["lab-responder", &node.id().to_string(), &limit.as_secs().to_string()])
        .arg(leases)
        .stdin(Stdio::piped());
    let mut process = Process::spawn(command, format!("the responder of {node}"), log)?;
    process.wait_for_line("ready", 1)?;
    Ok(process)
}

/// Starts the daemon of `node` in its namespace and on its disk, without waiting for anything.
///
/// # Errors
///
/// If it cannot be run.
pub fn daemon(
    hb: &Path,
    config: &Path,
    node: Machine,
    netns: &Netns,
    disk: Option<&Disk>,
    log: &Path,
) -> Result<Process> {
    let mut command = netns.command(hb)?;
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .args(["--node", node.name()])
        .stdin(Stdio::null());
    Process::spawn_on(disk, command, format!("the daemon of {node}"), log)
}

/// Asks the daemon behind `socket` for its status, as `hb status --json` prints it.
///
/// # Errors
///
/// If it does not answer, or not with JSON.
pub fn status(hb: &Path, socket: &Path) -> Result<Value> {
    let output = Command::new(hb)
        .args(["status", "--json", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {} status", hb.display()))?;
    // Below 3 it tells how the cluster stands.
    ensure!(
        output.status.code().is_some_and(|code| code < 3),
        "{} status --json --socket {} failed: {}",
        hb.display(),
        socket.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} status --json did not print JSON", hb.display()))
}

/// Returns whether a status says that the controller of `peer` is alive: the member
/// `controller.alive` of the element of `peers` whose `node` it is. `None` if it does not say.
#[must_use]
pub fn controller_alive(status: &Value, peer: Machine) -> Option<bool> {
    status
        .get("peers")?
        .as_array()?
        .iter()
        .find(|entry| entry.get("node").and_then(Value::as_str) == Some(peer.name()))?
        .get("controller")?
        .get("alive")?
        .as_bool()
}

/// Returns the last lines of a file, joined by `|`.
fn tail(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = std::collections::VecDeque::new();
    for line in BufReader::new(file).lines() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if lines.len() == 5 {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    Ok(Vec::from(lines).join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_by_name() {
        let status = serde_json::json!({
            "peers": [
                {"node": "c", "controller": {"alive": true}},
                {"node": "a", "controller": {"alive": false}},
                {"node": "b", "controller": null}
            ]
        });
        assert_eq!(controller_alive(&status, Machine::A), Some(false));
        assert_eq!(controller_alive(&status, Machine::B), None);
        assert_eq!(controller_alive(&status, Machine::Client), None);
    }
}
