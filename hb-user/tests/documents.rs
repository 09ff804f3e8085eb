//! The documents say what is so, as far as a test can tell: links lead somewhere, examples are
//! accepted, every key and every warning is explained.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hb_user::{
    config::{Config, DEFAULT_FILE, HostView, Interface, LinkAddress, Local},
    status::{AttachMode, GroupHealth, GroupState, PeerLife},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the files below `directory` with that extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents() -> Vec<PathBuf> {
    let mut documents = files(&root().join("docs"), "md");
    for name in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"] {
        documents.push(root().join(name));
    }
    assert!(documents.len() > 4, "{documents:?}");
    documents
}

/// Returns the text of a document without its fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    assert!(!fenced, "a block without an end");
    prose
}

/// Returns the anchors of the headings, as web views of repositories make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Returns the targets of the links of a document.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let parts = prose.split("](").skip(1);
    parts.filter_map(|part| part.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: there is no {link}", document.display());
            let found = anchor.is_empty() || anchors(&read(&target)).contains(&anchor.to_owned());
            assert!(found, "{}: {link} has no such heading", document.display());
        }
    }
    assert!(checked > 20, "only {checked} links were found");
}

fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.map(|part| part.split_once("```").expect("the end of a block").0.to_owned()).collect()
}

/// Returns a host that has just what the file says of this node, in subnets of 24 bits.
fn host(local: &Local) -> HostView {
    let mut host = HostView::default();
    for (index, link) in (1..).zip(&local.links) {
        let mut interface = Interface {
            name: link.own.interface.to_string(),
            index,
            up: true,
            ..Interface::default()
        };
        match link.own.address {
            LinkAddress::Mac(mac) => interface.mac = Some(mac),
            LinkAddress::Ip(ip) => interface.addresses.push((ip, 24)),
        }
        host.interfaces.push(interface);
    }
    host
}

#[test]
fn examples_are_accepted_on_the_hosts_they_are_for() {
    for (document, resources) in [
        ("README.md", 0),
        ("docs/configuration.md", 4),
        ("docs/from-heartbeat.md", 0),
        ("docs/from-keepalived.md", 0),
        ("docs/from-pacemaker.md", 0),
    ] {
        let text = read(&root().join(document));
        // A whole file first, then resources that go at its end.
        let examples = blocks(&text, "toml");
        assert_eq!(examples.len(), 1 + resources, "{document}");
        let (whole, parts) = examples.split_first().expect("an example");
        let with_part = parts.iter().map(|part| {
            assert!(part.starts_with("[[group.resource]]"), "{part}");
            format!("{whole}\n{part}")
        });
        for example in with_part.chain([whole.clone()]) {
            let config = Config::parse(&example, Path::new(document))
                .unwrap_or_else(|errors| panic!("{errors}"));
            for node in ["a", "b"] {
                let local = config.identify(None, node).unwrap();
                config.check_host(&local, &host(&local)).unwrap_or_else(|e| panic!("{e}"));
            }
            let vip: IpAddr = "192.0.2.100".parse().unwrap();
            assert_eq!(config.groups[0].addresses[0].address, vip, "the one the text speaks of");
        }
    }
}

/// Words of ha.cf (ha.cf(5) of Heartbeat 3).
const HEARTBEAT: &str = "apiauth auto_failback autojoin baud bcast compression compression_threshold \
    conn_logd_time coredumps crm deadping deadtime debug debugfile hbgenmethod hopfudge initdead keepalive \
    logfacility logfile max_rexmit_delay mcast memreserve msgfmt nice_failback node pacemaker ping ping_group \
    realtime respawn rtprio serial stonith stonith_host syslogmsgfmt traditional_compression ucast udpport \
    use_logd uuidfrom warntime watchdog hb_standby hb_takeover cl_status";

/// Words of the VRRP part of keepalived.conf(5).
const KEEPALIVED: &str = "group global_tracking state interface use_vmac vmac_xmit_base \
    virtual_router_id priority advert_int down_timer_adverts nopreempt preempt_delay authentication auth_type \
    auth_pass unicast_src_ip unicast_peer mcast_src_ip check_unicast_src virtual_ipaddress \
    virtual_ipaddress_excluded virtual_routes virtual_rules track_interface track_bfd track_script \
    track_process track_file notify notify_master notify_backup notify_fault notify_stop \
    notify_deleted notify_fifo smtp_alert accept no_accept garp_master_delay garp_master_repeat \
    garp_master_refresh garp_master_refresh_repeat garp_lower_prio_delay garp_lower_prio_repeat \
    garp_interval gna_interval higher_prio_send_advert dont_track_primary linkbeat_use_polling \
    native_ipv6 version promote_secondaries lvs_sync_daemon_interface strict_mode debug script interval \
    timeout rise fall weight user init_fail process quorum delay file init_file router_id vrrp_iptables \
    vrrp_rt_priority script_user dynamic_interfaces";

#[test]
fn whoever_comes_from_another_program_finds_its_words() {
    for (document, words) in
        [("docs/from-heartbeat.md", HEARTBEAT), ("docs/from-keepalived.md", KEEPALIVED)]
    {
        let text = read(&root().join(document));
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
        let first = rows.filter_map(|row| row.split(" | ").next());
        let there: BTreeSet<_> = first
            .flat_map(|cell| cell.split(['`', ',', ' ']))
            .filter(|word| !word.is_empty())
            .collect();
        let missing: Vec<_> =
            words.split_whitespace().filter(|word| !there.contains(word)).collect();
        assert_eq!(missing, [""; 0], "{document}");
    }
}

