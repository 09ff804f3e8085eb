//! What is not wrong with a configuration and its host, and worth a look all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::{
    config::{Config, HostView, InterfaceName, Local},
    kernel::Mode,
    resource::Roots,
};

/// Permission bits by which somebody runs a file.
const RUN: u32 = 0o111;

/// Returns what an operator should look at, one sentence each; `taken` are interfaces with an XDP program of
/// somebody else, and its name.
pub(super) fn advice(
    config: &Config,
    local: &Local,
    host: &HostView,
    taken: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut links: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for link in &local.links {
        links.entry(link.own.interface.as_str()).or_default().push(link.name.as_str());
    }
    let addresses = config.groups.iter().flat_map(|group| &group.addresses);
    let services = addresses.filter_map(|address| address.interface(local.me.id));
    let interfaces: BTreeSet<_> =
        links.keys().copied().chain(services.map(InterfaceName::as_str)).collect();
    for name in interfaces {
        match host.interface(name) {
            Some(interface) if !interface.up => {
                found.push(format!("interface {name} is down: `ip link set {name} up`"));
            }
            Some(interface) if !interface.carrier => {
                found
                    .push(format!("interface {name} has no carrier: look at its cable and switch"));
            }
            _ => {}
        }
    }
    for name in links.keys() {
        let Some(program) = taken.get(*name) else { continue };
        match local.attach(name) {
            None => found.push(format!(
                "the XDP program {program} is on interface {name}: heartbeats will be heard in mode tcx, which \
                 is slower; free it (`ip link show {name}`), or say attach = \"tcx\""
            )),
            Some(Mode::Tcx) => {}
            Some(mode) => found.push(format!(
                "the XDP program {program} is on interface {name}, and attach = \"{mode}\" will fail the \
                 start: free it (`ip link show {name}`), or say attach = \"auto\"",
                mode = mode.as_str()
            )),
        }
    }
    if let [only] = local.links.as_slice() {
        found.push(format!(
            "{} is the only link: when it fails, the nodes take each other for dead; add one by other \
             cards and switches",
            only.name
        ));
    }
    for (interface, links) in links.into_iter().filter(|(_, links)| links.len() > 1) {
        found.push(format!(
            "links {} share interface {interface}, and fail together: put them on different ones",
            links.join(", ")
        ));
    }
    for group in &config.groups {
        for resource in &group.resources {
            let what = format!("resource {} of group {}", resource.name, group.name);
            let roots = Roots::default();
            match roots.program(&resource.kind) {
                Some(program) => found.extend(program_trouble(&what, &program)),
                None => {
                    let places: Vec<_> =
                        roots.heartbeat.iter().map(|place| place.display().to_string()).collect();
                    found.push(format!(
                        "{what}: no script of {} is in {}: install it, or correct the name",
                        resource.kind,
                        places.join(" or ")
                    ));
                }
            }
        }
    }
    let fence = config.fence.as_ref();
    found.extend(fence.and_then(|fence| program_trouble("the fence agent", &fence.command)));
    found.extend(config.notifies.iter().filter_map(|notify| {
        program_trouble(&format!("notify {}", notify.name), Path::new(notify.command.first()?))
    }));
    found
}

/// Says why a program would not run.
fn program_trouble(what: &str, program: &Path) -> Option<String> {
    let shown = program.display();
    match fs::metadata(program) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("{what}: program {shown} does not exist: install it, or correct the path"))
        }
        Err(error) => Some(format!("{what}: program {shown} cannot be looked at: {error}")),
        Ok(found) if !found.is_file() => Some(format!("{what}: {shown} is no file")),
        Ok(found) if found.permissions().mode() & RUN == 0 => {
            Some(format!("{what}: program {shown} cannot be run: `chmod +x {shown}`"))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_FILE, Interface};

    fn host(up: bool, running: bool) -> HostView {
        let interface = |name: &str| Interface {
            name: name.into(),
            up,
            carrier: running,
            ..Default::default()
        };
        HostView { interfaces: vec![interface("eth0"), interface("eth1")] }
    }

    fn advised(text: &str, host: &HostView) -> String {
        let config = Config::parse(text, Path::new("hb.toml")).unwrap();
        let local = config.for_node("a").unwrap();
        advice(&config, &local, host, &BTreeMap::new()).join("\n")
    }

    #[test]
    fn a_hook_that_is_taken_is_named_with_what_follows() {
        let taken = BTreeMap::from([("eth0".to_owned(), "theirs (program 7)".to_owned())]);
        for (attach, wanted) in [
            ("auto", Some("heard in mode tcx, which is slower")),
            ("native", Some("attach = \"native\" will fail the start")),
            ("generic", Some("attach = \"generic\" will fail the start")),
            ("tcx", None),
        ] {
            let text = DEFAULT_FILE.replace("attach = \"auto\"", &format!("attach = \"{attach}\""));
            let config = Config::parse(&text, Path::new("hb.toml")).unwrap();
            let local = config.for_node("a").unwrap();
            let advised = advice(&config, &local, &host(true, true), &taken).join("\n");
            match wanted {
                Some(wanted) => assert!(advised.contains(wanted), "{advised}"),
                None => assert!(!advised.contains("theirs"), "{advised}"),
            }
        }
    }

    #[test]
    fn interfaces_that_carry_nothing_are_named() {
        let well = advised(DEFAULT_FILE, &host(true, true));
        assert!(!well.contains("interface eth"), "{well}");
        let down = advised(DEFAULT_FILE, &host(false, false));
        assert!(down.contains("interface eth0 is down"), "{down}");
        let bare = advised(DEFAULT_FILE, &host(true, false));
        assert!(bare.contains("interface eth0 has no carrier"), "{bare}");
    }

    #[test]
    fn programs_that_would_not_run_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("svc");
        let trouble = || program_trouble("resource svc of group web", &program);
        assert!(trouble().unwrap().contains("does not exist"));
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(trouble().unwrap().contains("chmod +x"));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(trouble(), None);
        assert!(program_trouble("it", directory.path()).unwrap().contains("no file"));
    }

    #[test]
    fn links_that_fail_together_are_named() {
        const TEXT: &str = r#"
            [cluster]
            name = "pair"
            key_file = "/etc/hb/key"
            policy = "available"
            [timers]
            interval = "1ms"
            misses = 5
            auto_failback = false
            [[node]]
            name = "a"
            id = 1
            [[node]]
            name = "b"
            id = 2
            [[link]]
            name = "lan"
            transport = "udp4"
            node.a = { interface = "eth0", address = "192.0.2.1" }
            node.b = { interface = "eth0", address = "192.0.2.2" }
        "#;
        const GROUP: &str = r#"
            [[group]]
            name = "web"
            preferred = "a"
            [[group.address]]
            address = "192.0.2.100/24"
            interface = "eth0"
        "#;
        const SECOND: &str = r#"
            [[link]]
            name = "direct"
            transport = "udp4"
            node.a = { interface = "eth0", address = "198.51.100.1" }
            node.b = { interface = "eth0", address = "198.51.100.2" }
        "#;
        let host = host(true, true);
        assert!(advised(&format!("{TEXT}{GROUP}"), &host).contains("lan is the only link"));
        let shared = advised(&format!("{TEXT}{SECOND}{GROUP}"), &host);
        assert!(shared.contains("lan, direct share interface eth0"), "{shared}");
        let apart = format!("{TEXT}{}{GROUP}", SECOND.replace("eth0", "eth1"));
        assert_eq!(advised(&apart, &host), "");
    }
}
