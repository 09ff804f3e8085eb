//! Policies and what each needs.

use super::*;

/// [`GOOD`] under policy `witness`.
fn witness() -> String {
    with("\"available\"", "\"witness\"\n[witness]\nname = \"w\"\nid = 9").replace(
        "address = \"192.0.2.2\"\n",
        "address = \"192.0.2.2\"\n[link.node.w]\ninterface = \"eth0\"\naddress = \"192.0.2.9\"\n",
    )
}

/// [`GOOD`] under policy `safe`.
fn safe() -> String {
    let fence = "\"safe\"\n[fence]\ncommand = \"/usr/sbin/fence_x\"\n[fence.node.a]\nplug = 1\n\
                 [fence.node.b]\nplug = \"2\"\nlanplus = true";
    with("\"available\"", fence)
}

fn report(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn witness_votes() {
    let config = parse(&witness()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.cluster.policy, Policy::Witness);
    assert_eq!(config.voters(), [NodeId(1), NodeId(2), NodeId(9)]);
    for voter in config.voters() {
        let terms = config.terms(voter).unwrap();
        assert_eq!(terms.policy(), hb_ebpf::lease::terms::Policy::Witness);
        assert_eq!((terms.own, terms.count, terms.witness == 1), (voter.0, 3, voter.0 == 9));
        assert_eq!((terms.lease_ns, terms.margin_ns, terms.rho), (10_000_000, 200_000, 205));
        assert_eq!(terms.promise_ns(terms.lease_ns), config.lease.promise().as_nanos() as u64);
        assert_eq!(terms.amnesia_ns(), config.lease.amnesia().as_nanos() as u64);
    }
    assert!(config.terms(NodeId(3)).is_err());
    let local = config.for_node("a").unwrap();
    assert_eq!(local.witness.as_ref().unwrap().id, NodeId(9));
    assert_eq!(local.peers.len(), 1, "the witness is no peer");
    let others: Vec<_> = local
        .links
        .iter()
        .map(|link| link.others().map(|(id, _)| id.0).collect::<Vec<_>>())
        .collect();
    assert_eq!(others, [vec![2, 9], vec![2]]);
    assert_eq!(local.links[0].peers.len(), 1);
    assert!(config.for_node("w").is_none(), "and no node");
}

#[test]
fn a_policy_has_what_it_needs_and_nothing_else() {
    for (text, say) in [
        (with("\"available\"", "\"witness\""), "4:10: policy = \"witness\" needs a third machine"),
        (with("\"available\"", "\"safe\""), "4:10: policy = \"safe\" needs a fence"),
        (
            witness().replace("\"witness\"", "\"available\""),
            "5:1: [witness] has no vote under policy = \"available\"",
        ),
        (
            safe().replace("\"safe\"", "\"available\""),
            "5:1: [fence] is never used under policy = \"available\"",
        ),
    ] {
        let report = report(&text);
        assert!(report.contains(say), "{report}");
        assert_eq!(report.lines().count(), 1, "{report}");
    }
}

#[test]
fn bad_witnesses() {
    for (from, to, say) in [
        ("id = 9", "id = 2", "7:6: id 2 is taken by a node"),
        ("id = 9", "id = 65", "no whole number from 1 to 64"),
        ("name = \"w\"", "name = \"a\"", "6:8: \"a\" is the name of a node"),
        ("[link.node.w]", "[link.node.x]", "there is no node \"x\""),
        ("[link.node.w]", "[link.node.x]", "5:1: the witness w is on no link"),
        ("192.0.2.9", "192.0.2.1", "address 192.0.2.1 is already that of node 1"),
        ("192.0.2.9", "192.0.2.100", "192.0.2.100 is the address of node 9 on link"),
        ("id = 9", "id = 9\nrank = 1", "unknown key \"rank\" in [witness]"),
    ] {
        let text = witness();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let report = report(&text.replace(from, to));
        assert!(report.contains(say), "{to}:\n{report}");
    }
}

#[test]
fn the_witness_lies_in_a_subnet() {
    let far = witness().replace("192.0.2.9", "203.0.113.9");
    let host = HostView {
        interfaces: vec![Interface {
            name: "eth0".into(),
            addresses: vec![("192.0.2.1".parse().unwrap(), 24)],
            ..Interface::default()
        }],
    };
    let config = parse(&far).unwrap();
    let errors = config.check_host(&config.for_node("a").unwrap(), &host).unwrap_err();
    assert!(errors.to_string().contains("203.0.113.9 of node 9 is outside"), "{errors}");
}

#[test]
fn leases() {
    let config = parse(&witness().replace(
        "[timers]",
        "[lease]\nlength = \"20ms\"\nmargin = \"1ms\"\ndrain = \"2ms\"\nseek = \"8ms\"\nrho = 0.25\n\
         [timers]",
    ))
    .unwrap_or_else(|errors| panic!("{errors}"));
    let lease = config.lease;
    assert_eq!((lease.length.as_millis(), lease.seek.as_millis(), lease.rho), (20, 8, 256));
    assert_eq!(lease.promise(), Duration::from_micros(26_250));
    let said = config.expected().to_string();
    assert!(said.contains("(20ms + 1ms) x 1.250 = 26.25ms"), "{said}");
    assert!(said.contains("a dead node is replaced after 26.25ms (deadtime 5ms)"), "{said}");
    assert!(said.contains("froze after 102ms (controller_deadtime 100ms)"), "{said}");
}

#[test]
fn leases_that_do_not_fit() {
    for (lease, say) in [
        ("length = \"2ms\"", "10:10: [lease] length: lease 2000000 ns is not longer than two"),
        ("length = \"3s\"", "lease 3000000000 ns is above the longest lease"),
        ("margin = \"0s\"", "10:10: [lease] margin: margin is 0 ns"),
        ("drain = \"200us\"", "10:9: [lease] drain: drain 200000 ns is not longer than margin"),
        ("drain = \"1s\"", "longer than a promise"),
        ("seek = \"1ms\"", "10:8: [lease] seek: a seek of 1000000 ns is shorter"),
        ("rho = 0.001", "10:7: rho = 0.001 is no decimal from 0.002 to 1"),
        ("rho = 1.5", "rho = 1.5 is no decimal"),
        ("rho = \"0.2\"", "rho = \"0.2\" is no number; write one such as 0.2"),
        ("lenght = \"2ms\"", "unknown key \"lenght\" in [lease]; did you mean \"length\"?"),
        ("length = 2", "length = 2 is no duration"),
    ] {
        let report = report(&witness().replace("[timers]", &format!("[lease]\n{lease}\n[timers]")));
        assert!(report.contains(say), "{lease}:\n{report}");
        assert_eq!(report.lines().count(), 1, "{report}");
    }
    let slow =
        witness().replace("misses = 5", "deadtime = \"999ms\"\ncontroller_deadtime = \"3s\"");
    let report = report(&slow);
    assert!(report.contains("9:1: [lease] length: controller_deadtime 3000000000 ns"), "{report}");
    // Without promises nothing forbids them.
    parse(&slow_available()).unwrap_or_else(|errors| panic!("{errors}"));
}

fn slow_available() -> String {
    GOOD.replace("\"1ms\"", "\"5s\"").replace("misses = 5", "misses = 5\nwarntime = \"6s\"")
}

#[test]
fn fences() {
    let config = parse(&safe()).unwrap_or_else(|errors| panic!("{errors}"));
    let fence = config.fence.as_ref().unwrap();
    assert_eq!(fence.command, Path::new("/usr/sbin/fence_x"));
    assert_eq!((fence.action, fence.retries), (FenceAction::Off, 1));
    assert_eq!((fence.timeout.as_secs(), fence.delay.as_secs()), (60, 2));
    assert_eq!((fence.longest().as_secs(), fence.stand_back().as_secs()), (127, 5));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(fence.options[&NodeId(1)], [pair("plug", "1")]);
    let mut second = fence.options[&NodeId(2)].clone();
    second.sort();
    assert_eq!(second, [pair("lanplus", "true"), pair("plug", "2")]);
    assert!(!format!("{fence:?}").contains("true"), "values may be secret");
    let said = config.expected().to_string();
    assert!(
        said.contains("once it is fenced (asked for after 5ms, and given up after 127.2s)"),
        "{said}"
    );
    // Its own kernel half gives the group away and votes: no fence is waited for.
    assert!(said.contains("froze after 100.264044ms (controller_deadtime 100ms)"), "{said}");
}

#[test]
fn bad_fences() {
    for (from, to, say) in [
        ("command = \"/usr/sbin/fence_x\"\n", "", "5:1: command is missing in [fence]"),
        ("\"/usr/sbin/fence_x\"", "\"fence_x\"", "not absolute"),
        ("fence_x\"", "fence_x\"\naction = \"on\"", "choose one of: off, reboot"),
        ("fence_x\"", "fence_x\"\ntimeout = \"1ms\"", "timeout 1ms is outside 100ms to 1h"),
        ("fence_x\"", "fence_x\"\ndelay = \"2h\"", "delay 2h is outside 0s to 1h"),
        ("fence_x\"", "fence_x\"\nretries = 101", "no whole number from 0 to 100"),
        ("fence_x\"", "fence_x\"\nretry = 1", "unknown key \"retry\" in [fence]"),
        ("[fence.node.a]", "[fence.node.c]", "the fence has no options for node a"),
        ("[fence.node.a]", "[fence.node.c]", "there is no node \"c\""),
        ("plug = \"2\"", "action = \"on\"", "10:1: option \"action\" is set by hb"),
        ("plug = \"2\"", "\"pl ug\" = \"on\"", "option \"pl ug\" is no name of an option"),
        ("plug = \"2\"", "plug = \"2\\naction=status\"", "has a line break"),
        ("plug = \"2\"", "plug = [2]", "plug = [..] is no text"),
    ] {
        let text = safe();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let report = report(&text.replace(from, to));
        assert!(report.contains(say), "{to}:\n{report}");
    }
    let lines = "[fence.node.a]\nplug = 1\n[fence.node.b]\nplug = \"2\"\nlanplus = true";
    let report = report(&safe().replace(lines, ""));
    assert!(report.contains("[fence] does not say how the agent knows the nodes"), "{report}");
}

#[test]
fn gates() {
    let gate = good().gate;
    assert_eq!((gate.mode, gate.handover_bounce), (GateMode::On, Duration::from_secs(1)));
    let text = with("[timers]", "[gate]\nmode = \"dry-run\"\nhandover_bounce = \"0s\"\n[timers]");
    let gate = parse(&text).unwrap().gate;
    assert_eq!((gate.mode, gate.handover_bounce), (GateMode::DryRun, Duration::ZERO));
    for (line, say) in [
        ("mode = \"off\"", "choose one of: on, dry-run, bypass"),
        ("handover_bounce = \"61s\"", "handover_bounce 61s is outside 0s to 1m"),
        ("modes = 1", "did you mean \"mode\"?"),
    ] {
        let report = report(&with("[timers]", &format!("[gate]\n{line}\n[timers]")));
        assert!(report.contains(say), "{report}");
    }
}

#[test]
fn fingerprint_covers_votes_and_not_secrets() {
    let fingerprint = |text: &str| parse(text).unwrap_or_else(|e| panic!("{e}")).fingerprint();
    let lease = |line: &str| witness().replace("[timers]", &format!("[lease]\n{line}\n[timers]"));
    let fence = |line: &str| safe().replace("fence_x\"", &format!("fence_x\"\n{line}"));
    let mut seen = vec![good().fingerprint()];
    for text in [
        witness(),
        witness().replace("id = 9", "id = 8"),
        witness().replace("192.0.2.9", "192.0.2.8"),
        witness().replace("name = \"w\"", "name = \"v\"").replace("node.w", "node.v"),
        lease("length = \"11ms\""),
        lease("margin = \"201us\""),
        lease("drain = \"1ms\""),
        lease("seek = \"6ms\""),
        lease("rho = 0.3"),
        safe(),
        fence("delay = \"3s\""),
        fence("action = \"reboot\""),
    ] {
        let one = fingerprint(&text);
        assert!(!seen.contains(&one), "{text}");
        seen.push(one);
    }
    let same = fingerprint(&safe());
    for text in [
        safe().replace("plug = 1", "plug = 3"),
        safe().replace("fence_x", "fence_y"),
        fence("timeout = \"5s\"\nretries = 3"),
        safe().replace("[timers]", "[gate]\nmode = \"bypass\"\n[timers]"),
        // What is the default anyway.
        safe().replace("[timers]", "[lease]\nrho = 0.2\nlength = \"10ms\"\n[timers]"),
    ] {
        assert_eq!(fingerprint(&text), same, "{text}");
    }
}
