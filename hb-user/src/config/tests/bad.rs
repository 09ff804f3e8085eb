//! Bad configurations: what is reported, and on which line.

use super::*;

/// Replaces `from` in [`GOOD`] by `to` and expects one error, on the line of `on`, with `say`.
struct Case {
    from: &'static str,
    to: &'static str,
    on: &'static str,
    say: &'static str,
}

const fn case(from: &'static str, to: &'static str, on: &'static str, say: &'static str) -> Case {
    Case { from, to, on, say }
}

fn check(cases: &[Case]) {
    for Case { from, to, on, say } in cases {
        let text = with(from, to);
        let line = text.lines().position(|line| line.contains(on)).expect(on) + 1;
        let Err(errors) = parse(&text) else { panic!("accepted: {to}") };
        let [error] = errors.errors() else { panic!("not one error for {to}:\n{errors}") };
        let position = error.position.expect(to);
        assert_eq!(position.line, line, "{to}: {errors}");
        assert!(error.message.contains(say), "{to}:\n{errors}\nnot: {say}");
        let head = format!("hb.toml:{line}:{}: ", position.column);
        assert!(errors.to_string().starts_with(&head), "{errors}");
    }
}

#[test]
fn syntax() {
    check(&[
        case("misses = 5", "misses = ", "misses", "not valid TOML"),
        case("misses = 5", "misses = 5\nmisses = 6", "misses = 6", "duplicate key"),
    ]);
    // What follows a broken header may be misread, and is reported as well.
    let text = report("[timers]", "[timers");
    assert!(text.starts_with("hb.toml:6:8: not valid TOML: unclosed table"), "{text}");
}

#[test]
fn unknown_keys() {
    check(&[
        case(
            "policy",
            "x = 1\npolicy",
            "x = 1",
            "unknown key \"x\" in [cluster]; known keys: policy, name",
        ),
        case("misses = 5", "misess = 5\ndeadtime = \"5ms\"", "misess", "did you mean \"misses\"?"),
        case("[timers]", "[timer]\n[timers]", "[timer]", "did you mean \"timers\"?"),
        case("id = 2", "id = 2\nrank = 2", "rank", "unknown key \"rank\" in [[node]]"),
        case("\"udp4\"", "\"udp4\"\nport = 694", "port = 694", "unknown key \"port\" in [[link]]"),
        case("\"192.0.2.1\"", "\"192.0.2.1\"\nadress = 1", "adress", "did you mean \"address\"?"),
        case("\"web\"", "\"web\"\nprefered = \"a\"", "prefered", "did you mean \"preferred\"?"),
        case("100/24\"", "100/24\"\nlabel = \"x\"", "label", "in [[group.address]]"),
        case("\"1m\"", "\"1m\"\nstop-timeout = \"1s\"", "stop-", "did you mean \"stop_timeout\"?"),
        case("[timers]", "[log]\nlevels = 1\n[timers]", "levels", "did you mean \"level\"?"),
    ]);
}

#[test]
fn missing_keys() {
    check(&[
        case("name = \"pair\"\n", "", "[cluster]", "name is missing in [cluster]"),
        case("key_file = \"/etc/hb/key\"\n", "", "[cluster]", "hb key generate"),
        case("policy = \"available\"\n", "", "[cluster]", "policy is missing"),
        case("interval = \"1ms\"\n", "", "[timers]", "interval is missing"),
        case("misses = 5\n", "", "[timers]", "deadtime is missing"),
        case("auto_failback = true\n", "", "[timers]", "auto_failback is missing"),
        case("name = \"a\"\nid = 1", "name = \"a\"", "[[node]]", "id is missing"),
        case("name = \"client\"\n", "", "[[link]]", "name is missing in [[link]]"),
        case("transport = \"udp4\"\n", "", "[[link]]", "transport is missing"),
        case(
            "address = \"192.0.2.1\"\n",
            "",
            "[link.node.a]",
            "address is missing in [link.node.a]",
        ),
        case(", mac = \"02:00:00:00:00:0a\"", "", "node.a = {", "mac is missing in [link.node.a]"),
        case("name = \"web\"\n", "", "[[group]]", "name is missing in [[group]]"),
        case("address = \"192.0.2.100/24\"\n", "", "[[group.address]]", "address is missing"),
        case(
            "interface = { a = \"eth0\", b = \"ens3\" }\n",
            "",
            "[[group.address]]",
            "interface is",
        ),
        case("program = \"/usr/local/bin/svc\"\n", "", "[[group.resource]]", "program is missing"),
    ]);
}

