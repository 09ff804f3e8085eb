//! Random faults under the eyes of the judge: one lab, many runs.
//!
//! A run begins with both nodes up and one serving, lets faults happen that its seed chooses, mends
//! everything, and waits until the service is back and both nodes hear each other again. Then the
//! judge looks at all that left the nodes meanwhile.

pub mod plan;
mod report;

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;

pub use self::report::{Dual, RunReport};
use crate::{
    Lab, Options,
    addresses::{NODES, VIP4},
    clock,
    config::Settings,
    faults::{self, Deed, KINDS, Kind, Planned},
    fence::PowerSwitch,
    judge::{
        Departure, Departures,
        verdict::{self, Rule, Violation},
    },
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
        }
    }
}

/// `1 + rho` of the configuration's default, rounded up.
const RATE: f64 = 1.21;
/// A voter without its record takes no part for `(L_max + margin) (1 + rho)`.
const L_MAX: Duration = Duration::from_secs(2);
/// The lab's delay before a fence and its agent take less.
const FENCE: Duration = Duration::from_secs(1);
/// A daemon that is started has attached and speaks within this, on a machine with work to do.
const START: Duration = Duration::from_secs(2);
/// Before and after the faults of a run.
const CALM: Duration = Duration::from_millis(50);
/// Two nodes hear each other again within this, or the lab is of no use any more.
const SETTLE: Duration = Duration::from_secs(20);
/// How long it is waited for between two looks whether all daemons run.
const LOOK: Duration = Duration::from_millis(200);
/// Intervals after the end of a partition within which `available` has one server again.
const HEAL_INTERVALS: u32 = 10;

impl Lengths {
    /// Returns the configuration of a cluster with these lengths.
    #[must_use]
    pub fn settings(&self, policy: &str, gate: Option<&str>) -> Settings {
        let text = |duration: Duration| format!("{}us", duration.as_micros());
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
            auto_failback: true,
            ..Settings::default()
        }
    }

    /// Returns how long after everything is mended the service may take to be back.
    ///
    /// A daemon starts and waits out `initdead`; a promise given just before, to a node that is of
    /// no use, runs out; the seekers get into each other's way a few times (two tries of the slower
    /// rank); and a voter that forgot takes no part for its time.
    #[must_use]
    pub fn bound(&self, settings: &Settings, forgets: bool) -> Duration {
        let promise = (self.lease + self.margin).mul_f64(RATE);
        let seek = (self.interval * self.misses).max(Duration::from_millis(2));
        let mut bound = START + self.initdead + promise * 2 + seek * 8;
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

/// What a series of runs is.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Lengths the cluster runs with.
    pub lengths: Lengths,
    /// Kinds of faults to choose from.
    pub kinds: Vec<Kind>,
}

impl Chaos {
    /// All kinds of faults that a lab with these settings has.
    #[must_use]
    pub fn all_kinds(settings: &Settings) -> Vec<Kind> {
        KINDS.into_iter().filter(|kind| !kind.needs_witness() || settings.has_witness()).collect()
    }

    /// Sets up a lab and starts the daemons; returns it when one serves and both hear each other.
    ///
    /// # Errors
    ///
    /// If the lab cannot be set up, or no node serves.
    pub fn start(options: Options) -> Result<Lab> {
        let mut lab = Lab::up(options)?;
        for node in NODES {
            lab.start_daemon(node)?;
        }
        settle(&mut lab)?;
        Ok(lab)
    }

    /// Does one run with faults that `seed` chooses.
    ///
    /// # Errors
    ///
    /// If the lab refuses something, or the judge could not watch: there is no verdict then.
    pub fn run(&self, lab: &mut Lab, seed: u64) -> Result<RunReport> {
        let mut random = plan::Random::new(seed);
        // A power switch that fails leaves `safe` to wait, and must not let it serve.
        let broken = random.below(4) == 0;
        let plan = plan::plan(&mut random, &self.kinds);
        self.run_plan(lab, seed, &plan, broken)
    }

