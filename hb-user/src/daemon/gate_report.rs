//! The gate for an operator: what is pinned, with names; and its removal where nothing else is left.

use std::{collections::BTreeMap, path::PathBuf};

use hb_ebpf::{
    gate::{Count, Mode},
    lease::{self, Terms},
};

use super::removal::{self, RemovalError, Removed};
use crate::{
    config::HostView,
    id::{GroupId, NodeId},
    kernel::{Displaced, GateView, GatedVip, KernelError},
    status::{AddressAtGate, BeforeGate, GateReport, InterfaceAtGate},
};

/// Why the gate could not be shown or taken away.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// What is pinned.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The interfaces of this host.
    #[error("cannot read the interfaces of this host")]
    Host(#[source] std::io::Error),
    /// Nothing there.
    #[error("there is no gate at {0}: no daemon left one there")]
    Nothing(String),
    /// It stays where it is.
    #[error(transparent)]
    Removal(#[from] RemovalError),
}

/// A node that has a gate.
#[derive(Clone, Copy, Debug)]
pub struct GateNode {
    /// Id of its cluster.
    pub cluster: u32,
    /// Its own.
    pub id: NodeId,
    /// By what it promises.
    pub terms: Terms,
}

/// Whose gate it is.
#[derive(Clone, Debug)]
pub struct GatePlace {
    /// Where it is pinned.
    pub pins: PathBuf,
    /// Its node: it is known by that where it is attached, when nothing is pinned. `None` if there is
    /// no configuration to tell.
    pub node: Option<GateNode>,
    /// The fingerprints and names of its groups.
    pub groups: Vec<(u32, String)>,
}

impl GatePlace {
    /// Returns the gate, and whether it is pinned.
    fn view(&self) -> Result<(GateView, bool), GateError> {
        if let Some(view) = GateView::read(&self.pins)? {
            return Ok((view, true));
        }
        let found = self.node.map(|node| GateView::find(node.cluster, node.id)).transpose()?;
        let nothing = || GateError::Nothing(self.pins.display().to_string());
        found.flatten().map(|view| (view, false)).ok_or_else(nothing)
    }
}

/// Reads the gate at `place`.
///
/// # Errors
///
/// [`GateError`].
pub fn gate(place: &GatePlace) -> Result<GateReport, GateError> {
    let (view, pinned) = place.view()?;
    let host = HostView::read().map_err(GateError::Host)?;
    let mut report = named(&view, &host, &place.groups);
    report.pinned = (!pinned).then_some(false);
    Ok(report)
}

/// Gives names to what the kernel knows by number.
fn named(view: &GateView, host: &HostView, groups: &[(u32, String)]) -> GateReport {
    let mut interfaces = Vec::new();
    let mut not_gated = Vec::new();
    for interface in &host.interfaces {
        let found = view.interfaces.iter().find(|gated| gated.index == interface.index);
        let gated = found.cloned().unwrap_or_default();
        if !(gated.leaving && (gated.xdp || gated.arriving) && gated.before.is_empty()) {
            not_gated.push(interface.name.clone());
        }
        interfaces.push(InterfaceAtGate {
            interface: interface.name.clone(),
            arriving: match (gated.xdp, gated.arriving) {
                (true, _) => "xdp",
                (false, true) => "tcx",
                (false, false) => "nothing",
            }
            .to_owned(),
            leaving: if gated.leaving { "tcx" } else { "nothing" }.to_owned(),
            before: gated
                .before
                .into_iter()
                .map(|Displaced { way, program }| BeforeGate {
                    way: way.words().to_owned(),
                    program,
                })
                .collect(),
        });
    }
    GateReport {
        mode: match view.mode {
            Some(Mode::On) => "on",
            Some(Mode::DryRun) => "dry-run",
            Some(Mode::Bypass) => "bypass",
            None => "unknown",
        }
        .to_owned(),
        daemon_alive: view.is_daemon_alive(),
        pinned: None,
        daemon_age_us: view.read_at.since(view.controller_stamp).as_micros() as u64,
        interfaces,
        not_gated,
        buried: view.buried,
        addresses: view.vips.iter().map(|vip| address(view, vip, groups)).collect(),
    }
}

fn address(view: &GateView, vip: &GatedVip, groups: &[(u32, String)]) -> AddressAtGate {
    let open = view.passes(vip);
    let reason = match vip.expires_ns {
        _ if open => None,
        _ if vip.group.is_none() => Some("no-group"),
        0 => Some("not-holding"),
        lease::ENDLESS => Some("controller-dead"),
        _ => Some("expired"),
    };
    let named = groups.iter().find(|(fingerprint, _)| *fingerprint == vip.fingerprint);
    let group = match (vip.group, named) {
        (None, _) => "none".to_owned(),
        (Some(_), Some((_, name))) => name.clone(),
        (Some(GroupId(place)), None) => format!("group {place}"),
    };
    let counts: BTreeMap<_, _> = Count::ALL
        .iter()
        .map(|what| (what.as_str().to_owned(), vip.counters[*what as usize]))
        .collect();
    AddressAtGate {
        address: vip.address.to_string(),
        group,
        open,
        reason: reason.map(str::to_owned),
        counts,
        claimed_by: vip.claimed_by.map(super::gate::mac_text),
    }
}

/// Takes away what a daemon that is gone for good left at `place`. Needs neither configuration nor key
/// for what is pinned.
///
/// # Errors
///
/// [`GateError`]; the gate is where it was if it is not the last step that fails.
pub fn remove_gate(place: &GatePlace) -> Result<Removed, GateError> {
    if !place.pins.exists() {
        place.view()?;
    }
    Ok(removal::remove_gate(place)?)
}
