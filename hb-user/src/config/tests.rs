use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::kernel::Mode;

mod bad;
mod diff;
mod host;
mod policy;
mod resources;

/// A small configuration without an error.
const GOOD: &str = r#"[cluster]
name = "pair"
key_file = "/etc/hb/key"
policy = "available"

[timers]
interval = "1ms"
misses = 5
auto_failback = true

[[node]]
name = "a"
id = 1

[[node]]
name = "b"
id = 2

[[link]]
name = "client"
transport = "udp4"

[link.node.a]
interface = "eth0"
address = "192.0.2.1"

[link.node.b]
interface = "ens3"
address = "192.0.2.2"

[[link]]
name = "cable"
transport = "ethernet"
node.a = { interface = "eth1", mac = "02:00:00:00:00:0a" }
node.b = { interface = "eth1", mac = "02:00:00:00:00:0B" }

[[group]]
name = "web"

[[group.address]]
address = "192.0.2.100/24"
interface = { a = "eth0", b = "ens3" }

[[group.address]]
address = "2001:db8::100/64"
interface = "eth0"

[[group.resource]]
name = "svc"
type = "script"
program = "/usr/local/bin/svc"
args = ["x", "y z"]
stop_timeout = "1m"

[[group]]
name = "db"
preferred = "b"
auto_failback = false

[[group.resource]]
name = "svc"
type = "script"
program = "/usr/local/bin/db"
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("hb.toml"))
}

fn good() -> Config {
    parse(GOOD).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Returns [`GOOD`] with its only `from` replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from:?}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn what_is_written_is_read() {
    let config = good();
    assert_eq!(config.cluster.name.as_str(), "pair");
    assert_eq!(config.cluster.policy, Policy::Available);
    assert_eq!(config.cluster.engine, Engine::Auto);
    assert_eq!(config.cluster.state_dir, Path::new("/var/lib/hb"));
    assert_eq!(config.timers.deadtime(), Duration::from_millis(5));
    assert_eq!(config.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), [1, 2]);

    let client = &config.links[0];
    assert_eq!((client.id, client.transport, client.min_hops()), (LinkId(0), Transport::Udp4, 255));
    let end = client.end(NodeId(2)).unwrap();
    assert_eq!(end.interface.as_str(), "ens3");
    assert_eq!(end.address, LinkAddress::Ip("192.0.2.2".parse().unwrap()));
    let end = config.links[1].end(NodeId(2)).unwrap();
    assert_eq!(end.address.to_string(), "02:00:00:00:00:0b");

    let web = &config.groups[0];
    assert_eq!(
        (web.id, web.preferred, web.auto_failback),
        (GroupId(0), NodeId(1), Some(Duration::ZERO))
    );
    let interfaces = |address: &ServiceAddress| {
        [1, 2].map(|id| address.interface(NodeId(id)).unwrap().to_string())
    };
    assert_eq!(interfaces(&web.addresses[0]), ["eth0", "ens3"]);
    assert_eq!(interfaces(&web.addresses[1]), ["eth0", "eth0"]);
    assert_eq!(web.addresses[1].prefix, 64);
    assert_eq!(
        web.resources[0],
        Resource {
            name: Name::new("svc").unwrap(),
            kind: ResourceKind::Script {
                program: "/usr/local/bin/svc".into(),
                args: vec!["x".into(), "y z".into()],
            },
            start_timeout: Timeout::Fixed(Duration::from_secs(20)),
            stop_timeout: Timeout::Fixed(Duration::from_secs(60)),
            status_timeout: Timeout::Fixed(Duration::from_secs(5)),
            status_interval: None,
            pid_file: None,
            checks: vec![],
        }
    );
    let db = &config.groups[1];
    assert_eq!((db.preferred, db.auto_failback, db.addresses.len()), (NodeId(2), None, 0));
    assert_eq!(db.failure_timeout, Some(Duration::from_secs(600)));
    assert_eq!(db.on_stop_failure, StopFailure::Block);
    let ignores =
        parse(&with("preferred = \"b\"", "preferred = \"b\"\non_stop_failure = \"ignore\""));
    assert_eq!(ignores.unwrap().groups[1].on_stop_failure, StopFailure::Ignore);
    assert_eq!(db.on_failure, Failure::Move);
    for (more, most, seconds) in [
        ("", 3, 600),
        ("\nmax_restarts = 1", 1, 600),
        ("\nmax_restarts = 1000\nrestart_window = \"720h\"", 1000, 30 * 86_400),
    ] {
        let to = format!("preferred = \"b\"\non_failure = \"restart\"{more}");
        let config = parse(&with("preferred = \"b\"", &to)).unwrap();
        let window = Duration::from_secs(seconds);
        assert_eq!(config.groups[1].on_failure, Failure::Restart { most, window }, "{more}");
    }
    for (text, timeout) in [("0s", None), ("1h", Some(Duration::from_secs(3600)))] {
        let to = format!("preferred = \"b\"\nfailure_timeout = {text:?}");
        let config = parse(&with("preferred = \"b\"", &to)).unwrap();
        assert_eq!(config.groups[1].failure_timeout, timeout, "{text}");
    }
}

