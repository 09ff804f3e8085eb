//! Fences: a program that makes sure that a silent node is off.
//!
//! It is called as fence agents are: no arguments, options as `name=value` lines on its standard
//! input, exit status 0 for success. Nothing but that status, within the timeout, is believed:
//! whoever is told that a node is off goes on to serve in its place. So a timeout, a signal and
//! every other status mean "not fenced", whatever the agent wrote.
//!
//! The agent runs as resources do: in a process group of its own, in `/`, at ordinary priority.
//! The group is killed when the timeout is over, and when the future is dropped.

mod report;

use std::{
    io,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use hb_ebpf::epoch::Epoch;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
    task::JoinHandle,
    time,
};

pub use report::{Attempt, Outcome, Report};

use crate::{
    clock,
    config::{FENCE_END, FENCE_PAUSE, Fence, FenceAction, Node},
    resource::{
        confine::{confine, restore_limit},
        output::capture,
        running::{OUTPUT_WAIT, Running, ended_output, search_path},
    },
    trust,
};

/// Lines of an agent's output that are kept for the report, the last ones.
const KEPT_LINES: usize = 20;
/// Lines of one try that are logged; what floods the log hides what matters.
const LOGGED_LINES: usize = 200;

/// What an agent is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Turn the node off.
    Off,
    /// Turn it off and on.
    Reboot,
    /// Tell whether it is on. Changes nothing.
    Status,
}

impl Action {
    /// Returns the word that agents know.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
            Self::Status => "status",
        }
    }

    /// Tells whether a node was off for a moment if this succeeded.
    #[must_use]
    pub const fn fences(self) -> bool {
        matches!(self, Self::Off | Self::Reboot)
    }
}

impl From<FenceAction> for Action {
    fn from(action: FenceAction) -> Self {
        match action {
            FenceAction::Off => Self::Off,
            FenceAction::Reboot => Self::Reboot,
        }
    }
}

/// Who asks, and under which epoch, for the agent's environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Name of the cluster, `HB_CLUSTER`.
    pub cluster: String,
    /// Name of this node, `HB_NODE`.
    pub node: String,
    /// The epoch sought, `HB_EPOCH`; none if an operator asks.
    pub epoch: Option<Epoch>,
}

/// Runs the agent against `target`, again after failures as often as configured, and reports.
///
/// Does not wait for [`Fence::delay`]: whoever decides to fence does that first. Takes no longer
/// than [`Fence::longest`] less the delay. Dropping the future kills the agent.
pub async fn run(fence: &Fence, target: &Node, action: Action, asker: &Asker) -> Report {
    let began = clock::now();
    let mut attempts = Vec::new();
    for number in 0..=fence.retries {
        if number > 0 {
            time::sleep(FENCE_PAUSE).await;
        }
        let begun = clock::now();
        let transcript = Arc::default();
        let outcome = attempt(fence, target, action, asker, &transcript).await;
        let (said, more) = transcript_of(&transcript);
        if more > 0 {
            let node = target.name.as_str();
            tracing::info!(node, lines = more, "more output of the fence agent than is logged");
        }
        let last = outcome.is_final(action);
        attempts.push(Attempt { outcome, took: clock::now().since(begun), said });
        if last {
            break;
        }
    }
    Report {
        node: target.id,
        name: target.name.to_string(),
        command: fence.command.clone(),
        action,
        attempts,
        took: clock::now().since(began),
    }
}

/// What an agent wrote: the last lines, and how many there were.
#[derive(Default)]
struct Transcript {
    lines: std::collections::VecDeque<String>,
    count: usize,
}

fn transcript_of(transcript: &Mutex<Transcript>) -> (Vec<String>, usize) {
    let transcript = transcript.lock().unwrap_or_else(PoisonError::into_inner);
    let more = transcript.count.saturating_sub(LOGGED_LINES);
    (transcript.lines.iter().cloned().collect(), more)
}

async fn attempt(
    fence: &Fence,
    target: &Node,
    action: Action,
    asker: &Asker,
    transcript: &Arc<Mutex<Transcript>>,
) -> Outcome {
    let mut running = match spawn(fence, asker) {
        Ok(child) => Running(child),
        Err(error) => return Outcome::NotRun { error },
    };
    let output = listen(&mut running.0, target, transcript);
    let input = running.0.stdin.take();
    let told = options(fence, target, action);
    let ended = async {
        tell(input, &told).await?;
        running.0.wait().await
    };
    match time::timeout(fence.timeout, ended).await {
        Ok(Ok(status)) => {
            ended_output(output, OUTPUT_WAIT).await;
            Outcome::of(status)
        }
        // Dropping what runs kills it.
        Ok(Err(error)) => Outcome::Lost { error },
        Err(_) => {
            let ended = time::timeout(FENCE_END, running.terminate(output)).await;
            Outcome::TimedOut { after: fence.timeout, lingers: !matches!(ended, Ok(Ok(()))) }
        }
    }
}

fn spawn(fence: &Fence, asker: &Asker) -> io::Result<Child> {
    // Looked at when the daemon started, and again: it may be long since.
    trust::check_program(&fence.command).map_err(io::Error::other)?;
    let mut command = Command::new(&fence.command);
    command
        .env_clear()
        .env("PATH", search_path())
        .env("HB_CLUSTER", &asker.cluster)
        .env("HB_NODE", &asker.node)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(epoch) = asker.epoch {
        command.env("HB_EPOCH", epoch.0.to_string());
    }
    confine(&mut command);
    let child = command.spawn()?;
    restore_limit(child.id());
    Ok(child)
}

/// Returns what the agent reads: one `name=value` line for each option.
fn options(fence: &Fence, target: &Node, action: Action) -> String {
    let mut text = format!("action={}\nnodename={}\n", action.as_str(), target.name);
    for (name, value) in fence.options.get(&target.id).into_iter().flatten() {
        text += &format!("{name}={value}\n");
    }
    text
}

/// Writes the options; an agent that ends without reading them tells by its status what it thinks.
async fn tell(input: Option<ChildStdin>, options: &str) -> io::Result<()> {
    let Some(mut input) = input else { return Ok(()) };
    match input.write_all(options.as_bytes()).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

fn listen(
    child: &mut Child,
    target: &Node,
    transcript: &Arc<Mutex<Transcript>>,
) -> [Option<JoinHandle<()>>; 2] {
    let log = |stream: &'static str| {
        let (node, transcript) = (target.name.to_string(), Arc::clone(transcript));
        move |line: io::Result<&str>| {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    tracing::warn!(node, stream, %error, "the fence agent's output could not be read");
                    return;
                }
            };
            let mut transcript = transcript.lock().unwrap_or_else(PoisonError::into_inner);
            transcript.count += 1;
            if transcript.count <= LOGGED_LINES {
                tracing::info!(node, stream, "{line}");
            }
            if transcript.lines.len() == KEPT_LINES {
                transcript.lines.pop_front();
            }
            transcript.lines.push_back(line.to_owned());
        }
    };
    let stdout = child.stdout.take().map(|pipe| capture(pipe, log("stdout")).0);
    let stderr = child.stderr.take().map(|pipe| capture(pipe, log("stderr")).0);
    [stdout, stderr]
}

#[cfg(test)]
mod tests;
