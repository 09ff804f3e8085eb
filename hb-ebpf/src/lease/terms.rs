//! How long a lease, a promise and every wait last, and who votes.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{maps::MAX_NODES, time::L_MAX_NS};

/// Voters of a group, this node among them.
pub const MAX_VOTERS: usize = 5;
/// `rho` counts in this many parts of the whole.
pub const RHO_ONE: u32 = 1024;
/// `rho` when nothing is configured: 0.2, rounded up.
pub const RHO_DEFAULT: u32 = 205;

const RHO_SHIFT: u32 = RHO_ONE.trailing_zeros();
const _: () = assert!(RHO_ONE.is_power_of_two());

/// Who may serve when nodes cannot hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// A majority of the nodes and a third voter.
    Witness = 1,
    /// Both nodes, or one whose peer is confirmed to be fenced.
    Safe = 2,
    /// Each node on its own.
    Available = 3,
}

impl Policy {
    /// Returns the policy of a code from the map; an unknown one is read as the strictest.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            2 => Self::Safe,
            3 => Self::Available,
            _ => Self::Witness,
        }
    }
}

/// The lengths an operator chooses, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `L`, the lease asked for at each request.
    pub lease_ns: u64,
    /// Longest time from the gate's check to the wire, by the clock of the node that sends.
    pub margin_ns: u64,
    /// How long after a release a voter still counts its promise as given.
    pub drain_ns: u64,
    /// How long a node seeks one epoch before it gives up.
    pub seek_ns: u64,
    /// Bound on the rate of one clock relative to another, in parts of [`RHO_ONE`].
    pub rho: u32,
    /// Time between two probes on a link.
    pub interval_ns: u64,
    /// Silence that means dead.
    pub deadtime_ns: u64,
    /// Age at which a controller counts as dead.
    pub controller_deadtime_ns: u64,
}

/// What the transitions go by: the checked lengths and the voters of a group.
///
/// Built by [`Terms::new`]; the fields are public because the kernel reads them from a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Terms {
    /// `L`, the lease asked for at each request.
    pub lease_ns: u64,
    /// No lease is longer: `L_max`.
    pub longest_lease_ns: u64,
    /// Longest time from the gate's check to the wire, by the clock of the node that sends.
    pub margin_ns: u64,
    /// How long after a release a voter still counts its promise as given.
    pub drain_ns: u64,
    /// How long a node seeks one epoch before it gives up.
    pub seek_ns: u64,
    /// Bound on the rate of one clock relative to another, in parts of [`RHO_ONE`].
    pub rho: u32,
    /// Voters there are.
    pub count: u8,
    /// This machine's id, one of the voters.
    pub own: u8,
    /// 1 on a machine that only votes.
    pub witness: u8,
    /// A [`Policy`].
    pub policy: u8,
    /// Ids of the voters; 0 beyond `count`.
    pub voters: [u8; MAX_VOTERS],
    /// Zero.
    pub padding: [u8; 3],
}

impl Terms {
    /// Checks lengths and voters against each other.
    ///
    /// `own` is this machine's id, `witness` the id of the voter that never holds, if there is one.
    ///
    /// # Errors
    ///
    /// The first [`TermsError`] found, with the numbers that do not fit.
    pub fn new(
        policy: Policy,
        timing: &Timing,
        voters: &[u8],
        own: u8,
        witness: Option<u8>,
    ) -> Result<Self, TermsError> {
        timing.check()?;
        check_voters(voters, own, witness)?;
        let mut terms = Self {
            lease_ns: timing.lease_ns,
            longest_lease_ns: L_MAX_NS,
            margin_ns: timing.margin_ns,
            drain_ns: timing.drain_ns,
            seek_ns: timing.seek_ns,
            rho: timing.rho,
            count: voters.len() as u8,
            own,
            witness: u8::from(witness == Some(own)),
            policy: policy as u8,
            voters: [0; MAX_VOTERS],
            padding: [0; 3],
        };
        for (slot, voter) in terms.voters.iter_mut().zip(voters) {
            *slot = *voter;
        }
        Ok(terms)
    }

    /// Returns the policy.
    #[inline(always)]
    #[must_use]
    pub const fn policy(&self) -> Policy {
        Policy::from_code(self.policy)
    }

    /// Returns how long a request for `lease_ns` binds the voter from its arrival:
    /// `(L + margin) (1 + rho)`.
    #[inline(always)]
    #[must_use]
    pub const fn promise_ns(&self, lease_ns: u64) -> u64 {
        stretch(lease_ns.saturating_add(self.margin_ns), self.rho)
    }

    /// Returns how long after its own gate was last open a node keeps its vote:
    /// `margin (1 + rho)`.
    #[inline(always)]
    #[must_use]
    pub const fn wait_ns(&self) -> u64 {
        stretch(self.margin_ns, self.rho)
    }

