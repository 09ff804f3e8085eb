//! The agent of one resource, whatever its kind: it starts, stops and tells the state of a service.

use std::{path::PathBuf, time::Duration};

use super::{
    Order, Place, ResourceError, State, Verb,
    call::{Call, Ended, Stdout, environment},
    ocf,
};
use crate::config::ResourceKind;

/// Where agents lie that are called by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The root of OCF (`OCF_ROOT`).
    pub ocf: PathBuf,
    /// Directories of Heartbeat's scripts, the first to look in first.
    pub heartbeat: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            ocf: "/usr/lib/ocf".into(),
            heartbeat: vec!["/etc/ha.d/resource.d".into(), "/etc/init.d".into()],
        }
    }
}

impl Roots {
    /// Returns the program of an agent; `None` for a script of Heartbeat that is nowhere.
    #[must_use]
    pub fn program(&self, kind: &ResourceKind) -> Option<PathBuf> {
        match kind {
            ResourceKind::Script { program, .. } | ResourceKind::Lsb { program } => {
                Some(program.clone())
            }
            ResourceKind::Ocf { provider, agent, .. } => {
                Some(self.ocf.join("resource.d").join(provider).join(agent))
            }
            ResourceKind::Heartbeat { script, .. } => {
                self.heartbeat.iter().map(|place| place.join(script)).find(|path| path.exists())
            }
        }
    }
}

/// Why the state of a service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// To find out whether it runs already, which may well not be.
    Probe,
    /// To see whether it still runs.
    Watch,
}

/// The agent of one resource of a group, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Name of the resource, unique in its group.
    pub name: String,
    /// What it is.
    pub kind: ResourceKind,
    /// Where agents lie.
    pub roots: Roots,
    /// How long `start` may take.
    pub start_timeout: Duration,
    /// How long `stop` may take.
    pub stop_timeout: Duration,
    /// How long `status` may take.
    pub status_timeout: Duration,
    /// Time between two looks while the group serves; `None` for no looks.
    pub interval: Option<Duration>,
}

/// What `status` of an init script says (Linux Standard Base Core 5.0, section 22.2).
fn lsb_meaning(code: i32) -> Option<&'static str> {
    Some(match code {
        1 => "dead, and its PID file is there",
        2 => "dead, and its lock file is there",
        4 => "unknown",
        _ => return None,
    })
}

/// What the other verbs of an init script say (the same section).
fn lsb_failure(code: i32) -> Option<&'static str> {
    // OCF took these over.
    (1..=7).contains(&code).then(|| ocf::meaning(code)).flatten()
}

impl Agent {
    /// Starts the service.
    ///
    /// Dropping the future kills the program that runs, with its process group.
    ///
    /// # Errors
    /// If the program cannot be run, fails, is killed or takes longer than `start_timeout`.
    pub async fn start(&self, place: &Place, order: &Order) -> Result<(), ResourceError> {
        // As Heartbeat does: some of its scripts do not bear a second start.
        if matches!(self.kind, ResourceKind::Heartbeat { .. })
            && matches!(self.status(Look::Probe, place, order).await, Ok(State::Running))
        {
            return Ok(());
        }
        self.change(Verb::Start, place, order).await
    }

