//! Checks that need this host: its name and its interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    fmt::Write,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hb_ebpf::maps::Transport;

use crate::address::network_of;

use super::{
    Config, ConfigError, ConfigErrors, InterfaceName, LinkAddress, Local, LocalLink, Position,
    unready::{self, Unready},
};

/// Returns what `uname -n` prints.
///
/// # Errors
///
/// Whatever reading `/proc/sys/kernel/hostname` fails with.
pub fn hostname() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim_end_matches('\n').to_owned())
}

/// What a host has, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Its interfaces, by name.
    pub interfaces: Vec<Interface>,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number, `ifindex`.
    pub index: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Whether it is a bond, or a VLAN of one: its ports may have addresses of their own.
    pub bonded: bool,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether something answers at the other end of the cable (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// How many packets it has received; the kernel tells 32 bits of it.
    pub received: u32,
    /// Its addresses, each with its prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Those that nothing can be sent from yet, or ever: the kernel still asks whether another machine
    /// has them, or heard that one does.
    pub unready: Vec<(Ipv6Addr, Unready)>,
}

impl HostView {
    /// Asks the kernel for the interfaces of the thread's network namespace.
    ///
    /// # Errors
    ///
    /// Whatever `getifaddrs(3)` fails with.
    pub fn read() -> io::Result<Self> {
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is a valid place for the pointer; it is freed below, once.
        if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // There may be thousands, with tens of thousands of addresses.
        let mut interfaces = BTreeMap::new();
        let mut next = list;
        while !next.is_null() {
            // SAFETY: `next` is an entry of the list, which lives until it is freed below.
            let entry = unsafe { &*next };
            // SAFETY: every entry has a name that ends in a zero and lives as long as the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
            // An IPv4 address may come under its label, `eth0:1`; no interface has a colon in its name.
            let (name, _) = name.split_once(':').unwrap_or((&name, ""));
            let interface = interface_called(&mut interfaces, name);
            interface.up |= entry.ifa_flags & libc::IFF_UP as u32 != 0;
            interface.carrier |= entry.ifa_flags & IFF_LOWER_UP != 0;
            // SAFETY: all are null or of the list: addresses as long as their family says, and the data
            // that belongs to the first.
            unsafe {
                interface.received =
                    interface.received.max(received(entry.ifa_addr, entry.ifa_data));
                note_address(interface, entry.ifa_addr, entry.ifa_netmask);
            }
            next = entry.ifa_next;
        }
        // SAFETY: `list` came from `getifaddrs`, and nothing borrows from it any more.
        unsafe { libc::freeifaddrs(list) };
        let mut interfaces: Vec<_> = interfaces.into_values().collect();
        for interface in interfaces.iter_mut().filter(|interface| interface.index == 0) {
            // Without a link-layer address, as of a tunnel, the list does not tell.
            interface.index = index_of(&interface.name);
        }
        // Gone meanwhile.
        interfaces.retain(|interface| interface.index != 0);
        mark_bonded(&mut interfaces)?;
        unready::mark(&mut interfaces)?;
        Ok(Self { interfaces })
    }

    /// Returns the Ethernet address that frames for the interface of that index come to, if it is one.
    /// To a bond they come to those of its ports as well (`balance-alb`), or to another one after one port
    /// failed (`fail_over_mac`).
    #[must_use]
    pub fn comes_to(&self, index: u32) -> Option<[u8; 6]> {
        let found = self.interfaces.iter().find(|interface| interface.index == index)?;
        found.mac.filter(|_| !found.bonded)
    }

    /// Returns the interface called `name`.
    #[must_use]
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }
}

/// Where the kernel tells of the bonds of the thread's network namespace, a file for each.
const BONDS: &str = "/proc/thread-self/net/bonding";
/// Likewise of VLANs.
const VLANS: &str = "/proc/thread-self/net/vlan";

