//! The gate for an operator: what is pinned, with names; and its removal where nothing else is left.

use std::{collections::BTreeMap, path::Path};

use hb_ebpf::{
    gate::{Count, Mode},
    lease,
};

use super::removal::{self, RemovalError, Removed};
use crate::{
    config::HostView,
    id::GroupId,
    kernel::{GateView, GatedVip, KernelError},
    status::{AddressAtGate, GateReport, InterfaceAtGate},
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

/// Reads the gate pinned at `pins`; `groups` are the names of the groups, by index.
///
/// # Errors
///
/// [`GateError`].
pub fn gate(pins: &Path, groups: &[String]) -> Result<GateReport, GateError> {
    let nothing = || GateError::Nothing(pins.display().to_string());
    let view = GateView::read(pins)?.ok_or_else(nothing)?;
    let host = HostView::read().map_err(GateError::Host)?;
    Ok(named(&view, &host, groups))
}

/// Gives names to what the kernel knows by number.
fn named(view: &GateView, host: &HostView, groups: &[String]) -> GateReport {
    let mut interfaces = Vec::new();
    let mut not_gated = Vec::new();
    for interface in &host.interfaces {
        let found = view.interfaces.iter().find(|gated| gated.index == interface.index);
        let gated = found.copied().unwrap_or_default();
        if !(gated.leaving && (gated.xdp || gated.arriving)) {
            not_gated.push(interface.name.clone());
        }
        interfaces.push(InterfaceAtGate {
            interface: interface.name.clone(),
            arriving: match gated {
                _ if gated.xdp => "xdp",
                _ if gated.arriving => "tcx",
                _ => "nothing",
            }
            .to_owned(),
            leaving: if gated.leaving { "tcx" } else { "nothing" }.to_owned(),
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
        daemon_age_us: view.read_at.since(view.controller_stamp).as_micros() as u64,
        interfaces,
        not_gated,
        buried: view.buried,
        addresses: view.vips.iter().map(|vip| address(view, vip, groups)).collect(),
    }
}

fn address(view: &GateView, vip: &GatedVip, groups: &[String]) -> AddressAtGate {
    let open = view.passes(vip);
    let reason = match vip.expires_ns {
        _ if open => None,
        _ if vip.group.is_none() => Some("no-group"),
        0 => Some("not-holding"),
        lease::ENDLESS => Some("controller-dead"),
        _ => Some("expired"),
    };
    let group = match vip.group {
        Some(GroupId(index)) => {
            let name = groups.get(usize::from(index)).cloned();
            name.unwrap_or_else(|| format!("group {index}"))
        }
        None => "none".to_owned(),
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

/// Takes away what a daemon that is gone for good left at `pins`. Needs neither configuration nor key.
///
/// # Errors
///
/// [`GateError`]; the gate is where it was if it is not the last step that fails.
pub fn remove_gate(pins: &Path) -> Result<Removed, GateError> {
    if !pins.exists() {
        return Err(GateError::Nothing(pins.display().to_string()));
    }
    Ok(removal::remove_gate(pins)?)
}