    /// Stops the service; otherwise as [`Agent::start`].
    ///
    /// # Errors
    /// If the program cannot be run, fails, is killed or takes longer than `stop_timeout`, and does not say
    /// that the service is stopped when it is asked for the state after that: some scripts call it a failure
    /// to stop what does not run.
    pub async fn stop(&self, place: &Place, order: &Order) -> Result<(), ResourceError> {
        let Err(error) = self.change(Verb::Stop, place, order).await else { return Ok(()) };
        match (&self.kind, self.status(Look::Probe, place, order).await) {
            // Dead is gone as well, whatever file it left.
            (_, Ok(State::Stopped))
            | (ResourceKind::Lsb { .. }, Ok(State::Failed { code: 1 | 2, .. })) => {
                let (group, resource) = (&place.group, &self.name);
                tracing::info!(group, resource, %error, "it does not run: stopped");
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Asks whether the service runs.
    ///
    /// # Errors
    /// If the program cannot be run, is killed or takes longer than `status_timeout`. A service
    /// that is broken is [`State::Failed`], no error.
    pub async fn status(
        &self,
        look: Look,
        place: &Place,
        order: &Order,
    ) -> Result<State, ResourceError> {
        let verb = match self.kind {
            ResourceKind::Ocf { .. } => Verb::Monitor,
            _ => Verb::Status,
        };
        let ended = self.call(verb, look, place, order).await?;
        let Ended { code, last_line, output } = ended;
        let failed = |meaning, last_line| State::Failed { code, meaning, last_line };
        Ok(match (&self.kind, code) {
            (ResourceKind::Heartbeat { .. }, _) => match heartbeat_state(&output) {
                Some(state) => state,
                None => {
                    let said = output.lines().last().map(str::to_owned);
                    let meaning = "says neither that it is running nor that it is stopped";
                    failed(Some(meaning), last_line.or(said))
                }
            },
            (ResourceKind::Ocf { .. }, _) => ocf::state(code, last_line),
            (_, 0) => State::Running,
            (ResourceKind::Lsb { .. }, 3) => State::Stopped,
            (ResourceKind::Lsb { .. }, _) => failed(lsb_meaning(code), last_line),
            // Scripts use LSB's code or OCF's.
            (ResourceKind::Script { .. }, 3 | 7) => State::Stopped,
            (ResourceKind::Script { .. }, _) => failed(None, last_line),
        })
    }

    async fn change(&self, verb: Verb, place: &Place, order: &Order) -> Result<(), ResourceError> {
        let Ended { code, last_line, .. } = self.call(verb, Look::Watch, place, order).await?;
        let meaning = match self.kind {
            _ if code == 0 => return Ok(()),
            ResourceKind::Script { .. } | ResourceKind::Heartbeat { .. } => None,
            ResourceKind::Ocf { .. } => ocf::meaning(code),
            ResourceKind::Lsb { .. } => lsb_failure(code),
        };
        Err(ResourceError::Exit { resource: self.name.clone(), verb, code, meaning, last_line })
    }

    pub(super) async fn call(
        &self,
        verb: Verb,
        look: Look,
        place: &Place,
        order: &Order,
    ) -> Result<Ended, ResourceError> {
        let program = self.program()?;
        let mut variables = environment(&self.name, verb, place, order);
        let timeout = match verb {
            Verb::Start => self.start_timeout,
            Verb::Stop => self.stop_timeout,
            Verb::Status | Verb::Monitor | Verb::MetaData | Verb::Check => self.status_timeout,
        };
        variables.extend(ocf::variables(self, verb, look, timeout, place));
        let args: &[String] = match &self.kind {
            ResourceKind::Script { args, .. } | ResourceKind::Heartbeat { args, .. } => args,
            ResourceKind::Ocf { .. } | ResourceKind::Lsb { .. } => &[],
        };
        let mut words: Vec<_> = args.iter().map(String::as_str).collect();
        let stdout = match (&self.kind, verb) {
            (_, Verb::MetaData) => Stdout::Kept,
            (ResourceKind::Heartbeat { .. }, _) => Stdout::Told,
            _ => Stdout::Logged,
        };
        if let ResourceKind::Heartbeat { .. } = self.kind {
            words.push(verb.as_str());
        } else {
            words.insert(0, verb.as_str());
        }
        let call = Call {
            resource: &self.name,
            group: &place.group,
            verb,
            program: &program,
            args: words,
            variables,
            timeout,
            stdout,
        };
        call.run().await
    }

    fn program(&self) -> Result<PathBuf, ResourceError> {
        self.roots.program(&self.kind).ok_or_else(|| ResourceError::NoScript {
            resource: self.name.clone(),
            script: match &self.kind {
                ResourceKind::Heartbeat { script, .. } => script.clone(),
                other => other.to_string(),
            },
            places: self.roots.heartbeat.clone(),
        })
    }
}

/// Reads what a script of Heartbeat says of itself; its exit code means nothing.
fn heartbeat_state(output: &str) -> Option<State> {
    let output = output.to_lowercase();
    if output.contains("stopped") || output.contains("not running") {
        return Some(State::Stopped);
    }
    let mut words = output.split(|letter: char| !letter.is_alphanumeric());
    (output.contains("running") || words.any(|word| word == "ok")).then_some(State::Running)
}
