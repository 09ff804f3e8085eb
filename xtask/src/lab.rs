//! `cargo xtask lab`: a lab that stands until it is taken down, to look around in.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ::lab::{
    addresses::{SERVICE_PORT, VIP4, VIP6},
    guard,
    keeper::{self, Description, Reply},
    netns::Netns,
};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{policy::Policy, prepare};

/// Sets up two nodes, perhaps a witness, a switch and a client that stand until taken down.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Name {
    /// Which lab, where several stand.
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Set a lab up and leave it standing.
    Up {
        #[command(flatten)]
        name: Name,
        /// Who may serve when the nodes do not hear each other.
        #[arg(long, value_enum, default_value = "witness")]
        policy: Policy,
        /// Length of a lease; hb's own default if not given.
        #[arg(long, value_name = "DURATION")]
        lease: Option<String>,
        /// Use this configuration instead of the usual one; it must be of that policy.
        #[arg(long, value_name = "FILE", conflicts_with = "lease")]
        config: Option<PathBuf>,
        /// Use this hb binary instead of building one.
        #[arg(long, value_name = "FILE")]
        hb: Option<PathBuf>,
        /// Start no daemons.
        #[arg(long, conflicts_with = "hb")]
        no_daemons: bool,
    },
    /// Take a lab down.
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Run a command on a machine (a, b, client or w) of a lab.
    Exec {
        /// The machine.
        machine: String,
        #[command(flatten)]
        name: Name,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut all links of a machine in one instant.
    Cut {
        /// The machine.
        machine: String,
        #[command(flatten)]
        name: Name,
    },
    /// Heal all links of a machine.
    Heal {
        /// The machine.
        machine: String,
        #[command(flatten)]
        name: Name,
    },
    /// Show a lab.
    Status {
        #[command(flatten)]
        name: Name,
    },
}

impl Lab {
    /// Does what the verb says.
    pub(crate) fn run(&self) -> Result<()> {
        match &self.verb {
            Verb::Up { name, policy, lease, config, hb, no_daemons } => {
                prepare::machine()?;
                let hb = if *no_daemons { None } else { Some(::lab::binary::hb(hb.as_deref())?) };
                let lease = lease.as_deref();
                up(&name.name, hb.as_deref(), config.as_deref(), *policy, lease)
            }
            Verb::Down { name } => {
                keeper::tell(&name.name, &keeper::Command::Down)?;
                println!("lab {} is down", name.name);
                Ok(())
            }
            Verb::Exec { machine, name, command } => exec(&name.name, machine, command),
            Verb::Cut { machine, name } => {
                change(&name.name, &keeper::Command::Cut(machine.clone()), machine, "cut")
            }
            Verb::Heal { machine, name } => {
                change(&name.name, &keeper::Command::Heal(machine.clone()), machine, "healed")
            }
            Verb::Status { name } => {
                show(&describe(&name.name)?);
                Ok(())
            }
        }
    }
}

