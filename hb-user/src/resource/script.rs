//! One resource: a program that starts, stops and tells the state of a service.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use hb_ebpf::epoch::Epoch;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
    time,
};

use super::{
    ResourceError,
    confine::confine,
    output::{LastLine, capture, last_of},
};

/// Time between `SIGTERM` and `SIGKILL`.
const GRACE: Duration = Duration::from_secs(1);
/// How long the end of the output is waited for after the end of the script: enough for what is in
/// the pipe; a service in the background that holds it open is not waited for.
const OUTPUT_WAIT: Duration = Duration::from_millis(200);
/// Time between two looks at a script that was told to end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Exit codes of `status` for "does not run": LSB's and OCF's.
const STOPPED: [i32; 2] = [3, 7];
/// Where programs are looked for if the daemon itself was not told.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a script is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make the service serve.
    Start,
    /// Make it go away.
    Stop,
    /// Tell whether it runs.
    Status,
}

impl Verb {
    /// Returns the verb as the script gets it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Status => "status",
        }
    }
}

/// What `status` told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The service runs (exit code 0).
    Running,
    /// It does not (3 or 7).
    Stopped,
    /// It is broken (any other code).
    Failed {
        /// The exit code.
        code: i32,
        /// Last line on standard error.
        last_line: Option<String>,
    },
}

/// Where a script runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Name of the group.
    pub group: String,
}

/// On whose behalf, and why, a script is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Epoch under which this node holds the group, or held it last.
    pub epoch: Epoch,
    /// One or a few words: why the group moves.
    pub reason: String,
}

/// One resource of a group, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Name, unique in its group.
    pub name: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// What follows the verb.
    pub args: Vec<String>,
    /// How long `start` may take.
    pub start_timeout: Duration,
    /// How long `stop` may take.
    pub stop_timeout: Duration,
    /// How long `status` may take.
    pub status_timeout: Duration,
}

impl Script {
    /// Starts the service.
    ///
    /// Dropping the future kills the script with its process group.
    ///
    /// # Errors
    /// If the program cannot be run, fails, is killed or takes longer than `start_timeout`.
    pub async fn start(&self, place: &Place, order: &Order) -> Result<(), ResourceError> {
        self.change(Verb::Start, place, order).await
    }

    /// Stops the service; otherwise as [`Script::start`].
    ///
    /// # Errors
    /// If the program cannot be run, fails, is killed or takes longer than `stop_timeout`.
    pub async fn stop(&self, place: &Place, order: &Order) -> Result<(), ResourceError> {
        self.change(Verb::Stop, place, order).await
    }

    /// Asks whether the service runs.
    ///
    /// # Errors
    /// If the program cannot be run, is killed or takes longer than `status_timeout`. A service
    /// that is broken is [`State::Failed`], no error.
    pub async fn status(&self, place: &Place, order: &Order) -> Result<State, ResourceError> {
        let (exit, last_line) = self.run(Verb::Status, place, order).await?;
        match exit.code() {
            Some(0) => Ok(State::Running),
            Some(code) if STOPPED.contains(&code) => Ok(State::Stopped),
            Some(code) => Ok(State::Failed { code, last_line }),
            None => Err(self.killed(Verb::Status, exit, last_line)),
        }
    }

    async fn change(&self, verb: Verb, place: &Place, order: &Order) -> Result<(), ResourceError> {
        let (exit, last_line) = self.run(verb, place, order).await?;
        match exit.code() {
            Some(0) => Ok(()),
            Some(code) => {
                Err(ResourceError::Exit { resource: self.name.clone(), verb, code, last_line })
            }
            None => Err(self.killed(verb, exit, last_line)),
        }
    }

    fn killed(&self, verb: Verb, exit: ExitStatus, last_line: Option<String>) -> ResourceError {
        let signal = exit.signal().unwrap_or_default();
        ResourceError::Signal { resource: self.name.clone(), verb, signal, last_line }
    }

    /// Runs the program to its end and returns how it ended and its last words.
    async fn run(
        &self,
        verb: Verb,
        place: &Place,
        order: &Order,
    ) -> Result<(ExitStatus, Option<String>), ResourceError> {
        let mut running = Running(self.spawn(verb, place, order)?);
        let (output, last_line) = self.listen(&mut running.0, &place.group);
        let wait = |source| ResourceError::Wait { resource: self.name.clone(), verb, source };

        let timeout = match verb {
            Verb::Start => self.start_timeout,
            Verb::Stop => self.stop_timeout,
            Verb::Status => self.status_timeout,
        };
        match time::timeout(timeout, running.0.wait()).await {
            Ok(ended) => {
                let exit = ended.map_err(wait)?;
                ended_output(output, OUTPUT_WAIT).await;
                Ok((exit, last_of(&last_line)))
            }
            Err(_) => {
                running.terminate(output).await.map_err(wait)?;
                Err(ResourceError::TimedOut {
                    resource: self.name.clone(),
                    verb,
                    after: timeout,
                    last_line: last_of(&last_line),
                })
            }
        }
    }

