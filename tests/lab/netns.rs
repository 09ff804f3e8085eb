//! Network namespaces as values: made with a name of their own, entered by a thread, gone on drop.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{clock, guard, tcx};

/// Where `ip netns` keeps names.
pub const NAMES: &str = "/run/netns";

/// A network namespace.
///
/// Only the network is entered, never another mount namespace: `ip netns exec` mounts a new `/sys`
/// and so hides the BPF file system.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: OwnedFd,
    identity: (u64, u64),
    owned: bool,
}

impl Netns {
    /// Makes a namespace, its loopback up.
    ///
    /// # Errors
    ///
    /// If `ip` is missing or refuses: no `CAP_SYS_ADMIN`, or the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name])?;
        let mut netns = Self::open(name)?;
        netns.owned = true;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Opens a namespace that somebody else made and will delete.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn open(name: &str) -> Result<Self> {
        let path = path(name);
        let file = File::open(&path)
            .with_context(|| format!("cannot open network namespace {}", path.display()))?;
        let identity = identity(&file.metadata()?);
        Ok(Self { name: name.into(), handle: file.into(), identity, owned: false })
    }

    /// Returns its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns something to move a thread into this namespace with.
    ///
    /// # Errors
    ///
    /// If no file descriptor is left.
    pub fn entry(&self) -> Result<Entry> {
        let handle = self.handle.try_clone().context("cannot duplicate a namespace handle")?;
        Ok(Entry { handle })
    }

    /// Runs `work` on a thread inside the namespace and returns what it returned.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered; a panic of `work` goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let entry = self.entry()?;
        thread::scope(|scope| {
            scope
                .spawn(move || entry.enter().map(|()| work()))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// Prepares a command that runs inside the namespace, with the mounts of the caller.
    ///
    /// # Errors
    ///
    /// If no file descriptor is left.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let entry = self.entry()?;
        let mut command = Command::new(program.as_ref());
        // SAFETY: the closure makes two system calls and touches no memory of the parent.
        #[expect(clippy::disallowed_methods, reason = "no real-time daemon forks here")]
        unsafe {
            command.pre_exec(move || {
                // A shell has its background jobs ignore it, and what runs here is to end by it.
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                entry.enter()
            });
        }
        Ok(command)
    }

    /// Runs `ip` on this namespace.
    ///
    /// # Errors
    ///
    /// With what `ip` said, if it failed.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run("ip", &[&["-n", self.name.as_str()], arguments].concat())
    }

