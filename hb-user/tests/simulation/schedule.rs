//! Which faults, when.

use hb_user::core::Aside;

use crate::{
    machine::Strike,
    network::Trouble,
    plan::{Cluster, MS, Plan},
    rng::Rng,
};

/// Something that goes wrong and is mended later.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The machine loses power, and with it its record.
    Crash {
        host: usize,
    },
    /// And its disk as well.
    LoseDisk {
        host: usize,
    },
    /// The daemon is killed; its kernel half stays.
    Kill {
        host: usize,
    },
    /// The daemon is stopped, and goes on later.
    Freeze {
        host: usize,
    },
    /// The daemon leaves in order.
    Leave {
        host: usize,
    },
    /// The whole machine stands still, its clock as well.
    Pause {
        host: usize,
    },
    /// Every clock takes another rate.
    Rates,
    Wire(Vec<Trouble>),
    /// The operator wants a group on that node.
    Move {
        group: usize,
        to: usize,
    },
    /// The operator wants a node to stand aside.
    Aside {
        host: usize,
        aside: Aside,
    },
    /// The operator works on what a node serves.
    Maintenance {
        host: usize,
    },
    /// A resource that ran fails.
    Fail {
        host: usize,
    },
    /// Resources do not start.
    FailStarts {
        host: usize,
    },
    /// Nor do they stop: they fail to, or hang.
    FailStops {
        host: usize,
    },
    /// Addresses cannot be added; or removed.
    FailAdds {
        host: usize,
    },
    FailRemoves {
        host: usize,
    },
    /// Somebody holds the kernel's lock of interfaces, and every change of an address waits.
    SlowLock {
        host: usize,
    },
    /// There is no room for every report of the fast path.
    FullQueue {
        host: usize,
    },
    /// Somebody else removes addresses, at the beginning and at the end.
    Strip {
        host: usize,
    },
    /// The daemon is killed between two steps of its fast path.
    Stab {
        host: usize,
    },
    /// Connections to a group that was left are many, and now and then cannot be ended.
    FailCleans {
        host: usize,
    },
    /// Agents report that they could not fence.
    FailFences,
    /// A group is another one in the file from now on, and that node is killed and starts with it, and so
    /// may the witness; in the end all machines do.
    Edit {
        group: usize,
        host: usize,
    },
    /// An interface of the groups' addresses has no carrier, and the machine hears nobody with it, or all
    /// the others still.
    NoPath {
        host: usize,
        alone: bool,
    },
    /// What is stored takes long.
    SlowDisk {
        host: usize,
    },
    /// Nothing can be stored, as far as anybody is told.
    FailDisk {
        host: usize,
    },
    /// The kernel does not say what came of an order.
    FailOrders {
        host: usize,
    },
    /// The daemon is killed, or the machine loses power, in the middle of what the daemon does: at that call
    /// from now.
    Strike {
        host: usize,
        strike: Strike,
        /// It is killed first, and that is counted from its next start.
        starts: bool,
    },
    /// The file names other voters from now on, or other lengths of leases, and that node is killed and starts with
    /// it; in the end all machines do.
    Revote {
        host: usize,
    },
    Relength {
        host: usize,
    },
    /// The fast path does not go round, and the daemon does.
    Stick {
        host: usize,
    },
    /// The gate cannot be put at an interface.
    Ungate {
        host: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Scheduled {
    pub(crate) fault: Fault,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) faults: Vec<Scheduled>,
}

impl Schedule {
    /// Tells whether any machine stands still.
    pub(crate) fn pauses(&self) -> bool {
        self.faults.iter().any(|known| matches!(known.fault, Fault::Pause { .. }))
    }
}

pub(crate) fn draw(rng: &mut Rng, plan: &Plan) -> Schedule {
    let count = rng.within(1, 5);
    let faults = (0..count).map(|_| {
        let begin = rng.within(200 * MS, 700 * MS);
        let longest = if rng.chance(100) { 3_000 * MS } else { 250 * MS };
        let end = begin + rng.within(MS, longest);
        Scheduled { fault: draw_fault(rng, plan), begin, end }
    });
    Schedule { faults: faults.collect() }
}

