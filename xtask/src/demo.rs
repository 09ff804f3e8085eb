//! `cargo xtask demo`: a fault before your eyes, and how long the client felt it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ::lab::{
    Lab, Options,
    addresses::{Link, Machine, NODES, VIP4},
    client::{Client, Observations, Pace},
    clock,
    config::Settings,
    takeover,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hb_ebpf::time::BootTime;

use crate::{
    fault::Fault,
    plot,
    policy::Policy,
    prepare,
    service::{self, Service},
    steady::{self, Astray},
    timeline::{Report, Run, after},
};

/// Sets up two nodes, a witness, a switch and a client on this machine, breaks node a and shows
/// what the client saw.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// What happens to node a.
    #[arg(long, value_enum, default_value = "crash")]
    fault: Fault,
    /// Time between two heartbeats.
    #[arg(long, default_value = "200us")]
    interval: String,
    /// Missed heartbeats that mean dead.
    #[arg(long, default_value_t = 3)]
    misses: u32,
    /// Age at which a controller is dead.
    #[arg(long, value_name = "DURATION", default_value = "20ms")]
    controller_deadtime: String,
    /// Who may serve when the nodes do not hear each other.
    #[arg(long, value_enum, default_value = "witness")]
    policy: Policy,
    /// Length of a lease; hb's own default if not given.
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// Write all runs and their summary to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw all runs into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Have the service addresses on both nodes all the time, behind the gate.
    #[arg(long)]
    warm: bool,
    /// Use this hb binary instead of building one.
    #[arg(long, value_name = "FILE")]
    hb: Option<PathBuf>,
}

/// Two daemons come up and agree within this.
const START: Duration = Duration::from_secs(15);
/// The service moves within this, or the run has failed.
const MOVE: Duration = Duration::from_secs(3);
/// A repaired daemon is alive again within this, a voter without its record included.
const REPAIR: Duration = Duration::from_secs(10);
/// How long the client asks before the fault, and after the last event that is waited for.
const CALM: Duration = Duration::from_millis(150);
/// The client asks this often.
pub(crate) const PACE: Duration = Duration::from_micros(100);
/// The client ends by itself after this long.
const CLIENT: Duration = Duration::from_secs(60);

impl Demo {
    /// Runs all; fails if a run did not do what its fault must lead to.
    pub(crate) fn run(&self) -> Result<()> {
        prepare::machine()?;
        let hb = ::lab::binary::hb(self.hb.as_deref())?;
        let mut options = Options::new()?;
        options.hb = Some(hb);
        options.settings = Settings {
            interval: self.interval.clone(),
            misses: self.misses,
            controller_deadtime: self.controller_deadtime.clone(),
            policy: self.policy.name().into(),
            lease: self.lease.clone(),
            warm: self.warm,
            ..Settings::default()
        };
        // Kept until the lab is gone.
        let service = (self.fault == Fault::ServiceKill).then(Service::new).transpose()?;
        if let Some(service) = &service {
            options.settings.resource = false;
            options.settings.extra = service.resource();
        }
        let mut lab = Lab::up(options)?;
        let witness = if lab.has_witness() { ", a witness w" } else { "" };
        println!(
            "lab {}: nodes a and b{witness}, a client asking {VIP4} every 100 us; {}",
            lab.name(),
            self.lengths()
        );

        let mut runs = Vec::new();
        let mut first = None;
        for number in 1..=self.runs {
            let run = steady::run(&mut lab, self.fault, number)?;
            if let Some(error) = &run.error {
                let logs = keep_logs(&mut lab, number)?;
                first.get_or_insert((error.clone(), logs));
            }
            println!("run {number}/{}: {}", self.runs, run.line());
            runs.push(run);
        }
        drop(lab);
        drop(service);

        let report = Report::new(runs);
        self.show(&report)?;
        if let Some((error, logs)) = first {
            bail!(
                "{} of {} runs did not do what a {} must lead to, the first of them: {error}; logs are \
                 kept in {}",
                report.summary.failed,
                report.summary.runs,
                self.fault.name(),
                logs.display()
            );
        }
        Ok(())
    }

    /// What a figure is never to be quoted without.
    fn lengths(&self) -> String {
        let lease = match (&self.lease, self.policy) {
            (_, Policy::Available) => String::new(),
            (Some(lease), _) => format!(", lease {lease}"),
            (None, _) => ", default lease".into(),
        };
        format!("{} x {}, policy {}{lease}", self.misses, self.interval, self.policy.name())
    }

    fn show(&self, report: &Report) -> Result<()> {
        if let Some(typical) = typical(report)
            && typical.fault_ns.is_some()
        {
            print!("\n{}", typical.text(self.fault.deed()));
        }
        println!("\n{}", report.text());
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(report)?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("numbers are in {}", path.display());
        }
        if let Some(path) = &self.plot {
            let title = format!("{} of node a, {}", self.fault.name(), self.lengths());
            plot::draw(path, &title, &report.runs)?;
            println!("a picture is in {}", path.display());
        }
        Ok(())
    }
}

