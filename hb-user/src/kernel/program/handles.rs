//! Holds on parts of the kernel half that a thread can have for itself.

use std::{
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use aya::{
    maps::{MapData, RingBuf},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp,
        XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use hb_ebpf::{
    lease::op::Order,
    maps::{Event, Request},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Hold, KernelError, Mode, Refused, Way, XDP_PASS, describe};
use crate::id::NodeId;

/// Runs an unattached program on a request.
pub(super) fn ask(
    program: &Xdp,
    step: &'static str,
    peer: NodeId,
    forget: bool,
) -> Result<(), KernelError> {
    let request = Request { peer: peer.0, forget: u8::from(forget), reserved: [0; 14] };
    let options = TestRunOptions { data_in: Some(request.as_bytes()), ..TestRunOptions::new() };
    let done = program
        .test_run(options)
        .map_err(|source| KernelError::Program { program: step, source: Box::new(source) })?;
    if done.return_value == XDP_PASS { Ok(()) } else { Err(KernelError::Request { step, peer }) }
}

/// Does by itself what a timer of the kernel would do.
pub struct Judge(pub(super) Xdp);

impl Judge {
    /// Judges `peer`: one system call, no allocation unless it fails.
    ///
    /// # Errors
    ///
    /// [`KernelError::Request`] if `peer` is none.
    pub fn judge(&self, peer: NodeId) -> Result<(), KernelError> {
        ask(&self.0, "judge", peer, false)
    }
}

/// Asks for changes of the groups' records.
pub struct Leases(pub(super) Xdp);

impl Leases {
    /// Opens the program that an earlier daemon left pinned at `pins`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`].
    pub fn pinned(pins: &Path) -> Result<Option<Self>, KernelError> {
        const NAME: &str = "order";
        let pin = pins.join(NAME);
        if !pin.exists() {
            return Ok(None);
        }
        let failed = |source| KernelError::Program { program: NAME, source: Box::new(source) };
        let program = Xdp::from_pin(&pin, XdpAttachType::Interface).map_err(failed)?;
        Ok(Some(Self(program)))
    }

    /// Has the kernel carry out `order` under the lock of its record, and returns it with what came
    /// of it. One system call, no allocation unless it fails.
    ///
    /// # Errors
    ///
    /// [`KernelError::Order`] if there is no such record.
    pub fn order(&self, order: Order) -> Result<Order, KernelError> {
        let refused = |why: String| KernelError::Order { op: order.op, group: order.group, why };
        let mut answer = order;
        let options = TestRunOptions {
            data_in: Some(order.as_bytes()),
            data_out: Some(answer.as_mut_bytes()),
            ..TestRunOptions::new()
        };
        let done = self.0.test_run(options).map_err(|error| refused(describe(&error)))?;
        if done.return_value == XDP_PASS {
            Ok(answer)
        } else {
            Err(refused("there is no such group".to_owned()))
        }
    }
}

/// The programs of traffic control that the gate consists of.
pub(in crate::kernel) struct GatePrograms {
    pub(super) arriving: SchedClassifier,
    pub(super) leaving: SchedClassifier,
}

impl GatePrograms {
    fn of(&mut self, way: Way) -> &mut SchedClassifier {
        match way {
            Way::In => &mut self.arriving,
            Way::Out => &mut self.leaving,
        }
    }

    /// Attaches the gate to what goes one way through an interface.
    pub(in crate::kernel) fn link(&mut self, interface: &str, way: Way) -> Result<Hold, Refused> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let kind = match way {
            Way::In => TcAttachType::Ingress,
            Way::Out => TcAttachType::Egress,
        };
        let program = self.of(way);
        let id = program.attach_with_options(interface, kind, order)?;
        let link = program.take_link(id)?;
        let no_links = |_| ProgramError::UnknownInterface {
            name: format!("{interface} (this kernel has no TCX: Linux 6.6 has)"),
        };
        Ok(Hold(FdLink::try_from(link).map_err(no_links)?))
    }

    /// Puts this daemon's gate in the place of the one at the other end of a pinned link.
    pub(in crate::kernel) fn adopt(
        &mut self,
        interface: &str,
        way: Way,
        pin: &Path,
    ) -> Result<Hold, KernelError> {
        let failed = |source| KernelError::Link {
            interface: interface.to_owned(),
            source: Box::new(source),
        };
        let link = FdLink::from(PinnedLink::from_pin(pin).map_err(failed)?);
        let link = SchedClassifierLink::try_from(link).map_err(failed)?;
        let program = way.program();
        let refused = |source| KernelError::Program { program, source: Box::new(source) };
        let program = self.of(way);
        let id = program.attach_to_link(link).map_err(refused)?;
        let link = program.take_link(id).map_err(refused)?;
        FdLink::try_from(link).map(Hold).map_err(failed)
    }
}

/// Attaches a program to an interface in one mode.
pub(super) fn link(
    program: &mut Xdp,
    interface: &str,
    index: u32,
    mode: Mode,
) -> Result<Hold, Refused> {
    let xdp_mode = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let id = program.attach_to_if_index(index, xdp_mode)?;
    let link = program.take_link(id)?;
    let no_links = |_| ProgramError::UnknownInterface {
        name: format!("{interface} (this kernel has no BPF links for XDP)"),
    };
    Ok(Hold(FdLink::try_from(link).map_err(no_links)?))
}

/// The program that hears heartbeats.
pub(in crate::kernel) struct Heard(pub(super) Xdp);

impl Heard {
    /// Attaches it to an interface in one mode.
    pub(in crate::kernel) fn link(
        &mut self,
        interface: &str,
        index: u32,
        mode: Mode,
    ) -> Result<Hold, Refused> {
        link(&mut self.0, interface, index, mode)
    }
}

/// The reader of events.
pub struct Events(pub(super) RingBuf<MapData>);

impl Events {
    /// Returns the next event, if there is one. Allocates nothing and makes no system call.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if let Ok(event) = Event::read_from_bytes(&item) {
                return Some(event);
            }
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The kernel half's log.
pub struct KernelLog(pub(super) EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    /// Hands on what has been logged since.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