    /// Does one run with these faults; `broken` is whether the power switch, where there is one,
    /// fails.
    ///
    /// # Errors
    ///
    /// As [`Chaos::run`].
    pub fn run_plan(
        &self,
        lab: &mut Lab,
        seed: u64,
        plan: &[Planned],
        broken: bool,
    ) -> Result<RunReport> {
        if let Some(switch) = lab.power_switch() {
            switch.set_broken(broken);
            drop(switch.take_requests());
        }
        let judge = lab.judge()?;
        let began = clock::now();
        thread::sleep(CALM);
        let deeds = faults::carry_out(lab, plan)?;
        let mended = deeds.last().map_or(began, |deed| deed.ended);
        let fenced = lab.power_switch().map(PowerSwitch::take_requests).unwrap_or_default();
        let forgets = !fenced.is_empty() || plan.iter().any(|p| p.fault.kind.forgets());
        let bound = self.lengths.bound(lab.settings(), forgets);
        let back = judge.wait_for_service(mended, bound).map(|answer| answer.at);
        let settled = settle_fenced(lab);
        let fenced_since = lab.power_switch().map(PowerSwitch::take_requests).unwrap_or_default();
        let fenced = [fenced, fenced_since].concat();
        thread::sleep(CALM);
        let ended = clock::now();
        let seen = judge.finish()?;
        let violations = verdict::violations(&seen);
        let heal = self.lengths.interval * HEAL_INTERVALS;
        let (duals, violations) = if lab.settings().policy == "available" {
            split(&violations, &seen.answers, &partitions(&deeds, heal))
        } else {
            (Vec::new(), violations)
        };
        let mut report = RunReport {
            seed,
            faults: plan.iter().map(|planned| planned.fault.to_string()).collect(),
            fence_broken: lab.power_switch().is_some() && broken,
            answers: seen.answers.len(),
            silence_ns: verdict::longest_silence(&seen.answers, began, ended),
            back_ns: back.map(|at| at.ns() - mended.ns()),
            bound_ns: bound.as_nanos() as u64,
            duals,
            violations: violations.len(),
            failures: Vec::new(),
            timeline: Vec::new(),
        };
        if let Some(first) = violations.first() {
            report.failures.push(format!("two servers: {first}"));
        }
        if back.is_none() {
            report.failures.push(format!("no service within {bound:?} after all was mended"));
        } else if let Err(error) = settled {
            report.failures.push(format!("the nodes do not settle: {error:#}"));
        }
        if !report.failures.is_empty() {
            let evidence =
                Evidence { deeds: &deeds, seen: &seen, fenced: &fenced, violations: &violations };
            report.timeline = report::timeline(lab, began, &evidence)?;
        }
        Ok(report)
    }
}

/// What a timeline is made of.
struct Evidence<'a> {
    deeds: &'a [Deed],
    seen: &'a Departures,
    fenced: &'a [crate::fence::Fenced],
    violations: &'a [Violation],
}

/// A power switch that works takes a node down this often in a run, at most; more is a defect.
const FENCES: usize = 3;

/// Waits as [`settle`] does, and boots what is switched off meanwhile: a fence may come when all is
/// mended already, because a node was late.
fn settle_fenced(lab: &mut Lab) -> Result<()> {
    for _ in 0..FENCES {
        let mut off = false;
        for node in NODES {
            off |= lab.power_switch().is_some() && !lab.daemon_runs(node)?;
        }
        if off {
            faults::mend_all(lab)?;
        } else if settle(lab).is_ok() {
            return Ok(());
        }
    }
    settle(lab)
}

/// Waits until both nodes hear each other's controllers and one serves. Fails at once if the daemon
/// of one ends meanwhile.
fn settle(lab: &mut Lab) -> Result<()> {
    for node in NODES {
        let end = clock::now().after(SETTLE);
        while let Err(error) = lab.wait_for_controller(node, true, LOOK) {
            for node in NODES {
                ensure!(lab.daemon_runs(node)?, "the daemon of {node} has ended");
            }
            ensure!(clock::now() < end, "for {SETTLE:?}: {error:#}");
        }
    }
    lab.who_serves(VIP4.into(), SETTLE)?.context("no node serves")?;
    Ok(())
}

/// Returns from when to when the nodes did not hear each other, with `heal` to find together.
fn partitions(deeds: &[Deed], heal: Duration) -> Vec<(BootTime, BootTime)> {
    let mut found = Vec::new();
    let mut since = None;
    for deed in deeds {
        match (deed.connected, since) {
            (false, None) => since = Some(deed.began),
            (true, Some(from)) => {
                found.push((from, deed.ended.after(heal)));
                since = None;
            }
            _ => {}
        }
    }
    found
}

