//! What the file says against what the host has.

use super::*;

fn interface(name: &str, mac: u8, addresses: &[(&str, u8)]) -> Interface {
    Interface {
        name: name.into(),
        index: u32::from(mac),
        mac: Some([2, 0, 0, 0, 0, mac]),
        up: true,
        carrier: true,
        received: 0,
        addresses: addresses.iter().map(|(ip, prefix)| (ip.parse().unwrap(), *prefix)).collect(),
        bonded: false,
        unready: Vec::new(),
    }
}

/// The host that node a of [`GOOD`] is.
fn host() -> HostView {
    let global = [("192.0.2.1", 24), ("2001:db8::1", 64), ("fe80::1", 64)];
    let loopback = Interface { mac: None, ..interface("lo", 1, &[("127.0.0.1", 8)]) };
    HostView {
        interfaces: vec![interface("eth0", 3, &global), interface("eth1", 10, &[]), loopback],
    }
}

fn check(config: &Config, host: &HostView) -> Result<(), String> {
    let local = config.for_node("a").unwrap();
    config.check_host(&local, host).map_err(|errors| errors.to_string())
}

fn refusal(config: &Config, host: &HostView) -> String {
    check(config, host).unwrap_err()
}

#[test]
fn a_fitting_host_is_accepted() {
    check(&good(), &host()).unwrap();
}

#[test]
fn an_interface_that_is_down_is_no_error() {
    let mut host = host();
    host.interfaces.iter_mut().for_each(|interface| interface.up = false);
    check(&good(), &host).unwrap();
}

#[test]
fn missing_interfaces_are_named_with_those_there_are() {
    let mut host = host();
    host.interfaces[1].name = "enp1s0".into();
    let report = refusal(&good(), &host);
    assert_eq!(report, "hb.toml:34:24: this host has no interface eth1; it has: eth0, enp1s0, lo");
}

#[test]
fn own_address_has_to_be_there() {
    let mut host = host();
    host.interfaces[0].addresses[0].0 = "192.0.2.7".parse().unwrap();
    let report = refusal(&good(), &host);
    assert_eq!(
        report,
        "hb.toml:25:11: address 192.0.2.1 of this node is not on eth0 of this host; eth0 has \
         192.0.2.7, 2001:db8::1, fe80::1"
    );
    host.interfaces[1].addresses.push(("192.0.2.1".parse().unwrap(), 24));
    assert!(refusal(&good(), &host).contains("it is on eth1; correct one of them"));
}

/// What [`Config::check_host`] finds, and whether it may pass with time.
fn passes(config: &Config, host: &HostView) -> bool {
    let local = config.for_node("a").unwrap();
    config.check_host(&local, host).unwrap_err().may_pass()
}

#[test]
fn what_a_host_lacks_at_boot_may_pass_and_what_the_file_has_wrong_does_not() {
    assert!(passes(&good(), &HostView::default()));
    // Interfaces without addresses; with link-local ones; with all but one family.
    let mut bare = host();
    bare.interfaces[0].addresses.clear();
    assert!(passes(&good(), &bare));
    bare.interfaces[0].addresses.push(("fe80::1".parse().unwrap(), 64));
    assert!(passes(&good(), &bare));
    bare.interfaces[0].addresses.push(("2001:db8::1".parse().unwrap(), 64));
    assert!(passes(&good(), &bare));
    // A service address proves nothing.
    bare.interfaces[0].addresses.push(("192.0.2.100".parse().unwrap(), 24));
    assert!(passes(&good(), &bare));
    // Another one in its place, or the right one in another place, is a mistake.
    bare.interfaces[0].addresses.push(("192.0.2.7".parse().unwrap(), 24));
    assert!(!passes(&good(), &bare));
    let mut elsewhere = host();
    let (address, prefix) = elsewhere.interfaces[0].addresses.remove(0);
    elsewhere.interfaces[1].addresses.push((address, prefix));
    assert!(!passes(&good(), &elsewhere));
    // One of another subnet is no mistake: the own one may come beside it.
    let mut beside = host();
    beside.interfaces[0].addresses[0] = ("198.51.100.1".parse().unwrap(), 24);
    assert!(passes(&good(), &beside));
    // All own addresses are there, and the file names a foreign subnet.
    let wrong = parse(&with("192.0.2.100/24", "198.51.100.7/24")).unwrap();
    assert!(!passes(&wrong, &host()));
    // One thing that does not pass is enough.
    let mut both = host();
    both.interfaces.remove(1);
    assert!(passes(&good(), &both) && !passes(&wrong, &both));
}

#[test]
fn a_mac_may_change_until_the_interface_is_up() {
    let mut host = host();
    host.interfaces[1].mac = Some([2, 0, 0, 0, 0, 0xff]);
    assert!(!passes(&good(), &host));
    host.interfaces[1].up = false;
    assert!(passes(&good(), &host));
    host.interfaces[1].mac = None;
    assert!(!passes(&good(), &host), "no Ethernet");
}

