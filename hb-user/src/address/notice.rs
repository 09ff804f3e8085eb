//! Hearing of addresses that somebody removed.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Present, list::present};

/// Longer than any notice of an address.
const NOTICE: usize = 4096;

/// What was removed from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    /// The addresses, as they were.
    pub removed: Vec<Present>,
    /// There were more than the kernel keeps: only a list tells what is there.
    pub overrun: bool,
}

/// Hears of every address of the namespace that goes (rtnetlink(7), groups of addresses).
#[derive(Debug)]
pub struct AddressNotices(Socket);

impl AddressNotices {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        Ok(Self(socket))
    }

    /// Returns what was told since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self) -> io::Result<Removals> {
        let mut removals = Removals::default();
        let mut buffer = [0; NOTICE];
        loop {
            match self.0.recv(&mut &mut buffer[..], 0) {
                Ok(length) => {
                    removals.removed.extend(buffer.get(..length).and_then(removed));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    removals.overrun = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(removals),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for AddressNotices {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Reads a notice: each is a message by itself.
pub(super) fn removed(bytes: &[u8]) -> Option<Present> {
    let notice = NetlinkBuffer::new_checked(bytes).ok()?;
    if notice.message_type() != libc::RTM_DELADDR {
        return None;
    }
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => present(&message),
        _ => None,
    }
}