#[test]
fn the_keys_of_the_manual_are_those_of_the_parser() {
    let manual = read(&root().join("docs/configuration.md"));
    // Heading in the manual, and where the default file has such a section.
    for (heading, section) in [
        ("## `[cluster]`", "[cluster]"),
        ("## `[timers]`", "[timers]"),
        ("## `[lease]`", "[lease]"),
        ("## `[witness]`", "[witness]"),
        ("## `[fence]`", "[fence]"),
        ("## `[gate]`", "[gate]"),
        ("## `[[node]]`", "[[node]]"),
        ("## `[[link]]`", "[[link]]"),
        ("`[link.node.NAME]` describes", "[link.node.a]"),
        ("## `[[group]]`", "[[group]]"),
        ("### `[[group.address]]`", "[[group.address]]"),
        ("### `[[group.resource]]`", "[[group.resource]]"),
        ("### `[[group.resource.check]]`", "[[group.resource.check]]"),
        ("## `[[ping]]`", "[[ping]]"),
        ("## `[[notify]]`", "[[notify]]"),
        ("## `[log]`", "[log]"),
    ] {
        let (_, after) = manual.split_once(&format!("\n{heading}")).expect(heading);
        let rows = after
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2);
        let documented: BTreeSet<_> =
            rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned())).collect();

        // An unknown key is answered with those there are.
        let header = format!("\n{section}\n");
        let unknown = format!("\n{section}\nzzzzzzzz = 1\n");
        let text = match DEFAULT_FILE.contains(&header) {
            true => DEFAULT_FILE.replacen(&header, &unknown, 1),
            // A section that goes with another policy.
            false => format!("{DEFAULT_FILE}{unknown}"),
        };
        let errors = Config::parse(&text, Path::new("hb.toml")).unwrap_err().to_string();
        let (_, known) = errors.split_once("known keys: ").expect(&errors);
        let known = known.lines().next().unwrap_or_default();
        let known: BTreeSet<_> = known
            .split(", ")
            .map(str::to_owned)
            // Tables with a heading of their own; `keepalive` is told in the row of `interval`.
            .filter(|key| match section {
                "[[link]]" => key != "node",
                "[[group]]" => !["address", "resource"].contains(&key.as_str()),
                "[[group.resource]]" => key != "check",
                "[timers]" => key != "keepalive",
                _ => true,
            })
            .collect();
        assert_eq!(documented, known, "{section}");
    }
    assert!(manual.contains("`keepalive`"));
}

#[test]
fn every_word_of_the_status_is_in_the_glossary() {
    let glossary = read(&root().join("docs/glossary.md"));
    let explained: BTreeSet<&str> = glossary
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|words| words.split(", "))
        .map(|word| word.trim_matches('`'))
        .collect();
    let lives =
        [PeerLife::Unheard, PeerLife::Alive, PeerLife::Late, PeerLife::Dead, PeerLife::Left];
    let states = [GroupState::Idle, GroupState::Seeking, GroupState::Holding, GroupState::Released];
    let healths = [
        GroupHealth::Starting,
        GroupHealth::Healthy,
        GroupHealth::Failed,
        GroupHealth::Stopping,
        GroupHealth::Standby,
        GroupHealth::NoPath,
        GroupHealth::Aside,
    ];
    let words = lives.map(PeerLife::as_str).into_iter();
    let words = words.chain(states.map(GroupState::as_str));
    let words = words.chain(healths.map(GroupHealth::as_str));
    let modes = [AttachMode::Native, AttachMode::Generic, AttachMode::Tcx, AttachMode::None];
    for word in words.chain(modes.map(AttachMode::as_str)) {
        assert!(explained.contains(word), "{word} is not in docs/glossary.md");
    }
}

/// Returns the last string literal of each call of `macro_name` in `source`: its message.
fn messages(source: &str, macro_name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for call in source.split(&format!("tracing::{macro_name}!(")).skip(1) {
        let (mut depth, mut literal, mut quoted) = (1, String::new(), false);
        let mut characters = call.chars();
        while let Some(character) = characters.next() {
            match (quoted, character) {
                (false, '"') => (quoted, literal) = (true, String::new()),
                (true, '"') => quoted = false,
                (true, '\\') => literal.extend(characters.next()),
                (true, character) => literal.push(character),
                (false, '(') => depth += 1,
                (false, ')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        found.push(literal);
    }
    found
}

#[test]
fn every_warning_and_error_of_the_log_is_explained() {
    let manual = read(&root().join("docs/operations.md"));
    let mut checked = 0;
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "rs") {
        let source = read(&file);
        for (macro_name, level) in [("warn", "WARN"), ("error", "ERROR")] {
            for message in messages(&source, macro_name) {
                checked += 1;
                let explained = manual.lines().any(|line| {
                    line.starts_with(&format!("| {level} |"))
                        && line.contains(&format!("`{message}`"))
                });
                let file = file.display();
                assert!(explained, "{file}: add a row for {level} {message:?} to operations.md");
            }
        }
    }
    assert!(checked > 20, "only {checked} messages were found");
}