/// Returns the run with the median outage, or the first that succeeded, or the first.
fn typical(report: &Report) -> Option<&Run> {
    let mut measured: Vec<_> = report.runs.iter().filter(|run| run.outage_ns.is_some()).collect();
    measured.sort_by_key(|run| run.outage_ns);
    let middle = measured.len().saturating_sub(1) / 2;
    measured
        .get(middle)
        .copied()
        .or_else(|| report.runs.iter().find(|run| run.ok))
        .or(report.runs.first())
}

/// Puts the logs of a failed run where the next run leaves them alone.
pub(crate) fn keep_logs(lab: &mut Lab, number: u32) -> Result<PathBuf> {
    let directory = lab.keep_files()?;
    let place = directory.join(format!("failed-run-{number}"));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    for entry in fs::read_dir(&directory).context("cannot list the lab's files")? {
        let path = entry.context("cannot list the lab's files")?.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some(name) = path.file_name()
        {
            fs::copy(&path, place.join(name))
                .with_context(|| format!("cannot keep {}", path.display()))?;
        }
    }
    Ok(directory)
}

/// One run; what went wrong is in it.
pub(crate) fn run_once(lab: &mut Lab, fault: Fault, number: u32) -> Run {
    let mut run = Run::new(number, fault);
    match once(lab, fault, &mut run) {
        Ok(()) => run.ok = true,
        Err(error) => run.error = Some(format!("{error:#}")),
    }
    run
}

/// One run, on nodes as they are after a boot. Fills in `run` as far as it gets.
///
/// # Errors
///
/// With what did not happen that must.
pub(crate) fn once(lab: &mut Lab, fault: Fault, run: &mut Run) -> Result<()> {
    start(lab)?;
    if fault == Fault::MoveRestarted {
        restart_standby(lab)?;
    }
    let client = lab.client(Pace { interval: PACE, limit: CLIENT, ..Pace::default() })?;
    ensure!(
        client.wait_for_answer(Machine::A, clock::now(), MOVE),
        Astray("node a fell silent before the fault")
    );
    thread::sleep(CALM);
    moved(lab, fault, client, run)
}

/// Boots both nodes at once and waits until the preferred one serves, each sees the other's
/// controller, and the other one could take over.
fn start(lab: &mut Lab) -> Result<()> {
    lab.forget_logs()?;
    for node in NODES {
        lab.regain_carrier(node)?;
        lab.reboot(node)?;
    }
    for node in NODES {
        lab.start_daemon(node)?;
    }
    for node in NODES {
        lab.wait_for_controller(node, true, START)?;
    }
    match lab.who_serves(VIP4.into(), START)? {
        Some(Machine::A) => lab.wait_for_standby(Machine::B, START),
        Some(_) => bail!(Astray("node b serves after the start, though a is preferred")),
        None => bail!("no node serves {START:?} after both started"),
    }
}

/// Restarts the daemon of b in order, as an upgrade does, and waits until it could take over again.
fn restart_standby(lab: &mut Lab) -> Result<()> {
    lab.signal(Machine::B, libc::SIGTERM)?;
    let status = lab.daemon_mut(Machine::B).context("node b has no daemon")?.wait(MOVE)?;
    ensure!(status.success(), "the daemon of b left with {status}");
    lab.start_daemon(Machine::B)?;
    lab.wait_for_controller(Machine::A, true, START)?;
    lab.wait_for_standby(Machine::B, START)
}

/// After any fault, b must serve, and a not any more; nor when its daemon is back.
fn moved(lab: &mut Lab, fault: Fault, client: Client, run: &mut Run) -> Result<()> {
    let log = daemon_log(lab, Machine::B)?;
    let resource = lab.files().resource_log.clone();
    let limit = fault.limit();
    let at = inject(lab, fault, Machine::A)?;
    run.fault_ns = Some(at.ns());
    let answered = client.wait_for_answer(Machine::B, at, limit);
    // The resource comes after the addresses, and its program takes its time.
    let started = if lab.settings().resource { wait_for_resource(&resource, at)? } else { None };
    thread::sleep(CALM);
    repair(lab, fault, at, run)?;
    let seen = client.finish()?;

    fill_in(run, at, &seen);
    run.instants.resource_started_ns = started.map(|started| after(at, started));
    let takeovers = takeover::takeovers(&log)?;
    if let Some(takeover) = takeovers.last() {
        let relative = |instant: Option<BootTime>| instant.map(|instant| after(at, instant));
        run.instants.due_ns = relative(takeover.due);
        run.instants.verdict_ns = relative(takeover.verdict);
        run.instants.seen_ns = relative(takeover.seen);
        run.instants.sought_ns = relative(takeover.sought);
        run.instants.won_ns = relative(takeover.won);
        run.instants.published_ns = relative(takeover.published);
        run.instants.address_ns = relative(takeover.address);
        run.instants.announced_ns = relative(takeover.announced);
        run.cause = Some(takeover.cause.clone());
        run.epoch = takeover.epoch;
    }

    if let Some(daemon) = lab.daemon_mut(Machine::B) {
        daemon.check()?;
    }
    ensure!(answered, "node b did not answer within {limit:?}");
    let first = seen.first_answer(Machine::B, at).context("no answer of b was kept")?;
    let last = seen.last_answer(Machine::A).context("no answer of a was kept")?;
    run.outage_ns = Some(after(last.received, first.received));
    ensure!(
        last.received < first.received,
        "node a still answered {} us after node b began to",
        first.received.ns().abs_diff(last.received.ns()) / 1000
    );
    ensure!(
        seen.answers.iter().all(|answer| answer.node != Machine::B || answer.received >= at),
        Astray("node b answered before the fault")
    );
    ensure!(
        run.instants.announcement_on_wire_ns.is_some(),
        "no announcement of node b arrived at the client"
    );
    ensure!(
        started.is_some() || !lab.settings().resource,
        "the resource was not started on node b within {MOVE:?}"
    );
    if fault.is_move() {
        for node in NODES {
            lab.daemon_mut(node).with_context(|| format!("node {node} has no daemon"))?.check()?;
        }
    } else if fault == Fault::Stop {
        let daemon = lab.daemon_mut(Machine::A).context("node a has no daemon")?;
        let status = daemon.wait(MOVE)?;
        ensure!(status.success(), "the daemon of a left with {status}");
    } else {
        ensure!(!takeovers.is_empty(), Astray("the log of node b names no takeover"));
    }
    Ok(())
}

