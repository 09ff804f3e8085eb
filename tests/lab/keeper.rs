//! A lab that stands in the background: a process that holds it and takes commands on a socket,
//! one line of JSON each way.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Lab, Options,
    addresses::{Machine, NODES},
    config::Settings,
    guard, node,
};

/// Why the keeper waits no longer for the two ends of one exchange.
const PATIENCE: Duration = Duration::from_secs(10);
/// A standing lab's responders end after a day.
const STANDING: Duration = Duration::from_secs(24 * 3600);

/// What a keeper can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Describe the lab.
    Status,
    /// Cut all links of the machine.
    Cut(String),
    /// Heal them.
    Heal(String),
    /// Take the lab down and end.
    Down,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The lab.
    Lab(Description),
    /// Done, at this boot time in nanoseconds.
    At(u64),
    /// Not done, and why.
    Error(String),
}

/// A standing lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Pid of the keeper.
    pub keeper: u32,
    /// Directory with configuration and logs.
    pub directory: PathBuf,
    /// Its machines.
    pub machines: Vec<MachineDescription>,
    /// Namespace of the switch.
    pub switch: String,
}

/// A machine of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineDescription {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub netns: String,
    /// Its addresses on the client network and the direct link.
    pub addresses: Vec<String>,
    /// Pid of its daemon, if it has one.
    pub daemon: Option<i32>,
    /// Links that are cut, at least one way.
    pub cut: Vec<String>,
    /// Processes in its namespace.
    pub processes: Vec<i32>,
    /// What its daemon says, if it answers.
    pub status: Option<Value>,
}

/// Returns the socket of the keeper of lab `name`.
///
/// # Errors
///
/// If no lab can be called that: letters, digits, `-` and `_` are allowed, up to 32 of them.
pub fn socket(name: &str) -> Result<PathBuf> {
    ensure!(
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
        "no lab can be called {name:?}: take up to 32 letters, digits, - and _"
    );
    Ok(Path::new(guard::DIRECTORY).join(format!("{name}.sock")))
}

/// Returns where the errors of the keeper behind `socket` are to go.
#[must_use]
pub fn log(socket: &Path) -> PathBuf {
    socket.with_extension("keeper.log")
}

/// Tells the keeper of lab `name` something and returns what it answered.
///
/// # Errors
///
/// If there is no such lab, or it could not do it.
pub fn tell(name: &str, command: &Command) -> Result<Reply> {
    let path = socket(name)?;
    let stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no lab {name:?} stands here ({}); `cargo xtask lab up` sets one up",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait for the keeper")?;
    let mut line = serde_json::to_string(command)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes()).context("cannot write to the lab's keeper")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("the lab's keeper does not answer")?;
    match serde_json::from_str(&answer)
        .with_context(|| format!("the lab's keeper answered {answer:?}"))?
    {
        Reply::Error(error) => bail!("{error}"),
        reply => Ok(reply),
    }
}

/// Sets up lab `name` with these settings, with daemons if there is an `hb`, prints `ready` and holds it until told
/// to take it down.
///
/// # Errors
///
/// If a lab of that name stands already, or this one cannot be set up.
pub fn keep(
    name: &str,
    hb: Option<PathBuf>,
    config: Option<PathBuf>,
    settings: Settings,
) -> Result<()> {
    let path = socket(name)?;
    fs::create_dir_all(guard::DIRECTORY)
        .with_context(|| format!("cannot make {}", guard::DIRECTORY))?;
    ensure!(UnixStream::connect(&path).is_err(), "a lab {name:?} stands already");
    guard::remove_path(&path)?;
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let mut options = Options::new()?;
    options.hb = hb;
    options.config = config;
    options.settings = settings;
    options.limit = STANDING;
    let mut lab = Lab::up(options)?;
    lab.guard.path(&path)?;
    lab.guard.path(&log(&path))?;
    if lab.options.hb.is_some() {
        for node in NODES {
            lab.start_daemon(node)?;
        }
    }
    println!("ready");
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept a connection")?;
        // Whoever leaves in the middle of a sentence is no reason to take the lab down.
        match serve(&mut lab, &stream) {
            Ok(true) => {
                drop(lab);
                return reply(&stream, &Reply::At(crate::clock::now().ns()));
            }
            Ok(false) => {}
            Err(error) => eprintln!("lab-keeper: {error:#}"),
        }
    }
    Ok(())
}

/// Answers one command; returns whether it was [`Command::Down`], which is answered when done.
fn serve(lab: &mut Lab, stream: &UnixStream) -> Result<bool> {
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait for a command")?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        other => other.context("cannot read a command")?,
    };
    let machine = |name: &str| name.parse::<Machine>();
    let done = match serde_json::from_str(&line) {
        Ok(Command::Down) => return Ok(true),
        Ok(Command::Status) => describe(lab).map(Reply::Lab),
        Ok(Command::Cut(name)) => machine(&name).map(|m| Reply::At(lab.cut(m).ns())),
        Ok(Command::Heal(name)) => machine(&name).map(|m| Reply::At(lab.heal(m).ns())),
        Err(error) => Err(error).with_context(|| format!("cannot understand {line:?}")),
    };
    reply(stream, &done.unwrap_or_else(|error| Reply::Error(format!("{error:#}"))))?;
    Ok(false)
}

fn reply(mut stream: &UnixStream, reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("cannot answer")
}

fn describe(lab: &mut Lab) -> Result<Description> {
    let mut machines = Vec::new();
    for machine in lab.settings().machines() {
        let mut daemon = None;
        if let Some(process) = lab.daemons.get_mut(&machine)
            && process.ended()?.is_none()
        {
            daemon = Some(process.pid());
        }
        let addresses = machine
            .links()
            .iter()
            .map(|&link| format!("{} on {}", machine.v4(link), link.interface()))
            .chain([format!("{} on eth0", machine.v6())])
            .collect();
        let cut = machine
            .links()
            .iter()
            .filter(|&&link| {
                lab.switch.port(machine, link).is_some_and(|p| p.drop_in != 0 || p.drop_out != 0)
            })
            .map(|link| link.name().into())
            .collect();
        let netns = lab.netns(machine);
        machines.push(MachineDescription {
            name: machine.name().into(),
            netns: netns.name().into(),
            addresses,
            daemon,
            cut,
            processes: netns.processes()?,
            status: match (&lab.options.hb, daemon) {
                (Some(hb), Some(_)) => node::status(hb, &crate::socket(&lab.cluster, machine)).ok(),
                _ => None,
            },
        });
    }
    Ok(Description {
        keeper: std::process::id(),
        directory: lab.files.directory.clone(),
        machines,
        switch: lab.switch.netns().name().into(),
    })
}