#[test]
fn cluster() {
    check(&[
        case("\"pair\"", "\"Pair\"", "\"Pair\"", "no cluster name; use 1 to 32 of a-z, 0-9 and -"),
        case("\"pair\"", "\"a/../b\"", "a/../b", "no cluster name"),
        case("\"pair\"", "7", "name = 7", "name = 7 is no text"),
        case("\"/etc/hb/key\"", "\"key\"", "key_file", "key_file = \"key\" is not absolute"),
        case("\"available\"", "\"availble\"", "policy", "did you mean \"available\"?"),
        case("\"available\"", "\"available\"\nengine = \"xdp\"", "engine", "auto, kernel, user"),
        case("\"available\"", "\"available\"\nstate_dir = \"~\"", "state_dir", "not absolute"),
        case("\"available\"", "\"available\"\ncontrol_socket = \"x\"", "control", "not absolute"),
    ]);
    let long = format!("\"available\"\ncontrol_socket = \"/{}\"", "x".repeat(107));
    let errors = parse(&with("\"available\"", &long)).unwrap_err().to_string();
    assert!(errors.contains("has 108 bytes, more than 107"), "{errors}");
    let named = with("name = \"a\"", &format!("name = \"{}\"", "a".repeat(64)));
    let named = named.replace("node.a", &format!("node.{}", "a".repeat(64)));
    let named = named.replace("{ a =", &format!("{{ {} =", "a".repeat(64)));
    parse(&named).unwrap();
    let errors = parse(&named.replace("pair", &"p".repeat(32))).unwrap_err().to_string();
    assert!(errors.contains("2:8: the control socket's path"), "{errors}");
}