/// Tells whether the server of the higher epoch has answered only while the nodes were parted, and so
/// there are no two any more: nobody could tell the one that is left.
fn left_within(
    violation: &Violation,
    answers: &[Departure],
    allowed: &[(BootTime, BootTime)],
) -> bool {
    let mut others = answers.iter().filter(|answer| {
        let before = answer.at <= violation.at;
        before && answer.node != violation.node && answer.epoch >= violation.epoch
    });
    violation.rule != Rule::Stale
        && others
            .all(|answer| allowed.iter().any(|(from, to)| answer.at >= *from && answer.at <= *to))
}

/// Parts what a partition allows from what it does not.
fn split(
    violations: &[Violation],
    answers: &[Departure],
    allowed: &[(BootTime, BootTime)],
) -> (Vec<Dual>, Vec<Violation>) {
    let within = |at: BootTime, &(from, to): &(BootTime, BootTime)| at >= from && at <= to;
    let duals = allowed
        .iter()
        .filter_map(|window| {
            let times = violations.iter().map(|v| v.at).filter(|&at| within(at, window));
            let first = times.clone().min()?;
            let last = times.max()?;
            Some(Dual {
                partition_ns: window.1.ns() - window.0.ns(),
                dual_ns: last.ns() - first.ns(),
            })
        })
        .collect();
    let rest = violations
        .iter()
        .filter(|violation| !allowed.iter().any(|window| within(violation.at, window)))
        .filter(|violation| !left_within(violation, answers, allowed))
        .copied()
        .collect();
    (duals, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Machine;

    fn deed(began: u64, connected: bool) -> Deed {
        Deed { began: BootTime(began), ended: BootTime(began + 1), what: String::new(), connected }
    }

    fn violation(at: u64) -> Violation {
        let (node, epoch) = (Machine::A, 1);
        let after = Departure { at: BootTime(1), node: Machine::B, epoch: 2, asked: BootTime(0) };
        Violation { rule: Rule::Order, at: BootTime(at), node, epoch, after }
    }

    #[test]
    fn a_partition_lasts_from_the_first_cut_to_the_last_mending_and_ten_intervals() {
        let deeds = [deed(10, true), deed(20, false), deed(30, false), deed(40, true)];
        let found = partitions(&deeds, Duration::from_nanos(5));
        assert_eq!(found, [(BootTime(20), BootTime(46))]);
        assert_eq!(partitions(&deeds[..1], Duration::ZERO), []);
    }

    #[test]
    fn only_what_a_partition_explains_is_allowed() {
        let violations = [19, 20, 30, 46, 47].map(violation);
        let answers = [violations[0].after];
        let (duals, rest) = split(&violations, &answers, &[(BootTime(20), BootTime(46))]);
        assert_eq!(duals, [Dual { partition_ns: 26, dual_ns: 26 }]);
        assert_eq!(rest.iter().map(|v| v.at.ns()).collect::<Vec<_>>(), [19, 47]);
        let (duals, rest) = split(&violations, &answers, &[]);
        assert!(duals.is_empty());
        assert_eq!(rest.len(), 5);
    }

    #[test]
    fn who_is_left_after_a_partition_may_go_on_and_two_may_not() {
        let answered = |at| Departure { at: BootTime(at), ..violation(0).after };
        let window = [(BootTime(20), BootTime(46))];
        let left = |answers: &[Departure], violations: &[Violation]| {
            split(violations, answers, &window).1.iter().map(|v| v.at.ns()).collect::<Vec<_>>()
        };
        let violations = [47, 60].map(violation);
        assert_eq!(left(&[answered(25), answered(40)], &violations), [0; 0]);
        // The other one took over for good.
        assert_eq!(left(&[answered(25), answered(70)], &violations), [0; 0]);
        assert_eq!(left(&[answered(25), answered(50)], &violations), [60]);
        assert_eq!(left(&[answered(19), answered(25)], &violations), [47, 60]);
        let stale = Violation { rule: Rule::Stale, ..violations[0] };
        assert_eq!(left(&[answered(25)], &[stale]), [47]);
    }

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
