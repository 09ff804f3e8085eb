//! The gate: what it does, where it sits, and what it counted.

use std::collections::BTreeMap;

use hb_ebpf::{gate::Count, packet::MAX_TAGS};
use serde::{Deserialize, Serialize};

use super::{Page, row, span};

/// The gate of a node, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// `on`, `dry-run`, `bypass` or `unknown`.
    pub mode: String,
    /// Whether the daemon is alive, by the stamp that the kernel goes by.
    pub daemon_alive: bool,
    /// How old that stamp is.
    pub daemon_age_us: u64,
    /// `false` if its pins are gone, and no daemon runs that pins it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<bool>,
    /// The interfaces it sits on.
    pub interfaces: Vec<InterfaceAtGate>,
    /// Interfaces that it does not sit on, both ways and before all other programs.
    pub not_gated: Vec<String>,
    /// Packets stopped because they were behind more VLAN tags than the gate looks behind.
    pub buried: u64,
    /// The service addresses, in the order of the configuration.
    pub addresses: Vec<AddressAtGate>,
}

/// An interface with a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAtGate {
    /// Its name.
    pub interface: String,
    /// What looks at packets that arrive: `xdp`, `tcx` or `nothing`.
    pub arriving: String,
    /// What looks at packets that leave: `tcx` or `nothing`.
    pub leaving: String,
    /// Programs before the gate, whose packets it may never see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<BeforeGate>,
}

/// A program that stands before the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeGate {
    /// Which packets it sees first: those with `arrives at` the interface, or `leaves by` it.
    pub way: String,
    /// Its name and id.
    pub program: String,
}

/// A service address at the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressAtGate {
    /// The address.
    pub address: String,
    /// Its group; `none` if it is of none any more, and kept from everybody until it is gone.
    pub group: String,
    /// Whether its packets pass by the lease of the group.
    pub open: bool,
    /// Why they do not: `not-holding`, `expired`, `controller-dead` or `no-group`.
    pub reason: Option<String>,
    /// Packets by what became of them; every counter, whether or not it is 0.
    pub counts: BTreeMap<String, u64>,
    /// MAC address of the machine that last claimed it while this node served it.
    pub claimed_by: Option<String>,
}

impl AddressAtGate {
    fn count(&self, what: Count) -> u64 {
        self.counts.get(what.as_str()).copied().unwrap_or(0)
    }
}

/// Writes `report` for an operator, in plain ASCII.
#[must_use]
pub fn render_gate(report: &GateReport) -> String {
    let mut page = Page::default();
    mode(&mut page, report);
    if !report.daemon_alive {
        page.line(&format!(
            "DAEMON DEAD for {}: leases are not asked for any more",
            span(report.daemon_age_us)
        ));
    }
    page.line("");
    let mut rows = vec![row(["interface", "arriving", "leaving"])];
    for gated in &report.interfaces {
        let way = |way: &str| if way == "nothing" { "NOTHING".to_owned() } else { way.to_owned() };
        rows.push(vec![gated.interface.clone(), way(&gated.arriving), way(&gated.leaving)]);
    }
    page.table(&rows, 3);
    page.line("");
    counters(&mut page, report);
    page.text
}

/// Says how the gate works, loudly if it does not.
pub(super) fn mode(page: &mut Page, report: &GateReport) {
    page.line(&match report.mode.as_str() {
        "on" => "gate: on".to_owned(),
        "dry-run" => {
            "GATE IS DRY-RUN: it counts and stops nothing; two nodes may serve at once".to_owned()
        }
        "bypass" => {
            "GATE IS BYPASSED: it does not even look; two nodes may serve at once".to_owned()
        }
        other => format!("GATE MODE IS {other}: left by another version"),
    });
    if !report.not_gated.is_empty() {
        page.line(&format!(
            "NOT GATED: {}: packets of service addresses pass there without a lease",
            report.not_gated.join(", ")
        ));
    }
    for gated in &report.interfaces {
        for BeforeGate { way, program } in &gated.before {
            page.line(&format!(
                "  {program} stands before the gate of what {way} {}: it may let any packet pass",
                gated.interface
            ));
        }
    }
    if report.pinned == Some(false) {
        page.line(
            "NOTHING IS PINNED: the gate is where it was attached, closed; start hb, or take it away \
             with `hb gate --remove`",
        );
    }
}

/// Writes what was counted of each address.
pub(super) fn counters(page: &mut Page, report: &GateReport) {
    if report.buried > 0 {
        page.line(&format!(
            "{} packets behind more than {MAX_TAGS} priority tags: nobody sends such in earnest",
            report.buried
        ));
    }
    if report.addresses.is_empty() {
        return;
    }
    let heading = ["at the gate", "now", "way", "passed", "not held", "expired", "no daemon"];
    let mut rows = vec![row(heading)];
    let mut notes = Vec::new();
    for address in &report.addresses {
        let now = match address.reason.as_deref() {
            _ if address.open => "open",
            Some("not-holding") => "closed",
            Some("no-group") => "NO GROUP",
            Some("expired") => "EXPIRED",
            _ => "DAEMON DEAD",
        };
        for (way, counts) in [
            ("in", [Count::PassedIn, Count::NotHoldingIn, Count::ExpiredIn, Count::ControllerIn]),
            (
                "out",
                [Count::PassedOut, Count::NotHoldingOut, Count::ExpiredOut, Count::ControllerOut],
            ),
        ] {
            let (name, now) = if way == "in" { (&*address.address, now) } else { ("", "") };
            let mut cells = row([name, now, way]);
            cells.extend(counts.map(|what| address.count(what).to_string()));
            rows.push(cells);
        }
        let bounced = address.count(Count::Bounced);
        if bounced > 0 {
            let name = &address.address;
            notes.push(format!("  {name}: {bounced} packets sent on after a planned move"));
        }
        let claims = address.count(Count::Claims);
        if claims > 0 {
            let mac = address.claimed_by.as_deref().unwrap_or("unknown");
            notes.push(format!(
                "  {}: CLAIMED by others {claims} times, last by {mac}",
                address.address
            ));
        }
    }
    page.table(&rows, 3);
    for note in notes {
        page.line(&note);
    }
}
