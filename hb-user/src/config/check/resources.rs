//! Resources of a group: what each type has for keys, and what they may be.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    super::{
        Check, CheckKind, Name, Resource, ResourceKind, Timeout, Url,
        error::{At, Position},
        file::Section,
    },
    absolute_path, duration_within,
};

/// Least and most of a resource's timeouts.
pub(crate) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);
const STATUS: Duration = Duration::from_secs(5);
/// Most of `check_level`: OCF knows 0, 10 and 20.
const CHECK_LEVEL: u32 = 99;

/// The types, each with its keys. The first says which agent it is.
const TYPES: [(&str, &[&str]); 4] = [
    ("script", &["program", "args"]),
    ("ocf", &["agent", "params", "check_level"]),
    ("lsb", &["program"]),
    ("heartbeat", &["agent"]),
];
/// All of their keys.
const KEYS: [&str; 5] = ["program", "args", "agent", "params", "check_level"];

/// Reads `[[group.resource]]`.
pub(super) fn resource(section: Section<'_>) -> Option<Resource> {
    let text = section.required_text("name", "give every resource a name of its own");
    let name = section.checked(text, Name::new);
    let text = section.required_text("type", "write type = \"script\", or another of the types");
    // Asked for, so that each is known whatever the type is.
    let given: Vec<_> = KEYS.into_iter().filter_map(|key| Some((key, section.has(key)?))).collect();
    let kind = text.and_then(|text| {
        let Some((word, keys)) = TYPES.into_iter().find(|(word, _)| *word == text.value) else {
            section.unknown_choice("type", text, TYPES.map(|(word, _)| word));
            return None;
        };
        for (key, position) in given {
            if !keys.contains(&key) {
                out_of_place(&section, key, position, word, keys);
            }
        }
        match word {
            "ocf" => ocf(&section),
            "lsb" => lsb(&section),
            "heartbeat" => heartbeat(&section),
            _ => script(&section),
        }
    });
    let advises = matches!(kind, Some(ResourceKind::Ocf { .. }));
    let timeout = |key, default| match section.has(key) {
        None if advises => Some(Timeout::Advised(default)),
        _ => time(&section, key, default).map(Timeout::Fixed),
    };
    let start_timeout = timeout("start_timeout", START);
    let stop_timeout = timeout("stop_timeout", STOP);
    let status_timeout = timeout("status_timeout", STATUS);
    let pid_file = match section.has("pid_file") {
        Some(_) => absolute_path(&section, "pid_file", section.text("pid_file")).map(Some),
        None => Some(None),
    };
    let checks = checks(&section);
    let status_interval = match section.has("status_interval") {
        Some(_) => time(&section, "status_interval", Duration::ZERO).map(Some),
        None => Some(None),
    };
    section.finish();
    Some(Resource {
        name: name?.value,
        kind: kind?,
        start_timeout: start_timeout?,
        stop_timeout: stop_timeout?,
        status_timeout: status_timeout?,
        status_interval: status_interval?,
        pid_file: pid_file?,
        checks: checks?,
    })
}

/// Least and most of a check's interval and timeout.
const CHECK_TIME: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// Least time between two starts of a program.
const EXEC_LEAST: Duration = Duration::from_millis(10);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const RISE: u32 = 2;
const FALL: u32 = 3;
const MOST_IN_A_ROW: u32 = 1000;

/// The types of checks, each with its keys.
const CHECKS: [(&str, &[&str]); 5] = [
    ("tcp", &["address"]),
    ("http", &["url", "status", "body"]),
    ("unix", &["path"]),
    ("exec", &["command"]),
    ("file", &["path", "max_age"]),
];
const CHECK_KEYS: [&str; 7] = ["address", "url", "status", "body", "path", "command", "max_age"];

/// Reads all `[[group.resource.check]]`.
fn checks(section: &Section<'_>) -> Option<Vec<Check>> {
    let sections = section.sections("check", "[[group.resource.check]]");
    // Each is read, so that all that is wrong is told at once.
    sections.into_iter().map(check).collect::<Vec<_>>().into_iter().collect()
}

