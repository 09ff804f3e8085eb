//! From the file's values to checked types: everything that can be judged without a host.

mod groups;
mod network;
mod notify;
mod pings;
mod policy;
pub(super) mod resources;

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::DeTable;

use super::{
    Cluster, ClusterName, Config, ConfigErrors, Engine, Log, LogFormat, MISSES, Node, Policy,
    Readable,
    error::{At, Position, Problems},
    file::Section,
    timers::{TimerValues, Timers},
};

/// Longest path of a Unix socket: `sun_path` less its final zero (`unix(7)`).
const SOCKET_PATH_MOST: usize = 107;

/// Checks a configuration; `path` is what errors call it.
pub(super) fn config(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let problems = Problems::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    // What the tables hold after a syntax error is a guess; judging it would mislead.
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        let message = format!("not valid TOML: {}", error.message().replace('\n', ", "));
        problems.add(problems.position(offset), message);
    }
    let config = if errors.is_empty() { read(table.get_ref(), &problems, path) } else { None };
    let errors = problems.into_errors();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => {
            ConfigErrors::unless_empty(path, errors)?;
            // Whatever yields no value reports why; this is here should that ever fail.
            Err(ConfigErrors::of_file(path, "cannot be used, for no known reason".into()))
        }
    }
}

fn read(table: &DeTable<'_>, problems: &Problems<'_>, path: &Path) -> Option<Config> {
    let root = Section::root(table, problems);
    let cluster_section = required_section(&root, "cluster");
    let timers_section = required_section(&root, "timers");
    let nodes = network::nodes(&root);
    let policy = cluster_section.as_ref().and_then(|section| {
        let value = policy::policy(section)?;
        Some(At { value, position: section.has("policy")? })
    });
    let cluster = cluster_section.and_then(|section| cluster(section, &nodes.complete, policy));
    let (timers, auto_failback) = timers_section.map(timers).unwrap_or_default();
    let witness = policy::witness(&root, policy, &nodes);
    let lease = policy::lease(&root, policy, timers.as_ref(), &nodes, witness.as_ref());
    let fence = policy::fence(&root, policy, &nodes);
    let gate = policy::gate(&root);
    let mut links = network::links(&root, &nodes, witness.as_ref());
    let groups =
        groups::groups(&root, &nodes, &links, auto_failback, gate.as_ref().map(|gate| gate.mode));
    let pings = pings::pings(&root, &nodes, &links, &groups);
    let notifies = notify::notifies(&root);
    let log = match root.section("log", "[log]") {
        Some(section) => log(section),
        None => Log { format: None, level: tracing::Level::INFO },
    };
    root.finish();

    let mut nodes = nodes.complete;
    nodes.sort_by_key(|node| node.id);
    if !problems.is_empty() {
        return None;
    }
    links.sort_by_key(|link| link.id);
    Some(Config {
        cluster: cluster?,
        timers: timers?,
        lease: lease?,
        nodes,
        witness: witness.and_then(|witness| witness.complete),
        links,
        groups,
        pings,
        notifies,
        fence,
        gate: gate?,
        log,
        path: path.into(),
    })
}

fn required_section<'d>(root: &Section<'d>, key: &'static str) -> Option<Section<'d>> {
    let name = format!("[{key}]");
    if root.has(key).is_none() {
        root.missing(&name, "add it; `hb config --default` shows one");
    }
    root.section(key, &name)
}

fn cluster(section: Section<'_>, nodes: &[Node], policy: Option<At<Policy>>) -> Option<Cluster> {
    let name = section.required_text("name", "give the cluster a name, such as name = \"pair\"");
    let name = section.checked(name, ClusterName::new);
    let key_hint = "name the file that `hb key generate` wrote, such as \"/etc/hb/key\"";
    let key_file = section.required_text("key_file", key_hint);
    let key_file = absolute_path(&section, "key_file", key_file);
    let state_dir = match section.has("state_dir") {
        Some(_) => absolute_path(&section, "state_dir", section.text("state_dir")),
        None => Some("/var/lib/hb".into()),
    };
    let control_socket = section.text("control_socket");
    let control_position = control_socket.map(|path| path.position);
    let control_socket = absolute_path(&section, "control_socket", control_socket);
    if let (Some(path), Some(position)) = (&control_socket, control_position) {
        check_socket(&section, path, position);
    } else if let (Some(name), None) = (&name, control_position) {
        for node in nodes {
            let path = PathBuf::from(format!("/run/hb/{}-{}.sock", name.value, node.name));
            check_socket(&section, &path, name.position);
        }
    }
    let engines =
        [Engine::Auto, Engine::Kernel, Engine::User].map(|engine| (engine.as_str(), engine));
    let engine = match section.has("engine") {
        Some(_) => section.choice("engine", &engines),
        None => Some(Engine::Auto),
    };
    let network_wait = match section.has("network_wait") {
        Some(_) => section.duration("network_wait").map(|at| Some(at.value)),
        None => Some(None),
    };
    section.finish();
    Some(Cluster {
        name: name?.value,
        key_file: key_file?,
        policy: policy?.value,
        state_dir: state_dir?,
        control_socket,
        engine: engine?,
        network_wait: network_wait?,
    })
}