/// Marks bonds, and VLANs of them.
fn mark_bonded(interfaces: &mut [Interface]) -> io::Result<()> {
    let bonds = match fs::read_dir(BONDS) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<BTreeSet<String>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for interface in interfaces {
        let mut name = interface.name.clone();
        interface.bonded = loop {
            if bonds.contains(&name) {
                break true;
            }
            // A VLAN may be one of a VLAN; each stands on another interface, so this ends.
            match device_of_vlan(&name)? {
                Some(device) => name = device,
                None => break false,
            }
        };
    }
    Ok(())
}

/// Returns the name of the interface that the VLAN called `name` is on; `None` for what is no VLAN.
fn device_of_vlan(name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(format!("{VLANS}/{name}")) {
        Ok(text) => Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("Device: ").map(|device| device.trim().to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the index of the interface called `name`, 0 if there is none.
pub(crate) fn index_of(name: &str) -> u32 {
    // SAFETY: the name ends in a zero and outlives the call.
    CString::new(name).map_or(0, |name| unsafe { libc::if_nametoindex(name.as_ptr()) })
}

fn interface_called<'i>(
    interfaces: &'i mut BTreeMap<String, Interface>,
    name: &str,
) -> &'i mut Interface {
    let interface = || Interface { name: name.to_owned(), ..Interface::default() };
    interfaces.entry(name.to_owned()).or_insert_with(interface)
}

/// The driver has a carrier (`linux/if.h`); `libc` does not name it.
const IFF_LOWER_UP: u32 = 1 << 16;

/// Returns how many packets the interface of a link-layer `address` has received, 0 for another address.
///
/// # Safety
///
/// Both pointers are null or an entry's of `getifaddrs(3)`.
unsafe fn received(address: *const libc::sockaddr, data: *const libc::c_void) -> u32 {
    if address.is_null() || data.is_null() {
        return 0;
    }
    // SAFETY: not null, so it has at least a family.
    if i32::from(unsafe { (*address).sa_family }) != libc::AF_PACKET {
        return 0;
    }
    // SAFETY: of such an entry the data is a `struct rtnl_link_stats` (`linux/if_link.h`), whose first
    // field is `rx_packets`, 32 bits.
    unsafe { data.cast::<u32>().read_unaligned() }
}

/// Stores what one entry of `getifaddrs(3)` says.
///
/// # Safety
///
/// Both pointers are null or point to a socket address as long as its family says.
unsafe fn note_address(
    interface: &mut Interface,
    address: *const libc::sockaddr,
    netmask: *const libc::sockaddr,
) {
    // SAFETY: the caller's promise covers both.
    let (ip, mask) = unsafe { (ip_of(address), ip_of(netmask)) };
    if let Some(ip) = ip {
        let prefix = match mask {
            Some(IpAddr::V4(mask)) => u32::from(mask).count_ones(),
            Some(IpAddr::V6(mask)) => u128::from(mask).count_ones(),
            // A point-to-point address without a mask is alone in its subnet.
            None => {
                if ip.is_ipv4() {
                    32
                } else {
                    128
                }
            }
        };
        interface.addresses.push((ip, prefix as u8));
        return;
    }
    if address.is_null() {
        return;
    }
    // SAFETY: not null, so it has at least a family.
    if i32::from(unsafe { (*address).sa_family }) == libc::AF_PACKET {
        // SAFETY: an AF_PACKET address is a `sockaddr_ll`; a read needs no alignment this way.
        let packet = unsafe { address.cast::<libc::sockaddr_ll>().read_unaligned() };
        interface.index = u32::try_from(packet.sll_ifindex).unwrap_or(0);
        if packet.sll_hatype == libc::ARPHRD_ETHER && packet.sll_halen == 6 {
            interface.mac = packet.sll_addr.first_chunk().copied();
        }
    }
}

/// Returns the IP address in a socket address.
///
/// # Safety
///
/// `address` is null or points to a socket address as long as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, so it has at least a family.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: an AF_INET address is a `sockaddr_in`; a read needs no alignment this way.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an AF_INET6 address is a `sockaddr_in6`; likewise.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

impl Config {
    /// Checks that the interfaces of this host are what the file says of node `local`: they exist,
    /// own link addresses are on them, and peers and service addresses lie in their subnets.
    ///
    /// An interface that is down and a service address that is already there are no errors: the
    /// one may come up, the other is adopted.
    ///
    /// # Errors
    ///
    /// All that does not fit, in the order of the file; [`ConfigErrors::may_pass`] tells whether a host
    /// that is still starting may come to fit.
    pub fn check_host(&self, local: &Local, host: &HostView) -> Result<(), ConfigErrors> {
        let mut check = HostCheck { config: self, host, errors: Vec::new() };
        for link in &local.links {
            check.link(local, link);
        }
        for address in self.groups.iter().flat_map(|group| &group.addresses) {
            let Some(name) = address.interface(local.me.id) else { continue };
            let Some(interface) = check.interface(name, address.interface_position) else {
                continue;
            };
            if !address.on_link {
                continue;
            }
            let subnets = check.subnets(interface);
            let passes = check.may_get_subnet(local, interface, address.address);
            if !subnets.iter().any(|subnet| contains(*subnet, address.address)) {
                let message = format!(
                    "address {} is outside every subnet of its interface {name} ({}); correct the \
                     address or the interface, or give {name} an address in its subnet; where routers \
                     send it here without one, write on_link = false",
                    address.address,
                    listed(&subnets)
                );
                check.add(address.address_position, message, passes);
            }
        }
        ConfigErrors::unless_empty(self.path(), check.errors)
    }
}

struct HostCheck<'c> {
    config: &'c Config,
    host: &'c HostView,
    errors: Vec<ConfigError>,
}

