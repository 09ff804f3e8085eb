//! What must never be seen on the wire, and what has to be seen in the end.

use hb_ebpf::epoch::Epoch;
use hb_user::core::Phase;

use crate::{
    host::Host,
    plan::{Cluster, INTERVAL, MARGIN, MS, Plan, id},
    world::Bent,
};

/// How long two servers may last under `available` once the nodes hear each other: 10 intervals, and
/// the work itself.
const HEAL: u64 = 10 * INTERVAL + 10 * MS;
/// A machine that stood still may use up the rest of its lease, by its clock.
const RESIDUE: u64 = 40 * MS;
/// So long all has to stay well.
const STEADY: u64 = 150 * MS;

/// The packets of one group that passed the gate of one machine.
#[derive(Clone, Copy, Debug)]
struct Passed {
    epoch: Epoch,
    /// When the last one did, in real time and by the machine's clock.
    last: u64,
    local: u64,
    /// When it has left at the latest, if the clock goes on like this.
    gone: u64,
    /// In which life of the machine.
    boot: u64,
    /// The machine had stood still, and had not noticed.
    residue: bool,
    /// Passes still, as far as was looked.
    open: bool,
}

/// What was seen just now.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Gates that opened: machine, group, epoch.
    pub(crate) opened: Vec<(usize, usize, Epoch)>,
    pub(crate) residues: u64,
}

pub(crate) struct Judge {
    /// By machine and group.
    passed: Vec<Vec<Option<Passed>>>,
    /// When each machine was last fenced.
    fenced: Vec<Option<u64>>,
    /// Until when, without voters, nodes may not have heard each other, or a daemon that hung and is
    /// back not heard that it was replaced.
    excused_until: u64,
    mended: u64,
    settled: Option<u64>,
}

impl Judge {
    pub(crate) fn new(machines: usize, groups: usize) -> Self {
        Self {
            passed: vec![vec![None; groups]; machines],
            fenced: vec![None; machines],
            excused_until: 0,
            mended: 0,
            settled: None,
        }
    }

    pub(crate) fn fenced(&mut self, host: usize, now: u64) {
        self.fenced[host] = Some(now);
        self.mended(now);
    }

    pub(crate) fn mended(&mut self, now: u64) {
        self.mended = now;
        self.settled = None;
    }

    /// Between two events nothing happens but that leases run out: notes when the last packets passed.
    pub(crate) fn passed_until(&mut self, hosts: &[Host], from: u64, to: u64, bent: Bent) {
        for (host, passed) in hosts.iter().zip(&mut self.passed) {
            let Some(kernel) = host.kernel.as_ref().filter(|_| !host.clock.stands()) else {
                continue;
            };
            for (group, passed) in passed.iter_mut().enumerate() {
                let Some(passed) = passed.as_mut().filter(|passed| passed.open) else { continue };
                let mut last = to;
                if !matches!(bent, Bent::Bypass) {
                    last = last.min(host.clock.real_of(kernel.last_packet(group), from));
                }
                (passed.last, passed.local) = (last, host.clock.at(last));
                passed.gone = host.clock.real_of(passed.local + MARGIN, last);
            }
        }
    }

    /// Looks at every gate at `now`. `well` tells whether every frame arrives, and every clock
    /// and daemon goes.
    pub(crate) fn look(
        &mut self,
        plan: &Plan,
        hosts: &[Host],
        now: u64,
        well: bool,
        bent: Bent,
    ) -> Result<Seen, String> {
        if !well {
            self.excused_until = now + HEAL;
        }
        let mut seen = Seen::default();
        for (at, host) in hosts.iter().enumerate() {
            for group in 0..plan.groups {
                let open = host.open(group, now, matches!(bent, Bent::Bypass));
                let before = self.passed[at][group];
                let Some(epoch) = open else {
                    if let Some(passed) = &mut self.passed[at][group] {
                        passed.open = false;
                    }
                    continue;
                };
                let local = host.clock.at(now);
                let residue = host.resumed.is_some_and(|resumed| local <= resumed + RESIDUE);
                if !before.is_some_and(|before| before.open && before.epoch == epoch) {
                    seen.opened.push((at, group, epoch));
                }
                if before.is_some_and(|before| before.epoch > epoch) {
                    return Err(format!("machine {} goes back in epochs", at + 1));
                }
                let boot = host.boots;
                let gone = host.clock.real_of(local + MARGIN, now);
                let passed = Passed { epoch, last: now, local, gone, boot, residue, open: true };
                self.passed[at][group] = Some(passed);
                let judged = self.judge(plan, hosts, at, group, now, bent);
                match judged {
                    Ok(()) => {}
                    Err(_) if residue && plan.cluster != Cluster::Available => seen.residues += 1,
                    Err(wrong) => return Err(wrong),
                }
            }
        }
        Ok(seen)
    }

