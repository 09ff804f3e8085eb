//! IPv6 addresses that are there and cannot be used.

use std::{fs, io, net::Ipv6Addr};

use super::Interface;

/// Why an IPv6 address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// Duplicate address detection has not ended.
    Tentative,
    /// It found another machine with the address.
    Duplicate,
}

/// Where the kernel tells of the IPv6 addresses of the thread's network namespace, a line for each.
const ADDRESSES6: &str = "/proc/thread-self/net/if_inet6";

/// Marks the IPv6 addresses that cannot be used.
pub(super) fn mark(interfaces: &mut [Interface]) -> io::Result<()> {
    let text = match fs::read_to_string(ADDRESSES6) {
        Ok(text) => text,
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for (address, index, why) in text.lines().filter_map(unready) {
        let found = interfaces.iter_mut().find(|interface| interface.index == index);
        if let Some(interface) = found {
            interface.unready.push((address, why));
        }
    }
    Ok(())
}

/// Reads a line of [`ADDRESSES6`]: address, index of the interface, prefix length, scope and flags, all
/// in hexadecimal digits, then the name. Returns what is told of an address that cannot be used.
fn unready(line: &str) -> Option<(Ipv6Addr, u32, Unready)> {
    let mut fields = line.split_ascii_whitespace();
    let address = u128::from_str_radix(fields.next()?, 16).ok()?;
    let index = u32::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(2)?, 16).ok()?;
    let why = if flags & libc::IFA_F_DADFAILED != 0 {
        Unready::Duplicate
    } else if flags & libc::IFA_F_TENTATIVE != 0 && flags & libc::IFA_F_OPTIMISTIC == 0 {
        Unready::Tentative
    } else {
        return None;
    };
    Some((Ipv6Addr::from(address), index, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_used_are_told_from_those_that_can() {
        let line = |flags| format!("20010db8000000000000000000000001 0a 40 00 {flags}     eth0");
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(unready(&line("40")), Some((address, 10, Unready::Tentative)));
        assert_eq!(unready(&line("c0")), Some((address, 10, Unready::Tentative)));
        assert_eq!(unready(&line("48")), Some((address, 10, Unready::Duplicate)));
        for usable in ["80", "00", "44", "20"] {
            assert_eq!(unready(&line(usable)), None, "{usable}");
        }
        assert_eq!(unready("no address"), None);
    }
}