#[test]
fn timers() {
    check(&[
        case("\"1ms\"", "1", "interval", "interval = 1 is no duration; write a number and a unit"),
        case("\"1ms\"", "\"1\"", "interval", "interval: \"1\" has no unit"),
        case("\"1ms\"", "\"1sec\"", "interval", "unknown unit \"sec\""),
        case("\"1ms\"", "\"49us\"", "interval", "interval 49us is outside 50us to 10s"),
        case("\"1ms\"", "\"11s\"", "interval", "interval 11s is outside 50us to 10s"),
        case("\"1ms\"", "\"1ms\"\nkeepalive = \"1ms\"", "keepalive", "another word for interval"),
        case("\"1ms\"", "\"5000000h\"", "interval", "interval 5000000h is outside"),
        case("misses = 5", "misses = 1", "misses", "no whole number from 2 to 1000"),
        case("misses = 5", "misses = 1001", "misses", "misses = 1001 is no whole number"),
        case("misses = 5", "misses = -5", "misses", "misses = -5 is"),
        case("misses = 5", "misses = \"5\"", "misses", "misses = \"5\" is no whole number"),
        case("misses = 5", "misses = 5\ndeadtime = \"5ms\"", "misses", "both are given"),
        case("misses = 5", "deadtime = \"1.9ms\"", "deadtime", "(2 x 1ms = 2ms)"),
        case("misses = 5", "deadtime = \"2s\"", "deadtime", "more than 1000 x interval (1ms)"),
        case(
            "misses = 5",
            "misses = 5\nwarntime = \"5ms\"",
            "warntime",
            "not less than deadtime 5ms",
        ),
        case(
            "misses = 5",
            "misses = 5\nwarntime = \"999us\"",
            "warntime",
            "less than interval 1ms",
        ),
        case("misses = 5", "misses = 5\ninitdead = \"9ms\"", "initdead", "2 x 5ms = 10ms"),
        case("misses = 5", "misses = 5\ninitdead = \"49h\"", "initdead", "outside 10ms to 48h"),
        case("misses = 5", "misses = 5\ndoubt_max = \"11s\"", "doubt_max", "outside 1ms to 10s"),
        case(
            "misses = 5",
            "misses = 5\ncontroller_deadtime = \"1us\"",
            "controller",
            "controller_deadtime 1us is outside 1ms to 24h",
        ),
        case("auto_failback = true", "auto_failback = \"on\"", "auto", "neither true nor false"),
        case("auto_failback = true", "auto_failback = 5", "auto", "nor such as \"after 5m\""),
        case("auto_failback = true", "auto_failback = \"after \"", "auto", "auto_failback: "),
        case(
            "auto_failback = true",
            "auto_failback = \"after 0s\"",
            "auto",
            "\"after 0s\" is out of range; give 1s to 720h",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\nwarm_addresses = 1",
            "warm",
            "neither true nor false",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\nrequire = \"some\"",
            "\"some\"",
            "require = \"some\" is unknown; choose one of: any, all",
        ),
        case("preferred = \"b\"", "preferred = \"b\"\nrequire = 1", "require", "no text"),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\non_stop_failure = \"fence\"",
            "\"fence\"",
            "on_stop_failure = \"fence\" is unknown; choose one of: block, ignore",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\non_failure = \"ignore\"",
            "\"ignore\"",
            "on_failure = \"ignore\" is unknown; choose one of: move, restart",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\nmax_restarts = 3",
            "max_restarts",
            "max_restarts is without effect: set `on_failure = \"restart\"`, or remove it",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\non_failure = \"restart\"\nmax_restarts = 1001",
            "1001",
            "max_restarts = 1001 is no whole number from 1 to 1000",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\non_failure = \"restart\"\nrestart_window = \"1ms\"",
            "restart_window",
            "restart_window 1ms is outside 1s to",
        ),
        case(
            "preferred = \"b\"",
            "preferred = \"b\"\nfailure_timeout = \"1ms\"",
            "failure_timeout",
            "failure_timeout = 1ms is out of range; give 1s to",
        ),
    ]);
}

/// Returns the report for [`GOOD`] with its only `from` replaced by `to`.
fn report(from: &str, to: &str) -> String {
    parse(&with(from, to)).expect_err(to).to_string()
}

#[test]
fn nodes() {
    check(&[
        case("id = 2", "id = 65", "id = 65", "no whole number from 1 to 64"),
        case("id = 2", "id = 0", "id = 0", "no whole number from 1 to 64"),
        case("name = \"b\"\nid = 2", "name = \"b\"\nid = 01", "id = 01", "not valid TOML"),
    ]);
    let text = report("id = 2", "id = 1");
    assert_eq!(text, "hb.toml:17:6: id 1 is taken by another node; change one");
    let text = report("name = \"b\"\nid = 2", "name = \"a\"\nid = 2");
    assert!(text.contains("hb.toml:16:8: node \"a\" is there twice"), "{text}");
    let text = report("id = 2", "id = 2\n[[node]]\nname = \"c\"\nid = 3");
    assert!(text.contains("hb.toml:18:1: this is node 3 of 3, and this version"), "{text}");
    assert!(text.contains("has no end at node c; add [link.node.c]"), "{text}");
    let text = report("[[node]]\nname = \"b\"\nid = 2\n", "");
    assert!(text.contains("hb.toml:11:1: [[node]] is there 1 times"), "{text}");
    let text = report("name = \"b\"\nid", "name = \"b/c\"\nid");
    assert!(text.contains("hb.toml:16:8: \"b/c\" is no name"), "{text}");
}

