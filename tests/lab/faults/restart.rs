//! Daemons that end and start again, in each order and with open connections.

use anyhow::Result;

use super::{end, ensure_daemon, signal, wait_for_leave};
use crate::{Lab, addresses::Machine};

/// In which order daemons end and start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// One node stops in order and starts, later the other one.
    InTurn,
    /// Both stop in order at once, and start later.
    Together,
    /// One is killed and started over what it left.
    InPlace,
}

/// All.
pub const RESTARTS: [Restart; 3] = [Restart::InTurn, Restart::Together, Restart::InPlace];

/// How a daemon that serves is taken off its node, while clients are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is told to leave, its resource takes long to stop, and it is told again.
    Twice,
    /// It is killed, and `hb detach` removes what it left.
    Detach,
    /// It is killed, and `hb gate --remove` takes the gate away.
    Ungate,
}

/// All.
pub const REMOVALS: [Removal; 3] = [Removal::Twice, Removal::Detach, Removal::Ungate];

impl Restart {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::InTurn => "one after the other",
            Self::Together => "both at once",
            Self::InPlace => "killed and started",
        }
    }

    pub(super) fn inject(self, lab: &mut Lab, node: Machine) -> Result<()> {
        match self {
            Self::InTurn => in_order(lab, node),
            Self::Together => {
                signal(lab, node, libc::SIGTERM)?;
                signal(lab, node.peer(), libc::SIGTERM)
            }
            Self::InPlace => in_place(lab, node),
        }
    }

    pub(super) fn mend(self, lab: &mut Lab, node: Machine) -> Result<()> {
        match self {
            Self::InTurn => in_order(lab, node.peer()),
            Self::Together => {
                for node in [node, node.peer()] {
                    wait_for_leave(lab, node)?;
                    ensure_daemon(lab, node)?;
                }
                Ok(())
            }
            Self::InPlace => Ok(()),
        }
    }
}

impl Removal {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Twice => "told twice to leave",
            Self::Detach => "killed, then hb detach",
            Self::Ungate => "killed, then hb gate --remove",
        }
    }

    pub(super) fn inject(self, lab: &mut Lab, node: Machine) -> Result<()> {
        if !lab.daemon_runs(node)? {
            return Ok(());
        }
        match self {
            Self::Twice => {
                lab.slow_resource(true)?;
                signal(lab, node, libc::SIGTERM)
            }
            Self::Detach => {
                end(lab, node, libc::SIGKILL)?;
                lab.detach(node)
            }
            Self::Ungate => {
                end(lab, node, libc::SIGKILL)?;
                lab.remove_gate(node)
            }
        }
    }

    pub(super) fn mend(self, lab: &mut Lab, node: Machine) -> Result<()> {
        if self == Self::Twice {
            if lab.daemon_mut(node).is_some_and(|daemon| daemon.was_told_to_end()) {
                signal(lab, node, libc::SIGTERM)?;
            }
            wait_for_leave(lab, node)?;
            lab.slow_resource(false)?;
        }
        ensure_daemon(lab, node)
    }
}

/// Stops a daemon that runs in order, and starts it.
pub(super) fn in_order(lab: &mut Lab, node: Machine) -> Result<()> {
    if !lab.daemon_runs(node)? {
        return Ok(());
    }
    signal(lab, node, libc::SIGTERM)?;
    wait_for_leave(lab, node)?;
    ensure_daemon(lab, node)
}

/// Kills a daemon that runs, and starts it over what it left.
pub(super) fn in_place(lab: &mut Lab, node: Machine) -> Result<()> {
    if !lab.daemon_runs(node)? {
        return Ok(());
    }
    end(lab, node, libc::SIGKILL)?;
    ensure_daemon(lab, node)
}
