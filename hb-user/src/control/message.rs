//! What is asked and answered, one line of JSON each.

use serde::{Deserialize, Serialize};

use crate::{core::Aside, status::StatusReport};

/// Longest request, line feed included, in bytes.
pub const LINE_BYTES: usize = 64 * 1024;

/// What one may ask of a daemon: `{"request":"clear","group":"web"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Whether it answers at all.
    Ping,
    /// All it knows.
    Status,
    /// Forget that a group failed on this node, so that it may serve here again.
    Clear {
        /// Name of the group.
        group: String,
    },
    /// Do nothing about what fails of groups, and take none of them; or do so again.
    Maintenance {
        /// Whether to do nothing.
        on: bool,
        /// Name of the group; all of them if it is not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// Stop the resources of a group that is served here, and start them again.
    RestartResources {
        /// Name of the group.
        group: String,
    },
    /// Give a group that is served here to another node.
    Move {
        /// Name of the group.
        group: String,
        /// Name of that node.
        node: String,
    },
    /// Take part though numbers of an earlier life are lost, or a promise without an end binds this
    /// node: the operator answers for it that nobody else holds anything.
    Confirm,
    /// Take the keys that were added to the key file, beside those in use.
    LoadKeys,
    /// Send with the key of that id, once every other node has shown that it knows it.
    UseKey {
        /// Its id.
        id: u8,
        /// Do not ask nodes that are silent.
        force: bool,
    },
    /// Take no other key than that of this id, once no node sends with another.
    KeepKey {
        /// Its id.
        id: u8,
        /// Do not mind nodes that are silent.
        force: bool,
    },
    /// Read the configuration again, and take what changed in it or nothing.
    Reload,
    /// Stand aside of groups: hand over those that are held, and take none of them any more.
    Standby {
        /// Which.
        groups: Groups,
    },
    /// Take every group again.
    Unstandby,
    /// Leave in order: give the groups to others, then end.
    Stop,
}

/// Groups, as one node sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Groups {
    /// All.
    All,
    /// Those that prefer it.
    Local,
    /// Those that prefer another node.
    Foreign,
}

impl From<Groups> for Aside {
    fn from(groups: Groups) -> Self {
        match groups {
            Groups::All => Self::All,
            Groups::Local => Self::Local,
            Groups::Foreign => Self::Foreign,
        }
    }
}

impl Request {
    /// Returns whether the request changes something, and so needs the right to.
    #[must_use]
    pub const fn changes(&self) -> bool {
        match self {
            Self::Ping | Self::Status => false,
            Self::Clear { .. }
            | Self::Maintenance { .. }
            | Self::RestartResources { .. }
            | Self::Move { .. }
            | Self::Confirm
            | Self::LoadKeys
            | Self::UseKey { .. }
            | Self::KeepKey { .. }
            | Self::Reload
            | Self::Standby { .. }
            | Self::Unstandby
            | Self::Stop => true,
        }
    }

    /// Returns the request as it is spelled.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Status => "status",
            Self::Clear { .. } => "clear",
            Self::Maintenance { .. } => "maintenance",
            Self::RestartResources { .. } => "restart-resources",
            Self::Move { .. } => "move",
            Self::Confirm => "confirm",
            Self::LoadKeys => "load-keys",
            Self::UseKey { .. } => "use-key",
            Self::KeepKey { .. } => "keep-key",
            Self::Reload => "reload",
            Self::Standby { .. } => "standby",
            Self::Unstandby => "unstandby",
            Self::Stop => "stop",
        }
    }
}

/// What a daemon answers: `{"reply":"error","message":"..."}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To a ping.
    Pong {
        /// Version of the daemon.
        version: String,
    },
    /// To a request for the status.
    Status {
        /// The report.
        report: Box<StatusReport>,
    },
    /// Done as asked.
    Done {
        /// What was done, in words.
        message: String,
    },
    /// Not done.
    Error {
        /// What is wrong, and what to do.
        message: String,
    },
}

impl From<Result<String, String>> for Reply {
    fn from(outcome: Result<String, String>) -> Self {
        match outcome {
            Ok(message) => Self::Done { message },
            Err(message) => Self::Error { message },
        }
    }
}