    /// Runs `ip -json` on this namespace and returns what it printed.
    ///
    /// # Errors
    ///
    /// With what `ip` said, if it failed, or if it did not print JSON.
    pub fn ip_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = read("ip", &[&["-n", self.name.as_str(), "-json"], arguments].concat())?;
        // What finds nothing prints nothing.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text)
            .with_context(|| format!("ip {} did not print JSON", arguments.join(" ")))
    }

    /// Gives `ip` one command per line, on this namespace.
    ///
    /// # Errors
    ///
    /// With what `ip` said, if any line failed; the lines before it have taken effect.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip (package iproute2)")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes()).context("cannot write to ip")?;
        }
        let output = child.wait_with_output().context("cannot wait for ip")?;
        ensure!(
            output.status.success(),
            "ip failed in {}: {} (commands: {})",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim(),
            lines.trim().replace('\n', "; ")
        );
        Ok(())
    }

    /// Writes a setting under `/proc/sys/net` of the namespace; `path` begins after that.
    ///
    /// # Errors
    ///
    /// If the setting does not exist or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(path);
        self.enter(|| fs::write(&file, value))?
            .with_context(|| format!("cannot write {value} to {} in {}", file.display(), self.name))
    }

    /// Returns the pids of all processes in the namespace, except the caller's own.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        processes_in(self.identity)
    }

    /// Kills every process in the namespace and waits until none is left.
    ///
    /// # Errors
    ///
    /// If some are still there after five seconds.
    pub fn kill_processes(&self) -> Result<()> {
        kill_in(self.identity, &self.name)
    }

    /// Does to the namespace what a loss of power does to a machine: every process is killed, with all
    /// connections, and what is pinned at `pins` is gone. Programs go a while later, see
    /// [`wait_until_detached`](Self::wait_until_detached).
    ///
    /// # Errors
    ///
    /// If some processes are still there after five seconds, or the pins cannot be removed.
    pub fn lose_power(&self, pins: &Path) -> Result<()> {
        self.kill_processes()?;
        self.end_connections()?;
        // What waits for a neighbour is in the memory of the machine.
        self.ip(&["neigh", "flush", "nud", "incomplete"])?;
        guard::remove_path(pins)
    }

    /// Ends what the kernel keeps of connections whose process is gone, and would go on to send.
    fn end_connections(&self) -> Result<()> {
        let end = clock::now().after(Duration::from_secs(5));
        loop {
            let mut kill = self.command("ss")?;
            // One that ends meanwhile makes it fail: what is left is what counts.
            kill.args(["--kill", "--tcp", "--all"]).output().context("cannot run ss")?;
            let mut list = self.command("ss")?;
            let left =
                list.args(["--no-header", "--tcp", "--all"]).output().context("cannot run ss")?;
            let sockets = String::from_utf8_lossy(&left.stdout);
            if left.status.success() && sockets.trim().is_empty() {
                return Ok(());
            }
            // A node that is switched off twice at once loses its own `ss` as well.
            let said = String::from_utf8_lossy(&left.stderr);
            ensure!(
                clock::now() < end,
                "connections are left in {}: {sockets}; ss: {}, {}",
                self.name,
                left.status,
                said.trim()
            );
        }
    }

    /// Takes what is left of gates off the interfaces of the namespace, and waits until no program that hears
    /// heartbeats is attached to any: one that outlived its machine would answer for it.
    ///
    /// # Errors
    ///
    /// If `ip` fails, or one is still attached after five seconds.
    pub fn wait_until_detached(&self) -> Result<()> {
        tcx::clear(self)?;
        let end = clock::now().after(Duration::from_secs(5));
        loop {
            let links = read("ip", &["-n", &self.name, "-json", "link", "show"])?;
            if !links.contains("\"xdp\"") && !tcx::has(self, "hear_ingress")? {
                return Ok(());
            }
            ensure!(clock::now() < end, "a program is still attached in {}: {links}", self.name);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = remove(&self.name)
        {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Moves a thread into a namespace.
#[derive(Debug)]
pub struct Entry {
    handle: OwnedFd,
}

impl Entry {
    /// Moves the calling thread into the namespace, for good. Safe to call between fork and exec.
    ///
    /// # Errors
    ///
    /// Whatever `setns` says.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the call takes a descriptor that is open, and no memory.
        if unsafe { libc::setns(self.handle.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Deletes the namespace of that name and kills what runs in it. One that is gone already is fine.
///
/// # Errors
///
/// If processes outlive the kill or `ip` refuses.
pub fn remove(name: &str) -> Result<()> {
    let file = match File::open(path(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot open namespace {name}")),
    };
    let identity = identity(&file.metadata()?);
    let killed = kill_in(identity, name);
    let deleted = run("ip", &["netns", "del", name]);
    killed?;
    match deleted {
        Err(_) if !path(name).exists() => Ok(()),
        other => other,
    }
}

/// Sends `signal` to `pid`; that it has ended already is fine.
///
/// # Errors
///
/// If the kernel refuses for another reason.
pub fn signal(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: the call takes no memory.
    if unsafe { libc::kill(pid, signal) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        return Ok(());
    }
    Err(error).with_context(|| format!("cannot send signal {signal} to process {pid}"))
}

/// Runs a program to its end.
///
/// # Errors
///
/// If it cannot be run, or with its standard error if it fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    read(program, arguments).map(drop)
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
///
/// As [`run`], or if the output is no text.
pub fn read(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program} did not print text"))
}

fn processes_in(namespace: (u64, u64)) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let entry = entry.context("cannot list /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process that ends meanwhile has no namespace any more, which is what we ask; and a
        // zombie has none either.
        if pid != std::process::id() as i32
            && let Ok(metadata) = fs::metadata(entry.path().join("ns/net"))
            && identity(&metadata) == namespace
        {
            found.push(pid);
        }
    }
    Ok(found)
}

fn kill_in(namespace: (u64, u64), name: &str) -> Result<()> {
    for _ in 0..1000 {
        let processes = processes_in(namespace)?;
        if processes.is_empty() {
            return Ok(());
        }
        for pid in processes {
            signal(pid, libc::SIGKILL)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("processes {:?} in {name} outlive SIGKILL", processes_in(namespace)?)
}

fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