/// Adds a node that stands aside for a while, to one in eight runs: from numbers of its own, so that every
/// other fault is what it is without.
pub(crate) fn add_aside(rng: &mut Rng, plan: &Plan, schedule: &mut Schedule) {
    if !rng.chance(125) {
        return;
    }
    let host = rng.index(plan.cluster.nodes());
    let aside = [Aside::All, Aside::Local, Aside::Foreign][rng.index(3)];
    let begin = rng.within(50 * MS, 500 * MS);
    let end = begin + rng.within(MS, 900 * MS);
    schedule.faults.push(Scheduled { fault: Fault::Aside { host, aside }, begin, end });
}

/// Adds maintenance of a node, in which what runs there fails, to one in eight runs: likewise.
pub(crate) fn add_maintenance(rng: &mut Rng, plan: &Plan, schedule: &mut Schedule) {
    if !rng.chance(125) {
        return;
    }
    let host = rng.index(plan.cluster.nodes());
    let begin = rng.within(50 * MS, 500 * MS);
    let end = begin + rng.within(MS, 900 * MS);
    schedule.faults.push(Scheduled { fault: Fault::Maintenance { host }, begin, end });
    let fails = begin + rng.within(0, end - begin);
    schedule.faults.push(Scheduled { fault: Fault::Fail { host }, begin: fails, end });
}

fn draw_fault(rng: &mut Rng, plan: &Plan) -> Fault {
    let machines = plan.cluster.machines();
    let node = rng.index(plan.cluster.nodes());
    let host = rng.index(machines);
    let other = (host + 1 + rng.index(machines - 1)) % machines;
    let both = |a, b| [Trouble::Cut { from: a, to: b }, Trouble::Cut { from: b, to: a }];
    match rng.index(41) {
        0 | 1 => Fault::Crash { host },
        2 | 3 => Fault::Kill { host: node },
        4 | 5 => Fault::Freeze { host: node },
        6 => Fault::Leave { host: node },
        7 | 8 => Fault::Pause { host },
        9 => Fault::Rates,
        10 | 11 => Fault::Wire(both(host, other).into()),
        12 => Fault::Wire(vec![Trouble::Cut { from: host, to: other }]),
        13 => {
            let others = (0..machines).filter(|other| *other != host);
            Fault::Wire(others.flat_map(|other| both(host, other)).collect())
        }
        14 => Fault::Wire(vec![Trouble::Loss]),
        15 => Fault::Wire(vec![Trouble::Jitter, Trouble::Doubling]),
        16 => Fault::Move { group: rng.index(plan.groups), to: node },
        17 => Fault::Fail { host: node },
        18 => match rng.index(5) {
            0 => Fault::FailStarts { host: node },
            4 => Fault::FailStops { host: node },
            1 => Fault::FailAdds { host: node },
            2 => Fault::FailCleans { host: node },
            _ => Fault::FailRemoves { host: node },
        },
        19 => Fault::SlowDisk { host: node },
        24 => Fault::FailDisk { host: node },
        25 => Fault::FailOrders { host: node },
        26..=28 => {
            let starts = rng.chance(400);
            let calls = rng.within(1, if starts { 20 } else { 60 }) as u32;
            let (power, done) = (rng.chance(400), rng.chance(500));
            Fault::Strike { host: node, strike: Strike { calls, power, done }, starts }
        }
        29 => Fault::Stick { host: node },
        30 => Fault::Ungate { host: node },
        31 => Fault::Revote { host: node },
        32 => Fault::Relength { host: node },
        34 | 35 => Fault::SlowLock { host: node },
        36 => Fault::FullQueue { host: node },
        37 => Fault::Strip { host: node },
        38 => Fault::Stab { host: node },
        39 | 40 => Fault::FailAdds { host: node },
        22 | 23 => Fault::NoPath { host: node, alone: rng.chance(500) },
        20 | 21 => Fault::Edit { group: rng.index(plan.groups), host: node },
        _ => match plan.cluster {
            Cluster::Witness | Cluster::Three => Fault::LoseDisk { host: node },
            Cluster::Safe => Fault::FailFences,
            // Nobody else would know the numbers.
            Cluster::Available => Fault::Crash { host },
        },
    }
}