/// Does to `node` what the fault is; returns when.
///
/// # Errors
///
/// If it cannot be done.
pub(crate) fn inject(lab: &mut Lab, fault: Fault, node: Machine) -> Result<BootTime> {
    match fault {
        Fault::Crash => lab.crash(node),
        Fault::Cut => Ok(lab.cut(node)),
        Fault::Carrier => lab.lose_carrier(node),
        Fault::SilentPort => Ok(lab.silence_port(node)),
        Fault::Stop => lab.signal(node, libc::SIGTERM),
        Fault::Move | Fault::MoveRestarted => lab.move_group(node.peer()),
        Fault::Kill => lab.signal(node, libc::SIGKILL),
        Fault::Freeze => lab.signal(node, libc::SIGSTOP),
        Fault::ServiceKill => service::kill(),
    }
}

/// Brings the daemon of a back where it alone was hit, while b serves.
fn repair(lab: &mut Lab, fault: Fault, at: BootTime, run: &mut Run) -> Result<()> {
    let repaired = clock::now();
    match fault {
        Fault::Kill => {
            lab.daemon_mut(Machine::A).context("node a has no daemon")?.wait(MOVE)?;
            lab.start_daemon(Machine::A)?;
        }
        Fault::Freeze => drop(lab.signal(Machine::A, libc::SIGCONT)?),
        Fault::Crash
        | Fault::Cut
        | Fault::Carrier
        | Fault::SilentPort
        | Fault::Stop
        | Fault::Move
        | Fault::MoveRestarted
        | Fault::ServiceKill => return Ok(()),
    }
    run.instants.repaired_ns = Some(after(at, repaired));
    let alive = lab.wait_for_controller(Machine::B, true, REPAIR)?;
    run.instants.controller_alive_ns = Some(after(at, alive));
    thread::sleep(CALM);
    if let Some(daemon) = lab.daemon_mut(Machine::A) {
        daemon.check()?;
    }
    Ok(())
}

/// Fills in what the client saw.
fn fill_in(run: &mut Run, at: BootTime, seen: &Observations) {
    run.unanswered_ns = first_unanswered(seen).map(|due| after(at, due));
    run.client_lateness_ns = Some(seen.worst_lateness.as_nanos() as u64);
    run.instants.last_answer_old_ns =
        seen.last_answer(Machine::A).map(|answer| after(at, answer.received));
    run.instants.first_answer_new_ns =
        seen.first_answer(Machine::B, at).map(|answer| after(at, answer.received));
    run.instants.announcement_on_wire_ns = seen
        .claims
        .iter()
        .find(|claim| claim.at >= at && claim.mac == Machine::B.mac(Link::Client))
        .map(|claim| after(at, claim.at));
}

/// Returns when the first question was due that the old node did not answer any more.
fn first_unanswered(seen: &Observations) -> Option<BootTime> {
    let last = seen.last_answer(Machine::A)?.sequence as usize;
    let (before, asked) = (seen.sent.get(last)?, seen.sent.get(last + 1)?);
    // A client that is late asks late, but whoever waits has waited since it was due.
    Some((*asked).min(before.after(PACE)))
}

fn daemon_log(lab: &Lab, node: Machine) -> Result<PathBuf> {
    let daemon = lab.daemon(node).with_context(|| format!("node {node} has no daemon"))?;
    Ok(daemon.log().into())
}

/// Waits for the first start of the resource since `since`; `None` if there was none in time.
fn wait_for_resource(log: &Path, since: BootTime) -> Result<Option<BootTime>> {
    let end = clock::now().after(MOVE);
    loop {
        let started =
            takeover::told(log)?.into_iter().find(|told| told.verb == "start" && told.at >= since);
        if let Some(started) = started {
            return Ok(Some(started.at));
        }
        if clock::now() > end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