impl<'c> HostCheck<'c> {
    fn add(&mut self, position: Position, message: String, passes: bool) {
        self.errors.push(ConfigError { position: Some(position), message, passes });
    }

    fn interface(&mut self, name: &InterfaceName, position: Position) -> Option<&'c Interface> {
        let found = self.host.interface(name.as_str());
        if found.is_none() {
            // All of them: interface names differ by a digit, and the nearest one proves nothing.
            let names: Vec<_> = self.host.interfaces.iter().map(|i| i.name.as_str()).collect();
            let names = names.join(", ");
            self.add(position, format!("this host has no interface {name}; it has: {names}"), true);
        }
        found
    }

    fn link(&mut self, local: &Local, link: &LocalLink) {
        let own = &link.own;
        let Some(interface) = self.interface(&own.interface, own.interface_position) else {
            return;
        };
        match own.address {
            LinkAddress::Mac(mac) if interface.mac != Some(mac) => {
                let real = match interface.mac {
                    Some(real) => format!("is {}; write that", LinkAddress::Mac(real)),
                    None => "does not exist; use an Ethernet interface".into(),
                };
                let message = format!(
                    "mac {} is not that of {} on this host, which {real}",
                    own.address, interface.name
                );
                // One that is down may be given another one before it comes up; a bond takes that
                // of its first port.
                let passes = interface.mac.is_some() && (!interface.up || interface.bonded);
                self.add(own.address_position, message, passes);
            }
            LinkAddress::Mac(_) => {}
            LinkAddress::Ip(ip) => self.own_ip(interface, ip, own.address_position),
        }
        let one_hop = link.min_hops == u8::MAX && link.transport != Transport::Ethernet;
        for (peer, end) in link.others() {
            let LinkAddress::Ip(ip) = end.address else { continue };
            let subnets = self.subnets(interface);
            if one_hop && !subnets.iter().any(|subnet| contains(*subnet, ip)) {
                let message = format!(
                    "address {ip} of {peer} is outside every subnet of {} on this host ({}); \
                     correct it, or allow routers between with multihop",
                    interface.name,
                    listed(&subnets)
                );
                let passes = self.may_get_subnet(local, interface, ip);
                self.add(end.address_position, message, passes);
            }
        }
    }

    fn own_ip(&mut self, interface: &Interface, ip: IpAddr, position: Position) {
        let has = |interface: &Interface| interface.addresses.iter().any(|(own, _)| *own == ip);
        if has(interface) {
            return self.ready(interface, ip, position);
        }
        let elsewhere = self.host.interfaces.iter().find(|other| has(other));
        // An interface that has another address in its place is there, and the file wrong.
        let instead = self.subnets(interface);
        let instead = instead.iter().any(|subnet| !is_link_local(ip) && contains(*subnet, ip));
        let hint = match elsewhere {
            Some(other) => format!("it is on {}; correct one of them", other.name),
            None if interface.addresses.is_empty() => {
                format!("{} has no address; add it there first", interface.name)
            }
            None => {
                let addresses: Vec<_> =
                    interface.addresses.iter().map(|(address, _)| address.to_string()).collect();
                format!("{} has {}", interface.name, addresses.join(", "))
            }
        };
        let message =
            format!("address {ip} of this node is not on {} of this host; {hint}", interface.name);
        self.add(position, message, elsewhere.is_none() && !instead);
    }

    /// Checks that frames can leave from an own address that is there.
    fn ready(&mut self, interface: &Interface, ip: IpAddr, position: Position) {
        let found = interface.unready.iter().find(|(address, _)| IpAddr::V6(*address) == ip);
        let Some((_, why)) = found else { return };
        // Without a carrier the kernel never comes to an end, as where the other machine is off.
        if !interface.carrier && *why == Unready::Tentative {
            return;
        }
        let name = &interface.name;
        let message = match why {
            Unready::Tentative => format!(
                "address {ip} of this node on {name} cannot be used yet: the kernel asks whether \
                 another machine has it; wait until it is no longer tentative (`ip address`)"
            ),
            Unready::Duplicate => format!(
                "address {ip} of this node on {name} cannot be used: another machine has it as well \
                 (dadfailed in `ip address`); take it away from that one, then add it here again"
            ),
        };
        self.add(position, message, true);
    }

    /// Returns whether `interface` may come to have a subnet with `ip`: it has no address of that kind
    /// yet, or lacks an own one of this node.
    fn may_get_subnet(&self, local: &Local, interface: &Interface, ip: IpAddr) -> bool {
        let subnets = self.subnets(interface);
        let mut same = subnets.iter().filter(|(own, _)| own.is_ipv4() == ip.is_ipv4());
        if same.all(|(own, _)| is_link_local(*own)) {
            return true;
        }
        let here = local.links.iter().map(|link| &link.own);
        let mut here = here.filter(|own| own.interface.as_str() == interface.name);
        here.any(|own| match own.address {
            LinkAddress::Ip(own) => interface.addresses.iter().all(|(found, _)| *found != own),
            LinkAddress::Mac(_) => false,
        })
    }

    /// Returns the subnets of the addresses that stay, so that a service address never vouches for
    /// itself.
    fn subnets(&self, interface: &Interface) -> Vec<(IpAddr, u8)> {
        let moves = |ip: IpAddr| {
            let mut addresses = self.config.groups.iter().flat_map(|group| &group.addresses);
            addresses.any(|address| address.address == ip)
        };
        interface.addresses.iter().copied().filter(|(ip, _)| !moves(*ip)).collect()
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn contains((subnet, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    subnet.is_ipv4() == ip.is_ipv4() && network_of(subnet, prefix) == network_of(ip, prefix)
}

fn listed(subnets: &[(IpAddr, u8)]) -> String {
    let mut text = String::new();
    for (ip, prefix) in subnets {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}/{prefix}", network_of(*ip, *prefix));
    }
    if text.is_empty() { "it has none".into() } else { text }
}
