//! Carrying out what was planned, and mending all of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;

use super::{Fault, edit, ensure_daemon, mend_disk, order, signal, while_no_power_is_cut};
use crate::{
    Lab,
    addresses::{Machine, NODES},
    clock,
    responder::Order,
};

/// Mends whatever may still be wrong with the lab, also what a fence did: all wires carry, all
/// daemons run, and by the file that the lab began with.
///
/// # Errors
///
/// If the lab refuses.
pub fn mend_all(lab: &mut Lab) -> Result<()> {
    for node in NODES {
        lab.switch().part(node, &[]);
    }
    for machine in lab.settings().machines() {
        mend_disk(lab, machine);
        lab.take_foreign(machine);
    }
    for node in NODES {
        signal(lab, node, libc::SIGCONT)?;
        // Before the wires: a node that was switched off comes back as one that boots.
        ensure_daemon(lab, node)?;
        while_no_power_is_cut(lab, |lab| lab.heal(node));
        order(lab, node, Order::Read)?;
    }
    if lab.has_witness() {
        lab.heal(Machine::Witness);
    }
    // Last: what stops in order hands over to the other node.
    edit::undo(lab)
}

/// A fault and when it happens and is mended, counted from the begin of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The fault.
    pub fault: Fault,
    /// When it happens.
    pub from: Duration,
    /// When it is mended.
    pub until: Duration,
}

/// Something that was done to the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// Just before.
    pub began: BootTime,
    /// Just after.
    pub ended: BootTime,
    /// What.
    pub what: String,
    /// Whether the nodes heard each other on some link, both ways, from then on.
    pub connected: bool,
}

/// A power switch that works takes nodes down this often at the end of a run, at most: each node for
/// each of two groups, and once more. More is a defect.
pub(crate) const FENCES: usize = 6;

/// Carries out a plan and then mends all that is left; returns what was done when.
///
/// # Errors
///
/// If the lab refuses a step, named in the error.
pub fn carry_out(lab: &mut Lab, plan: &[Planned]) -> Result<Vec<Deed>> {
    let mut steps: Vec<(Duration, bool, Fault)> =
        plan.iter().flat_map(|p| [(p.from, true, p.fault), (p.until, false, p.fault)]).collect();
    steps.sort_by_key(|&(at, ..)| at);
    let start = clock::now();
    let mut deeds = Vec::new();
    for (at, happens, fault) in steps {
        clock::sleep_until(start.after(at));
        let began = clock::now();
        let done = if happens { fault.inject(lab) } else { fault.mend(lab) };
        let what = format!("{fault}{}", if happens { "" } else { ": mended" });
        done.with_context(|| what.clone())?;
        let (ended, connected) = (clock::now(), lab.switch().connects_nodes());
        deeds.push(Deed { began, ended, what, connected });
    }
    let began = clock::now();
    mend_all(lab).context("mending all")?;
    for _ in 0..FENCES {
        // A node that was late may have the other one fenced meanwhile.
        if lab.power_switch().is_some() && !lab.switch().connects_nodes() {
            mend_all(lab).context("mending all")?;
        }
    }
    let (ended, connected) = (clock::now(), lab.switch().connects_nodes());
    ensure!(connected, "the nodes are not connected although all is mended");
    deeds.push(Deed { began, ended, what: "all is mended".into(), connected });
    Ok(deeds)
}
