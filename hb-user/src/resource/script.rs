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
    confine::{confine, restore_limit},
    output::{LastLine, capture, last_of},
    running::{OUTPUT_WAIT, Running, ended_output, search_path},
};
use crate::trust;

/// Exit codes of `status` for "does not run": LSB's and OCF's.
const STOPPED: [i32; 2] = [3, 7];

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
        // Looked at when the daemon started, and again: it may be long since.
        trust::check_program(&self.program)
            .map_err(|source| ResourceError::Untrusted { resource: self.name.clone(), source })?;
        let mut command = Command::new(&self.program);
        command
            .arg(verb.as_str())
            .args(&self.args)
            .env_clear()
            .env("PATH", search_path())
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
        let child = command.spawn().map_err(|source| self.not_spawned(source))?;
        restore_limit(child.id());
        Ok(child)
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
        let mut last_line = LastLine::default();
        let stdout = child.stdout.take().map(|pipe| capture(pipe, self.log(group, "stdout")).0);
        let stderr = child.stderr.take().map(|pipe| {
            let (task, last) = capture(pipe, self.log(group, "stderr"));
            last_line = last;
            task
        });
        ([stdout, stderr], last_line)
    }

    /// Returns what logs a line of one of its streams.
    fn log(&self, group: &str, stream: &'static str) -> impl Fn(io::Result<&str>) + Send + 'static {
        let (group, resource) = (group.to_owned(), self.name.clone());
        move |line| match line {
            Ok(line) => tracing::info!(group, resource, stream, "{line}"),
            Err(error) => {
                tracing::warn!(group, resource, stream, %error, "output could not be read");
            }
        }
    }
}