    /// Returns how long a voter without its record takes no part: `(L_max + margin) (1 + rho)`.
    #[inline(always)]
    #[must_use]
    pub const fn amnesia_ns(&self) -> u64 {
        self.promise_ns(self.longest_lease_ns)
    }

    /// Returns the place of voter `id`, below [`MAX_VOTERS`].
    #[inline(always)]
    #[must_use]
    pub fn place(&self, id: u8) -> Option<usize> {
        let mut place = 0;
        while place < MAX_VOTERS {
            if id != 0 && self.voters[place] == id {
                return Some(place);
            }
            place += 1;
        }
        None
    }

    /// Returns how many other voters a holder needs beside its own vote for a strict majority.
    #[inline(always)]
    #[must_use]
    pub const fn others_needed(&self) -> u8 {
        self.count >> 1
    }
}

/// Returns `ns (1 + rho)`, rounded up: every wait may only get longer by rounding. A span of 2^32 ns
/// (4.3 s) or more, which no checked length reaches, becomes for ever: so the product fits into the
/// 64 bits that the kernel's programs can multiply.
#[inline(always)]
#[must_use]
pub const fn stretch(ns: u64, rho: u32) -> u64 {
    if ns > u32::MAX as u64 {
        return u64::MAX;
    }
    let extra = (ns * rho as u64 + RHO_ONE as u64 - 1) >> RHO_SHIFT;
    ns + extra
}

const _: () = assert!(2 * L_MAX_NS <= u32::MAX as u64);

impl Timing {
    fn check(&self) -> Result<(), TermsError> {
        if self.rho > RHO_ONE {
            return Err(TermsError::Rho { rho: self.rho });
        }
        if self.margin_ns == 0 {
            return Err(TermsError::NoMargin);
        }
        let shortest_ns = self.interval_ns.saturating_mul(2);
        if self.interval_ns == 0 || self.lease_ns <= shortest_ns {
            return Err(TermsError::LeaseShort {
                lease_ns: self.lease_ns,
                interval_ns: self.interval_ns,
            });
        }
        if self.lease_ns > L_MAX_NS {
            return Err(TermsError::LeaseLong { lease_ns: self.lease_ns });
        }
        if self.margin_ns > L_MAX_NS {
            return Err(TermsError::MarginLong { margin_ns: self.margin_ns });
        }
        let (wait_ns, promise_ns) =
            (stretch(self.margin_ns, self.rho), stretch(self.lease_ns + self.margin_ns, self.rho));
        if self.drain_ns <= wait_ns {
            return Err(TermsError::DrainShort { drain_ns: self.drain_ns, wait_ns });
        }
        if self.drain_ns > promise_ns {
            return Err(TermsError::DrainLong { drain_ns: self.drain_ns, promise_ns });
        }
        if self.seek_ns < shortest_ns {
            return Err(TermsError::SeekShort {
                seek_ns: self.seek_ns,
                interval_ns: self.interval_ns,
            });
        }
        if self.seek_ns > L_MAX_NS {
            return Err(TermsError::SeekLong { seek_ns: self.seek_ns });
        }
        if self.deadtime_ns >= L_MAX_NS || self.deadtime_ns <= self.interval_ns {
            return Err(TermsError::Deadtime {
                deadtime_ns: self.deadtime_ns,
                interval_ns: self.interval_ns,
            });
        }
        if self.controller_deadtime_ns <= self.interval_ns
            || self.controller_deadtime_ns >= L_MAX_NS
        {
            return Err(TermsError::Controller {
                controller_deadtime_ns: self.controller_deadtime_ns,
                interval_ns: self.interval_ns,
            });
        }
        Ok(())
    }
}

fn check_voters(voters: &[u8], own: u8, witness: Option<u8>) -> Result<(), TermsError> {
    if voters.len() < 2 || voters.len() > MAX_VOTERS {
        return Err(TermsError::Count { count: voters.len() });
    }
    for (place, &id) in voters.iter().enumerate() {
        if id == 0 || usize::from(id) > MAX_NODES || voters[..place].contains(&id) {
            return Err(TermsError::Voter { id });
        }
    }
    match witness {
        Some(id) if !voters.contains(&id) => Err(TermsError::Stranger { id }),
        _ if !voters.contains(&own) => Err(TermsError::Stranger { id: own }),
        _ => Ok(()),
    }
}