#[test]
fn nodes_are_in_order_of_rank() {
    let swapped = GOOD.replace("id = 1", "id = 9");
    let config = parse(&swapped).unwrap();
    assert_eq!(config.nodes[0].name.as_str(), "b");
    assert_eq!(config.groups[0].preferred, NodeId(2), "the lowest id");
}

#[test]
fn other_ways_to_write_it_are_accepted() {
    for (from, to) in [
        ("interval = \"1ms\"", "keepalive = \"1000us\""),
        ("misses = 5", "deadtime = \"5ms\""),
        ("misses = 5", "misses = 0x5"),
        ("192.0.2.100/24", "192.0.2.100/32"),
        ("2001:db8::100/64", "2001:db8::100/128"),
        ("transport = \"udp4\"", "transport = \"udp4\"\nmultihop = 3"),
        ("policy = \"available\"", "policy = \"available\"\nengine = \"user\""),
    ] {
        parse(&with(from, to)).unwrap_or_else(|errors| panic!("{to}: {errors}"));
    }
    let multihop = parse(&with("\"udp4\"", "\"udp4\"\nmultihop = 3")).unwrap();
    assert_eq!(multihop.links[0].min_hops(), 252);
}

#[test]
fn default_file_is_accepted() {
    let config = parse(DEFAULT_FILE).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.nodes.len(), 2);
    assert_eq!(config.log.format_for(true), LogFormat::Text, "the file says so");
}

/// The example of the manual works as it stands.
#[test]
fn documented_example_is_accepted() {
    let manual = include_str!("../../../docs/configuration.md");
    let (_, example) = manual.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let config = parse(example).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.links.len(), 2);
}