#[test]
fn links() {
    check(&[
        case("\"udp4\"", "\"udp\"", "transport", "transport = \"udp\" is unknown; did you mean"),
        case("\"udp4\"", "\"serial\"", "transport", "choose one of: udp4, udp6, ethernet"),
        case("\"udp4\"", "\"udp4\"\nmultihop = 255", "multihop", "from 0 to 254"),
        case("\"ethernet\"", "\"ethernet\"\nmultihop = 1", "multihop", "no meaning for ethernet"),
        case("\"192.0.2.1\"", "\"2001:db8::1\"", "2001:db8::1\"", "is IPv6 on a udp4 link"),
        case("\"192.0.2.1\"", "\"192.0.2.1/24\"", "192.0.2.1/24", "no IP address"),
        case("\"192.0.2.1\"", "\"host\"", "\"host\"", "no IP address; write one such as"),
        case("\"192.0.2.1\"", "\"127.0.0.1\"", "127.0.0.1", "never leaves its machine"),
        case("\"192.0.2.1\"", "\"0.0.0.0\"", "0.0.0.0", "stands for no address"),
        case("\"192.0.2.1\"", "\"224.0.0.1\"", "224.0.0.1", "not the address of one machine"),
        case("\"192.0.2.1\"", "\"192.0.2.1\"\nmac = \"\"", "mac = \"\"", "mac is out of place"),
        case("02:00:00:00:00:0a", "2:0:0:0:0:a", "2:0:0:0:0:a", "no MAC address"),
        case("02:00:00:00:00:0a", "02:00:00:00:00:0a:00", "0a:00", "no MAC address"),
        case("02:00:00:00:00:0a", "03:00:00:00:00:0a", "03:00", "not that of one machine"),
        case("02:00:00:00:00:0a", "00:00:00:00:00:00", "00:00:00:00:00:00", "not that of one"),
        case(
            "02:00:00:00:00:0a",
            "02:00:00:00:00:0b",
            "node.b = {",
            "address 02:00:00:00:00:0b is",
        ),
        case("\"ens3\"\naddress", "\"eth0:1\"\naddress", "eth0:1", "no interface name"),
        case("\"ens3\"\naddress", "\"a-very-long-name\"\naddress", "a-very", "1 to 15 characters"),
    ]);
    let text = report("\"cable\"", "\"client\"");
    assert!(text.starts_with("hb.toml:32:8: link \"client\" is there twice"), "{text}");
    let text = report("\"192.0.2.2\"", "\"192.0.2.1\"");
    assert!(
        text.starts_with("hb.toml:29:11: address 192.0.2.1 is already that of node 1"),
        "{text}"
    );
    let text = report("[link.node.b]", "[link.node.c]");
    assert!(text.contains("hb.toml:19:1: link \"client\" has no end at node b"), "{text}");
    assert!(text.contains("hb.toml:27:12: there is no node \"c\"; nodes: a, b"), "{text}");
    let text = report("\"udp4\"", "\"udp6\"");
    assert!(text.contains("is IPv4 on a udp6 link"), "{text}");
    let mut many = GOOD.to_owned();
    for n in 0..3 {
        let link = GOOD.split("[[link]]").nth(1).unwrap().replace("client", &format!("more{n}"));
        many += &format!("[[link]]{}", link.replace("192.0.2.", &format!("198.51.10{n}.")));
    }
    let text = parse(&many).unwrap_err().to_string();
    assert!(text.contains("this is link 5, and 4 are the most"), "{text}");
    let none = GOOD.replace("[[link]]", "[[lnk]]").replace("link.", "lnk.");
    let text = parse(&none).unwrap_err().to_string();
    assert!(text.contains("[[link]] is missing in the file"), "{text}");
    assert!(text.contains("unknown key \"lnk\" in the file; did you mean \"link\"?"), "{text}");
}