fn check(section: Section<'_>) -> Option<Check> {
    let text = section.required_text("type", "write type = \"tcp\", or another of the types");
    let given: Vec<_> =
        CHECK_KEYS.into_iter().filter_map(|key| Some((key, section.has(key)?))).collect();
    let kind = text.and_then(|text| {
        let Some((word, keys)) = CHECKS.into_iter().find(|(word, _)| *word == text.value) else {
            section.unknown_choice("type", text, CHECKS.map(|(word, _)| word));
            return None;
        };
        for (key, position) in given {
            if !keys.contains(&key) {
                let message = format!(
                    "{key} is no key of a check with type = {word:?}; remove it; it has {}",
                    keys.join(", ")
                );
                section.problems.add(position, message);
            }
        }
        match word {
            "http" => http(&section),
            "unix" => path(&section).map(|path| CheckKind::Unix { path }),
            "exec" => exec(&section),
            "file" => file(&section),
            _ => tcp(&section),
        }
    });
    let least = match kind {
        Some(CheckKind::Exec { .. }) => EXEC_LEAST,
        _ => *CHECK_TIME.start(),
    };
    let interval = duration_within(&section, "interval", CHECK_INTERVAL, least..=*CHECK_TIME.end());
    let timeout = duration_within(&section, "timeout", CHECK_TIMEOUT, CHECK_TIME);
    let row = |key, default| match section.has(key) {
        Some(_) => section.integer(key, 1, MOST_IN_A_ROW).map(|at| at.value),
        None => Some(default),
    };
    let (rise, fall) = (row("rise", RISE), row("fall", FALL));
    let standby = match section.has("standby") {
        Some(_) => section.boolean("standby"),
        None => Some(false),
    };
    section.finish();
    Some(Check {
        kind: kind?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        standby: standby?,
    })
}

fn tcp(section: &Section<'_>) -> Option<CheckKind> {
    let hint = "name an address and a port, such as \"127.0.0.1:5432\"";
    let At { value, position } = section.required_text("address", hint)?;
    let address = value.parse().ok();
    if address.is_none() {
        let message =
            format!("address = {value:?} is no address and port; write \"127.0.0.1:5432\"");
        section.problems.add(position, message);
    }
    Some(CheckKind::Tcp { address: address? })
}

fn http(section: &Section<'_>) -> Option<CheckKind> {
    let hint = "name what to ask for, such as \"http://127.0.0.1:8080/health\"";
    let At { value, position } = section.required_text("url", hint)?;
    let url = Url::parse(value);
    if url.is_none() {
        let message = format!(
            "url = {value:?} is none that can be asked for; write it with an address, in the clear, such as \
             \"http://127.0.0.1:8080/health\""
        );
        section.problems.add(position, message);
    }
    let status = match section.has("status") {
        Some(_) => section.integer("status", 100, 599).map(|at| at.value as u16),
        None => Some(200),
    };
    let body = match section.has("body") {
        Some(_) => section.text("body").map(|text| Some(text.value.to_owned())),
        None => Some(None),
    };
    Some(CheckKind::Http { url: url?, status: status?, body: body? })
}

fn path(section: &Section<'_>) -> Option<PathBuf> {
    let path = section.required_text("path", "name what to look at, such as \"/run/svc.sock\"");
    absolute_path(section, "path", path)
}

fn exec(section: &Section<'_>) -> Option<CheckKind> {
    Some(CheckKind::Exec { command: command(section, "/usr/bin/pg_isready")? })
}

/// Reads a program, such as `example`, and its arguments.
pub(super) fn command(section: &Section<'_>, example: &str) -> Option<Vec<String>> {
    let Some(position) = section.has("command") else {
        let hint = format!("name the program and its arguments, as [\"{example}\"]");
        section.missing("command", &hint);
        return None;
    };
    let words = section.texts("command")?;
    let refuse = |message: &str| {
        section.problems.add(position, format!("command {message}"));
        None
    };
    match words.first() {
        None => return refuse(&format!("is empty; name the program, as [\"{example}\"]")),
        Some(program) if !program.value.starts_with('/') => {
            return refuse("begins with a path that is not absolute; begin it with /");
        }
        Some(_) if words.iter().any(|word| word.value.contains('\0')) => {
            return refuse("has a zero byte in it; remove that");
        }
        Some(_) => {}
    }
    Some(words.iter().map(|word| word.value.to_owned()).collect())
}

fn file(section: &Section<'_>) -> Option<CheckKind> {
    let path = path(section);
    if section.has("max_age").is_none() {
        section.missing("max_age", "say how old it may be, such as \"10s\"");
        return None;
    }
    let max_age = time(section, "max_age", Duration::ZERO);
    Some(CheckKind::File { path: path?, max_age: max_age? })
}

/// Says whose key it is, and what this type has instead.
fn out_of_place(section: &Section<'_>, key: &str, position: Position, word: &str, keys: &[&str]) {
    let owners: Vec<_> = TYPES
        .into_iter()
        .filter(|(_, keys)| keys.contains(&key))
        .map(|(word, _)| format!("{word:?}"))
        .collect();
    let instead = match (key, word) {
        ("program", "ocf") => "name its agent with `agent = \"PROVIDER:TYPE\"`".to_owned(),
        ("program", "heartbeat") => "name its script with `agent = \"SCRIPT::ARG\"`".to_owned(),
        ("agent", _) => "name its program with `program = \"/..\"`".to_owned(),
        ("args", "ocf") => "give it `params = { NAME = \"VALUE\" }`".to_owned(),
        ("args", "heartbeat") => "write arguments as `agent = \"SCRIPT::ARG\"`".to_owned(),
        ("params", "script") => "give it `args = [\"..\"]`".to_owned(),
        ("params", "heartbeat") => "write arguments as `agent = \"SCRIPT::ARG\"`".to_owned(),
        _ => format!("remove it; type {word:?} has {}", keys.join(", ")),
    };
    let message = format!(
        "{key} is a key of type {}, and this resource has type = {word:?}; {instead}",
        owners.join(" and ")
    );
    section.problems.add(position, message);
}

