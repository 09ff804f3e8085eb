use proptest::prelude::*;

use super::*;

fn present(interface: u32, ip: &str, prefix: u8) -> Present {
    let ip = ip.parse().unwrap();
    Present { interface, ip, prefix, flags: 0, protocol: None, label: None }
}

fn vip(ip: &str, prefix: u8) -> Vip {
    Vip::new(2, ip.parse().unwrap(), prefix).unwrap()
}

#[test]
fn nonsense_is_no_vip() {
    for (ip, prefix) in [("10.0.0.1", 0), ("10.0.0.1", 33), ("fd00::1", 0), ("fd00::1", 129)] {
        let refused = Vip::new(2, ip.parse().unwrap(), prefix);
        assert!(matches!(refused, Err(InvalidVip::Prefix { .. })), "{ip}/{prefix}");
    }
    for ip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
        let refused = Vip::new(2, ip.parse().unwrap(), 32);
        assert!(matches!(refused, Err(InvalidVip::NotUnicast { .. })), "{ip}");
    }
    for interface in [0, u32::MAX] {
        let refused = Vip::new(interface, "10.0.0.1".parse().unwrap(), 32);
        assert!(matches!(refused, Err(InvalidVip::Interface { .. })));
    }
}

#[test]
fn a_vip_stands_absent_ours_or_foreign() {
    let wanted = vip("10.0.0.9", 32);
    assert_eq!(wanted.standing(&[present(2, "10.0.0.1", 24)]), Ok(Standing::Absent));
    let mut there = present(2, "10.0.0.9", 32);
    assert_eq!(
        wanted.standing(std::slice::from_ref(&there)),
        Ok(Standing::Foreign { prefix: 32, protocol: None })
    );
    there.protocol = Some(PROTOCOL);
    assert_eq!(wanted.standing(&[there]), Ok(Standing::Ours));
}

#[test]
fn a_vip_elsewhere_is_a_conflict_that_says_where() {
    let wanted = vip("fd00::9", 128);
    let conflict = wanted.standing(&[present(7, "fd00::9", 64)]).unwrap_err();
    assert_eq!(conflict, Conflict::OtherInterface { vip: wanted, interface: 7, prefix: 64 });
    assert!(conflict.to_string().contains("interface 7 as /64"));
    let mut there = present(2, "fd00::9", 64);
    let foreign = Standing::Foreign { prefix: 64, protocol: None };
    assert_eq!(wanted.standing(std::slice::from_ref(&there)), Ok(foreign));
    there.protocol = Some(PROTOCOL);
    let conflict = wanted.standing(&[there]).unwrap_err();
    assert_eq!(conflict, Conflict::OtherPrefix { vip: wanted, prefix: 64 });
}

#[test]
fn an_ipv4_vip_goes_up_as_32_whatever_its_subnet() {
    for prefix in [1, 24, 31, 32] {
        let wanted = vip("10.0.0.9", prefix);
        assert_eq!(wanted.prefix(), 32);
        let mut there = present(2, "10.0.0.9", 32);
        assert!(wanted.is(&there));
        there.protocol = Some(PROTOCOL);
        let other = Present { prefix: 24, ..there.clone() };
        assert!(!wanted.is(&other));
        let conflict = Err(Conflict::OtherPrefix { vip: wanted, prefix: 24 });
        assert_eq!(wanted.standing(&[there, other]), conflict);
    }
    // The kernel has an IPv6 address once only, with whatever prefix.
    let wanted = vip("fd00::9", 64);
    assert_eq!(wanted.prefix(), 64);
    assert!(wanted.is(&present(2, "fd00::9", 128)));
    assert!(!wanted.is(&present(3, "fd00::9", 64)));
}

#[test]
fn a_batch_takes_so_many_changes() {
    let mut batch = Batch::new();
    let vip = vip("fd00::9", 128);
    for _ in 0..MAX_CHANGES {
        batch.push(Change::Add, vip).unwrap();
    }
    assert_eq!(batch.push(Change::Remove, vip), Err(BatchFull { vip }));
    assert_eq!(batch.changes().len(), MAX_CHANGES);
}

/// Walks over the messages as the kernel does (netlink(7)) and returns each one's type, number and
/// interface.
fn walk(mut bytes: &[u8]) -> Vec<(u16, u32, u32)> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = word(0) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        seen.push((kind, word(8), word(20)));
        bytes = &bytes[length.next_multiple_of(4)..];
    }
    seen
}

proptest! {
    #[test]
    fn messages_of_a_batch_follow_one_another(
        changes in prop::collection::vec((0..3_usize, any::<bool>(), 1..100_u32, 1..255_u8), 1..20),
    ) {
        let mut batch = Batch::new();
        let mut expected = Vec::new();
        for (number, &(change, v4, interface, last)) in (1..).zip(&changes) {
            let ip: IpAddr = if v4 { [10, 0, 0, last].into() } else { [253, 0, 0, 0, 0, 0, 0, u16::from(last)].into() };
            let change = [Change::Add, Change::Adopt, Change::Remove][change];
            batch.push(change, Vip::new(interface, ip, 32).unwrap()).unwrap();
            let kind = if change == Change::Remove { libc::RTM_DELADDR } else { libc::RTM_NEWADDR };
            expected.push((kind, number, interface));
        }
        prop_assert_eq!(walk(batch.bytes()), expected);
    }
}