    /// A packet passes at machine `at`: judges it against those of all others.
    fn judge(
        &self,
        plan: &Plan,
        hosts: &[Host],
        at: usize,
        group: usize,
        now: u64,
        bent: Bent,
    ) -> Result<(), String> {
        let Some(ours) = self.passed[at][group] else { return Ok(()) };
        let available = plan.cluster == Cluster::Available;
        if available && now <= self.excused_until {
            return Ok(());
        }
        let margin = match bent {
            // Nothing there waits for the last packets of another.
            _ if available => 0,
            Bent::Margin => 10 * MARGIN,
            _ => MARGIN,
        };
        for (other, host) in hosts.iter().enumerate().filter(|(other, _)| *other != at) {
            let Some(theirs) = self.passed[other][group] else { continue };
            // Those of a machine that lost power left before that, or never.
            let lives = host.powered && host.boots == theirs.boot;
            let waits = theirs.open || host.clock.at(now) < theirs.local + margin;
            let stood = host.stood.is_some_and(|stood| stood >= theirs.last);
            let may_leave = lives && waits && !stood && !theirs.residue;
            let fenced = self.fenced[other].is_some_and(|fenced| fenced >= theirs.last);
            let (me, them) = (at + 1, other + 1);
            let (e, f) = (ours.epoch.0, theirs.epoch.0);
            // A fence need not cut the queues behind the gate; apart from that it is the order.
            let queued = fenced && !host.powered && now < theirs.gone;
            let may_leave = may_leave || (queued && !theirs.residue);
            let ordered = fenced && plan.cluster == Cluster::Safe;
            // Each side of a partition had its own numbers.
            if ours.epoch <= theirs.epoch && !ordered && (!available || theirs.open) {
                return Err(format!(
                    "{me} serves group {group} at {e:x} after {them} did at {f:x}"
                ));
            }
            if may_leave {
                let age = (now - theirs.last) as f64 / MS as f64;
                return Err(format!(
                    "{me} serves group {group} at {e:x}, and a packet that {them} let pass \
                     {age:.3} ms ago at {f:x} may leave after that"
                ));
            }
        }
        Ok(())
    }

    /// Tells whether every group is served as it should be.
    pub(crate) fn settled(&self, plan: &Plan, hosts: &[Host], now: u64) -> bool {
        let nodes = &hosts[..plan.cluster.nodes()];
        (0..plan.groups).all(|group| {
            let serves = |at: usize| {
                let host = &hosts[at];
                let serving = host.daemon.as_ref().is_some_and(|daemon| {
                    let phase = daemon.phase(group);
                    let started = daemon.resources[group] || !plan.resources;
                    matches!(phase, Phase::Serving { .. }) && started
                });
                let open = host.open(group, now, false).is_some();
                serving && open && host.addresses.are_all_up(group)
            };
            let runs = |host: &&Host| host.runs[group];
            // Elsewhere they are up as well, or none is.
            let up = |host: &&Host| {
                let one = host.addresses.epoch(group).is_some();
                if plan.warm { host.addresses.are_all_up(group) } else { one }
            };
            let ups = if plan.warm { nodes.len() } else { 1 };
            let waits = |host: &Host| {
                let kernel = host.kernel.as_ref();
                kernel.is_none_or(|kernel| kernel.records[group].is_blocked(host.clock.at(now)))
            };
            let holders: Vec<_> = (0..nodes.len()).filter(|at| serves(*at)).collect();
            let home = holders.first().is_some_and(|at| {
                let home = plan.home().is_none_or(|home| home == id(*at));
                home || hosts[*at].passed_over[group]
            });
            holders.len() == 1
                && nodes.iter().filter(up).count() == ups
                && nodes.iter().filter(runs).count() <= 1
                && home
                && !hosts.iter().any(waits)
        })
    }

    /// Tells whether the run is over, and how long after the last mending all was well for good.
    pub(crate) fn over(
        &mut self,
        plan: &Plan,
        hosts: &[Host],
        mended: bool,
        settled: bool,
        now: u64,
    ) -> Result<Option<u64>, String> {
        if !mended {
            self.mended(now);
            return if now > 60_000 * MS { Err("it never ends".to_owned()) } else { Ok(None) };
        }
        if !settled {
            self.settled = None;
            if now > self.mended + plan.patience() {
                let up: Vec<_> = hosts.iter().map(|host| &host.addresses.up).collect();
                let after = plan.patience() / MS;
                return Err(format!("not well {after} ms after all was mended, with {up:?} up"));
            }
            return Ok(None);
        }
        let since = *self.settled.get_or_insert(now);
        Ok((now >= since + STEADY).then(|| since - self.mended))
    }
}