fn script(section: &Section<'_>) -> Option<ResourceKind> {
    let program = program(section, "name the program to call, such as \"/usr/local/bin/svc\"");
    let args = section.texts("args")?;
    for arg in &args {
        if arg.value.contains('\0') {
            let message = format!("argument {:?} has a zero byte in it; remove that", arg.value);
            section.problems.add(arg.position, message);
        }
    }
    let args = args.iter().map(|arg| arg.value.to_owned()).collect();
    Some(ResourceKind::Script { program: program?, args })
}

fn lsb(section: &Section<'_>) -> Option<ResourceKind> {
    let program = program(section, "name the init script, such as \"/etc/init.d/svc\"");
    Some(ResourceKind::Lsb { program: program? })
}

fn program(section: &Section<'_>, hint: &str) -> Option<PathBuf> {
    let program = section.required_text("program", hint);
    absolute_path(section, "program", program)
}

fn ocf(section: &Section<'_>) -> Option<ResourceKind> {
    let hint = "name the agent by provider and type, such as \"heartbeat:Dummy\"";
    let agent = section.required_text("agent", hint).and_then(|text| {
        // Other cluster managers put the class before it.
        let value = text.value.strip_prefix("ocf:").unwrap_or(text.value);
        match value.split_once(':') {
            Some((provider, agent)) if is_file_name(provider) && is_file_name(agent) => {
                Some((provider.to_owned(), agent.to_owned()))
            }
            _ => {
                let message = format!(
                    "agent = {:?} is no provider and type; write them as \"heartbeat:Dummy\" for \
                     resource.d/heartbeat/Dummy",
                    text.value
                );
                section.problems.add(text.position, message);
                None
            }
        }
    });
    let params = match section.has("params") {
        Some(_) => section.section("params", "params = { NAME = \"VALUE\" }").and_then(params),
        None => Some(Vec::new()),
    };
    let check_level = match section.has("check_level") {
        Some(_) => section.integer("check_level", 0, CHECK_LEVEL).map(|at| at.value),
        None => Some(0),
    };
    let (provider, agent) = agent?;
    Some(ResourceKind::Ocf { provider, agent, params: params?, check_level: check_level? })
}

/// Reads instance parameters, sorted by name.
fn params(section: Section<'_>) -> Option<Vec<(String, String)>> {
    let problems = section.problems;
    let mut params = Vec::new();
    let mut sound = true;
    for (name, value) in section.scalars() {
        let why = if !is_param(name.value) {
            "is no name of a parameter; use letters, digits and _"
        } else if name.value.starts_with("CRM_meta_") {
            "is set by hb; remove it"
        } else if value.as_ref().is_some_and(|value| value.contains('\0')) {
            "has a zero byte in its value; remove that"
        } else {
            sound &= value.is_some();
            params.extend(value.map(|value| (name.value.to_owned(), value)));
            continue;
        };
        problems.add(name.position, format!("parameter {:?} {why}", name.value));
        sound = false;
    }
    params.sort();
    sound.then_some(params)
}

/// Tells whether a shell can read it as a part of a variable's name.
fn is_param(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_file_name(name: &str) -> bool {
    Name::new(name).is_ok()
}

fn heartbeat(section: &Section<'_>) -> Option<ResourceKind> {
    let hint = "write it as in haresources, such as \"Filesystem::/dev/sdb1::/srv::ext4\"";
    let At { value, position } = section.required_text("agent", hint)?;
    let refuse = |why: &str| {
        section.problems.add(position, format!("agent = {value:?} {why}"));
        None
    };
    let mut parts = value.split("::").map(str::to_owned);
    let script = parts.next().unwrap_or_default();
    let args: Vec<_> = parts.collect();
    if script.split('/').next().is_some_and(|address| address.parse::<IpAddr>().is_ok()) {
        return refuse("is an address; write it as [[group.address]], or as \"IPaddr::ADDRESS\"");
    }
    if !is_file_name(&script) {
        return refuse(
            "names no script; write that of one in /etc/ha.d/resource.d or /etc/init.d, then its \
             arguments, each after ::",
        );
    }
    if args.iter().any(String::is_empty) {
        return refuse("has an argument without a letter; remove its ::");
    }
    if value.contains(|c: char| c == '\0' || c.is_whitespace()) {
        return refuse(
            "has a space or a zero byte in it, which haresources cannot have; remove it",
        );
    }
    Some(ResourceKind::Heartbeat { script, args })
}

fn time(section: &Section<'_>, key: &'static str, default: Duration) -> Option<Duration> {
    duration_within(section, key, default, TIMEOUT)
}
