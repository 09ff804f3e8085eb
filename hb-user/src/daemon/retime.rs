//! Other timers, taken while the nodes watch each other: see [`Retiming`].

use std::time::Duration;

use hb_ebpf::{
    maps::{Life, Timing},
    time::BootTime,
};

use super::Daemon;
use crate::{
    core::{
        Input,
        retiming::{Pace, Retiming},
    },
    fast::Command,
    id::NodeId,
    realtime::{Demand, Policy},
};

impl Daemon {
    /// Returns the timers that this node goes by, unless they are being changed and there is no way back.
    pub(super) fn timers_in_force(&self) -> Option<Timing> {
        match &self.retiming {
            Some(retiming) => retiming.untouched(),
            None => Some(self.config.timers.of_peer()),
        }
    }

    /// Goes from these timers to those of the configuration, if they differ.
    pub(super) fn retime(&mut self, old: Timing) {
        let new = self.config.timers.of_peer();
        self.retiming = (old != new).then(|| Retiming::new(old, new));
    }

    /// Returns the nodes that live and go by another file.
    fn not_agreed(&self) -> Vec<NodeId> {
        let own = self.shared.node().config_hash;
        let lives_otherwise = |peer: &NodeId| {
            self.shared.peer(*peer).is_none_or(|state| {
                Life::from_code(state.life) != Life::Dead && state.config_hash != own
            })
        };
        self.peers().into_iter().filter(lives_otherwise).collect()
    }

    /// Takes the next step, if it is time. Called at every tick.
    pub(super) fn go_on_with_timers(&mut self, now: BootTime) {
        if self.retiming.is_none() {
            return;
        }
        let agreed = self.not_agreed().is_empty();
        let Some(retiming) = &mut self.retiming else { return };
        let Some(pace) = retiming.go_on(agreed, now) else { return };
        if retiming.is_done() {
            self.retiming = None;
        }
        self.go_by(&pace);
        let ns = Duration::from_nanos;
        tracing::info!(
            interval = ?ns(pace.interval_ns),
            deadtime = ?ns(pace.timing.dead_ns),
            done = self.retiming.is_none(),
            "timers changed"
        );
    }

    fn go_by(&mut self, pace: &Pace) {
        for peer in self.others() {
            self.shared.set_timing(peer, &pace.timing);
        }
        let interval_ns = pace.interval_ns;
        let demand = Demand::of_prober(Duration::from_nanos(interval_ns));
        self.command(Command::Pace { interval_ns, demand });
        let two_intervals = Duration::from_nanos(pace.timing.interval_ns) * 2;
        self.feed(Input::Paced {
            initdead: Duration::from_nanos(pace.timing.init_dead_ns),
            contend: two_intervals,
            linger: two_intervals,
        });
    }

    /// The fast path's reservation follows its interval, or the kernel refused.
    pub(super) fn on_rescheduled(&mut self, policy: Policy, errno: i32) {
        self.fast.rescheduled(policy);
        if errno != 0 {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(%policy, %error, "no CPU time is reserved for the fast path any more");
        }
    }

    /// Returns what a status says of timers that wait.
    pub(super) fn is_retiming(&self) -> Option<String> {
        let retiming = self.retiming.as_ref()?;
        let names: Vec<_> =
            self.not_agreed().into_iter().map(|peer| self.node_name(peer)).collect();
        Some(match retiming.untouched() {
            Some(_) if !names.is_empty() => format!(
                "the new [timers] are used once {} goes by the same file: reload hb there",
                names.join(" and ")
            ),
            _ => "the [timers] are being changed".to_owned(),
        })
    }
}
