//! How long leases last: what the file says, what it leaves out, and what follows for a takeover.

use std::{fmt, time::Duration};

use hb_ebpf::{
    lease::{
        Terms, TermsError, Timing,
        terms::{RHO_DEFAULT, RHO_ONE, stretch},
    },
    time::L_MAX_NS,
};

use super::{Config, Fence, Policy, Readable, Timers};
use crate::id::NodeId;

/// The longest lease, `L_max`: a constant of the protocol.
pub const LEASE_MOST: Duration = Duration::from_nanos(L_MAX_NS);
/// A lease is not shorter than this by default, however short deadtime is: about ten times what a
/// real-time thread was late at worst.
const LEASE_LEAST_DEFAULT: Duration = Duration::from_millis(2);
/// `margin` unless the file says otherwise.
const MARGIN_DEFAULT: Duration = Duration::from_micros(200);

/// Lengths of leases as the file gives them; `None` takes the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseValues {
    /// `L`, the lease asked for at each request. Default: the longer of two deadtimes and 2 ms, at
    /// most `L_max`.
    pub length: Option<Duration>,
    /// Longest time from the gate's check to the wire. Default: 200 us.
    pub margin: Option<Duration>,
    /// How long after a release a voter still counts its promise as given. Default: a tenth more
    /// than `margin (1 + rho)`, but no longer than a promise.
    pub drain: Option<Duration>,
    /// How long a node seeks one epoch before it gives up. Default: the longer of deadtime and
    /// 2 ms, at most `L_max`.
    pub seek: Option<Duration>,
    /// Bound on the rate of one clock relative to another, in 1024ths. Default: 0.2.
    pub rho: Option<u32>,
}

/// Lengths of leases, complete. That they fit together is what [`Terms::new`] checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// `L`, the lease asked for at each request.
    pub length: Duration,
    /// Longest time from the gate's check to the wire.
    pub margin: Duration,
    /// How long after a release a voter still counts its promise as given.
    pub drain: Duration,
    /// How long a node seeks one epoch before it gives up.
    pub seek: Duration,
    /// Bound on the rate of one clock relative to another, in 1024ths.
    pub rho: u32,
}

impl LeaseTiming {
    /// Fills in the defaults.
    #[must_use]
    pub fn new(values: &LeaseValues, timers: &Timers) -> Self {
        let within = |time: Duration| time.clamp(LEASE_LEAST_DEFAULT, LEASE_MOST);
        let mut timing = Self {
            length: values.length.unwrap_or_else(|| within(timers.deadtime().saturating_mul(2))),
            margin: values.margin.unwrap_or(MARGIN_DEFAULT),
            drain: Duration::ZERO,
            seek: values.seek.unwrap_or_else(|| within(timers.deadtime())),
            rho: values.rho.unwrap_or(RHO_DEFAULT),
        };
        timing.drain = values.drain.unwrap_or_else(|| {
            let wait = timing.wait();
            wait.saturating_add(wait / 10).min(timing.promise())
        });
        timing
    }

    /// Returns how long a request binds a voter: `(length + margin) (1 + rho)`.
    #[must_use]
    pub fn promise(&self) -> Duration {
        self.stretched(self.length.saturating_add(self.margin))
    }

