//! What became of a fence, with everything an operator needs to find out why.

use std::{
    fmt, io, os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus,
    time::Duration,
};

use super::Action;
use crate::{config::Readable, id::NodeId};

/// What became of a request to fence a node.
#[derive(Debug)]
pub struct Report {
    /// The node that was to be fenced.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The agent.
    pub command: PathBuf,
    /// What it was asked for.
    pub action: Action,
    /// Its tries, at least one.
    pub attempts: Vec<Attempt>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// Tells whether the node was made sure to be off. Only the agent's own success, within its
    /// time, on a request that turns nodes off says so.
    #[must_use]
    pub fn fenced(&self) -> bool {
        let done = self.attempts.last().is_some_and(|last| matches!(last.outcome, Outcome::Done));
        self.action.fences() && done
    }

    /// Tells whether the agent did what it was asked for; a node that is off is an answer, too.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.attempts.last().is_some_and(|last| match last.outcome {
            Outcome::Done => true,
            Outcome::Exit { code } => self.action == Action::Status && code == STATUS_OFF,
            _ => false,
        })
    }
}

/// One line: `fence_x off of node b: failed with exit status 1 after 2 tries in 3.1s (it said: ..)`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, action, name, attempts, took, .. } = self;
        let command = command.file_name().unwrap_or(command.as_os_str()).display();
        let rounded = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        write!(f, "{command} {} of node {name}: ", action.as_str())?;
        match attempts.last() {
            Some(last) => write!(f, "{}", last.outcome.said_of(*action))?,
            None => f.write_str("not tried")?,
        }
        let tries = attempts.len();
        let plural = if tries == 1 { "try" } else { "tries" };
        write!(f, ", {tries} {plural} in {}", Readable(rounded))?;
        match attempts.last().and_then(|last| last.said.last()) {
            Some(line) => write!(f, " (it said: {line})"),
            None => Ok(()),
        }
    }
}

/// One run of the agent.
#[derive(Debug)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// The last lines it wrote, at most twenty.
    pub said: Vec<String>,
}

/// How a run of the agent ended.
#[derive(Debug)]
pub enum Outcome {
    /// With exit status 0, in time.
    Done,
    /// With another status.
    Exit {
        /// The exit status, 1 to 255.
        code: i32,
    },
    /// By a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Not in time; its process group was killed.
    TimedOut {
        /// The timeout.
        after: Duration,
        /// Whether it is still there although it was killed: it hangs in the kernel.
        lingers: bool,
    },
    /// It could not be run.
    NotRun {
        /// Why not.
        error: io::Error,
    },
    /// It ran, and its end could not be learned.
    Lost {
        /// Why not.
        error: io::Error,
    },
}

/// Exit status of `status` for a node that is off, by the convention of fence agents.
const STATUS_OFF: i32 = 2;

impl Outcome {
    pub(super) fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::Done,
            Some(code) => Self::Exit { code },
            None => Self::Signal { signal: status.signal().unwrap_or_default() },
        }
    }

    /// Tells whether trying again is of no use.
    pub(super) fn is_final(&self, action: Action) -> bool {
        match self {
            Self::Done => true,
            Self::Exit { code } => action == Action::Status && *code == STATUS_OFF,
            Self::NotRun { error } => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            Self::Signal { .. } | Self::TimedOut { .. } | Self::Lost { .. } => false,
        }
    }

    fn said_of(&self, action: Action) -> String {
        match self {
            Self::Done if action == Action::Status => "the node is on".to_owned(),
            Self::Done => "done".to_owned(),
            Self::Exit { code: STATUS_OFF } if action == Action::Status => {
                "the node is off".to_owned()
            }
            Self::Exit { code } => format!("failed with exit status {code}"),
            Self::Signal { signal } => format!("was killed by signal {signal}"),
            Self::TimedOut { after, lingers } => format!(
                "did not end within {} and was killed{}; is the power switch reachable?",
                Readable(*after),
                if *lingers { ", but hangs in the kernel" } else { "" }
            ),
            Self::NotRun { error } => format!(
                "could not be run: {error}; install it, or correct command in [fence], and look \
                 at its mode"
            ),
            Self::Lost { error } => format!("its end could not be learned: {error}"),
        }
    }
}
