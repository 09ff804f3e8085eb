//! `hb`: keeps service addresses on exactly one healthy node.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use hb_user::{
    cli::{
        Cli, FenceVerb, GateVerb, KeyStep, KeyVerb, ResourceVerb, Socket, Switch, Verb, Which,
        WitnessVerb,
    },
    clock,
    config::{Config, DEFAULT_FILE, GateMode, LogFormat, Readable, hostname},
    control::{Client, Groups, Reply, Request},
    daemon::{
        self, GateError, GateNode, GatePlace, PrepareError, Prepared, Removed, RunError, Signals,
    },
    fence::{self, Action, Asker},
    key::{self, ClusterKeys, KeyError},
    logging::{self, Format},
    resource::{keep_descriptors, raise_limit},
    status::{GroupHealth, GroupStatus, render, render_gate},
    trust,
    witness::{self, DEFAULT_CONFIGS, start::Outcome},
};

/// How long a daemon may take to answer; one that takes longer is in trouble.
const ANSWER: Duration = Duration::from_secs(5);

/// What a daemon ends with that was told to leave, and left something behind: to start it again by
/// itself is not what was asked for.
const LEFT_BEHIND: u8 = 3;

/// `network_wait` of a start that fails at once.
const NO_WAIT: Duration = Duration::ZERO;

/// Between two looks at a move that is under way.
const LOOK: Duration = Duration::from_millis(20);

/// What `hb status` ends with if there is no status.
const NO_STATUS: u8 = 3;

/// What `hb check` ends with if this host only lacks what may come yet.
const NOT_YET: u8 = 2;

/// What a command line that is not understood ends with (`sysexits.h`): 2 would be a status.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    abort_on_panic();
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(error) => {
            // Help and the version come as errors, and go to standard output.
            let code = if error.use_stderr() { USAGE } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let failure = |error: &anyhow::Error| match (&verb, error.downcast_ref(), error.downcast_ref())
    {
        (_, Some(RunError::Leave(_)), _) => LEFT_BEHIND,
        (Verb::Status { .. }, ..) => NO_STATUS,
        (Verb::Check { .. }, _, Some(error)) if PrepareError::may_pass(error) => NOT_YET,
        _ => 1,
    };
    match act(&verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hb: {error:#}");
            ExitCode::from(failure(&error))
        }
    }
}

/// Does what is asked; returns what to exit with.
fn act(verb: &Verb) -> Result<u8> {
    if let Verb::Status { socket, json } = verb {
        return status(socket, *json);
    }
    act_or_fail(verb).map(|()| 0)
}

