//! A look round this host once a second: are the addresses there, and is every interface gated?
//! And the list of addresses that a status has.
//!
//! The kernel answers under a lock that whoever changes interfaces holds for milliseconds, so the
//! main loop has another thread ask. What is new it hears of at once by itself.

use std::io;

use hb_ebpf::time::BootTime;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{Daemon, gate, resources::describe};
use crate::{
    address::{AddressError, AddressSocket, Present},
    clock,
    config::HostView,
    control::Reply,
    core::Phase,
    fast,
};

/// What the other thread found.
pub(super) enum Found {
    /// All that is looked at once a second.
    Survey(Survey),
    /// The addresses of this host, for a client that asked for a status.
    Addresses(Result<Vec<Present>, AddressError>, oneshot::Sender<Reply>),
}

/// What is looked at once a second.
pub(super) struct Survey {
    began: BootTime,
    present: Result<Vec<Present>, AddressError>,
    host: io::Result<HostView>,
}

/// Who looks.
pub(super) struct Surveyor {
    background: Handle,
    sender: mpsc::UnboundedSender<Found>,
    receiver: mpsc::UnboundedReceiver<Found>,
    under_way: bool,
}

impl Surveyor {
    pub(super) fn new(background: Handle) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { background, sender, receiver, under_way: false }
    }

    /// Begins a survey, unless one is under way.
    pub(super) fn begin(&mut self) {
        if self.under_way {
            return;
        }
        self.under_way = true;
        let sender = self.sender.clone();
        self.background.spawn_blocking(move || {
            let began = clock::now();
            let survey = Survey { began, present: addresses(), host: HostView::read() };
            // A daemon that is gone needs none.
            drop(sender.send(Found::Survey(survey)));
        });
    }

    /// Begins to answer who asked for a status.
    pub(super) fn begin_status(&self, reply: oneshot::Sender<Reply>) {
        let sender = self.sender.clone();
        self.background.spawn_blocking(move || {
            drop(sender.send(Found::Addresses(addresses(), reply)));
        });
    }

    /// Returns what was found next; waits for ever if nothing is looked for.
    pub(super) async fn next(&mut self) -> Found {
        match self.receiver.recv().await {
            Some(found) => {
                if let Found::Survey(_) = found {
                    self.under_way = false;
                }
                found
            }
            // Not reached while this holds a sender of its own.
            None => std::future::pending().await,
        }
    }
}

fn addresses() -> Result<Vec<Present>, AddressError> {
    AddressSocket::open().and_then(|mut socket| socket.addresses(None))
}

impl Daemon {
    pub(super) fn on_found(&mut self, found: Found) {
        match found {
            Found::Survey(survey) => self.on_survey(survey),
            Found::Addresses(present, reply) => self.on_addresses(present, reply),
        }
    }

    fn on_survey(&mut self, survey: Survey) {
        let Survey { began, present, host } = survey;
        match present {
            Ok(present) => self.restore_addresses(&present, began),
            Err(error) => tracing::error!(error = describe(&error), "addresses not looked at"),
        }
        match host {
            Ok(host) if gate::covers(self.kernel.gated(), &host) => {}
            // The survey is old by now, and by an old one a newer interface would lose its gate.
            Ok(_) => self.cover_interfaces(),
            Err(error) => tracing::error!(error = describe(&error), "interfaces not looked at"),
        }
    }

    /// Puts back addresses of the groups that have served here since before the look, if somebody
    /// took them away.
    fn restore_addresses(&mut self, present: &[Present], began: BootTime) {
        for view in self.core.view().groups {
            if !matches!(view.phase, Phase::Serving { .. }) || view.since >= began {
                continue;
            }
            let vips = self.vips.get(view.group.0 as usize).map_or(&[][..], Vec::as_slice);
            let missing = vips.iter().find(|local| {
                !present.iter().any(|found| {
                    found.ip == local.vip.ip() && found.interface == local.vip.interface()
                })
            });
            if let Some(missing) = missing {
                let group = self.group_name(view.group);
                tracing::warn!(group, vip = %missing.vip, "address is gone: putting it back");
                self.command(fast::Command::Restore { group: view.group });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Interface;

    #[test]
    fn a_host_is_covered_if_every_interface_but_loopback_is_gated_and_no_other() {
        let interface = |index, loopback| Interface { index, loopback, ..Interface::default() };
        let interfaces = vec![interface(1, true), interface(2, false), interface(3, false)];
        let host = HostView { interfaces };
        let covers = |gated: &[u32]| gate::covers(gated.iter().copied(), &host);
        assert!(covers(&[3, 2]));
        assert!(!covers(&[2]), "one is new");
        assert!(!covers(&[2, 3, 4]), "one is gone, or came after the look");
        assert!(!covers(&[1, 2, 3]));
    }
}
