//! How long what a cluster under faults does may take.

use std::{net::IpAddr, time::Duration};

use crate::{
    addresses::{Machine, vip4, vip6},
    config::{GROUP, Group, Settings},
};

/// Lengths the cluster runs with.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Time between two probes on a link.
    pub interval: Duration,
    /// Misses that mean dead.
    pub misses: u32,
    /// Lease.
    pub lease: Duration,
    /// Longest time from the gate to the wire.
    pub margin: Duration,
    /// Age at which a controller is dead.
    pub controller_deadtime: Duration,
    /// The first deadtime after start.
    pub initdead: Duration,
    /// How long the node of higher id waits before it fences; `None` where nobody is fenced.
    pub fence_delay: Option<Duration>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(1),
            misses: 5,
            lease: Duration::from_millis(20),
            // The longest the lab's machine was seen to hold a packet up between gate and switch.
            margin: Duration::from_millis(2),
            controller_deadtime: Duration::from_millis(30),
            initdead: Duration::from_millis(200),
            fence_delay: None,
        }
    }
}

/// `1 + rho` of the configuration's default, rounded up.
const RATE: f64 = 1.21;
/// A voter without its record takes no part for `(L_max + margin) (1 + rho)`.
const L_MAX: Duration = Duration::from_secs(2);
/// An agent of the lab takes about a tenth of this.
const FENCE_DELAY: Duration = Duration::from_millis(300);
/// The lab's delay before a fence and its agent take less.
const FENCE: Duration = Duration::from_secs(1);
/// A daemon that is started has attached and speaks within this, on a machine with work to do.
const START: Duration = Duration::from_secs(2);

/// For how long an interface has to carry before its node is ready again.
pub(super) const HOLD_DOWN: Duration = Duration::from_secs(2);

impl Lengths {
    /// Returns the usual lengths of a cluster with this policy.
    #[must_use]
    pub fn of(policy: &str) -> Self {
        Self { fence_delay: (policy == "safe").then_some(FENCE_DELAY), ..Self::default() }
    }

    /// Returns the configuration of a cluster with these lengths: two groups, each preferring another
    /// node.
    #[must_use]
    pub fn settings(&self, policy: &str, gate: Option<&str>) -> Settings {
        let promises = policy != "available";
        Settings {
            interval: text(self.interval),
            misses: self.misses,
            initdead: text(self.initdead),
            controller_deadtime: text(self.controller_deadtime),
            policy: policy.into(),
            lease: promises.then(|| text(self.lease)),
            margin: promises.then(|| text(self.margin)),
            gate: gate.map(Into::into),
            fence_delay: text(self.fence_delay.unwrap_or(FENCE_DELAY)),
            auto_failback: true,
            groups: vec![
                Group { name: GROUP, preferred: Machine::A, addresses: both(0) },
                Group { name: "db", preferred: Machine::B, addresses: both(1) },
            ],
            ..Settings::default()
        }
    }

    /// Returns by when another node has taken over from one that was not heard any more.
    pub(super) fn longest_promise(&self) -> Duration {
        let fence = self.fence_delay.map_or(Duration::ZERO, |_| FENCE);
        self.promise() * 2 + self.seek() * 8 + fence
    }

    /// Returns how long a vote stays given.
    fn promise(&self) -> Duration {
        (self.lease + self.margin).mul_f64(RATE)
    }

    /// Returns how long a node asks for one epoch.
    fn seek(&self) -> Duration {
        self.deadtime().max(Duration::from_millis(2))
    }

    fn deadtime(&self) -> Duration {
        self.interval * self.misses
    }

    /// Returns all times after which something happens by itself.
    #[must_use]
    pub fn timers(&self) -> Vec<Duration> {
        [
            self.interval,
            self.deadtime(),
            self.lease,
            self.promise(),
            self.controller_deadtime,
            self.initdead,
        ]
        .into_iter()
        .chain(self.fence_delay)
        .collect()
    }

    /// Returns how long after everything is mended the service may take to be back.
    ///
    /// A daemon starts and waits out `initdead`; a promise given just before, to a node that is of
    /// no use, runs out; the seekers get into each other's way a few times (two tries of the slower
    /// rank); and a voter that forgot takes no part for its time.
    #[must_use]
    pub fn bound(&self, settings: &Settings, forgets: bool) -> Duration {
        let mut bound = START + self.initdead + self.promise() * 2 + self.seek() * 8;
        if settings.policy == "available" {
            return bound;
        }
        if settings.policy == "safe" {
            bound += FENCE;
        }
        if forgets {
            bound += (L_MAX + self.margin).mul_f64(RATE);
        }
        bound
    }
}

/// Returns the service addresses of that number.
fn both(number: u8) -> Vec<IpAddr> {
    vec![vip4(number).into(), vip6(number).into()]
}

/// Spells a duration as the configuration does.
fn text(duration: Duration) -> String {
    format!("{}us", duration.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_grows_with_what_a_restart_costs() {
        let lengths = Lengths::default();
        let settings = lengths.settings("witness", None);
        let (without, with) = (lengths.bound(&settings, false), lengths.bound(&settings, true));
        assert!(with - without >= Duration::from_millis(2400), "{without:?} {with:?}");
        let available = lengths.settings("available", None);
        assert_eq!(lengths.bound(&available, true), lengths.bound(&available, false));
    }
}