/// Why lengths or voters do not fit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TermsError {
    /// `rho` above one.
    Rho {
        /// In parts of [`RHO_ONE`].
        rho: u32,
    },
    /// No time from the gate to the wire.
    NoMargin,
    /// A lease that one lost frame ends.
    LeaseShort {
        /// The lease.
        lease_ns: u64,
        /// The probe interval.
        interval_ns: u64,
    },
    /// A lease above `L_max`.
    LeaseLong {
        /// The lease.
        lease_ns: u64,
    },
    /// A margin above `L_max`.
    MarginLong {
        /// The margin.
        margin_ns: u64,
    },
    /// A vote would be free while packets of the released epoch still leave.
    DrainShort {
        /// The drain.
        drain_ns: u64,
        /// `margin (1 + rho)`.
        wait_ns: u64,
    },
    /// A release would shorten nothing.
    DrainLong {
        /// The drain.
        drain_ns: u64,
        /// `(L + margin) (1 + rho)`.
        promise_ns: u64,
    },
    /// A seeker would give up before an answer can come.
    SeekShort {
        /// The length of a seek.
        seek_ns: u64,
        /// The probe interval.
        interval_ns: u64,
    },
    /// A seeker would stand in the way of others for longer than any lease.
    SeekLong {
        /// The length of a seek.
        seek_ns: u64,
    },
    /// Deadtime out of range.
    Deadtime {
        /// The deadtime.
        deadtime_ns: u64,
        /// The probe interval.
        interval_ns: u64,
    },
    /// The controller's deadtime out of range.
    Controller {
        /// The controller's deadtime.
        controller_deadtime_ns: u64,
        /// The probe interval.
        interval_ns: u64,
    },
    /// Too few or too many voters.
    Count {
        /// Voters given.
        count: usize,
    },
    /// An id out of range or given twice.
    Voter {
        /// The id.
        id: u8,
    },
    /// This machine or the witness is not among the voters.
    Stranger {
        /// The id.
        id: u8,
    },
}

impl fmt::Display for TermsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Rho { rho } => write!(
                f,
                "rho is {rho}/{RHO_ONE}, above 1: no two working clocks differ so much, give a \
                 bound of at most {RHO_ONE}/{RHO_ONE}"
            ),
            Self::NoMargin => write!(
                f,
                "margin is 0 ns, but a packet takes time from the gate to the wire: give the bound \
                 of the queue in between"
            ),
            Self::LeaseShort { lease_ns, interval_ns } => write!(
                f,
                "lease {lease_ns} ns is not longer than two intervals of {interval_ns} ns, so one \
                 lost frame ends it: lengthen the lease or shorten the interval"
            ),
            Self::LeaseLong { lease_ns } => write!(
                f,
                "lease {lease_ns} ns is above the longest lease, {L_MAX_NS} ns: shorten it"
            ),
            Self::MarginLong { margin_ns } => write!(
                f,
                "margin {margin_ns} ns is above the longest lease, {L_MAX_NS} ns: bound the queue \
                 between the gate and the wire"
            ),
            Self::DrainShort { drain_ns, wait_ns } => write!(
                f,
                "drain {drain_ns} ns is not longer than margin (1 + rho) = {wait_ns} ns, so the \
                 successor could serve while packets of the old holder still leave: lengthen drain"
            ),
            Self::DrainLong { drain_ns, promise_ns } => write!(
                f,
                "drain {drain_ns} ns is longer than a promise, (lease + margin) (1 + rho) = \
                 {promise_ns} ns, so a release would shorten nothing: shorten drain"
            ),
            Self::SeekShort { seek_ns, interval_ns } => write!(
                f,
                "a seek of {seek_ns} ns is shorter than two intervals of {interval_ns} ns, so it \
                 is given up before answers come: lengthen it"
            ),
            Self::SeekLong { seek_ns } => write!(
                f,
                "a seek of {seek_ns} ns is above the longest lease, {L_MAX_NS} ns: shorten it"
            ),
            Self::Deadtime { deadtime_ns, interval_ns } => write!(
                f,
                "deadtime {deadtime_ns} ns is not between the interval of {interval_ns} ns and \
                 the longest lease, {L_MAX_NS} ns"
            ),
            Self::Controller { controller_deadtime_ns, interval_ns } => write!(
                f,
                "controller_deadtime {controller_deadtime_ns} ns is not between the interval of \
                 {interval_ns} ns and the longest lease, {L_MAX_NS} ns"
            ),
            Self::Count { count } => write!(
                f,
                "{count} voters: a majority needs 2 to {MAX_VOTERS}, the witness among them"
            ),
            Self::Voter { id } => {
                write!(f, "voter {id} is given twice or is not between 1 and {MAX_NODES}")
            }
            Self::Stranger { id } => write!(f, "machine {id} is not among the voters: add it"),
        }
    }
}

impl core::error::Error for TermsError {}

/// Returns how long after giving up a seek of `seek_ns` the candidate of `rank` (0 goes first) waits before
/// it seeks again. The ranks are two seeks apart, so that one whole attempt of the first falls before the
/// second begins.
#[must_use]
pub const fn retry_ns(seek_ns: u64, rank: u8) -> u64 {
    seek_ns.saturating_mul(2 * rank as u64 + 1)
}

#[cfg(test)]
#[path = "terms_tests.rs"]
pub(crate) mod tests;
