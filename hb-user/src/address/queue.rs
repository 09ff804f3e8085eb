//! Packets that wait for a neighbour.
//!
//! While the kernel looks for the link-layer address of a neighbour, for three seconds as a rule, it keeps the
//! packets for it (`unres_qlen_bytes` of arp(7)). They meet the egress gate when they leave, and not before: what
//! was sent while a node held a group may leave after it gave the group away.

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{AddressError, AddressSocket};

impl AddressSocket {
    /// Has the kernel drop all packets that wait for neighbours, on every interface. It looks for those
    /// neighbours anew when it is asked to. Returns how many were looked for.
    ///
    /// # Errors
    /// [`AddressError`]
    pub fn drop_waiting(&mut self) -> Result<usize, AddressError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let looked_for = self.see("neighbours", request, looked_for)?;
        let mut dropped = 0;
        for neighbour in looked_for {
            let request = RouteNetlinkMessage::DelNeighbour(neighbour);
            match self.ask("give a neighbour up", request) {
                Ok(()) => dropped += 1,
                // It was given up, or its interface is gone.
                Err(AddressError::Socket { source, .. })
                    if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }
}

/// Returns the request that gives up the neighbour of an entry, if the kernel is looking for it. Nothing
/// waits for one in any other state.
fn looked_for(message: RouteNetlinkMessage) -> Option<NeighbourMessage> {
    let RouteNetlinkMessage::NewNeighbour(entry) = message else { return None };
    if entry.header.state != NeighbourState::Incomplete {
        return None;
    }
    let mut request = NeighbourMessage::default();
    request.header.family = entry.header.family;
    request.header.ifindex = entry.header.ifindex;
    let address =
        |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(_));
    request.attributes = entry.attributes.into_iter().filter(address).collect();
    Some(request)
}
