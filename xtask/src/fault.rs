//! The faults a demonstration can inject; each must move the service to node b.

use std::time::Duration;

use clap::ValueEnum;

/// What happens to node a.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Loss of power: every link silent in one instant, every process killed.
    Crash,
    /// Every link cut in one instant; its processes go on.
    Cut,
    /// The port of its service network goes down: the node sees that its carrier is lost.
    Carrier,
    /// The port of its service network falls silent: the node sees nothing of it.
    SilentPort,
    /// Its daemon is asked to leave: a planned move.
    Stop,
    /// The group is told to live on node b: a planned move, both daemons go on.
    Move,
    /// The same, after node b was restarted in order: its generation lies above the holder's.
    MoveRestarted,
    /// Its daemon alone is killed, and later started again.
    Kill,
    /// Its daemon alone is stopped, and later continued.
    Freeze,
    /// Its service is killed: a process that the daemon is told of by a PID file.
    ServiceKill,
}

impl Fault {
    /// Returns its word on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Cut => "cut",
            Self::Carrier => "carrier",
            Self::SilentPort => "silent-port",
            Self::Stop => "stop",
            Self::Move => "move",
            Self::MoveRestarted => "move-restarted",
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::ServiceKill => "service-kill",
        }
    }

    /// Tells whether the daemons of both nodes go on, and the group is moved between them.
    pub(crate) const fn is_move(self) -> bool {
        matches!(self, Self::Move | Self::MoveRestarted)
    }

    /// Returns within which time the service has to be on the other node. Whose fault a silent port is has to
    /// be found out first.
    pub(crate) const fn limit(self) -> Duration {
        match self {
            Self::SilentPort => Duration::from_secs(10),
            _ => Duration::from_secs(3),
        }
    }

    /// Returns what is done, for a person.
    pub(crate) const fn deed(self) -> &'static str {
        match self {
            Self::Crash => "all links of a fall silent, its processes stand still",
            Self::Cut => "all links of a are cut",
            Self::Carrier => "the service port of a loses its carrier",
            Self::SilentPort => "the service port of a falls silent, its carrier stays",
            Self::Stop => "SIGTERM to the daemon of a",
            Self::Move => "hb move: the group is told to live on b",
            Self::MoveRestarted => "hb move to b, which was restarted in order before",
            Self::Kill => "SIGKILL to the daemon of a, to nothing else",
            Self::Freeze => "SIGSTOP to the daemon of a, to nothing else",
            Self::ServiceKill => "SIGKILL to the service of a, a process that a PID file names",
        }
    }
}
