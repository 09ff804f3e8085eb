//! Holds on parts of the kernel half that a thread can have for itself.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use aya::{
    maps::{MapData, RingBuf},
    programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode, links::FdLink},
};
use aya_log::EbpfLogger;
use aya_obj::programs::XdpAttachType;
use hb_ebpf::{
    lease::op::Order,
    maps::{Event, Request},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Hold, KernelError, Mode, Refused, XDP_PASS, describe};
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

/// Where the kernel tells of the bonds of the thread's network namespace, a file for each.
const BONDS: &str = "/proc/thread-self/net/bonding";

/// Attaches a program by the hook of XDP in one mode; never natively to a bond, whose ports would run it,
/// and no link's interface is a port.
pub(super) fn link(
    program: &mut Xdp,
    interface: &str,
    index: u32,
    mode: Mode,
) -> Result<Hold, Refused> {
    let xdp_mode = if mode == Mode::Native { XdpMode::Driver } else { XdpMode::Skb };
    if mode == Mode::Native && Path::new(BONDS).join(interface).exists() {
        let bond = format!("{interface} is a bond, whose ports would run the program");
        return Err(io::Error::other(bond).into());
    }
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