#[test]
fn addresses() {
    let v4 = "\"192.0.2.100/24\"";
    let v6 = "\"2001:db8::100/64\"";
    check(&[
        case(v4, "\"192.0.2.100\"", "192.0.2.100", "no prefix length; add the prefix length"),
        case(v4, "\"192.0.2.100/33\"", "/33", "no prefix length from 1 to 32"),
        case(v4, "\"192.0.2.100/0\"", "/0", "no prefix length from 1 to 32"),
        case(v4, "\"192.0.2.100/+24\"", "/+24", "no prefix length from 1 to 32"),
        case(v4, "\"192.0.2.300/24\"", "192.0.2.300", "\"192.0.2.300\" is no IP address"),
        case(v4, "\"192.0.2.0/24\"", "192.0.2.0/24", "network address of its subnet"),
        case(v4, "\"192.0.2.255/24\"", "192.0.2.255", "broadcast address of its subnet"),
        case(v4, "\"224.0.0.1/24\"", "224.0.0.1", "not the address of one machine"),
        case(v4, "\"192.0.2.2/24\"", "192.0.2.2/24", "is the address of node 2 on link \"client\""),
        case(v6, "\"fe80::1/64\"", "fe80::1", "link-local"),
        case(v6, "\"2001:db8::/64\"", "2001:db8::/64", "routers' address"),
        case(v6, "\"::1/128\"", "::1", "never leaves its machine"),
        case(v6, "\"::ffff:192.0.2.9/96\"", "::ffff", "IPv4 address in IPv6 clothes"),
        case(v6, "\"2001:db8::1/129\"", "/129", "from 1 to 128"),
        case(v6, "\"192.0.2.100/32\"", "192.0.2.100/32", "is already in group \"web\""),
        case("{ a = \"eth0\", b = \"ens3\" }", "{ a = \"eth0\" }", "{ a", "names none for node b"),
        case(
            "{ a = \"eth0\", b = \"ens3\" }",
            "[]",
            "interface = []",
            "interface = [..] is no text",
        ),
        case("b = \"ens3\" }", "b = 3 }", "b = 3", "b = 3 is no text"),
        case("b = \"ens3\" }", "b = \"ens3\", d = \"x\" }", "d = \"x\"", "there is no node \"d\""),
    ]);
}

#[test]
fn groups() {
    check(&[
        case(
            "\"web\"",
            "\"web\"\npreferred = \"c\"",
            "preferred = \"c\"",
            "there is no node \"c\"",
        ),
        case("args = [\"x\", \"y z\"]", "args = \"x\"", "args", "args = \"x\" is no list of texts"),
        case("args = [\"x\", \"y z\"]", "args = [1]", "args", "args = [..] is no list of texts"),
        case("args = [\"x\", \"y z\"]", "args = [\"\\u0000\"]", "args", "zero byte"),
        case("\"/usr/local/bin/svc\"", "\"svc\"", "program = \"svc\"", "is not absolute"),
        case("\"1m\"", "\"1ms\"", "stop_timeout", "stop_timeout 1ms is outside 10ms to 24h"),
        case("\"1m\"", "60", "stop_timeout", "stop_timeout = 60 is no duration"),
        case(
            "type = \"script\"\nprogram = \"/usr/local/bin/svc\"",
            "type = \"systemd\"\nprogram = \"/usr/local/bin/svc\"",
            "systemd",
            "type = \"systemd\" is unknown; choose one of: script, ocf, lsb, heartbeat",
        ),
        case("preferred = \"b\"", "preferred = 2", "preferred", "preferred = 2 is no text"),
    ]);
    let text = report("\"db\"", "\"web\"");
    assert!(text.starts_with("hb.toml:56:8: group \"web\" is there twice"), "{text}");
    let resource = GOOD.rsplit_once("[[group.resource]]").unwrap().1;
    let text = parse(&format!("{GOOD}[[group.resource]]{resource}")).unwrap_err().to_string();
    assert!(text.contains("resource \"svc\" is in group \"db\" twice"), "{text}");
    let empty = format!("{GOOD}[[group]]\nname = \"empty\"\n");
    let text = parse(&empty).unwrap_err().to_string();
    assert!(text.contains(":1: group \"empty\" has neither addresses nor resources"), "{text}");
    let group = format!("[[group]]{}", GOOD.rsplit_once("[[group]]").unwrap().1);
    let more = (0..7).map(|n| group.replace("\"db\"", &format!("\"more{n}\"")));
    let text = parse(&format!("{GOOD}{}", more.collect::<String>())).unwrap_err().to_string();
    assert!(text.contains("this is group 9 of 9, and 8 are the most"), "{text}");
    let more = (0..12).map(|n| group.replace("\"db\"", &format!("\"more{n}\"")));
    let text = parse(&format!("{GOOD}{}", more.collect::<String>())).unwrap_err().to_string();
    assert!(text.contains("this is group 9 of 14, and 8 are the most"), "{text}");
    assert_eq!(text.matches("are the most").count(), 1, "{text}");
    let text = parse(GOOD.split("[[group]]").next().unwrap()).unwrap_err().to_string();
    assert!(text.contains("hb.toml:1:1: [[group]] is missing in the file"), "{text}");
}

