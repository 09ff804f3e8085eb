//! On which interfaces the program sits, and how.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::{KernelError, describe},
    kept::Kept,
    pins::{LINK_PIN, detach, link_pins},
    program::{Heard, Hold, Kernel},
};

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, after the driver has made a socket buffer.
    Generic,
}

impl Mode {
    /// Returns the mode in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One interface the program is attached to.
#[derive(Debug)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// How.
    pub mode: Mode,
    /// Why not natively.
    pub reason: Option<String>,
    /// Where the link is pinned.
    pub(super) pin: PathBuf,
    /// Keeps the link open; the pin keeps it alive.
    _link: Hold,
    /// What is pinned there.
    pub(super) kept: Kept,
}

impl Attachment {
    /// Takes a link that was pinned at `pin`.
    fn new(
        interface: String,
        index: u32,
        mode: Mode,
        reason: Option<String>,
        pin: PathBuf,
        link: Hold,
    ) -> Result<Self, KernelError> {
        match Kept::link(pin.clone()) {
            Ok(kept) => Ok(Self { interface, index, mode, reason, pin, _link: link, kept }),
            Err(source) => Err(KernelError::PinLink { interface, source: source.into() }),
        }
    }
}

/// Why an interface is not attached to natively.
const ASKED_FOR: &str = "asked for";

impl Kernel {
    /// Attaches to an interface: adopts the attachment of an earlier daemon, else natively, else
    /// in generic mode; in no mode but `only`, if there is one. Returns how.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if neither works; [`KernelError::AttachOnly`].
    pub fn attach(
        &mut self,
        interface: &str,
        index: u32,
        only: Option<Mode>,
    ) -> Result<&Attachment, KernelError> {
        for mode in [Mode::Native, Mode::Generic] {
            let pin = self.link_pin(index, mode);
            if pin.exists() {
                let adopted = if only.is_none_or(|only| only == mode) {
                    self.adopt(interface, &pin).map_err(drop)
                } else {
                    Err(())
                };
                match adopted {
                    Ok(link) => {
                        let reason = (mode == Mode::Generic)
                            .then(|| "so attached by an earlier daemon".to_owned());
                        return self.held(interface, index, mode, reason, pin, link);
                    }
                    // The interface is gone, or was made anew: the pin leads nowhere. Where it
                    // does not, attaching anew says so. Or another mode is wanted now.
                    Err(()) => {
                        let _ = detach(&pin);
                        let _ = fs::remove_file(&pin);
                    }
                }
            }
        }
        let native = if only == Some(Mode::Generic) {
            ASKED_FOR.to_owned()
        } else {
            match self.link(interface, index, Mode::Native) {
                Ok(link) => {
                    let pin = self.link_pin(index, Mode::Native);
                    let link = link.pin(interface, &pin)?;
                    return self.held(interface, index, Mode::Native, None, pin, link);
                }
                Err(source) if only == Some(Mode::Native) => {
                    let interface = interface.to_owned();
                    return Err(KernelError::AttachOnly { interface, source });
                }
                Err(error) => describe(&*error),
            }
        };
        let attachment = self.generic()?.attach(interface, index, native)?;
        self.hold(attachment);
        self.attachments.last().ok_or(KernelError::Missing("attachment"))
    }

    /// Returns the native attachment to an interface, to be [replaced](Generic::replace) and
    /// [given back](Self::hold) by whoever has it; until then it is not among the
    /// [attachments](Self::attachments).
    #[must_use]
    pub fn lend(&mut self, index: u32) -> Option<Attachment> {
        let native = |held: &Attachment| held.index == index && held.mode == Mode::Native;
        let at = self.attachments.iter().position(native)?;
        Some(self.attachments.swap_remove(at))
    }

    /// Takes an attachment back.
    pub fn hold(&mut self, attachment: Attachment) {
        self.attachments.push(attachment);
    }

    fn held(
        &mut self,
        interface: &str,
        index: u32,
        mode: Mode,
        reason: Option<String>,
        pin: PathBuf,
        link: Hold,
    ) -> Result<&Attachment, KernelError> {
        let interface = interface.to_owned();
        self.hold(Attachment::new(interface, index, mode, reason, pin, link)?);
        self.attachments.last().ok_or(KernelError::Missing("attachment"))
    }

