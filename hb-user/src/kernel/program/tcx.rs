//! The program of traffic control that hears heartbeats where the hook of XDP is somebody else's.

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd as _,
    path::{Path as FilePath, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::{Half, Hold, KernelError, Refused, Undisturbed, pinned_paths};
use crate::kernel::{chain, owner::HEARS};

/// It, for whoever has it: loaded when it is wanted first, since most interfaces need none, and to walk
/// through it costs the kernel milliseconds.
pub(in crate::kernel) struct Tcx {
    half: &'static Half,
    object: &'static [u8],
    pins: PathBuf,
    /// Ids of the maps that are pinned.
    maps: BTreeSet<u32>,
    loaded: Option<Ebpf>,
}

impl Tcx {
    /// Prepares the program of a half whose maps, of the ids `maps`, are pinned at `pins`.
    pub(super) fn new(
        half: &'static Half,
        object: &'static [u8],
        pins: PathBuf,
        maps: BTreeSet<u32>,
    ) -> Self {
        Self { half, object, pins, maps, loaded: None }
    }

    /// Returns one more, for a thread of its own.
    pub(super) fn again(&self) -> Self {
        Self::new(self.half, self.object, self.pins.clone(), self.maps.clone())
    }

    /// Attaches it to the interface of this name, before all other programs: of these one that ends the
    /// chain would make this node deaf. The gate comes before it at its next look.
    pub(in crate::kernel) fn link(&mut self, interface: &str) -> Result<Hold, Refused> {
        let program = self.program()?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(interface, TcAttachType::Ingress, first)?;
        Ok(Hold(FdLink::try_from(program.take_link(id)?)?))
    }

    /// Puts it in the place of the one at the other end of a pinned link.
    pub(super) fn adopt(&mut self, pin: &FilePath) -> Result<Hold, Refused> {
        let link = SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
        let program = self.program()?;
        let id = program.attach_to_link(link)?;
        Ok(Hold(FdLink::try_from(program.take_link(id)?)?))
    }

    /// Returns the program, loaded over the maps that are pinned.
    pub(super) fn program(&mut self) -> Result<&mut SchedClassifier, Refused> {
        let ebpf = match self.loaded.take() {
            Some(loaded) => loaded,
            None => self.load()?,
        };
        program(self.loaded.insert(ebpf))
    }

    fn load(&self) -> Result<Ebpf, Refused> {
        let _undisturbed = Undisturbed::begin();
        let paths = pinned_paths(self.half, &self.pins);
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut ebpf = loader.load(self.object)?;
        let program = program(&mut ebpf)?;
        program.load()?;
        let loaded = chain::describe_program(program.fd()?.as_fd().try_clone_to_owned()?)?;
        for id in loaded.maps {
            let Some(map) = chain::map(id)? else { continue };
            let name = chain::describe_map(map.as_fd())?.name;
            let is_pinned = self.half.pinned.iter().any(|(pinned, ..)| *pinned == name);
            if is_pinned && !self.maps.contains(&id) {
                // It would go by a map that nobody else goes by.
                let gone = format!("somebody removed the pin of map {name}");
                return Err(io::Error::other(gone).into());
            }
        }
        Ok(ebpf)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Refused> {
    let program = ebpf.program_mut(HEARS).ok_or(KernelError::Missing(HEARS))?;
    Ok(program.try_into()?)
}