#[test]
fn wrong_shapes() {
    for (text, say) in [
        ("", "[cluster] is missing"),
        ("cluster = 1", "cluster = 1 is no table; write it as [cluster]"),
        ("[[cluster]]", "cluster = [..] is no table"),
        ("[node]", "node = {..} is no list of tables; write each as [[node]]"),
        ("node = [1]", "node = [..] is no list of tables"),
        ("[link]", "link = {..} is no list of tables"),
        ("[[link]]\nnode = 3", "node = 3 is no table; write it as [link.node.NAME]"),
        ("[[link]]\nnode = { a = 3 }", "a = 3 is no table; write it as [link.node.a]"),
        ("log = 'x'", "log = \"x\" is no table"),
        ("[log]\nformat = 'xml'", "choose one of: text, json, journald"),
        ("[log]\nlevel = 'infos'", "did you mean \"info\"?"),
    ] {
        let errors = parse(text).unwrap_err().to_string();
        assert!(errors.contains(say), "{text}:\n{errors}");
    }
}

/// The configuration of somebody whose address did not move: everything is said at once.
#[test]
fn all_errors_are_reported_in_one_go() {
    let text = GOOD
        .replace("misses = 5", "misses = 1\nwarntme = \"1ms\"")
        .replace("id = 2", "id = 1")
        .replace("\"192.0.2.2\"", "\"192.0.2\"")
        .replace("preferred = \"b\"", "preferred = \"bb\"")
        .replace("100/24", "255/24");
    let errors = parse(&text).unwrap_err();
    let lines: Vec<_> =
        errors.errors().iter().map(|error| error.position.map(|position| position.line)).collect();
    assert_eq!(lines, [8, 9, 18, 30, 42, 58].map(Some), "{errors}");
    assert_eq!(errors.to_string().lines().count(), 6);
}

#[test]
fn more_service_addresses_than_the_kernel_half_has_room_for() {
    let with = |count: usize| {
        let more = (2..count).map(|n| {
            format!("[[group.address]]\naddress = \"198.51.100.{n}/32\"\ninterface = \"eth0\"\n")
        });
        parse(&format!("{GOOD}\n{}", more.collect::<String>()))
    };
    with(64).unwrap_or_else(|errors| panic!("{errors}"));
    let errors = with(65).unwrap_err().to_string();
    assert!(errors.contains("is service address 65 of 65, and 64 are the most"), "{errors}");
    let errors = with(90).unwrap_err().to_string();
    assert!(errors.contains("address 198.51.100.64 is service address 65 of 90"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn an_address_in_no_subnet_has_the_prefix_of_a_host() {
    let interface = "interface = { a = \"eth0\", b = \"ens3\" }";
    let text = GOOD.replacen(interface, &format!("{interface}\non_link = false"), 1);
    assert_ne!(text, GOOD);
    let refused = parse(&text).unwrap_err().to_string();
    assert!(refused.contains("by on_link = false, so it has no prefix of"), "{refused}");
    let refused = parse(&text.replace("on_link = false", "on_link = 0")).unwrap_err().to_string();
    assert!(refused.contains("on_link"), "{refused}");
    parse(&text.replace("on_link = false", "on_link = true")).unwrap();
}
