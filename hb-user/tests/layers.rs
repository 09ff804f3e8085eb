//! The layers of `docs/architecture.md` are those of the sources: what a layer may not do, it does not name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Names that no source of a layer has, but for those of its tests, and comments.
struct Rule {
    /// The layer, as the table calls it.
    layer: &'static str,
    /// Where the names are not, below the root; the first is what the table names for it.
    within: &'static [&'static str],
    /// Parts of those that the rule is not about.
    but: &'static [&'static str],
    names: &'static [&'static str],
}

const RULES: [Rule; 11] = [
    Rule {
        layer: "library of both halves",
        within: &["hb-ebpf/src/"],
        but: &["hb-ebpf/src/program/", "hb-ebpf/src/witness/", "hb-ebpf/src/switch.rs"],
        names: &[
            "std",
            "alloc",
            "aya",
            "aya_ebpf",
            "Instant",
            "SystemTime",
            "Vec",
            "Box",
            "String",
            "panic",
            "unwrap",
            "expect",
            "todo",
            "unimplemented",
            "bpf_ktime_get_boot_ns",
        ],
    },
    Rule {
        layer: "kernel program",
        within: &["hb-ebpf/src/program/"],
        but: &[],
        names: &["std", "alloc", "Policy", "Phase"],
    },
    Rule {
        layer: "core",
        within: &["hb-user/src/core/"],
        but: &["hb-user/src/core/testing.rs"],
        names: &[
            "fs",
            "env",
            "thread",
            "process",
            "tokio",
            "tracing",
            "libc",
            "aya",
            "socket2",
            "clock",
            "Instant",
            "SystemTime",
            "println",
            "eprintln",
            "netlink_sys",
            "netlink_packet_route",
            "kernel",
            "daemon",
            "fast",
            "control",
            "UdpSocket",
            "File",
        ],
    },
    Rule {
        layer: "engine",
        within: &["hb-user/src/engine/"],
        but: &["hb-user/src/engine/takeover/"],
        names: &[
            "fs",
            "env",
            "thread",
            "process",
            "tokio",
            "tracing",
            "libc",
            "aya",
            "socket2",
            "clock",
            "Instant",
            "SystemTime",
            "println",
            "eprintln",
            "netlink_sys",
            "netlink_packet_route",
            "kernel",
            "daemon",
            "control",
            "address",
            "UdpSocket",
            "File",
        ],
    },
    Rule {
        layer: "engine of the fast path",
        within: &["hb-user/src/engine/takeover/"],
        but: &[],
        names: &[
            "fs",
            "env",
            "io",
            "fd",
            "thread",
            "process",
            "tokio",
            "tracing",
            "libc",
            "aya",
            "socket2",
            "clock",
            "Instant",
            "SystemTime",
            "println",
            "eprintln",
            "format",
            "kernel",
            "daemon",
            "fast",
            "control",
            "AddressSocket",
            "AnnounceSocket",
            "LinkSocket",
            "Vec",
            "VecDeque",
            "Box",
            "String",
            "Arc",
        ],
    },
    Rule {
        layer: "fast path",
        within: &["hb-user/src/fast/"],
        but: &[],
        names: &["tracing", "tokio", "aya", "println", "eprintln", "fs", "daemon"],
    },
    Rule {
        layer: "daemon",
        within: &["hb-user/src/daemon/"],
        but: &[],
        names: &["aya", "netlink_packet_route", "netlink_packet_core", "netlink_sys"],
    },
    Rule {
        layer: "kernel interface",
        within: &["hb-user/src/"],
        but: &["hb-user/src/kernel/program/"],
        names: &["aya", "aya_log"],
    },
    Rule {
        layer: "netlink",
        within: &["hb-user/src/"],
        but: &["hb-user/src/address/"],
        names: &["netlink_packet_route"],
    },
    Rule {
        layer: "clock",
        within: &["hb-user/src/"],
        // Lines of the log bear the time of day.
        but: &["hb-user/src/clock.rs", "hb-user/src/logging"],
        names: &["SystemTime", "clock_gettime"],
    },
    Rule {
        layer: "lease reader",
        within: &["hb-user/lease/src/"],
        but: &[],
        names: &["hb_ebpf", "hb_user", "libc", "aya", "zerocopy"],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the Rust sources at `path`, relative to the root; those of tests are none.
fn sources(path: &str) -> Vec<String> {
    let full = root().join(path);
    if full.is_file() {
        return vec![path.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&full).unwrap_or_else(|error| panic!("{path}: {error}")) {
        let name = entry.expect("an entry").file_name().into_string().expect("a name in UTF-8");
        let below = format!("{}/{name}", path.trim_end_matches('/'));
        if root().join(&below).is_dir() {
            if name != "tests" {
                found.extend(sources(&below));
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(below);
        }
    }
    found
}

/// Returns the lines that are code of the program: no comments, and nothing from a module of tests on.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(at, line)| (at, line.split("//").next().unwrap_or(line)))
}

/// Tells whether `line` has `name` as a whole word, outside of strings.
fn names(line: &str, name: &str) -> bool {
    let mut quoted = false;
    let plain: String = line
        .chars()
        .map(|c| {
            quoted ^= c == '"';
            if quoted { ' ' } else { c }
        })
        .collect();
    plain.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

/// Returns where `rule` is broken in a text.
fn broken(rule: &Rule, text: &str) -> Vec<(usize, &'static str)> {
    code(text)
        .flat_map(|(at, line)| {
            let found = rule.names.iter().filter(move |name| names(line, name));
            found.map(move |name| (at, *name))
        })
        .collect()
}

#[test]
fn no_layer_does_what_it_may_not() {
    let mut wrong = Vec::new();
    for rule in &RULES {
        let mut looked = 0;
        for path in rule.within.iter().flat_map(|path| sources(path)) {
            if rule.but.iter().any(|but| path.starts_with(but)) {
                continue;
            }
            looked += 1;
            let found = broken(rule, &read(&root().join(&path)));
            wrong.extend(found.into_iter().map(|(at, name)| {
                format!("{path}:{at}: {name}, which the layer `{}` may not name", rule.layer)
            }));
        }
        assert!(looked > 3, "{}", rule.layer);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_are_those_of_the_document() {
    let text = read(&root().join("docs/architecture.md"));
    let after = text.split("| layer | files | may not |").nth(1).expect("the table of layers");
    let rows: BTreeMap<_, _> = after
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            (cells[1].to_owned(), cells[2].to_owned())
        })
        .collect();
    let known: Vec<_> = RULES.iter().map(|rule| rule.layer.to_owned()).collect();
    let mut sorted = known.clone();
    sorted.sort();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), sorted);
    for (layer, files) in rows {
        let first = files.split('`').nth(1).unwrap_or_else(|| panic!("{layer}: {files}"));
        assert!(root().join(first).exists(), "{layer}: there is no {first}");
        let rule = RULES.iter().find(|rule| rule.layer == layer).unwrap();
        let named = rule.within.iter().chain(rule.but).any(|path| *path == first);
        assert!(named, "{layer}: the rule is not about {first}");
    }
}

#[test]
fn a_layer_that_does_what_it_may_not_is_found() {
    let core = RULES.iter().find(|rule| rule.layer == "core").unwrap();
    let text = "//! Not a thread.\nuse std::{fmt, thread};\n// clock\nlet a = \"tokio\";\nclock::now();\n\
                #[cfg(test)]\nmod tests { use tokio; }\n";
    assert_eq!(broken(core, text), [(2, "thread"), (5, "clock")]);
    assert_eq!(broken(core, "let threads = my_clock;\n"), []);
}
