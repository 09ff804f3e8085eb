//! Random faults under the eyes of the judge: one lab, many runs.
//!
//! A run begins with both nodes up and one serving, lets faults happen that its seed chooses, mends
//! everything, and waits until the service is back and both nodes hear each other again. Then the
//! judge looks at all that left the nodes meanwhile.

mod lengths;
mod network;
pub mod plan;
mod report;

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;

pub use self::{
    lengths::Lengths,
    plan::Plan,
    report::{Dual, RunReport},
};
use crate::{
    Lab, Options,
    addresses::{Machine, NODES},
    clock,
    config::Settings,
    connections::Connections,
    faults::{self, Deed, KINDS, Kind, NETWORK},
    fence::PowerSwitch,
    judge::{
        Departure, Departures,
        verdict::{self, Rule, Violation},
    },
};

/// Before and after the faults of a run.
const CALM: Duration = Duration::from_millis(50);
/// Two nodes hear each other again within this, or the lab is of no use any more.
const SETTLE: Duration = Duration::from_secs(20);
/// How long it is waited for between two looks whether all daemons run.
const LOOK: Duration = Duration::from_millis(200);
/// Intervals after the end of a partition within which `available` has one server again.
const HEAL_INTERVALS: u32 = 10;

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
        KINDS
            .into_iter()
            .filter(|kind| !kind.needs_witness() || settings.has_witness())
            // What lasts for seconds is a series of its own.
            .filter(|kind| *kind == Kind::Carrier || !NETWORK.contains(kind))
            .collect()
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
        let network = self.kinds.iter().all(|kind| NETWORK.contains(kind));
        let plan = if network {
            network::plan(&mut random, &self.kinds, &self.lengths).unwrap_or_default()
        } else {
            plan::plan(&mut random, &self.kinds, &self.lengths)
        };
        self.run_plan(lab, seed, &plan)
    }

    /// Does one run with these faults.
    ///
    /// # Errors
    ///
    /// As [`Chaos::run`].
    pub fn run_plan(&self, lab: &mut Lab, seed: u64, plan: &Plan) -> Result<RunReport> {
        if let Some(switch) = lab.power_switch() {
            switch.set_broken(&plan.broken);
            drop(switch.take_requests());
        }
        drop(lab.take_edits());
        let network = network::is_network(plan, &self.lengths);
        if network {
            wait_until_able(lab)?;
        }
        let judge = lab.judge()?;
        let addresses = lab.settings().addresses();
        let connections = if self.kinds.contains(&Kind::Connections) {
            Some(Connections::start(lab.netns(Machine::Client), &addresses)?)
        } else {
            None
        };
        let began = clock::now();
        thread::sleep(CALM);
        let deeds = faults::carry_out(lab, &plan.faults)?;
        let mut mended = deeds.last().map_or(began, |deed| deed.ended);
        let fenced = lab.power_switch().map(PowerSwitch::take_requests).unwrap_or_default();
        let mut forgets = !fenced.is_empty() || plan.faults.iter().any(|p| p.fault.kind.forgets());
        let (mut bound, mut back) = (Duration::ZERO, Ok(None));
        for _ in 0..=faults::FENCES {
            bound = self.lengths.bound(lab.settings(), forgets);
            if plan.faults.iter().any(|planned| NETWORK.contains(&planned.fault.kind)) {
                bound += lengths::HOLD_DOWN;
            }
            back = judge.wait_for_service(&addresses, mended, bound);
            // A fence came late, and nobody but this boots what it switched off.
            if back.is_ok() || !boot_fenced(lab)? {
                break;
            }
            (mended, forgets) = (clock::now(), true);
        }
        let settled = settle_fenced(lab);
        let fenced_since = lab.power_switch().map(PowerSwitch::take_requests).unwrap_or_default();
        let fenced = [fenced, fenced_since].concat();
        thread::sleep(CALM);
        let ended = clock::now();
        let streamed = connections.map(Connections::finish).transpose()?.unwrap_or_default();
        let mut seen = judge.finish()?;
        seen.edits = lab.take_edits();
        let violations = verdict::violations(&seen);
        let heal = self.lengths.interval * HEAL_INTERVALS;
        let (duals, violations) = if lab.settings().policy == "available" {
            split(&violations, &seen.answers, &partitions(&deeds, heal))
        } else {
            (Vec::new(), violations)
        };
        let mut report = RunReport {
            seed,
            faults: plan.faults.iter().map(|planned| planned.fault.to_string()).collect(),
            not_fenced: if lab.power_switch().is_some() {
                plan.broken.iter().map(ToString::to_string).collect()
            } else {
                Vec::new()
            },
            answers: seen.answers.len(),
            streamed,
            silence_ns: addresses
                .iter()
                .map(|&address| verdict::longest_silence(&seen.answers, address, began, ended).ns)
                .max()
                .unwrap_or_default(),
            back_ns: back.as_ref().ok().copied().flatten().map(|a| a.at.ns() - mended.ns()),
            bound_ns: bound.as_nanos() as u64,
            duals,
            violations: violations.len(),
            failures: Vec::new(),
            timeline: Vec::new(),
        };
        if let Some(first) = violations.first() {
            report.failures.push(format!("two servers: {first}"));
        }
        if let ([planned], [injected, mended, ..], true) =
            (plan.faults.as_slice(), deeds.as_slice(), network)
        {
            // What has flapped is well again, and may be failed back to.
            let during = if planned.fault.kind == Kind::Flap {
                (injected.began, injected.ended)
            } else {
                (injected.ended, mended.began)
            };
            report.failures.extend(network::failures(
                planned,
                &self.lengths,
                &seen.answers,
                &addresses,
                during,
            ));
        }
        if let Err(missing) = back {
            let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
            let missing = missing.join(", ");
            report
                .failures
                .push(format!("no service within {bound:?} after all was mended for {missing}"));
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

/// Waits until each node serves or stands by for each group: what failed before is over.
fn wait_until_able(lab: &Lab) -> Result<()> {
    let end = clock::now().after(SETTLE);
    loop {
        let able = NODES.into_iter().all(|node| {
            lab.status(node).is_ok_and(|status| {
                let groups = status["groups"].as_array().cloned().unwrap_or_default();
                let able = |group: &serde_json::Value| {
                    group["health"] == "standby" || group["health"] == "healthy"
                };
                !groups.is_empty() && groups.iter().all(able)
            })
        });
        if able {
            return Ok(());
        }
        ensure!(clock::now() < end, "a node is not able to serve within {SETTLE:?}");
        thread::sleep(LOOK);
    }
}

/// What a timeline is made of.
struct Evidence<'a> {
    deeds: &'a [Deed],
    seen: &'a Departures,
    fenced: &'a [crate::fence::Fenced],
    violations: &'a [Violation],
}

/// Waits as [`settle`] does, and boots what is switched off meanwhile: a fence may come when all is
/// mended already, because a node was late.
fn settle_fenced(lab: &mut Lab) -> Result<()> {
    for _ in 0..faults::FENCES {
        if !boot_fenced(lab)? && settle(lab).is_ok() {
            return Ok(());
        }
    }
    settle(lab)
}

/// Boots what was switched off; tells whether anything was.
fn boot_fenced(lab: &mut Lab) -> Result<bool> {
    let mut off = false;
    for node in NODES {
        off |= lab.power_switch().is_some() && !lab.daemon_runs(node)?;
    }
    if off {
        faults::mend_all(lab)?;
    }
    Ok(off)
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
    for address in lab.settings().addresses() {
        let serves = lab.who_serves(address, SETTLE)?;
        serves.with_context(|| format!("no node serves {address}"))?;
    }
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
/// there are no two any more: nobody could tell the one that is left, nor that what waits unread there since
/// before is old.
fn left_within(
    violation: &Violation,
    answers: &[Departure],
    allowed: &[(BootTime, BootTime)],
) -> bool {
    let parted = |at: BootTime| allowed.iter().any(|(from, to)| at >= *from && at <= *to);
    // Whose question is old took a higher number when it heard of the other's.
    let any = violation.rule == Rule::Stale;
    let mut others = answers.iter().filter(|answer| {
        let of = [violation.address, violation.after.address].contains(&answer.address);
        let before = of && answer.at <= violation.at;
        before && answer.node != violation.node && (any || answer.epoch >= violation.epoch)
    });
    others.all(|answer| parted(answer.at))
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
    use std::net::IpAddr;

    use super::*;
    use crate::addresses::VIPS;

    const VIP: IpAddr = VIPS[0];

    fn deed(began: u64, connected: bool) -> Deed {
        Deed { began: BootTime(began), ended: BootTime(began + 1), what: String::new(), connected }
    }

    fn violation(at: u64) -> Violation {
        let (node, epoch) = (Machine::A, 1);
        let after = Departure {
            at: BootTime(1),
            node: Machine::B,
            address: VIP,
            epoch: 2,
            asked: BootTime(0),
        };
        Violation { rule: Rule::Order, at: BootTime(at), node, address: VIP, epoch, after }
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
        // It went on, with questions from before; or came back to them after the other had served.
        let after = answered(25);
        let stale = Violation { rule: Rule::Stale, epoch: 3, after, ..violations[0] };
        assert_eq!(left(&[after], &[stale]), [0; 0]);
        assert_eq!(left(&[after, answered(47)], &[stale]), [47]);
        assert_eq!(left(&[answered(19), after], &[stale]), [47]);
    }
}
