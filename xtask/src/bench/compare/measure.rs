//! One run: both nodes booted, the holder broken, and what the client and the wire saw of it.

use std::{thread, time::Duration};

use ::lab::{
    addresses::{Link, Machine},
    bfd::{Sessions, State},
    client::{Observations, Pace},
    clock,
    peers::Judged,
};
use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;
use serde::{Deserialize, Serialize};

use super::system::System;
use crate::{fault::Fault, timeline::after};

/// The client asks this often: an outage is known to about this much.
pub(crate) const PACE: Duration = Duration::from_micros(200);
/// How long the client asks before the fault, and after the new node has answered.
const CALM: Duration = Duration::from_millis(150);
/// How long both nodes are asked after a fault that leaves the old one running.
const WATCH: Duration = Duration::from_millis(400);

/// What one run gave.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// From the last answer of the old node before the first of the new one to that first, in
    /// microseconds. Arrivals are compared, and the client asks on an absolute schedule, so a
    /// client that is late makes this longer, never shorter.
    pub(crate) outage_us: Option<f64>,
    /// From the fault to the first frame in which the other node claims the address, or says that
    /// the session is down.
    pub(crate) detection_us: Option<f64>,
    /// Whether the old node still answered at the service address after the takeover, to who
    /// asked it by its MAC address.
    pub(crate) two_servers: bool,
    /// The longest the client was late with a question.
    pub(crate) client_lateness_us: f64,
}

/// Does one run.
///
/// # Errors
///
/// If the system does not settle, or the service does not move within its time.
pub(crate) fn measure(system: &mut dyn System, fault: Fault) -> Result<Outcome> {
    let holder = system.boot()?;
    measure_booted(system, fault, holder)
}

/// Does one run on nodes that are booted already.
///
/// # Errors
///
/// If the service does not move within its time.
pub(crate) fn measure_booted(
    system: &mut dyn System,
    fault: Fault,
    holder: Machine,
) -> Result<Outcome> {
    match system.judged() {
        Judged::ByService => service(system, fault, holder),
        Judged::BySession => session(system, fault, holder),
    }
}

/// Waits for a moment anywhere in the system's period, so that no run is tied to its beat.
fn any_moment(period: Duration) {
    // The nanoseconds of the clock are as good as random against any timer here.
    let mut seed = clock::now().ns() | 1;
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    thread::sleep(Duration::from_nanos(seed % period.as_nanos().max(1) as u64));
}

fn service(system: &mut dyn System, fault: Fault, holder: Machine) -> Result<Outcome> {
    let next = holder.peer();
    let limit = system.move_limit().max(fault.limit());
    let pace = Pace {
        interval: PACE,
        limit: limit + system.period() + Duration::from_secs(3),
        ..Pace::default()
    };
    let client = system.lab().client(pace)?;
    ensure!(
        client.wait_for_answer(holder, clock::now(), Duration::from_secs(2)),
        "node {holder} fell silent before the fault"
    );
    thread::sleep(CALM);
    any_moment(system.period());
    let at = system.inject(fault, holder)?;
    let moved = client.wait_for_answer(next, at, limit);
    thread::sleep(CALM);
    let seen = client.finish()?;
    ensure!(moved, "node {next} did not answer within {limit:?}");
    let mut outcome = judge(&seen, holder, at)?;
    if fault.is_move() || matches!(fault, Fault::Kill | Fault::Freeze | Fault::Stop) {
        outcome.two_servers = both_answer(system)?;
    }
    Ok(outcome)
}

fn judge(seen: &Observations, holder: Machine, at: BootTime) -> Result<Outcome> {
    let next = holder.peer();
    let first = seen.first_answer(next, at).context("no answer of the new node was kept")?;
    let last = seen
        .answers
        .iter()
        .rfind(|answer| answer.node == holder && answer.received < first.received)
        .context("no answer of the old node was kept")?;
    ensure!(
        seen.answers.iter().all(|answer| answer.node != next || answer.received >= at),
        "node {next} answered before the fault"
    );
    let claim =
        seen.claims.iter().find(|claim| claim.at >= at && claim.mac == next.mac(Link::Client));
    Ok(Outcome {
        outage_us: Some(us(after(last.received, first.received))),
        detection_us: claim.map(|claim| us(after(at, claim.at))),
        two_servers: false,
        client_lateness_us: seen.worst_lateness.as_nanos() as f64 / 1e3,
    })
}

/// Asks both nodes for a while, each by its own MAC address; returns whether both answered in the
/// second half of it.
fn both_answer(system: &dyn System) -> Result<bool> {
    let judge = system.lab().judge()?;
    let half = clock::now().after(WATCH / 2);
    thread::sleep(WATCH);
    let seen = judge.finish()?;
    let answers = |node: Machine| seen.answers.iter().any(|a| a.node == node && a.at > half);
    Ok(answers(Machine::A) && answers(Machine::B))
}

fn session(system: &mut dyn System, fault: Fault, holder: Machine) -> Result<Outcome> {
    let next = holder.peer();
    let sessions = Sessions::watch(system.lab().switch())?;
    thread::sleep(CALM);
    any_moment(system.period());
    let at = system.inject(fault, holder)?;
    // Its floor is 30 ms; whatever is later is waited for just as long.
    thread::sleep(Duration::from_millis(500));
    let said = sessions.finish()?;
    let down = said
        .iter()
        .find(|said| said.node == next && said.at >= at && said.state == State::Down)
        .with_context(|| format!("node {next} did not say that the session is down"))?;
    ensure!(
        said.iter().all(|said| said.at >= at || said.state == State::Up),
        "the session was not up before the fault"
    );
    Ok(Outcome { detection_us: Some(us(after(at, down.at))), ..Outcome::default() })
}

fn us(ns: i64) -> f64 {
    ns as f64 / 1e3
}