    /// Returns how long after its own gate was last open a node keeps its vote:
    /// `margin (1 + rho)`.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.stretched(self.margin)
    }

    /// Returns how long a voter that lost its record takes no part: `(L_max + margin) (1 + rho)`.
    #[must_use]
    pub fn amnesia(&self) -> Duration {
        self.stretched(LEASE_MOST.saturating_add(self.margin))
    }

    fn stretched(&self, time: Duration) -> Duration {
        Duration::from_nanos(stretch(ns(time), self.rho))
    }

    /// Returns the lengths as the library checks them.
    ///
    /// Under `available` nobody promises anything, so timers longer than a lease may be are no
    /// error there: the library, which keeps none of the three, gets shorter ones.
    fn checked_with(&self, policy: Policy, timers: &Timers) -> Timing {
        let mut timing = Timing {
            lease_ns: ns(self.length),
            margin_ns: ns(self.margin),
            drain_ns: ns(self.drain),
            seek_ns: ns(self.seek),
            rho: self.rho,
            interval_ns: ns(timers.interval()),
            deadtime_ns: ns(timers.deadtime()),
            controller_deadtime_ns: ns(timers.controller_deadtime()),
        };
        if policy == Policy::Available {
            timing.interval_ns = timing.interval_ns.min(timing.lease_ns.min(timing.seek_ns) / 4);
            timing.deadtime_ns = timing.deadtime_ns.min(L_MAX_NS - 1);
            timing.controller_deadtime_ns = timing.controller_deadtime_ns.min(L_MAX_NS - 1);
        }
        timing
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads a decimal from 0 to 1 such as `0.2` as parts of [`RHO_ONE`], rounded up: a bound may only
/// get wider by rounding.
pub(super) fn rho(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 12 {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let parts = whole.parse::<u32>().ok()?.checked_mul(RHO_ONE)?;
    let more = (fraction * u64::from(RHO_ONE)).div_ceil(scale);
    parts.checked_add(u32::try_from(more).ok()?).filter(|parts| *parts <= RHO_ONE)
}

impl Config {
    /// Returns the ids of the voters: the nodes by rank, then the witness if there is one.
    #[must_use]
    pub fn voters(&self) -> Vec<NodeId> {
        let witness = self.witness.iter().map(|witness| witness.id);
        self.nodes.iter().map(|node| node.id).chain(witness).collect()
    }

    /// Returns by which rule and whose votes a group may be held, in one line: two configurations for
    /// which it differs may have majorities that do not meet.
    #[must_use]
    pub fn voter_set(&self) -> String {
        let voters: Vec<_> = self.voters().iter().map(|voter| voter.0.to_string()).collect();
        format!("{} {}", self.cluster.policy.as_str(), voters.join(" "))
    }

    /// Returns what the lease transitions of voter `own` go by, the same for every group.
    ///
    /// # Errors
    ///
    /// [`TermsError`] if `own` is no voter; everything else was checked when the file was read.
    pub fn terms(&self, own: NodeId) -> Result<Terms, TermsError> {
        terms(
            self.cluster.policy,
            &self.lease,
            &self.timers,
            &self.voters(),
            own,
            self.witness.as_ref().map(|witness| witness.id),
        )
    }

    /// Returns what an operator may expect of this configuration.
    #[must_use]
    pub fn expected(&self) -> Expected {
        Expected {
            policy: self.cluster.policy,
            lease: self.lease,
            timers: self.timers,
            fence_timeout: self.fence.as_ref().map(Fence::longest),
        }
    }
}

pub(super) fn terms(
    policy: Policy,
    lease: &LeaseTiming,
    timers: &Timers,
    voters: &[NodeId],
    own: NodeId,
    witness: Option<NodeId>,
) -> Result<Terms, TermsError> {
    let timing = lease.checked_with(policy, timers);
    let voters: Vec<u8> = voters.iter().map(|voter| voter.0).collect();
    Terms::new(policy.into(), &timing, &voters, own.0, witness.map(|witness| witness.0))
}

/// What an operator may expect: how long leases and promises last, and when another node serves.
///
/// Displays lines for `hb check`. The times are bounds by the rules, from the last frame that got
/// through; adding addresses and the network come on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    policy: Policy,
    lease: LeaseTiming,
    timers: Timers,
    fence_timeout: Option<Duration>,
}

impl Expected {
    /// Returns when another node serves after a node died: the longer of deadtime and a promise.
    /// `None` where that waits for a fence.
    #[must_use]
    pub fn after_death(&self) -> Option<Duration> {
        match self.policy {
            Policy::Witness => Some(self.timers.deadtime().max(self.lease.promise())),
            Policy::Safe => None,
            Policy::Available => Some(self.timers.deadtime()),
        }
    }

    /// Returns when another node serves after the daemon of the holder froze or was killed: once its
    /// kernel half has given the group away, and what it promised has drained.
    #[must_use]
    pub fn after_freeze(&self) -> Duration {
        let controller = self.timers.controller_deadtime();
        match self.policy {
            Policy::Witness | Policy::Safe => controller.saturating_add(self.lease.drain),
            Policy::Available => controller,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = &self.lease;
        let deadtime = Readable(self.timers.deadtime());
        let controller = Readable(self.timers.controller_deadtime());
        if self.policy != Policy::Available {
            writeln!(
                f,
                "lease {}; a promise lasts (lease + margin) (1 + rho) = ({} + {}) x {:.3} = {}",
                Readable(lease.length),
                Readable(lease.length),
                Readable(lease.margin),
                1.0 + f64::from(lease.rho) / f64::from(RHO_ONE),
                Readable(lease.promise()),
            )?;
        }
        match self.after_death() {
            Some(death) => write!(
                f,
                "a dead node is replaced after {} (deadtime {deadtime})",
                Readable(death)
            )?,
            None => write!(
                f,
                "a dead node is replaced once it is fenced (asked for after {deadtime}, and given up \
                 after {})",
                Readable(self.fence_timeout.unwrap_or_default()),
            )?,
        }
        writeln!(
            f,
            ", one whose daemon froze after {} (controller_deadtime {controller})",
            Readable(self.after_freeze()),
        )?;
        match self.policy {
            Policy::Witness => writeln!(
                f,
                "a planned move takes drain {} and a round trip; a voter that lost its record \
                 takes no part for {}",
                Readable(lease.drain),
                Readable(lease.amnesia()),
            ),
            Policy::Safe => writeln!(
                f,
                "a planned move takes drain {} and a round trip; without a confirmed fence the \
                 group serves nowhere",
                Readable(lease.drain),
            ),
            Policy::Available => {
                writeln!(
                    f,
                    "across a partition both nodes serve: policy \"available\" accepts that"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimerValues;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    fn timers(interval: Duration, deadtime: Duration) -> Timers {
        let values = TimerValues {
            interval,
            deadtime,
            warntime: None,
            initdead: None,
            controller_deadtime: None,
            doubt_max: None,
        };
        Timers::new(&values).unwrap()
    }

    #[test]
    fn defaults_follow_deadtime() {
        let usual = LeaseTiming::new(&LeaseValues::default(), &timers(MS, 5 * MS));
        assert_eq!((usual.length, usual.margin, usual.seek), (10 * MS, 200 * US, 5 * MS));
        assert_eq!(usual.rho, 205);
        // 200 us x 1229/1024, rounded up to a nanosecond, and a tenth.
        assert_eq!(usual.wait(), Duration::from_nanos(240_040));
        assert_eq!(usual.drain, Duration::from_nanos(264_044));
        assert_eq!(usual.promise(), Duration::from_nanos(12_241_993));
        let fast = LeaseTiming::new(&LeaseValues::default(), &timers(100 * US, 300 * US));
        assert_eq!((fast.length, fast.seek), (2 * MS, 2 * MS));
    }

    /// Whatever timers a policy with promises can have, the defaults pass.
    #[test]
    fn defaults_are_accepted() {
        for (interval, misses) in
            [(50 * US, 2), (50 * US, 1000), (MS, 5), (100 * MS, 3), (400 * MS, 2), (3 * MS, 300)]
        {
            let timers = timers(interval, interval * misses);
            let lease = LeaseTiming::new(&LeaseValues::default(), &timers);
            let voters = [NodeId(1), NodeId(2), NodeId(9)];
            let own = NodeId(2);
            terms(Policy::Witness, &lease, &timers, &voters, own, Some(NodeId(9)))
                .unwrap_or_else(|error| panic!("{interval:?} x {misses}: {error}"));
        }
    }

    #[test]
    fn slow_timers_are_accepted_without_promises() {
        let slow = timers(Duration::from_secs(10), Duration::from_secs(100));
        let lease = LeaseTiming::new(&LeaseValues::default(), &slow);
        let voters = [NodeId(1), NodeId(2)];
        terms(Policy::Available, &lease, &slow, &voters, NodeId(1), None).unwrap();
        let error = terms(Policy::Safe, &lease, &slow, &voters, NodeId(1), None).unwrap_err();
        assert!(error.to_string().contains("interval"), "{error}");
    }

    #[test]
    fn rho_is_rounded_up() {
        for (text, parts) in [
            ("0.2", Some(205)),
            ("0.0", Some(0)),
            ("0", Some(0)),
            ("1", Some(1024)),
            ("1.0", Some(1024)),
            ("0.5", Some(512)),
            ("0.001", Some(2)),
            ("0.000000000001", Some(1)),
            ("1.01", None),
            ("2", None),
            ("-0.1", None),
            ("1e-3", None),
            ("nan", None),
            ("0.0000000000001", None),
            ("", None),
        ] {
            assert_eq!(rho(text), parts, "{text}");
        }
    }
}
