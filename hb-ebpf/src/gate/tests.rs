use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FROM4: [u8; 4] = [192, 0, 2, 1];
const TO4: [u8; 4] = [192, 0, 2, 100];
const FROM6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TO6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100];

fn packet(tags: usize, ethertype: u16, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [NODE, CLIENT].concat();
    for tag in 0..tags {
        bytes.extend(if tag == 0 { [0x88, 0xa8, 0, 5] } else { [0x81, 0, 0, 6] });
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(rest.concat());
    bytes
}

/// `words` 32-bit words of header, options included.
fn ipv4(words: u8, fragment: [u8; 2]) -> Vec<u8> {
    let mut ip = std::vec![0x40 | words, 0, 0, 60, 0, 1];
    ip.extend(fragment);
    ip.extend([64, 6, 0, 0]);
    ip.extend([FROM4, TO4].concat());
    ip.resize(usize::from(words) * 4, 1);
    ip
}

fn ipv6(next_header: u8) -> Vec<u8> {
    let mut ip = std::vec![0x60, 0, 0, 0, 0, 24, next_header, 255];
    ip.extend([FROM6, TO6].concat());
    ip
}

fn neighbour(kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut message = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    message
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut arp = std::vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(CLIENT);
    arp.extend(sender);
    arp.extend([0; 6]);
    arp.extend(target);
    arp
}

#[test]
fn ip_is_matched_in_the_fixed_header_whatever_follows() {
    for tags in 0..=2 {
        for (words, fragment) in [(5, [0, 0]), (15, [0, 0]), (5, [0x20, 0]), (6, [0x00, 0x10])] {
            let bytes = packet(tags, ETHERTYPE_IPV4, &[&ipv4(words, fragment)]);
            let to = Touched { address: Some(Address::V4(TO4)), ..Touched::default() };
            assert_eq!(arriving(&bytes[..]), to);
            let from = Touched { address: Some(Address::V4(FROM4)), ..Touched::default() };
            assert_eq!(leaving(&bytes[..]), from);
        }
        // TCP, hop-by-hop options, a fragment, nothing.
        for next_header in [6, 0, 44, 59] {
            let bytes = packet(tags, ETHERTYPE_IPV6, &[&ipv6(next_header), &[0; 40]]);
            assert_eq!(arriving(&bytes[..]).address, Some(Address::V6(TO6)));
            assert_eq!(leaving(&bytes[..]).address, Some(Address::V6(FROM6)));
            assert_eq!(arriving(&bytes[..]).target, None);
        }
    }
}

#[test]
fn who_asks_by_arp_is_gated_and_who_claims_is_noted() {
    let bytes = packet(1, ETHERTYPE_ARP, &[&arp(1, FROM4, TO4)]);
    let found = arriving(&bytes[..]);
    assert_eq!(found.address, Some(Address::V4(TO4)));
    assert_eq!(found.claimed, Some((Address::V4(FROM4), CLIENT)));
    assert_eq!(leaving(&bytes[..]).address, Some(Address::V4(FROM4)));
    // An announcement has to be heard by those who do not serve.
    let bytes = packet(0, ETHERTYPE_ARP, &[&arp(1, TO4, TO4)]);
    let found = arriving(&bytes[..]);
    assert_eq!((found.address, found.claimed), (None, Some((Address::V4(TO4), CLIENT))));
    assert_eq!(leaving(&bytes[..]).address, Some(Address::V4(TO4)));
}

#[test]
fn neighbour_discovery_is_matched_by_its_target() {
    let other = [7; 16];
    let bytes = packet(0, ETHERTYPE_IPV6, &[&ipv6(ICMP6), &neighbour(SOLICITATION, other)]);
    assert_eq!(arriving(&bytes[..]).target, Some(Address::V6(other)));
    assert_eq!(leaving(&bytes[..]).target, None);
    let bytes = packet(0, ETHERTYPE_IPV6, &[&ipv6(ICMP6), &neighbour(ADVERTISEMENT, other)]);
    let found = arriving(&bytes[..]);
    assert_eq!((found.target, found.claimed), (None, Some((Address::V6(other), CLIENT))));
    assert_eq!(leaving(&bytes[..]).target, Some(Address::V6(other)));
}

#[test]
fn what_stops_a_packet_is_told_apart() {
    use crate::lease::ENDLESS;
    let cases = [
        (0, false, Count::NotHoldingIn, Count::NotHoldingOut),
        (7, false, Count::ExpiredIn, Count::ExpiredOut),
        (ENDLESS, false, Count::ControllerIn, Count::ControllerOut),
        (7, true, Count::PassedIn, Count::PassedOut),
        (ENDLESS, true, Count::PassedIn, Count::PassedOut),
    ];
    for (expires_ns, passes, arriving, leaving) in cases {
        assert_eq!(Count::of(expires_ns, passes, false), arriving);
        assert_eq!(Count::of(expires_ns, passes, true), leaving);
    }
    for (code, count) in Count::ALL.iter().enumerate() {
        assert_eq!(*count as usize, code);
    }
}

#[test]
fn only_a_clients_packets_are_sent_on_and_only_for_a_while() {
    let bounce = Bounce { until_ns: 10, interface: 3, to: [2, 9, 9, 9, 9, 9], own: NODE };
    let from = |source, destination| Ethernet { destination, source, ethertype: [8, 0] };
    assert!(bounces(&bounce, &from(CLIENT, NODE), 3, 9));
    assert!(!bounces(&bounce, &from(CLIENT, NODE), 3, 10));
    assert!(!bounces(&bounce, &from(CLIENT, NODE), 4, 9));
    assert!(!bounces(&bounce, &from(bounce.to, NODE), 3, 9));
    assert!(!bounces(&bounce, &from(NODE, NODE), 3, 9));
    assert!(!bounces(&bounce, &from(CLIENT, [0xff; 6]), 3, 9));
    assert!(!bounces(&Bounce::default(), &from(CLIENT, NODE), 0, 9));
}

proptest! {
    #[test]
    fn no_packet_is_read_past_its_end(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        for cut in 0..=bytes.len() {
            arriving(&bytes[..cut]);
            leaving(&bytes[..cut]);
        }
    }
}

proptest! {
    #[test]
    fn no_service_address_is_excluded(four: Vec<[u8; 4]>, six: Vec<[u8; 16]>, other: [u8; 16]) {
        let folds = || {
            four.iter().map(|a| fold_v4(*a)).chain(six.iter().map(|a| fold_v6(*a)))
        };
        let settings = Settings { absent: absent(folds()), ..Settings::default() };
        for fold in folds() {
            prop_assert!(fold < 32 && !settings.excludes(fold));
        }
        // Without a word about it nothing is.
        prop_assert!(!Settings::default().excludes(fold_v6(other)));
    }
}

#[test]
fn most_others_are_excluded() {
    let settings = Settings { absent: absent([fold_v4([192, 0, 2, 100])]), ..Settings::default() };
    let others = (0..=255).filter(|&last| settings.excludes(fold_v4([192, 0, 2, last]))).count();
    assert!((236..=252).contains(&others), "{others} of 256");
}
