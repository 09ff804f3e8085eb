//! Removing an address that is there, and nothing else.

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkMessage},
};

use super::{
    AddressError, AddressSocket, Batch, BatchFull, Change, ChangeError, Done, Present, Vip,
    socket::answer,
};

/// Numbers of attributes that set what `/proc/sys/net/ipv4/conf/IF` shows (`linux/if_link.h`,
/// `linux/ip.h`).
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_PROMOTE_SECONDARIES: u16 = 20;

/// Number of the one request under way.
const SEQUENCE: u32 = 1;

/// Why an address is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It did not remove it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Never: there is one change.
    #[error(transparent)]
    Full(#[from] BatchFull),
}

impl AddressSocket {
    /// Removes `found`, as it is, and no other address. Returns whether it was there.
    ///
    /// # Errors
    /// [`RemoveError`]; the addresses are as they were.
    pub fn remove(&mut self, found: &Present) -> Result<bool, RemoveError> {
        let mut batch = Batch::new();
        batch.push(Change::Remove, Vip::found(found))?;
        // With the first address of an IPv4 subnet the others of the subnet go, unless the interface
        // promotes the next one.
        let demotes = found.ip.is_ipv4() && found.prefix < 32 && !found.is_secondary();
        let index = found.interface;
        let set = demotes && !self.promotes_secondaries(index)?;
        if set {
            self.promote_secondaries(index, true)?;
        }
        let mut result = [Ok(Done::Missing)];
        let executed = self.execute(&batch, &mut result);
        if set {
            self.promote_secondaries(index, false)?;
        }
        executed?;
        Ok(result[0]? == Done::Removed)
    }

    /// Tells whether the interface is set to keep the other addresses of a subnet; one that is gone has
    /// none to lose.
    fn promotes_secondaries(&mut self, index: u32) -> Result<bool, AddressError> {
        let interfaces = self.interfaces()?;
        let found = interfaces.iter().find(|interface| interface.index == index);
        Ok(found.is_none_or(|interface| interface.promotes_secondaries))
    }

    fn promote_secondaries(&mut self, index: u32, on: bool) -> Result<(), AddressError> {
        let setting =
            DefaultNla::new(IPV4_DEVCONF_PROMOTE_SECONDARIES, u32::from(on).to_ne_bytes().into());
        let mut settings = vec![0; setting.buffer_len()];
        setting.emit(&mut settings);
        let settings = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings));
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes =
            vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])])];
        self.ask("set promote_secondaries", RouteNetlinkMessage::SetLink(message))
    }

    /// Makes one request and waits for the answer.
    pub(super) fn ask(
        &mut self,
        action: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<(), AddressError> {
        let failed = |source| AddressError::Socket { action, source };
        let mut header = NetlinkHeader::default();
        header.sequence_number = SEQUENCE;
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        self.request(&mut NetlinkMessage::new(header, NetlinkPayload::from(request)))?;
        loop {
            let length = self.answer().map_err(failed)?;
            match answer(self.buffer(length)) {
                Some((SEQUENCE, 0)) => return Ok(()),
                Some((SEQUENCE, errno)) => {
                    return Err(failed(io::Error::from_raw_os_error(errno)));
                }
                _ => {}
            }
        }
    }
}
