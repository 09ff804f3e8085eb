//! The programs of traffic control that the gate consists of.

use std::os::fd::{AsFd, OwnedFd};

use aya::programs::SchedClassifier;

use super::{Kernel, KernelError, Undisturbed};
use crate::{
    id::NodeId,
    kernel::{chain, gate::Gates, pins::GATE_MAP},
};

/// Which way packets go that a gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// They arrive.
    In,
    /// They leave.
    Out,
}

impl Way {
    /// Returns what packets do at an interface.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::In => "arrives at",
            Self::Out => "leaves by",
        }
    }

    /// Returns the name of the gate's program.
    pub(in crate::kernel) const fn program(self) -> &'static str {
        match self {
            Self::In => "gate_ingress",
            Self::Out => "gate_egress",
        }
    }
}

impl Kernel {
    /// Returns what puts the gate of node `me` of `cluster` on interfaces, for a thread of its own.
    /// What arrives at those that were attached to by the hook of XDP is gated already.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`] if a program cannot be loaded a second time.
    pub fn gates(&mut self, cluster: u32, me: NodeId) -> Result<Gates, KernelError> {
        let arriving = self.twice(Way::In)?;
        let leaving = self.twice(Way::Out)?;
        let map = chain::describe_map(self.fd(GATE_MAP)?).map_err(KernelError::Chain)?.id;
        let by_xdp = self.attachments.iter().filter(|held| held.mode.is_xdp());
        let heard = by_xdp.map(|held| held.index).collect();
        Ok(Gates::new((cluster, me), map, [arriving, leaving], heard))
    }

    /// Returns two of a program of the gate: the kernel has each only once in a chain, and one that is
    /// to come first again has to be there twice for a moment.
    fn twice(&mut self, way: Way) -> Result<[chain::Program; 2], KernelError> {
        let failed = |source| KernelError::Program { program: way.program(), source };
        let one = self.gate_fd(way)?;
        let program = self.gate_program(way)?;
        program.unload().map_err(|source| failed(Box::new(source)))?;
        let _undisturbed = Undisturbed::begin();
        program.load().map_err(|source| failed(Box::new(source)))?;
        let both = [one, self.gate_fd(way)?];
        let [one, two] = both.map(|fd| chain::describe_program(fd).map_err(KernelError::Chain));
        Ok([one?, two?])
    }

    fn gate_fd(&mut self, way: Way) -> Result<OwnedFd, KernelError> {
        let program = self.gate_program(way)?;
        let fd = program.fd().map_err(|_| KernelError::Missing(way.program()))?;
        fd.as_fd().try_clone_to_owned().map_err(KernelError::Chain)
    }

    pub(super) fn gate_program(&mut self, way: Way) -> Result<&mut SchedClassifier, KernelError> {
        self.ebpf
            .program_mut(way.program())
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Missing(way.program()))
    }
}