fn up(
    name: &str,
    hb: Option<&Path>,
    config: Option<&Path>,
    policy: Policy,
    lease: Option<&str>,
) -> Result<()> {
    let config = config
        .map(|path| path.canonicalize().with_context(|| format!("cannot find {}", path.display())))
        .transpose()?;
    // Checks the name before anything is made of it.
    let log = keeper::log(&keeper::socket(name)?);
    fs::create_dir_all(guard::DIRECTORY)
        .with_context(|| format!("cannot make {}", guard::DIRECTORY))?;
    let errors = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let path = |path: Option<&Path>| path.unwrap_or(Path::new("-")).to_owned();
    let executable = std::env::current_exe().context("cannot tell which executable this is")?;
    let mut command = Command::new(executable);
    command
        .args(["lab-keeper", name])
        .arg(path(hb))
        .arg(path(config.as_deref()))
        .args([policy.name(), lease.unwrap_or("-")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    // SAFETY: one system call between fork and exec. In a session of its own, the lab outlives
    // this terminal.
    #[expect(clippy::disallowed_methods, reason = "no real-time daemon forks here")]
    unsafe {
        command.pre_exec(
            || {
                if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            },
        );
    }
    let mut keeper = command.spawn().context("cannot start the lab's keeper")?;
    let output = keeper.stdout.take().context("the lab's keeper has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("cannot read from the lab's keeper")?;
    if line.trim() != "ready" {
        keeper.wait().context("cannot wait for the lab's keeper")?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        bail!("the lab could not be set up: {}", said.trim());
    }
    let lab = describe(name)?;
    show(&lab);
    let option = if name == "default" { String::new() } else { format!(" --name {name}") };
    println!(
        "\nservice: {VIP4} and {VIP6}, UDP port {SERVICE_PORT}\n\n\
         look:    cargo xtask lab status{option}\n\
         enter:   cargo xtask lab exec a{option} -- ip address\n\
         watch:   tail -f {directory}/*-daemon.log\n\
         cut:     cargo xtask lab cut a{option}     (and `heal`)\n\
         kill:    kill -9 <pid of a daemon>    (or -STOP, -CONT, -TERM)\n\
         end:     cargo xtask lab down{option}",
        directory = lab.directory.display()
    );
    Ok(())
}

fn describe(name: &str) -> Result<Description> {
    match keeper::tell(name, &keeper::Command::Status)? {
        Reply::Lab(lab) => Ok(lab),
        other => bail!("the lab's keeper answered {other:?} when asked for its status"),
    }
}

fn change(name: &str, command: &keeper::Command, machine: &str, done: &str) -> Result<()> {
    match keeper::tell(name, command)? {
        Reply::At(ns) => {
            println!("all links of {machine} {done} at {ns} ns after boot");
            Ok(())
        }
        other => bail!("the lab's keeper answered {other:?}"),
    }
}

fn exec(name: &str, machine: &str, command: &[String]) -> Result<()> {
    let lab = describe(name)?;
    let found = lab.machines.iter().find(|m| m.name == machine);
    let Some(found) = found else {
        let names: Vec<_> = lab.machines.iter().map(|m| m.name.as_str()).collect();
        bail!("no machine {machine:?} in the lab: it has {}", names.join(", "));
    };
    let [program, arguments @ ..] = command else { bail!("no command to run") };
    let netns = Netns::open(&found.netns)?;
    let error = netns.command(program)?.args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {program} on {machine}"))
}

fn show(lab: &Description) {
    println!("keeper pid {}, files in {}", lab.keeper, lab.directory.display());
    println!("switch in namespace {}", lab.switch);
    for machine in &lab.machines {
        println!("{}: namespace {}", machine.name, machine.netns);
        println!("  addresses: {}", machine.addresses.join(", "));
        if let Some(pid) = machine.daemon {
            println!("  daemon pid {pid}");
        } else if machine.name == "a" || machine.name == "b" {
            println!("  no daemon runs");
        }
        if !machine.cut.is_empty() {
            println!("  cut: {}", machine.cut.join(", "));
        }
        if !machine.processes.is_empty() {
            println!("  processes: {:?}", machine.processes);
        }
        if let Some(status) = &machine.status {
            for line in summary(status) {
                println!("  {line}");
            }
        }
    }
}

/// Says in a line each who holds what and who is heard; `hb status` tells the rest.
fn summary(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("nobody").to_owned();
    let entries = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let groups = entries("groups").into_iter().map(|group| {
        let held = format!("group {}: held by {}", text(&group["group"]), text(&group["holder"]));
        format!(
            "{held}, epoch {}, here {} and {}",
            group["epoch"],
            text(&group["state"]),
            text(&group["health"])
        )
    });
    let peers = entries("peers").into_iter().map(|peer| {
        let controller = match peer["controller"]["alive"].as_bool() {
            Some(true) => "alive",
            Some(false) => "dead",
            None => "not heard",
        };
        format!("peer {}: {}, controller {controller}", text(&peer["node"]), text(&peer["life"]))
    });
    groups.chain(peers).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_names_holder_and_peers() {
        let status = json!({
            "groups": [{"group": "web", "holder": null, "epoch": 0, "state": "idle", "health": "starting"}],
            "peers": [{"node": "b", "life": "unheard", "controller": null}],
        });
        assert_eq!(
            summary(&status),
            [
                "group web: held by nobody, epoch 0, here idle and starting",
                "peer b: unheard, controller not heard",
            ]
        );
    }
}