#[test]
fn an_own_address_that_cannot_be_used_yet_is_said() {
    let text = GOOD
        .replace("udp4", "udp6")
        .replace("\"192.0.2.1\"", "\"2001:db8::1\"")
        .replace("\"192.0.2.2\"", "\"2001:db8::2\"");
    let config = parse(&text).unwrap();
    let mut host = host();
    check(&config, &host).unwrap();
    for (why, says) in [(Unready::Tentative, "tentative"), (Unready::Duplicate, "dadfailed")] {
        host.interfaces[0].unready = vec![("2001:db8::1".parse().unwrap(), why)];
        assert!(refusal(&config, &host).contains(says));
        assert!(passes(&config, &host));
    }
    // Without a carrier the kernel never asks anybody: nothing to wait for.
    host.interfaces[0].unready[0].1 = Unready::Tentative;
    host.interfaces[0].carrier = false;
    check(&config, &host).unwrap();
    // One that is not this node's end of a link is of no matter.
    host.interfaces[0].carrier = true;
    host.interfaces[0].unready[0].0 = "2001:db8::7".parse().unwrap();
    check(&config, &host).unwrap();
}

#[test]
fn own_mac_has_to_be_there() {
    let mut host = host();
    host.interfaces[1].mac = Some([2, 0, 0, 0, 0, 0xff]);
    let report = refusal(&good(), &host);
    assert!(
        report.contains("hb.toml:34:38: mac 02:00:00:00:00:0a is not that of eth1"),
        "{report}"
    );
    assert!(report.contains("which is 02:00:00:00:00:ff; write that"), "{report}");
    host.interfaces[1].mac = None;
    assert!(refusal(&good(), &host).contains("use an Ethernet interface"));
}

#[test]
fn service_addresses_lie_in_a_subnet() {
    let config = parse(&with("192.0.2.100/24", "198.51.100.7/24")).unwrap();
    assert_eq!(
        refusal(&config, &host()),
        "hb.toml:41:11: address 198.51.100.7 is outside every subnet of its interface eth0 \
         (192.0.2.0/24, 2001:db8::/64, fe80::/64); correct the address or the interface, or give \
         eth0 an address in its subnet; where routers send it here without one, write on_link = false"
    );
    let mut bare = host();
    bare.interfaces[0].addresses.retain(|(ip, _)| ip.is_ipv4());
    let report = refusal(&good(), &bare);
    assert!(report.contains("address 2001:db8::100 is outside every subnet"), "{report}");
}

#[test]
fn a_service_address_outside_every_subnet_says_so() {
    for (address, interface) in [("203.0.113.7/32", "eth0"), ("2001:db8:7::7/128", "lo")] {
        let file = with("192.0.2.100/24", address);
        let place = format!("interface = {interface:?}\n");
        let file = file.replacen("interface = { a = \"eth0\", b = \"ens3\" }\n", &place, 1);
        assert!(file.contains(&format!("{address}\"\n{place}")), "{file}");
        let mut host = host();
        host.interfaces.push(Interface { index: 1, name: "lo".into(), ..Interface::default() });
        let says = refusal(&parse(&file).unwrap(), &host);
        assert!(says.contains("write on_link = false"), "{says}");
        let file = file.replace(
            &format!("{address}\"\n{place}"),
            &format!("{address}\"\n{place}on_link = false\n"),
        );
        let config = parse(&file).unwrap();
        check(&config, &host).unwrap();
        assert!(config.groups.iter().flat_map(|group| &group.addresses).any(|it| !it.on_link));
    }
}

/// Left over from a crash or added by hand: adopted where it belongs, but no reason to accept a
/// wrong one.
#[test]
fn a_service_address_does_not_vouch_for_itself() {
    let mut host = host();
    host.interfaces[0].addresses.push(("192.0.2.100".parse().unwrap(), 24));
    check(&good(), &host).unwrap();

    let config = parse(&with("192.0.2.100/24", "198.51.100.7/24")).unwrap();
    host.interfaces[0].addresses.push(("198.51.100.7".parse().unwrap(), 24));
    assert!(refusal(&config, &host).contains("198.51.100.7 is outside every subnet"));
}

#[test]
fn peers_are_one_hop_away_unless_more_are_allowed() {
    let far = with("\"192.0.2.2\"", "\"203.0.113.2\"");
    let report = refusal(&parse(&far).unwrap(), &host());
    assert!(
        report.starts_with("hb.toml:29:11: address 203.0.113.2 of node 2 is outside every subnet"),
        "{report}"
    );
    assert!(report.contains("(192.0.2.0/24, 2001:db8::/64, fe80::/64)"), "{report}");
    let routed = far.replace("\"udp4\"", "\"udp4\"\nmultihop = 1");
    check(&parse(&routed).unwrap(), &host()).unwrap();
}

#[test]
fn link_local_links_are_possible() {
    let text = GOOD
        .replace("udp4", "udp6")
        .replace("\"192.0.2.1\"", "\"fe80::1\"")
        .replace("\"192.0.2.2\"", "\"fe80::2\"");
    check(&parse(&text).unwrap(), &host()).unwrap();
}

#[test]
fn everything_is_reported_in_the_order_of_the_file() {
    let nothing = HostView::default();
    let report = refusal(&good(), &nothing);
    let lines: Vec<_> = report.lines().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(lines, ["24", "34", "42", "46"], "{report}");
}

/// Every network namespace has a loopback interface.
#[test]
fn this_host_can_be_read() {
    let view = HostView::read().unwrap();
    let loopback = view.interface("lo").expect("lo");
    assert!(loopback.index > 0);
    assert_eq!(loopback.mac, None);
    for interface in &view.interfaces {
        for (ip, prefix) in &interface.addresses {
            assert!(*prefix <= if ip.is_ipv4() { 32 } else { 128 });
        }
    }
    if loopback.up {
        assert!(loopback.addresses.contains(&("127.0.0.1".parse().unwrap(), 8)), "{loopback:?}");
    }
    assert!(!hostname().unwrap().is_empty());
}
