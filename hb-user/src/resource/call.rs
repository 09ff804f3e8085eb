//! One call of a program that starts, stops or tells the state of a service.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
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

/// Most that is kept of what a program writes, in bytes: the longest description of an agent is a tenth of it.
const OUTPUT_MOST: usize = 256 * 1024;

/// What an agent is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make the service serve.
    Start,
    /// Make it go away.
    Stop,
    /// Tell whether it runs.
    Status,
    /// The same, of an OCF agent.
    Monitor,
    /// Describe itself: an OCF agent.
    MetaData,
    /// A check of somebody else.
    Check,
}

impl Verb {
    /// Returns the verb as the program gets it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Status => "status",
            Self::Monitor => "monitor",
            Self::MetaData => "meta-data",
            Self::Check => "check",
        }
    }
}

/// What a check told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The service runs.
    Running,
    /// It runs, and its agent expects it to fail (OCF alone).
    Degraded {
        /// Last line on standard error.
        last_line: Option<String>,
    },
    /// It does not run.
    Stopped,
    /// It is broken.
    Failed {
        /// The exit code.
        code: i32,
        /// What that means, where the kind of agent has a word for it.
        meaning: Option<&'static str>,
        /// Last line on standard error.
        last_line: Option<String>,
    },
}

/// Where an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Name of the group.
    pub group: String,
}

/// On whose behalf, and why, an agent is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Epoch under which this node holds the group, or held it last.
    pub epoch: Epoch,
    /// One or a few words: why the group moves.
    pub reason: String,
    /// The same as a word for programs ([`Reason::code`](crate::core::Reason::code)); `None` where a service is
    /// only looked at.
    pub cause: Option<&'static str>,
}

/// Returns the variables that every program finds.
pub(super) fn environment(
    resource: &str,
    verb: Verb,
    place: &Place,
    order: &Order,
) -> Vec<(String, String)> {
    let mut variables: Vec<_> = [
        ("HB_CLUSTER", place.cluster.clone()),
        ("HB_NODE", place.node.clone()),
        ("HB_GROUP", place.group.clone()),
        ("HB_EPOCH", order.epoch.0.to_string()),
        ("HB_GENERATION", order.epoch.generation().to_string()),
        ("HB_REASON", order.reason.clone()),
        ("HB_RESOURCE", resource.to_owned()),
        ("HB_ACTION", verb.as_str().to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    variables.extend(order.cause.map(|cause| ("HB_CAUSE".to_owned(), cause.to_owned())));
    variables
}

/// One call of an agent's program.
pub(super) struct Call<'a> {
    /// Name of the resource.
    pub(super) resource: &'a str,
    /// Its group.
    pub(super) group: &'a str,
    /// What for.
    pub(super) verb: Verb,
    /// Absolute path.
    pub(super) program: &'a Path,
    /// All of its arguments, the verb too.
    pub(super) args: Vec<&'a str>,
    /// Its variables beside `PATH`.
    pub(super) variables: Vec<(String, String)>,
    /// How long it may take.
    pub(super) timeout: Duration,
    /// Where its standard output goes.
    pub(super) stdout: Stdout,
}

/// Where a program's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stdout {
    /// Into the log.
    Logged,
    /// Into the log, and to who called.
    Told,
    /// To who called.
    Kept,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// By itself, with this exit code.
    pub(super) code: i32,
    /// Last line on standard error.
    pub(super) last_line: Option<String>,
    /// What it wrote to standard output, unless that was only logged; at most [`OUTPUT_MOST`] bytes.
    pub(super) output: String,
}

impl Call<'_> {
    /// Runs the program to its end. Dropping the future kills it with its process group.
    ///
    /// # Errors
    /// If it cannot be run, is killed or takes longer than `timeout`.
    pub(super) async fn run(&self) -> Result<Ended, ResourceError> {
        let mut running = Running(self.spawn()?);
        let kept = Arc::new(Mutex::new(String::new()));
        let (output, last_line) = self.listen(&mut running.0, &kept);
        let resource = || self.resource.to_owned();
        let verb = self.verb;
        let wait = |source| ResourceError::Wait { resource: resource(), verb, source };
        match time::timeout(self.timeout, running.0.wait()).await {
            Ok(ended) => {
                let exit = ended.map_err(wait)?;
                ended_output(output, OUTPUT_WAIT).await;
                let last_line = last_of(&last_line);
                match exit.code() {
                    Some(code) => {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        Ok(Ended { code, last_line, output: std::mem::take(&mut kept) })
                    }
                    None => {
                        let signal = exit.signal().unwrap_or_default();
                        Err(ResourceError::Signal { resource: resource(), verb, signal, last_line })
                    }
                }
            }
            Err(_) => {
                running.terminate(output).await.map_err(wait)?;
                Err(ResourceError::TimedOut {
                    resource: resource(),
                    verb,
                    after: self.timeout,
                    last_line: last_of(&last_line),
                })
            }
        }
    }

    fn spawn(&self) -> Result<Child, ResourceError> {
        if !self.program.is_absolute() {
            let program = self.program.to_owned();
            return Err(ResourceError::NotAbsolute { resource: self.resource.to_owned(), program });
        }
        // Looked at when the daemon started, and again: it may be long since.
        trust::check_program(self.program).map_err(|source| ResourceError::Untrusted {
            resource: self.resource.to_owned(),
            source,
        })?;
        let mut command = Command::new(self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", search_path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
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
        let (resource, program) = (self.resource.to_owned(), self.program.to_owned());
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

    /// Begins to log what the program writes; the last line is that of standard error.
    fn listen(
        &self,
        child: &mut Child,
        kept: &Arc<Mutex<String>>,
    ) -> ([Option<JoinHandle<()>>; 2], LastLine) {
        let mut last_line = LastLine::default();
        let stdout = child.stdout.take().map(|pipe| {
            let (wanted, kept, log) = (self.stdout, Arc::clone(kept), self.log("stdout"));
            let hear = move |line: io::Result<&str>| {
                if let (Stdout::Told | Stdout::Kept, Ok(line)) = (wanted, &line) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() + line.len() < OUTPUT_MOST {
                        kept.push_str(line);
                        kept.push('\n');
                    }
                }
                if wanted != Stdout::Kept || line.is_err() {
                    log(line);
                }
            };
            capture(pipe, hear).0
        });
        let stderr = child.stderr.take().map(|pipe| {
            let (task, last) = capture(pipe, self.log("stderr"));
            last_line = last;
            task
        });
        ([stdout, stderr], last_line)
    }

    /// Returns what logs a line of one of its streams.
    fn log(&self, stream: &'static str) -> impl Fn(io::Result<&str>) + Send + 'static {
        let (group, resource) = (self.group.to_owned(), self.resource.to_owned());
        move |line| match line {
            Ok(line) => tracing::info!(group, resource, stream, "{line}"),
            Err(error) => {
                tracing::warn!(group, resource, stream, %error, "output could not be read");
            }
        }
    }
}