fn status(socket: &Socket, json: bool) -> Result<u8> {
    let report = connect(socket)?.status()?;
    if json {
        say(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        say(&render(&report))?;
    }
    Ok(report.verdict().code())
}

fn act_or_fail(verb: &Verb) -> Result<()> {
    // A gate has descriptors for each interface, whoever looks after it.
    raise_limit().context("cannot raise the limit of open descriptors (RLIMIT_NOFILE)")?;
    match verb {
        Verb::Run(which) => run(which),
        Verb::Check { file, against, which } => {
            let config = file.as_ref().unwrap_or(&which.config);
            check(config, which)?;
            against.as_ref().map_or(Ok(()), |other| compare(config, other))
        }
        Verb::Reload(socket) => request(socket, &Request::Reload),
        Verb::Status { socket, json } => status(socket, *json).map(drop),
        Verb::Clear { group, socket } => request(socket, &Request::Clear { group: group.clone() }),
        Verb::Maintenance { switch, group, socket } => {
            let (on, group) = (*switch == Switch::On, group.clone());
            request(socket, &Request::Maintenance { on, group })
        }
        Verb::Resource(ResourceVerb::Restart { group, wait, socket }) => {
            restart_resources(socket, group, *wait)
        }
        Verb::Move { group, node, wait, socket } => move_group(socket, group, node, *wait),
        Verb::Standby { local, foreign, wait, socket, .. } => {
            let groups = match (local, foreign) {
                (true, _) => Groups::Local,
                (_, true) => Groups::Foreign,
                _ => Groups::All,
            };
            stand_aside(socket, groups, *wait)
        }
        Verb::Unstandby { socket } => request(socket, &Request::Unstandby),
        Verb::Confirm { socket } => request(socket, &Request::Confirm),
        Verb::Gate(verb) => gate(verb),
        Verb::Stop { socket } => request(socket, &Request::Stop),
        Verb::Detach(which) => {
            let remains = daemon::remains(&which.config, which.node.as_deref())?;
            let found = daemon::detach(&remains)?;
            say(if found { "detached\n" } else { "nothing was attached\n" })
        }
        Verb::Fence { node, action, which } => fence(node, *action, which),
        Verb::Witness(verb) => witness(verb),
        Verb::Key { verb: KeyVerb::Generate { file } } => {
            key::generate(file)?;
            say(&format!("{}: written; copy it to the other node, mode 0600\n", file.display()))
        }
        Verb::Key { verb: KeyVerb::Rotate { step, force, socket } } => {
            rotate(*step, *force, socket)
        }
        Verb::Config { .. } => say(DEFAULT_FILE),
    }
}

/// Says whether a node would start, and what to look at.
fn check(config: &Path, which: &Which) -> Result<()> {
    let prepared = daemon::prepare(config, which.node.as_deref())?;
    let local = &prepared.local;
    say(&format!(
        "{}: good for node {} of cluster {} ({} links, {} groups); nothing was started\n",
        config.display(),
        local.me.name,
        prepared.config.cluster.name,
        local.links.len(),
        prepared.config.groups.len(),
    ))?;
    say(&expectations(&prepared))?;
    for warning in prepared.warnings()? {
        say(&format!("warning: {warning}\n"))?;
    }
    Ok(())
}

/// Says which keys of two files differ.
fn compare(config: &Path, other: &Path) -> Result<()> {
    let found = Config::load(config)?.differences(&Config::load(other)?);
    let (config, other) = (config.display(), other.display());
    if found.is_empty() {
        return say(&format!("{other}: no key differs from {config}\n"));
    }
    let keys = found.iter().map(|found| format!("  {found}\n")).collect::<String>();
    say(&format!("{other}: differs from {config} in\n{keys}"))
}

/// Has a group moved, and waits until the other node serves it.
fn move_group(socket: &Socket, group: &str, node: &str, wait: Duration) -> Result<()> {
    let mut client = connect(socket)?;
    match client.ask(&Request::Move { group: group.to_owned(), node: node.to_owned() })? {
        Reply::Done { message } => say(&format!("{message}\n"))?,
        other => bail!("the daemon answered something else: {other:?}"),
    }
    let end = clock::now().after(wait);
    while !wait.is_zero() {
        let report = client.status()?;
        let found = report.groups.into_iter().find(|found| found.group == group);
        let found = found.with_context(|| format!("the daemon no longer knows {group}"))?;
        let there = found.holder.as_deref() == Some(node);
        let health = found.holder_health;
        if there && health == Some(GroupHealth::Healthy) {
            return say(&format!("{group}: served by {node}, epoch {}\n", found.epoch));
        }
        if clock::now() >= end {
            let holder = match (found.holder, health) {
                (None, _) => "nobody serves it".to_owned(),
                (Some(holder), Some(GroupHealth::Healthy)) => format!("{holder} serves it"),
                (Some(holder), health) => {
                    let health = health.map_or("not heard of", GroupHealth::as_str);
                    format!("{holder} holds it and does not serve it, it is {health} there")
                }
            };
            let reason = found.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            bail!("{group} is not served by {node} after {}: {holder}{reason}", Readable(wait));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Has a node stand aside, and waits until others serve what it held.
/// Has the resources of a group restarted, and waits until they run.
fn restart_resources(socket: &Socket, group: &str, wait: Duration) -> Result<()> {
    let mut client = connect(socket)?;
    match client.ask(&Request::RestartResources { group: group.to_owned() })? {
        Reply::Done { message } => say(&format!("{message}\n"))?,
        other => bail!("the daemon answered something else: {other:?}"),
    }
    let end = clock::now().after(wait);
    while !wait.is_zero() {
        let report = client.status()?;
        let Some(found) = report.groups.iter().find(|found| found.group == group) else {
            bail!("{group} is not in the configuration any more");
        };
        match found.health {
            GroupHealth::Healthy => {
                return say(&format!("{group}: served, epoch {}\n", found.epoch));
            }
            GroupHealth::Starting if clock::now() < end => std::thread::sleep(LOOK),
            _ => {
                let why = found.reason.as_deref().unwrap_or("it serves no more");
                bail!("the resources of {group} do not run here again: {why}");
            }
        }
    }
    Ok(())
}

fn stand_aside(socket: &Socket, groups: Groups, wait: Duration) -> Result<()> {
    let mut client = connect(socket)?;
    let before = client.status()?;
    let held: Vec<_> = before
        .groups
        .into_iter()
        .filter_map(|group| (group.holder.as_ref() == Some(&before.node)).then_some(group.group))
        .collect();
    match client.ask(&Request::Standby { groups })? {
        Reply::Done { message } => say(&format!("{message}\n"))?,
        other => bail!("the daemon answered something else: {other:?}"),
    }
    let end = clock::now().after(wait);
    while !wait.is_zero() {
        let report = client.status()?;
        let served = |group: &GroupStatus| {
            group.holder.as_ref().is_some_and(|holder| *holder != report.node)
                && group.holder_health == Some(GroupHealth::Healthy)
        };
        let given = report.groups.iter().filter(|group| group.aside && held.contains(&group.group));
        let (there, here): (Vec<_>, Vec<_>) = given.partition(|group| served(group));
        if here.is_empty() {
            for GroupStatus { group, holder, epoch, .. } in there {
                let holder = holder.as_deref().unwrap_or("nobody");
                say(&format!("{group}: served by {holder}, epoch {epoch}\n"))?;
            }
            return Ok(());
        }
        if clock::now() >= end {
            let names: Vec<_> = here.iter().map(|group| group.group.as_str()).collect();
            bail!(
                "not served by another node after {}: {}; this node hands over what it can, and takes \
                 nothing back",
                Readable(wait),
                names.join(", ")
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Shows the gate of this host, or takes it away.
fn gate(verb: &GateVerb) -> Result<()> {
    let place = match &verb.pins {
        Some(pins) => GatePlace { pins: pins.clone(), node: None, groups: Vec::new() },
        None => {
            let config = Config::load(&verb.which.config)
                .context("without the configuration, name the place: `--pins DIRECTORY`")?;
            let hostname = hostname().context("cannot read the name of this host")?;
            let local = config.identify(verb.which.node.as_deref(), &hostname)?;
            let groups = config.groups.iter();
            GatePlace {
                pins: daemon::pins(&config, &local),
                node: Some(GateNode {
                    cluster: config.cluster_id(),
                    id: local.me.id,
                    terms: config.terms(local.me.id)?,
                }),
                groups: groups.map(|group| (group.fingerprint(), group.name.to_string())).collect(),
            }
        }
    };
    if verb.remove {
        let Removed { addresses, interfaces } = daemon::remove_gate(&place).map_err(for_root)?;
        return say(&format!(
            "removed {addresses} service addresses, and the gate of {interfaces} interfaces\n"
        ));
    }
    let report = daemon::gate(&place).map_err(for_root)?;
    if verb.json {
        say(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        say(&render_gate(&report))?;
    }
    if !report.not_gated.is_empty() {
        bail!("not gated: {}", report.not_gated.join(", "));
    }
    Ok(())
}

/// Says that the kernel lets only root look, rather than what the refusal may mean for root.
fn for_root(error: GateError) -> anyhow::Error {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let user = unsafe { libc::geteuid() };
    match error {
        GateError::Kernel(_) | GateError::Removal(_) if user != 0 => {
            anyhow!(
                "the gate is shown and removed by root alone, and this is user {user}: use sudo"
            )
        }
        error => error.into(),
    }
}

/// What an operator may expect of a checked configuration, and what they should look at.
fn expectations(prepared: &Prepared) -> String {
    let config = &prepared.config;
    let mut text = format!("policy {}\n{}", config.cluster.policy.as_str(), config.expected());
    if config.gate.mode != GateMode::On {
        let mode = config.gate.mode.as_str();
        text += &format!("the gate is in mode {mode}: two nodes may serve at once\n");
    }
    for queue in prepared.slow_queues() {
        text += &format!("{queue}\n");
    }
    text
}

/// Does one step of a key's rotation. The daemon comes first where it may refuse, the file where it
/// is what the daemon reads; what is done twice does no harm.
fn rotate(step: KeyStep, force: bool, socket: &Socket) -> Result<()> {
    let path = Config::load(&socket.which.config)?.cluster.key_file;
    // Before anything is written: there is nobody to rotate for.
    drop(connect(socket)?);
    let newest = || {
        let newest = ClusterKeys::load(&path)?.newest();
        let (newest, _) = newest.map_err(|ids| KeyError::Order { path: path.clone(), ids })?;
        Ok::<_, KeyError>(newest)
    };
    match step {
        KeyStep::Add => {
            let id = key::rotate::add(&path)?;
            request(socket, &Request::LoadKeys)?;
            say(&format!(
                "{}: holds key {id}; copy it to every other machine, mode 0600, and run `hb key \
                 rotate --step accept` there\n",
                path.display()
            ))
        }
        KeyStep::Accept => request(socket, &Request::LoadKeys),
        KeyStep::Use => {
            request(socket, &Request::UseKey { id: newest()?, force })?;
            key::rotate::prefer_newest(&path)?;
            Ok(())
        }
        KeyStep::Drop => {
            request(socket, &Request::KeepKey { id: newest()?, force })?;
            key::rotate::keep_newest(&path)?;
            Ok(())
        }
    }
}

/// Attaches, shows or takes away the kernel half of a machine that only votes.
fn witness(verb: &WitnessVerb) -> Result<()> {
    let WitnessVerb { config, status, json, detach, confirm, wait, generic, pins } = verb;
    let (config, pins) = (config.clone(), pins.clone());
    if *detach {
        let detached = if config.is_empty() {
            witness::detach::everything(&pins)?
        } else {
            witness::detach::clusters(&config, &pins)?
        };
        return say(&detached.to_string());
    }
    if *status {
        let report = witness::status::report(&known(&config)?, &pins)?;
        return if *json {
            say(&format!("{}\n", serde_json::to_string_pretty(&report)?))
        } else {
            say(&witness::status::render(&report))
        };
    }
    let configs = if config.is_empty() { vec![DEFAULT_CONFIGS.into()] } else { config };
    let (confirm, wait, generic) = (*confirm, *wait, *generic);
    let request = witness::start::Request { configs, pins, confirm, wait, generic };
    let mut said = Ok(());
    let tell = |outcome: &Outcome| {
        for (interface, mode, reason) in outcome.slow() {
            let mode = mode.as_str();
            eprintln!("hb: warning: {interface} is attached in {mode} mode, slower: {reason}");
        }
        if let Err(error) = say(&outcome.to_string()) {
            said = Err(error);
        }
    };
    witness::start::run(&request, tell, |warning| eprintln!("hb: warning: {warning}"))?;
    said
}

/// Reads the configurations that give names to what a witness knows. Those that were not asked for
/// may be missing, or be wrong by now: the status says what the kernel does, not the files.
fn known(config: &[PathBuf]) -> Result<Vec<Config>> {
    if !config.is_empty() {
        let files = witness::prepare::files(config)?;
        return files.iter().map(|file| Ok(Config::load(file)?)).collect();
    }
    match witness::prepare::files(&[DEFAULT_CONFIGS.into()]) {
        Ok(files) => Ok(files.iter().filter_map(|file| Config::load(file).ok()).collect()),
        Err(_) => Ok(Vec::new()),
    }
}

/// Runs the fence agent as the daemon would, but for an operator.
fn fence(target: &str, action: FenceVerb, which: &Which) -> Result<()> {
    let config = Config::load(&which.config)?;
    trust::check(&which.config)?;
    let hostname = hostname().context("cannot read the name of this host")?;
    let local = config.identify(which.node.as_deref(), &hostname)?;
    let Some(agent) = &config.fence else {
        bail!("{} has no [fence]: nothing is ever fenced", which.config.display());
    };
    let Some(target) = config.node(target) else {
        let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("there is no node {target:?}; nodes: {}", names.join(", "));
    };
    let action = match action {
        FenceVerb::Status => Action::Status,
        FenceVerb::Off => Action::Off,
        FenceVerb::Reboot => Action::Reboot,
    };
    let asker = Asker {
        cluster: config.cluster.name.to_string(),
        node: local.me.name.to_string(),
        epoch: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    keep_descriptors().context("cannot keep descriptors from the agent")?;
    let report = runtime.block_on(fence::run(agent, target, action, &asker));
    if let Some(last) = report.attempts.last() {
        for line in &last.said {
            say(&format!("  {line}\n"))?;
        }
    }
    if report.answered() { say(&format!("{report}\n")) } else { bail!("{report}") }
}

fn run(which: &Which) -> Result<()> {
    keep_descriptors().context("cannot keep descriptors from the programs of resources")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Before anything is made, so that being told to end during the start leaves nothing behind.
    let signals = {
        let _its_signals = runtime.enter();
        Signals::catch()?
    };
    let plan = daemon::plan(&which.config, which.node.as_deref())?;
    // What does not pass is said at once, and not to a log.
    match plan.fit() {
        Err(error) if !error.may_pass() || plan.config.cluster.network_wait == Some(NO_WAIT) => {
            return Err(error.into());
        }
        _ => {}
    }
    let log = &plan.config.log;
    let format = match log.format_for(env::var_os("JOURNAL_STREAM").is_some()) {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
        LogFormat::Journald => Format::Journald,
    };
    let log = logging::init(format, log.level.as_str())?;
    Ok(runtime.block_on(daemon::run(plan, signals, &log))?)
}

fn request(socket: &Socket, request: &Request) -> Result<()> {
    match connect(socket)?.ask(request)? {
        Reply::Done { message } => say(&format!("{message}\n")),
        Reply::Error { message } => bail!(message),
        other => bail!("the daemon answered something else: {other:?}"),
    }
}

fn connect(socket: &Socket) -> Result<Client> {
    let path = match &socket.socket {
        Some(path) => path.clone(),
        None => control_socket(&socket.which)?,
    };
    Ok(Client::connect(&path, ANSWER)?)
}

fn control_socket(which: &Which) -> Result<PathBuf> {
    let config = Config::load(&which.config)?;
    let hostname = hostname().context("cannot read the name of this host")?;
    Ok(config.identify(which.node.as_deref(), &hostname)?.control_socket)
}

/// Prints to standard output; a reader that has gone is no error.
fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A panic in any thread ends the process: half a daemon would keep its peer waiting.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::abort();
    }));
}
