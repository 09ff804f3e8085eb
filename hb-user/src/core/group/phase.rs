//! How far a node is with a group.

use std::fmt;

use hb_ebpf::epoch::Epoch;

use crate::id::NodeId;

/// How far this node is with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has nothing of it.
    Idle,
    /// An earlier start held it; whether that still stands is not known before joining.
    Resuming {
        /// The epoch held.
        epoch: Epoch,
    },
    /// The fast path seeks it, and adds its addresses once it is held.
    Seeking,
    /// Addresses are up, resources are starting.
    Starting {
        /// The epoch held.
        epoch: Epoch,
    },
    /// All is up.
    Serving {
        /// The epoch held.
        epoch: Epoch,
    },
    /// Resources are stopping, addresses are still up.
    Stopping {
        /// The epoch held.
        epoch: Epoch,
    },
    /// A resource could not be stopped and may still run: nobody else may start it. Addresses are still up.
    Blocked {
        /// The epoch held.
        epoch: Epoch,
    },
    /// Resources are stopped, addresses are being removed.
    Dropping {
        /// The epoch held.
        epoch: Epoch,
    },
    /// Given up, and nobody has taken it yet.
    Released {
        /// The epoch that was held.
        epoch: Epoch,
        /// To whom; `None` if nobody was able.
        successor: Option<NodeId>,
    },
    /// Lost: addresses are being removed before anything else.
    Yielding {
        /// The epoch held; [`Epoch::NONE`] for leftovers of an earlier start.
        epoch: Epoch,
    },
    /// Lost: addresses are gone, resources are stopping.
    Clearing,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Resuming { .. } => "resuming",
            Self::Seeking => "seeking",
            Self::Starting { .. } => "starting",
            Self::Serving { .. } => "serving",
            Self::Stopping { .. } => "stopping",
            Self::Blocked { .. } => "blocked",
            Self::Dropping { .. } => "dropping",
            Self::Released { .. } => "released",
            Self::Yielding { .. } => "yielding",
            Self::Clearing => "clearing",
        })
    }
}

impl Phase {
    /// Returns the epoch at which this node holds the group: while addresses may be up.
    #[must_use]
    pub fn held(self) -> Option<Epoch> {
        match self {
            Self::Resuming { epoch }
            | Self::Starting { epoch }
            | Self::Serving { epoch }
            | Self::Stopping { epoch }
            | Self::Blocked { epoch }
            | Self::Dropping { epoch }
            | Self::Yielding { epoch } => (epoch != Epoch::NONE).then_some(epoch),
            Self::Idle | Self::Seeking | Self::Released { .. } | Self::Clearing => None,
        }
    }

    /// Tells whether this node has nothing of the group and nothing left to do about it.
    #[must_use]
    pub const fn is_apart(self) -> bool {
        matches!(self, Self::Idle | Self::Released { .. })
    }
}