    fn spawn(&self, verb: Verb, place: &Place, order: &Order) -> Result<Child, ResourceError> {
        if !self.program.is_absolute() {
            let program = self.program.clone();
            return Err(ResourceError::NotAbsolute { resource: self.name.clone(), program });
        }
        let mut command = Command::new(&self.program);
        command
            .arg(verb.as_str())
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()))
            .env("HB_CLUSTER", &place.cluster)
            .env("HB_NODE", &place.node)
            .env("HB_GROUP", &place.group)
            .env("HB_EPOCH", order.epoch.0.to_string())
            .env("HB_GENERATION", order.epoch.generation().to_string())
            .env("HB_REASON", &order.reason)
            .env("HB_RESOURCE", &self.name)
            .env("HB_ACTION", verb.as_str())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        confine(&mut command);
        command.spawn().map_err(|source| self.not_spawned(source))
    }

    fn not_spawned(&self, source: io::Error) -> ResourceError {
        let (resource, program) = (self.name.clone(), self.program.clone());
        match source.kind() {
            // The kernel says "not found" of the interpreter, too.
            io::ErrorKind::NotFound if program.exists() => {
                ResourceError::NoInterpreter { resource, program }
            }
            io::ErrorKind::NotFound => ResourceError::NotFound { resource, program },
            io::ErrorKind::PermissionDenied => ResourceError::NotExecutable { resource, program },
            _ => ResourceError::Spawn { resource, program, source },
        }
    }

    /// Begins to log what the script writes; the last line is that of standard error.
    fn listen(&self, child: &mut Child, group: &str) -> ([Option<JoinHandle<()>>; 2], LastLine) {
        let (group, name) = (group.to_owned(), self.name.clone());
        let mut last_line = LastLine::default();
        let stdout =
            child.stdout.take().map(|pipe| capture(pipe, group.clone(), name.clone(), "stdout").0);
        let stderr = child.stderr.take().map(|pipe| {
            let (task, last) = capture(pipe, group, name, "stderr");
            last_line = last;
            task
        });
        ([stdout, stderr], last_line)
    }
}

/// Waits until the output ended, for at most `limit`; what comes later is still logged.
async fn ended_output(output: [Option<JoinHandle<()>>; 2], limit: Duration) {
    let all = async {
        for task in output.into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::warn!(%error, "the task that logs a script's output ended early");
            }
        }
    };
    if time::timeout(limit, all).await.is_err() {
        tracing::debug!("a script's output outlives it: it left a process in the background");
    }
}

/// A script whose process group dies with this value unless its leader was reaped.
struct Running(Child);

impl Running {
    /// Ends the process group: asks, waits for the grace, kills, reaps.
    ///
    /// The leader is not reaped before the last signal was sent: until then the kernel gives its
    /// id to nobody else, so the signal cannot hit a stranger.
    async fn terminate(&mut self, output: [Option<JoinHandle<()>>; 2]) -> io::Result<()> {
        self.signal(libc::SIGTERM);
        let gone = async {
            while self.leader_lives() {
                time::sleep(LOOK_EVERY).await;
            }
            // Other members of the group may still be ending in order.
            ended_output(output, GRACE).await;
        };
        // Either way the group is killed next: what has ended does not mind.
        let _ended_by_itself = time::timeout(GRACE, gone).await.is_ok();
        self.signal(libc::SIGKILL);
        self.0.wait().await.map(drop)
    }

    fn signal(&self, signal: libc::c_int) {
        let Some(leader) = self.0.id() else { return };
        // SAFETY: sends a signal and touches no memory; the negative number names the process
        // group that the unreaped child leads, which cannot be another's.
        let code = unsafe { libc::kill(-(leader as libc::pid_t), signal) };
        if code != 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(leader, signal, %error, "a script's process group got no signal");
        }
    }

    /// Returns whether the leader still runs, without reaping it.
    fn leader_lives(&self) -> bool {
        let Some(leader) = self.0.id() else { return false };
        // SAFETY: all zero is a valid value of `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is a local that outlives the call, and WNOWAIT leaves the child to its
        // owner.
        let code = unsafe { libc::waitid(libc::P_PID, leader, &raw mut info, options) };
        // SAFETY: waitid filled `info`, or left the zeros, which mean "still runs".
        code == 0 && unsafe { info.si_pid() } == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Reaped afterwards by the runtime, which adopts a child that is dropped.
        self.signal(libc::SIGKILL);
    }
}
