//! An interface that was deleted and made anew has another index, and nothing that was bound to the old
//! one: no program, no socket, no address. All of it is made again, once the interface is as the file
//! says.

use std::collections::BTreeMap;

use super::{
    Daemon, LocalVip, log_attachment, resources::describe, start::ends, start_error::StartError,
};
use crate::{
    announce::{AnnounceSocket, Announcement, Gateways},
    config::{HostView, LocalLink},
    fast::{Effect, Outlet, Rebind},
    id::GroupId,
    kernel::{Attachment, KernelError},
    link::LinkSocket,
};

/// Which interfaces are in use, and what is being done about those that were made anew.
pub(super) struct Anew {
    /// Index of each interface that something is bound to, by name.
    bound: BTreeMap<String, u32>,
    /// Another thread attaches to one.
    under_way: bool,
    /// Why one is not in use again, as it was told last.
    said: BTreeMap<String, String>,
}

/// Appends addresses to what taking a group means.
///
/// # Errors
///
/// [`StartError`].
pub(super) fn push(effect: &mut Effect, vips: &[LocalVip]) -> Result<(), StartError> {
    for local in vips {
        let announcement = Announcement::new(local.vip.ip(), local.mac, Gateways::default());
        let socket = AnnounceSocket::open(local.vip.interface())?;
        effect.push(local.vip, announcement, socket)?;
    }
    Ok(())
}

impl Anew {
    /// Returns the index of the interface called `name` that things are bound to, `index` if none are.
    pub(super) fn bound(&self, name: &str, index: u32) -> u32 {
        self.bound.get(name).copied().unwrap_or(index)
    }

    /// Looks after the interface of a link as well.
    pub(super) fn bind_link(&mut self, name: &str, index: u32) {
        self.bound.entry(name.to_owned()).or_insert(index);
    }

    /// Looks after the interfaces of these addresses as well.
    pub(super) fn bind(&mut self, vips: &[Vec<LocalVip>]) {
        for local in vips.iter().flatten() {
            self.bound.entry(local.interface.clone()).or_insert(local.vip.interface());
        }
    }

    /// Begins with the interfaces of links and those of service addresses.
    pub(super) fn new(
        links: &BTreeMap<String, (u32, Option<[u8; 6]>)>,
        vips: &[Vec<LocalVip>],
    ) -> Self {
        let links = links.iter().map(|(name, (index, _))| (name.clone(), *index));
        let vips = vips.iter().flatten().map(|vip| (vip.interface.clone(), vip.vip.interface()));
        Self { bound: links.chain(vips).collect(), under_way: false, said: BTreeMap::new() }
    }
}

impl Daemon {
    /// Takes interfaces into use that were made anew.
    pub(super) fn look_at_anew(&mut self, host: &HostView) {
        let bound = self.anew.bound.clone();
        for (name, index) in bound {
            let Some(found) = host.interface(&name) else { continue };
            if found.index == index {
                continue;
            }
            let links: Vec<LocalLink> = self
                .local
                .links
                .iter()
                .filter(|link| link.own.interface.as_str() == name)
                .cloned()
                .collect();
            let attached = self.kernel.attachments().iter().any(|held| held.index == found.index);
            if !links.is_empty() && !attached {
                if !self.anew.under_way {
                    self.anew.under_way = true;
                    let only = self.local.attach(&name);
                    self.surveyor.attach(name, found.index, only);
                }
                continue;
            }
            match self.bind_anew(&name, &links, host) {
                Ok(()) => {
                    self.anew.bound.insert(name.clone(), found.index);
                    self.anew.said.remove(&name);
                    tracing::info!(interface = name, "interface was made anew: in use again");
                }
                Err(error) => self.say_not_in_use(&name, error),
            }
        }
    }

    fn say_not_in_use(&mut self, interface: &str, error: String) {
        if self.anew.said.get(interface) != Some(&error) {
            tracing::warn!(interface, error, "interface was made anew, and is not in use yet");
            self.anew.said.insert(interface.to_owned(), error);
        }
    }

    /// Another thread has attached to an interface, or could not.
    pub(super) fn on_attached(
        &mut self,
        interface: &str,
        attached: Result<Attachment, KernelError>,
    ) {
        self.anew.under_way = false;
        match attached {
            Ok(attachment) => {
                log_attachment(&attachment);
                self.kernel.hold(attachment);
                // What is left to do follows from the next look.
                self.surveyor.cover();
            }
            Err(error) => {
                let error = describe(&error);
                if !self.relink_fails(interface, &error) {
                    self.say_not_in_use(interface, error);
                }
            }
        }
    }

    /// Binds the links and the service addresses of an interface to it as it is now.
    fn bind_anew(
        &mut self,
        name: &str,
        links: &[LocalLink],
        host: &HostView,
    ) -> Result<(), String> {
        let found = host.interface(name).ok_or("it is gone again")?;
        let index = found.index;
        let mut rebind = Rebind::default();
        for link in links {
            for (peer, end) in link.others() {
                let ends = ends(link, found.mac, end.address).ok_or("it has no MAC address")?;
                let socket = LinkSocket::open(index, ends).map_err(|error| describe(&error))?;
                let outlet = Outlet { socket, fingerprint: link.fingerprint(end.address) };
                rebind.outlets.push((*peer, link.id, Some(outlet)));
            }
        }
        let mut vips = self.vips.clone();
        for local in vips.iter_mut().flatten().filter(|local| local.interface == name) {
            local.vip = local.vip.on(index);
            local.mac = found.mac.unwrap_or_default();
        }
        for (place, group) in vips.iter().enumerate() {
            let its: Vec<_> =
                group.iter().filter(|local| local.interface == name).cloned().collect();
            if !its.is_empty() {
                let mut effect = Effect::new(false);
                push(&mut effect, &its).map_err(|error| describe(&error))?;
                rebind.effects.push((GroupId(place as u8), effect));
            }
        }
        for link in links {
            let comes_to = host.comes_to(index);
            for (peer, end) in link.others() {
                let path = link.path(index, comes_to, end.address);
                let set = self.kernel.set_path(*peer, link.id, &path);
                set.map_err(|error| describe(&error))?;
                self.trials.remove(&(*peer, link.id));
            }
            self.macs.moved(link.id, index, comes_to);
        }
        self.vips = vips;
        if self.fast.rebind(rebind) {
            Ok(())
        } else {
            Err("the fast path takes no commands: restart hb on this node".to_owned())
        }
    }
}