    fn link_pin(&self, index: u32, mode: Mode) -> PathBuf {
        link_pin(&self.pins, index, mode)
    }

    /// Forgets attachments to interfaces that are gone, and returns them: to let go of one takes a
    /// lock of the kernel's that may be held for milliseconds.
    #[must_use]
    pub fn forget_attachments(&mut self, present: &BTreeSet<u32>) -> Vec<Attachment> {
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.attachments.drain(..).partition(|held| present.contains(&held.index));
        self.attachments = kept;
        for attachment in &gone {
            // The kernel detached it with the interface.
            let _ = fs::remove_file(&attachment.pin);
        }
        gone
    }

    /// Removes the attachments that an earlier daemon left on other interfaces than those that were
    /// attached to since.
    pub fn detach_others(&self) {
        let Ok(pins) = link_pins(&self.pins) else { return };
        for pin in pins {
            if !self.attachments.iter().any(|attachment| attachment.pin == pin) {
                // What cannot be removed answers for no link of the configuration.
                let _ = detach(&pin);
                let _ = fs::remove_file(&pin);
            }
        }
    }

    /// Returns the interfaces the program is attached to.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }
}

fn link_pin(pins: &Path, index: u32, mode: Mode) -> PathBuf {
    pins.join(format!("{LINK_PIN}{index}-{}", mode.as_str()))
}

/// Attaches in generic mode, from whichever thread has it: the kernel does so under a lock that
/// whoever changes interfaces holds for milliseconds.
pub struct Generic {
    pins: PathBuf,
    program: Heard,
}

/// An interface that could not be attached to in another way.
#[derive(Debug)]
pub struct NotReplaced {
    /// Its name.
    pub interface: String,
    /// The attachment as it was; `None` if it has no program at all now.
    pub kept: Option<Attachment>,
    /// Why.
    pub error: KernelError,
}

impl Generic {
    pub(super) fn new(pins: PathBuf, program: Heard) -> Self {
        Self { pins, program }
    }

    /// Replaces a native attachment by a generic one, because of `reason`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Detach`]; then nothing has changed. [`KernelError::Attach`]; then the
    /// interface has no program at all.
    pub fn replace(
        &mut self,
        held: Attachment,
        reason: String,
    ) -> Result<Attachment, Box<NotReplaced>> {
        if let Err(source) = detach(&held.pin) {
            let error = KernelError::Detach { pin: held.pin.clone(), source };
            let interface = held.interface.clone();
            return Err(Box::new(NotReplaced { interface, kept: Some(held), error }));
        }
        let Attachment { interface, index, pin, .. } = held;
        let _ = fs::remove_file(pin);
        let attached = self.attach(&interface, index, reason);
        attached.map_err(|error| Box::new(NotReplaced { interface, kept: None, error }))
    }

    /// Attaches to an interface that is new, natively or else in generic mode; in no mode but `only`, if
    /// there is one.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if neither works; [`KernelError::AttachOnly`].
    pub fn attach_anew(
        &mut self,
        interface: &str,
        index: u32,
        only: Option<Mode>,
    ) -> Result<Attachment, KernelError> {
        if only == Some(Mode::Generic) {
            return self.attach(interface, index, ASKED_FOR.to_owned());
        }
        match self.program.link(interface, index, Mode::Native) {
            Ok(link) => {
                let pin = link_pin(&self.pins, index, Mode::Native);
                let link = link.pin(interface, &pin)?;
                Attachment::new(interface.to_owned(), index, Mode::Native, None, pin, link)
            }
            Err(source) if only == Some(Mode::Native) => {
                Err(KernelError::AttachOnly { interface: interface.to_owned(), source })
            }
            Err(error) => self.attach(interface, index, describe(&*error)),
        }
    }

    /// Attaches to an interface because it does not work natively.
    fn attach(
        &mut self,
        interface: &str,
        index: u32,
        native: String,
    ) -> Result<Attachment, KernelError> {
        let interface = interface.to_owned();
        match self.program.link(&interface, index, Mode::Generic) {
            Ok(link) => {
                let pin = link_pin(&self.pins, index, Mode::Generic);
                let link = link.pin(&interface, &pin)?;
                let (mode, reason) = (Mode::Generic, Some(native));
                Attachment::new(interface, index, mode, reason, pin, link)
            }
            Err(source) => Err(KernelError::Attach { interface, native, source }),
        }
    }
}
