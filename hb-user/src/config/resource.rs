//! Resources as the file describes them.

use std::{fmt, path::PathBuf, time::Duration};

use super::Name;

/// Something to start and stop with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, unique in its group.
    pub name: Name,
    /// What it is.
    pub kind: ResourceKind,
    /// How long a start may take.
    pub start_timeout: Timeout,
    /// How long a stop may take.
    pub stop_timeout: Timeout,
    /// How long a status check may take.
    pub status_timeout: Timeout,
    /// Time between two checks while the group serves; none if it is not watched.
    pub status_interval: Option<Duration>,
}

/// How long a call of a resource may take.
#[derive(Clone, Copy, Debug)]
pub enum Timeout {
    /// What the file says, or the default.
    Fixed(Duration),
    /// What the agent itself advises; the default until it was asked.
    Advised(Duration),
}

impl Timeout {
    /// Returns the time.
    #[must_use]
    pub const fn get(self) -> Duration {
        match self {
            Self::Fixed(time) | Self::Advised(time) => time,
        }
    }

    /// Takes what the agent advises, unless the file says something.
    pub fn advise(&mut self, time: Option<Duration>) {
        if let (Self::Advised(current), Some(time)) = (self, time) {
            *current = time;
        }
    }
}

/// As the file says it: two that are left to the agent are the same, whether it was asked or not.
impl PartialEq for Timeout {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => one == other,
            (Self::Advised(_), Self::Advised(_)) => true,
            _ => false,
        }
    }
}

impl Eq for Timeout {}

/// What a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// A program, called as `program VERB args..`.
    Script {
        /// Its path, absolute.
        program: PathBuf,
        /// Arguments after the verb.
        args: Vec<String>,
    },
    /// A resource agent of the Open Cluster Framework (Resource Agent API 1.1).
    Ocf {
        /// Whose it is: the directory below `resource.d`.
        provider: String,
        /// What it manages: the file in that directory.
        agent: String,
        /// Its instance parameters, by name.
        params: Vec<(String, String)>,
        /// How thorough a check is (`OCF_CHECK_LEVEL`).
        check_level: u32,
    },
    /// An init script (Linux Standard Base Core 5.0, section 22.2), called as `program VERB`.
    Lsb {
        /// Its path, absolute.
        program: PathBuf,
    },
    /// A resource script of Heartbeat, called as `script args.. VERB`.
    Heartbeat {
        /// Its name.
        script: String,
        /// Arguments before the verb.
        args: Vec<String>,
    },
}

impl ResourceKind {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Script { .. } => "script",
            Self::Ocf { .. } => "ocf",
            Self::Lsb { .. } => "lsb",
            Self::Heartbeat { .. } => "heartbeat",
        }
    }
}

/// The word of the file and the agent: `ocf:heartbeat:Dummy`, `heartbeat:IPaddr`, `script`.
impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Ocf { provider, agent, .. } => write!(f, ":{provider}:{agent}"),
            Self::Heartbeat { script, .. } => write!(f, ":{script}"),
            Self::Script { .. } | Self::Lsb { .. } => Ok(()),
        }
    }
}