fn check_socket(section: &Section<'_>, path: &Path, position: Position) {
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_MOST {
        let message = format!(
            "the control socket's path {path:?} has {len} bytes, more than {SOCKET_PATH_MOST}; \
             set a shorter control_socket"
        );
        section.problems.add(position, message);
    }
}

/// Returns the timers, and whether groups fail back unless they say otherwise.
fn timers(section: Section<'_>) -> (Option<Timers>, Option<Option<Duration>>) {
    let interval_key = match (section.has("interval"), section.has("keepalive")) {
        (Some(_), Some(position)) => {
            let message = "keepalive is another word for interval, which is given as well; \
                           remove one of them";
            section.problems.add(position, message);
            "interval"
        }
        (None, Some(_)) => "keepalive",
        (Some(_), None) => "interval",
        (None, None) => {
            section.missing("interval", "write how often to probe, such as interval = \"1ms\"");
            "interval"
        }
    };
    let interval = section.duration(interval_key);
    let (deadtime_key, deadtime) = deadtime(&section, interval);
    let warntime = section.duration("warntime");
    let initdead = section.duration("initdead");
    let controller_deadtime = section.duration("controller_deadtime");
    let doubt_max = section.duration("doubt_max");
    if section.has("auto_failback").is_none() {
        let hint = "say whether groups move back to the preferred node when it returns: \
                    auto_failback = true, false or such as \"after 5m\"";
        section.missing("auto_failback", hint);
    }
    let auto_failback = section.failback("auto_failback");

    let mut timers = None;
    if let (Some(interval), Some(deadtime)) = (interval, deadtime) {
        let values = TimerValues {
            interval: interval.value,
            deadtime,
            warntime: warntime.map(|at| at.value),
            initdead: initdead.map(|at| at.value),
            controller_deadtime: controller_deadtime.map(|at| at.value),
            doubt_max: doubt_max.map(|at| at.value),
        };
        match Timers::new(&values) {
            Ok(fitting) => timers = Some(fitting),
            Err(errors) => {
                for error in errors {
                    let position = match error.key() {
                        "interval" => section.has(interval_key),
                        "deadtime" => section.has(deadtime_key),
                        "warntime" => section.has("warntime"),
                        "initdead" => section.has("initdead"),
                        "controller_deadtime" => section.has("controller_deadtime"),
                        _ => section.has("doubt_max"),
                    };
                    section.problems.add(position.unwrap_or(section.position), error.to_string());
                }
            }
        }
    }
    section.finish();
    (timers, auto_failback)
}

/// Returns deadtime, and the key it was given by.
fn deadtime(
    section: &Section<'_>,
    interval: Option<At<Duration>>,
) -> (&'static str, Option<Duration>) {
    match (section.has("deadtime"), section.has("misses")) {
        (None, None) => {
            let hint = "write how long a silence means dead, such as misses = 5 or \
                        deadtime = \"5ms\"";
            section.missing("deadtime", hint);
            ("deadtime", None)
        }
        (Some(_), Some(position)) => {
            let message = "misses and deadtime say the same thing, and both are given; remove one";
            section.problems.add(position, message);
            ("deadtime", None)
        }
        (Some(_), None) => ("deadtime", section.duration("deadtime").map(|at| at.value)),
        (None, Some(_)) => {
            let misses = section.integer("misses", *MISSES.start(), *MISSES.end());
            let deadtime = misses.zip(interval).and_then(|(misses, interval)| {
                let deadtime = interval.value.checked_mul(misses.value);
                if deadtime.is_none() {
                    let message = "interval is too long; choose 50us to 10s";
                    section.problems.add(interval.position, message);
                }
                deadtime
            });
            ("misses", deadtime)
        }
    }
}

fn log(section: Section<'_>) -> Log {
    let formats =
        [("text", LogFormat::Text), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
    let format = section.choice("format", &formats);
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let level = section.choice("level", &levels).unwrap_or(tracing::Level::INFO);
    section.finish();
    Log { format, level }
}

/// Reads a path that means the same whatever directory the daemon starts in.
fn absolute_path(section: &Section<'_>, key: &str, text: Option<At<&str>>) -> Option<PathBuf> {
    let At { value, position } = text?;
    let hint = if !value.starts_with('/') {
        "is not absolute; begin it with /"
    } else if value.contains('\0') {
        "has a zero byte in it; remove that"
    } else {
        return Some(value.into());
    };
    section.problems.add(position, format!("{key} = {value:?} {hint}"));
    None
}

/// Reads a duration within a range, `default` if there is none.
fn duration_within(
    section: &Section<'_>,
    key: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    if section.has(key).is_none() {
        return Some(default);
    }
    let At { value, position } = section.duration(key)?;
    if range.contains(&value) {
        return Some(value);
    }
    let (least, most) = range.into_inner();
    let message = format!(
        "{key} {} is outside {} to {}; choose a time within",
        Readable(value),
        Readable(least),
        Readable(most)
    );
    section.problems.add(position, message);
    None
}