#[test]
fn default_file_names_every_key() {
    // Each unknown key is answered with the keys there are.
    let section = |header: &str| {
        let name = format!("{header}\nzzzzzzzz = 1\n");
        let text = match DEFAULT_FILE.contains(&format!("\n{header}\n")) {
            true => DEFAULT_FILE.replacen(&format!("{header}\n"), &name, 1),
            // It goes with another policy.
            false => format!("{DEFAULT_FILE}{name}"),
        };
        let errors = parse(&text).unwrap_err().to_string();
        let keys = errors.split_once("known keys: ").expect(&errors).1;
        keys.lines().next().unwrap().split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    for header in [
        "[cluster]",
        "[timers]",
        "[lease]",
        "[gate]",
        "[witness]",
        "[fence]",
        "[[node]]",
        "[[link]]",
        "[[group]]",
        "[[group.address]]",
        "[[group.resource]]",
        "[[group.resource.check]]",
        "[log]",
    ] {
        for key in section(header) {
            let table = matches!(
                (header, key.as_str()),
                ("[[link]]" | "[fence]", "node")
                    | ("[[group]]", "address" | "resource")
                    | ("[[group.resource]]", "check")
            );
            assert!(table || DEFAULT_FILE.contains(&key), "{header} {key}");
        }
    }
}

#[test]
fn log_goes_to_the_journal_by_default() {
    let log = good().log;
    assert_eq!(log.format_for(true), LogFormat::Journald);
    assert_eq!(log.format_for(false), LogFormat::Text);
    assert_eq!(log.level, tracing::Level::INFO);
}

#[test]
fn cluster_id_is_of_the_name() {
    // printf pair | sha256sum
    assert_eq!(good().cluster_id(), 0x47d8_bd46);
}

#[test]
fn fingerprint_ignores_what_need_not_be_equal() {
    let fingerprint = good().fingerprint();
    assert_ne!(fingerprint, 0);
    for (from, to) in [
        ("name = \"pair\"\nkey_file", "# a comment\nname = 'pair'\nkey_file"),
        ("\"/etc/hb/key\"", "\"/etc/other\""),
        ("\"available\"", "\"available\"\nstate_dir = \"/x\"\ncontrol_socket = \"/y\""),
        ("\"available\"", "\"available\"\nengine = \"user\""),
        ("\"available\"", "\"available\"\n[log]\nlevel = \"debug\""),
        ("interval = \"1ms\"", "keepalive = \"1000us\""),
        ("misses = 5", "deadtime = \"0.005s\"\nwarntime = \"2.5ms\""),
        ("\"2001:db8::100/64\"", "\"2001:db8:0::0100/64\""),
        ("stop_timeout = \"1m\"", "stop_timeout = \"60s\"\nstatus_timeout = \"5s\""),
        ("name = \"web\"", "name = \"web\"\npreferred = \"a\""),
    ] {
        assert_eq!(parse(&with(from, to)).unwrap().fingerprint(), fingerprint, "{to}");
    }
}

#[test]
fn fingerprint_changes_with_what_must_be_equal() {
    let mut seen = vec![good().fingerprint()];
    for (from, to) in [
        ("\"pair\"", "\"pair2\""),
        ("\"1ms\"", "\"2ms\""),
        ("misses = 5", "misses = 6"),
        ("misses = 5", "misses = 5\nwarntime = \"2ms\""),
        ("misses = 5", "misses = 5\ninitdead = \"3s\""),
        ("misses = 5", "misses = 5\ncontroller_deadtime = \"200ms\""),
        ("misses = 5", "misses = 5\ndoubt_max = \"200ms\""),
        ("auto_failback = true", "auto_failback = false"),
        ("auto_failback = true", "auto_failback = \"after 5m\""),
        ("auto_failback = true", "auto_failback = \"after 6m\""),
        ("id = 2", "id = 3"),
        ("\"udp4\"", "\"udp4\"\nmultihop = 1"),
        ("\"192.0.2.2\"", "\"192.0.2.3\""),
        ("0B\"", "0C\""),
        ("\"client\"", "\"clients\""),
        ("100/24", "101/24"),
        ("100/24", "100/25"),
        ("b = \"ens3\"", "b = \"ens4\""),
        ("\"x\", \"y z\"", "\"xy\", \" z\""),
        ("bin/svc", "bin/svd"),
        ("\"1m\"", "\"2m\""),
        ("preferred = \"b\"\n", ""),
        ("\"db\"", "\"dc\""),
    ] {
        let fingerprint = parse(&with(from, to)).unwrap().fingerprint();
        assert!(!seen.contains(&fingerprint), "{to}");
        seen.push(fingerprint);
    }
}

#[test]
fn each_node_may_keep_the_addresses_of_a_group_or_not() {
    assert!(good().groups.iter().all(|group| !group.warm_addresses));
    let warm =
        parse(&with("preferred = \"b\"", "preferred = \"b\"\nwarm_addresses = true")).unwrap();
    assert_eq!([warm.groups[0].warm_addresses, warm.groups[1].warm_addresses], [false, true]);
    assert_eq!(warm.fingerprint(), good().fingerprint());
}

#[test]
fn a_group_needs_one_of_its_addresses_or_all() {
    assert!(good().groups.iter().all(|group| group.require == Require::Any));
    for (text, require) in [("any", Require::Any), ("all", Require::All)] {
        let to = format!("preferred = \"b\"\nrequire = \"{text}\"");
        let config = parse(&with("preferred = \"b\"", &to)).unwrap();
        assert_eq!(config.groups[1].require, require);
        assert_eq!(config.fingerprint(), good().fingerprint());
    }
}

#[test]
fn a_link_says_in_which_mode_the_program_sits() {
    assert_eq!(good().for_node("a").unwrap().attach("eth0"), None);
    for (word, only) in [
        ("auto", None),
        ("native", Some(Mode::Native)),
        ("generic", Some(Mode::Generic)),
        ("tcx", Some(Mode::Tcx)),
    ] {
        let config = parse(&with("\"udp4\"", &format!("\"udp4\"\nattach = \"{word}\""))).unwrap();
        let local = config.for_node("a").unwrap();
        assert_eq!(local.attach(local.links[0].own.interface.as_str()), only);
        assert_eq!(local.attach("elsewhere"), None);
        assert_eq!(config.fingerprint(), good().fingerprint(), "each machine has its own cards");
    }
    let error = parse(&with("\"udp4\"", "\"udp4\"\nattach = \"driver\"")).unwrap_err().to_string();
    assert!(error.contains("attach") && error.contains("generic"), "{error}");
}

#[test]
fn each_node_sees_its_own_side() {
    let config = good();
    let local = config.for_node("b").unwrap();
    assert_eq!(local.me.id, NodeId(2));
    assert_eq!(local.peers.iter().map(|peer| peer.id.0).collect::<Vec<_>>(), [1]);
    assert_eq!(local.links[0].own.address.to_string(), "192.0.2.2");
    assert_eq!(local.links[0].peers[0].0, NodeId(1));
    assert_eq!(local.links[0].peers[0].1.address.to_string(), "192.0.2.1");
    assert_eq!(local.state_dir, Path::new("/var/lib/hb/pair-b"));
    assert_eq!(local.control_socket, Path::new("/run/hb/pair-b.sock"));
    let text = with("\"available\"", "\"available\"\ncontrol_socket = \"/run/x.sock\"");
    let local = parse(&text).unwrap().for_node("a").unwrap();
    assert_eq!(local.control_socket, Path::new("/run/x.sock"));
}

#[test]
fn a_host_is_found_by_name_or_by_wish() {
    let config = good();
    assert_eq!(config.identify(None, "a").unwrap().me.id, NodeId(1));
    assert_eq!(config.identify(Some("b"), "a").unwrap().me.id, NodeId(2));
    let refusal = |given, host| config.identify(given, host).unwrap_err().to_string();
    let error = refusal(None, "db7");
    assert!(error.contains("\"db7\"") && error.contains("nodes: a, b"), "{error}");
    let error = refusal(None, "B.example.com");
    assert!(error.contains("did you mean \"b\"?") && error.contains("--node"), "{error}");
    let error = refusal(Some("x"), "a");
    assert!(error.contains("--node \"x\"") && error.contains("nodes: a, b"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(&dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml: cannot read: No such file"), "{missing}");
    assert!(missing.contains("hb config --default"), "{missing}");
    let directory = Config::load(dir.path()).unwrap_err().to_string();
    assert!(directory.contains("no regular file"), "{directory}");
    let path = dir.path().join("latin1.toml");
    fs::write(&path, b"# \xe4\n").unwrap();
    let latin1 = Config::load(&path).unwrap_err().to_string();
    assert!(latin1.contains("not UTF-8 from byte 2 on"), "{latin1}");
    fs::write(&path, GOOD).unwrap();
    assert_eq!(Config::load(&path).unwrap().path(), path);
}

proptest! {
    #[test]
    fn any_text_is_judged(text in "(?s).*") {
        let _ = parse(&text);
    }

    /// Cuts and repetitions reach deeper than random text.
    #[test]
    fn any_mangled_file_is_judged(from in 0..GOOD.len(), len in 0..200_usize, to in 0..GOOD.len()) {
        let end = (from + len).min(GOOD.len());
        let mut text = GOOD.to_owned();
        text.insert_str(to, &GOOD[from..end]);
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.errors().iter().all(|error| error.position.is_some()), "{}", errors);
        }
        let mut text = GOOD.to_owned();
        text.replace_range(from..end, "");
        if let Err(errors) = parse(&text) {
            prop_assert!(errors.errors().iter().all(|error| error.position.is_some()), "{}", errors);
        }
    }

    /// A value of the wrong kind or range anywhere is reported on its own line.
    #[test]
    fn any_value_is_judged(
        line in 0..GOOD.lines().count(),
        value in r#"(-?[0-9]{1,20}|"[ -!#-\[\]-~]{0,20}"|\[\]|\{\}|true|1\.5|1979-05-27)"#,
    ) {
        let changed = GOOD.lines().enumerate().map(|(index, text)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        });
        if let Err(errors) = parse(&changed.collect::<String>()) {
            prop_assert!(errors.errors().iter().all(|error| error.position.is_some()), "{}", errors);
        }
    }
}
