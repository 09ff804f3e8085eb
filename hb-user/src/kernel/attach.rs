//! On which interfaces the program sits, and how.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::{KernelError, describe},
    kept::Kept,
    pins::{TCX_PIN, XDP_PIN, attached_to, detach, link_pins},
    program::{Heard, Hold, Kernel, Refused, Tcx},
};

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, after the driver has made a socket buffer.
    Generic,
    /// In traffic control, behind the gate: where the hook of XDP is somebody else's.
    Tcx,
}

impl Mode {
    /// All of them, in the order in which they are tried.
    const ALL: [Self; 3] = [Self::Native, Self::Generic, Self::Tcx];

    /// Returns the mode in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
        }
    }

    /// Tells whether it is by the hook of XDP, of which an interface has one. Then the program also looks at
    /// what arrives for service addresses.
    pub(super) const fn is_xdp(self) -> bool {
        matches!(self, Self::Native | Self::Generic)
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

/// Why an interface is not attached to natively, if no mode was refused.
const ASKED_FOR: &str = "asked for";

impl Kernel {
    /// Attaches to an interface: adopts the attachment of an earlier daemon, else natively, else
    /// in generic mode, else in traffic control; in no mode but `only`, if there is one. Returns how.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if none works; [`KernelError::AttachOnly`].
    pub fn attach(
        &mut self,
        interface: &str,
        index: u32,
        only: Option<Mode>,
    ) -> Result<&Attachment, KernelError> {
        for mode in Mode::ALL {
            let pin = link_pin(&self.pins, index, mode);
            if !pin.exists() {
                continue;
            }
            match only {
                // Another mode is wanted now, by another hook: until the gate is where it has to be then,
                // this one stays ([`detach_others`](Self::detach_others)).
                Some(only) if only.is_xdp() != mode.is_xdp() => continue,
                Some(only) if only != mode => {}
                _ => {
                    if let Ok(link) = self.adopt(mode, &pin) {
                        let reason = (mode != Mode::Native)
                            .then(|| "so attached by an earlier daemon".to_owned());
                        let interface = interface.to_owned();
                        self.hold(Attachment::new(interface, index, mode, reason, pin, link)?);
                        return self.attachments.last().ok_or(KernelError::Missing("attachment"));
                    }
                }
            }
            // The interface is gone, or was made anew: the pin leads nowhere. Where it does not,
            // attaching anew says so. Or another mode is wanted now.
            let _ = detach(&pin);
            let _ = fs::remove_file(&pin);
        }
        let pins = self.pins.clone();
        let attachment =
            attach_first(&pins, interface, index, only, |mode| self.link(interface, index, mode))?;
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

/// Returns where an attachment is pinned.
fn link_pin(pins: &Path, index: u32, mode: Mode) -> PathBuf {
    let prefix = if mode.is_xdp() { XDP_PIN } else { TCX_PIN };
    pins.join(format!("{prefix}{index}-{}", mode.as_str()))
}

/// Returns the index of the interface and the mode that a pin's name tells of.
pub(super) fn read_pin(pin: &Path) -> Option<(u32, Mode)> {
    let name = pin.file_name()?.to_str()?;
    let (index, mode) =
        [XDP_PIN, TCX_PIN].iter().find_map(|prefix| name.strip_prefix(prefix))?.split_once('-')?;
    let mode = Mode::ALL.into_iter().find(|known| known.as_str() == mode)?;
    Some((index.parse().ok()?, mode))
}

/// Attaches by `link` in `only` this mode, or in the first one that works.
fn attach_first(
    pins: &Path,
    interface: &str,
    index: u32,
    only: Option<Mode>,
    mut link: impl FnMut(Mode) -> Result<Hold, Refused>,
) -> Result<Attachment, KernelError> {
    let Some(mode) = only else {
        return attach_beside(pins, interface, index, &Mode::ALL, Vec::new(), link);
    };
    let link = link(mode).map_err(|source| {
        let interface = interface.to_owned();
        KernelError::AttachOnly { interface, mode, source }
    })?;
    let reason = (mode != Mode::Native).then(|| ASKED_FOR.to_owned());
    pinned(pins, interface, index, mode, reason, link)
}

/// Attaches by `link` in the first of `modes` that works, `refused` being what is known of those before.
fn attach_beside(
    pins: &Path,
    interface: &str,
    index: u32,
    modes: &[Mode],
    mut refused: Vec<(Mode, String)>,
    mut link: impl FnMut(Mode) -> Result<Hold, Refused>,
) -> Result<Attachment, KernelError> {
    for &mode in modes {
        match link(mode) {
            Ok(link) => return pinned(pins, interface, index, mode, reason(&refused), link),
            Err(error) => refused.push((mode, describe(&*error))),
        }
    }
    let (interface, why) = (interface.to_owned(), reason(&refused).unwrap_or_default());
    Err(KernelError::Attach { interface, why })
}

/// Says why it is none of the modes that were `refused`: of one in its own words, of more by their names.
fn reason(refused: &[(Mode, String)]) -> Option<String> {
    match refused {
        [] => None,
        [(_, why)] => Some(why.clone()),
        more => {
            let each = more.iter().map(|(mode, why)| format!("{}: {why}", mode.as_str()));
            Some(each.collect::<Vec<_>>().join("; "))
        }
    }
}

/// Pins an attachment that was just made.
fn pinned(
    pins: &Path,
    interface: &str,
    index: u32,
    mode: Mode,
    reason: Option<String>,
    link: Hold,
) -> Result<Attachment, KernelError> {
    let pin = link_pin(pins, index, mode);
    let link = link.pin(interface, &pin)?;
    let interface = interface.to_owned();
    match attached_to(&pin) {
        // In traffic control it is found by its name.
        Ok(there) if there != index => {
            let _ = detach(&pin);
            let _ = fs::remove_file(&pin);
            let why = format!("it was made anew, and has index {there} instead of {index}");
            Err(KernelError::Attach { interface, why })
        }
        Ok(_) => Attachment::new(interface, index, mode, reason, pin, link),
        Err(source) => Err(KernelError::PinLink { interface, source: source.into() }),
    }
}

/// Attaches in generic mode, or to an interface made anew, from whichever thread has it: the kernel does so
/// under a lock that whoever changes interfaces holds for milliseconds.
pub struct Generic {
    pins: PathBuf,
    program: Heard,
    tcx: Tcx,
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
    pub(super) fn new(pins: PathBuf, program: Heard, tcx: Tcx) -> Self {
        Self { pins, program, tcx }
    }

    /// Replaces a native attachment by a generic one, or one in traffic control if somebody else takes the
    /// hook meanwhile, because of `reason`.
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
        let Self { pins, program, tcx } = self;
        let (modes, known) = (&[Mode::Generic, Mode::Tcx], vec![(Mode::Native, reason)]);
        let attached = attach_beside(pins, &interface, index, modes, known, |mode| {
            link(program, tcx, &interface, index, mode)
        });
        attached.map_err(|error| Box::new(NotReplaced { interface, kept: None, error }))
    }

    /// Attaches to an interface that is new as [`Kernel::attach`] does.
    ///
    /// # Errors
    ///
    /// [`KernelError::Attach`] if no mode works; [`KernelError::AttachOnly`].
    pub fn attach_anew(
        &mut self,
        interface: &str,
        index: u32,
        only: Option<Mode>,
    ) -> Result<Attachment, KernelError> {
        let Self { pins, program, tcx } = self;
        attach_first(pins, interface, index, only, |mode| {
            link(program, tcx, interface, index, mode)
        })
    }
}

fn link(
    program: &mut Heard,
    tcx: &mut Tcx,
    interface: &str,
    index: u32,
    mode: Mode,
) -> Result<Hold, Refused> {
    match mode {
        Mode::Native | Mode::Generic => program.link(interface, index, mode),
        Mode::Tcx => tcx.link(interface),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_of_interface_and_mode() {
        let pins = Path::new("/pins");
        for (mode, name) in [
            (Mode::Native, "xdp-7-native"),
            (Mode::Generic, "xdp-7-generic"),
            (Mode::Tcx, "tcx-7-tcx"),
        ] {
            let pin = link_pin(pins, 7, mode);
            assert_eq!(pin, pins.join(name));
            assert_eq!(read_pin(&pin), Some((7, mode)));
        }
        for other in ["NODE", "xdp-7", "xdp-x-native", "xdp-7-else", "order"] {
            assert_eq!(read_pin(&pins.join(other)), None, "{other}");
        }
    }

    #[test]
    fn a_reason_names_every_mode_that_was_refused() {
        let busy = |mode| (mode, "busy".to_owned());
        assert_eq!(reason(&[]), None);
        assert_eq!(reason(&[busy(Mode::Native)]).unwrap(), "busy");
        let both = reason(&[busy(Mode::Native), busy(Mode::Generic)]).unwrap();
        assert_eq!(both, "native: busy; generic: busy");
    }
}
