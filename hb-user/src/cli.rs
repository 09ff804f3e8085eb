//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};

use crate::{
    config::{DurationError, parse_duration},
    witness::DEFAULT_PINS,
};

/// Keeps service addresses on one node of a pair, and moves them when it dies or leaves.
#[derive(Debug, Parser)]
#[command(name = "hb", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run this node's daemon, in the foreground. SIGTERM hands over what it holds and ends it.
    ///
    /// Waits for interfaces and addresses of this node that are not there yet (`network_wait`).
    Run(Which),
    /// Check the configuration, the key file and this host's interfaces. Starts nothing.
    ///
    /// Exits with 0 if the node would start, 1 if something is wrong, 2 if nothing is wrong but that
    /// this host lacks an interface or an address, for which `hb run` would wait.
    Check {
        /// The configuration file, as `--config` names it.
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
        /// Say which keys of another file, as that of the other node, differ from this one.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
        /// What to check.
        #[command(flatten)]
        which: Which,
    },
    /// Have the daemon read its configuration again. SIGHUP does the same.
    ///
    /// Takes all that differs, or nothing: if the file is wrong, or a restart is needed for some of it, the
    /// daemon goes on as before and says why. Groups that are as before go on untouched; one that is not is
    /// given up in order first. Links change as long as every machine is heard on one that stays. Timers
    /// change once every node has read the file.
    Reload(Socket),
    /// Show who serves, or why nobody does; then peers, links and what to mend.
    ///
    /// Exits with 0 if every group is served and nothing is wrong, 1 if every group is served and
    /// something is wrong, 2 if a group is served by nobody as far as this node knows, 3 if the daemon
    /// does not answer.
    Status {
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
        /// Print the whole report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell the daemon that what made a group fail on this node is repaired.
    Clear {
        /// Name of the group.
        group: String,
        /// Which daemon to tell.
        #[command(flatten)]
        socket: Socket,
    },
    /// Have this node do nothing about what fails of a group, or of all, while somebody works on it.
    ///
    /// A group that is served here stays here: its resources are not stopped, started or moved when they fail, and neither a
    /// lost cable nor a preferred node moves it. One that is not served here is not taken here, even when its
    /// holder dies. With `off`, what was stopped meanwhile is started. Ends with the daemon: one that leaves
    /// stops and hands over what it holds, as ever.
    Maintenance {
        /// Begin or end.
        #[arg(value_enum)]
        switch: Switch,
        /// Name of the group; all groups if it is left out.
        group: Option<String>,
        /// Which daemon to tell.
        #[command(flatten)]
        socket: Socket,
    },
    /// Do something to the resources of a group.
    #[command(subcommand)]
    Resource(ResourceVerb),
    /// Give a group to another node, in order, and wait until it serves there.
    ///
    /// Ask the daemon that holds the group; any other one says which that is. Refused if that node
    /// is not up, does not stand by, or failed with the group. Exits with 0 only if the group is served
    /// there, or was not waited for.
    Move {
        /// Name of the group.
        group: String,
        /// Name of the node that shall serve it.
        #[arg(id = "to", value_name = "NODE")]
        node: String,
        /// How long to wait until it does; 0s for not at all.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
        wait: Duration,
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
    },
    /// Have this node stand aside: hand over the groups it holds, in order, and take none any more.
    ///
    /// It does not take them even when their holder dies, until `hb unstandby` on it: also after a restart
    /// of the daemon or of the machine. Refused if nobody else could take a group that is held here. Said
    /// again with other groups, it counts for those instead. Waits until what was held here is served
    /// elsewhere.
    Standby {
        /// All groups. So it is if nothing else is said.
        #[arg(long, conflicts_with_all = ["local", "foreign"])]
        all: bool,
        /// Only the groups that prefer this node.
        #[arg(long, conflicts_with = "foreign")]
        local: bool,
        /// Only the groups that prefer another node.
        #[arg(long)]
        foreign: bool,
        /// How long to wait until others serve what was held here; 0s for not at all.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
        wait: Duration,
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
    },
    /// Have this node take every group again, after `hb standby`.
    ///
    /// What prefers it comes back if `auto_failback` is on, else it stays where it is.
    Unstandby {
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
    },
    /// Answer for what this node cannot know: that no other machine serves.
    ///
    /// Two cases. This node lost its state directory or is to vote among others than before (a learner):
    /// its promises from before are forgotten, and it takes part without having heard every other
    /// machine. Or it left while another node held a group, under policy `safe`, and that node is off
    /// for good. If another
    /// machine serves all the same, both do. Refused in any other case.
    Confirm {
        /// Which daemon to tell.
        #[command(flatten)]
        socket: Socket,
    },
    /// Show the gate: what it does, on which interfaces, and what it counted of each address.
    ///
    /// Reads what is pinned, so it works without a daemon as well.
    Gate(GateVerb),
    /// Ask the daemon to hand over and end, as SIGTERM does. Does not wait for that.
    Stop {
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
    },
    /// Remove what a killed daemon left behind: XDP programs, pins and service addresses.
    ///
    /// A daemon that ends in order removes them itself; one that was killed leaves them, so that
    /// one that starts within `controller_deadtime` goes on where it was. Refused while the daemon
    /// runs. Needs the configuration.
    Detach(Which),
    /// Try the fence agent of the configuration on a node.
    ///
    /// The agent is called just as the daemon calls it. `off` and `reboot` really do it, and the
    /// daemon is not told: it believes only fences that it asked for.
    Fence {
        /// Name of the node.
        #[arg(id = "target", value_name = "NODE")]
        node: String,
        /// What to ask the agent for.
        #[arg(long, value_enum, default_value_t = FenceVerb::Status)]
        action: FenceVerb,
        /// Where to look for the agent.
        #[command(flatten)]
        which: Which,
    },
    /// Let this machine vote as the witness of clusters. Attaches the kernel half and ends.
    ///
    /// Nothing has to run afterwards: the kernel votes until the machine restarts or `--detach`.
    /// Run again, the command adds clusters and takes what changed in the configurations and keys
    /// of those it knows. A machine without numbers of an earlier start on its disk votes once it
    /// has heard every node of the cluster.
    Witness(Box<WitnessVerb>),
    /// Make a key for the cluster, or replace it.
    Key {
        /// What to do with them.
        #[command(subcommand)]
        verb: KeyVerb,
    },
    /// Print a configuration to start from.
    Config {
        /// Print every key with its default or a typical value, and comments.
        #[arg(long, required = true)]
        default: bool,
    },
}

/// What to do with the witness of this machine.
#[derive(Debug, clap::Args)]
pub struct WitnessVerb {
    /// A configuration, or a directory of files NAME.toml, one for each cluster; may be given more
    /// than once. /etc/hb/witness.d if not given.
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Show what was heard and promised, for each cluster.
    #[arg(long, conflicts_with_all = ["detach", "confirm"])]
    pub status: bool,
    /// With `--status`: print the whole report as JSON.
    #[arg(long, requires = "status")]
    pub json: bool,
    /// Take the clusters of the configurations given away, or everything if none is given. What was
    /// promised is forgotten.
    #[arg(long, conflicts_with = "confirm")]
    pub detach: bool,
    /// I am sure that this machine never voted in these clusters, or that it has heard every node
    /// since it lost its numbers: let it vote.
    #[arg(long)]
    pub confirm: bool,
    /// How long to wait for nodes that have to be heard first; 0s for not at all.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = wait)]
    pub wait: Duration,
    /// Attach in generic mode: for drivers that take the program and lose what it sends.
    #[arg(long)]
    pub generic: bool,
    /// Where the kernel half is pinned; each network namespace needs a place of its own.
    #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_PINS)]
    pub pins: PathBuf,
}

fn wait(text: &str) -> Result<Duration, DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_duration(text) }
}

/// What to do with the gate.
#[derive(Debug, clap::Args)]
pub struct GateVerb {
    /// Take away what a daemon that is gone for good left in the kernel: service addresses first,
    /// then the gate and everything else that is pinned. Refused while a daemon runs.
    #[arg(long, conflicts_with = "json")]
    pub remove: bool,
    /// Print the whole report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Where it is pinned, `/sys/fs/bpf/hb/CLUSTER/NODE`: for a host without the configuration.
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["config", "node"])]
    pub pins: Option<PathBuf>,
    /// Which node's.
    #[command(flatten)]
    pub which: Which,
}

/// What to ask a fence agent for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum FenceVerb {
    /// Whether the node is on. Changes nothing.
    Status,
    /// Turn it off.
    Off,
    /// Turn it off and on.
    Reboot,
}

/// Begin or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Begin.
    On,
    /// End.
    Off,
}

/// What to do to resources.
#[derive(Debug, Subcommand)]
pub enum ResourceVerb {
    /// Stop the resources of a group that is served here, start them again, and wait until they run.
    ///
    /// The group stays here and its addresses stay up. Clients that connect meanwhile reach nobody, or what
    /// still runs. It counts as no failure.
    Restart {
        /// Name of the group.
        group: String,
        /// How long to wait until they run; 0s for not at all.
        #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
        wait: Duration,
        /// Which daemon to ask.
        #[command(flatten)]
        socket: Socket,
    },
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Write a key file with a new random key, readable by its owner alone.
    ///
    /// Copy it to the other node, with its mode: both nodes need the same key.
    Generate {
        /// The file; it must not exist.
        #[arg(value_name = "FILE", default_value = "/etc/hb/key")]
        file: PathBuf,
    },
    /// Put a new key in the place of the old one, step by step, without a missed heartbeat.
    ///
    /// On one node: `--step add`. Copy the key file to every other machine of the cluster, and run
    /// `--step accept` there. Then `--step use` on each node, then `--step drop` on each machine. A
    /// step is refused while it would cut off another machine, and can be repeated.
    Rotate {
        /// Which step.
        #[arg(long, value_enum)]
        step: KeyStep,
        /// Do not ask machines that are silent; they need the new key file before they start.
        #[arg(long)]
        force: bool,
        /// Which daemon to tell, and which key file.
        #[command(flatten)]
        socket: Socket,
    },
}

/// A step of a key's rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyStep {
    /// Add a random key to the key file, as the second, and take it here.
    Add,
    /// Take the second key of a key file that was copied here.
    Accept,
    /// Send with the newer key, once every other machine has shown that it knows it.
    Use,
    /// Forget the older key, here and in the key file, once nobody sends with it.
    Drop,
}

const DEFAULT_CONFIG: &str = "/etc/hb/hb.toml";

/// Which node.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Name of this node in the configuration; what `uname -n` prints if not given.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// Which daemon.
#[derive(Debug, clap::Args)]
pub struct Socket {
    /// Where to look for its control socket.
    #[command(flatten)]
    pub which: Which,
    /// Control socket of the daemon; the one of the configuration if not given.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn no_two_arguments_are_in_each_others_way() {
        Cli::command().debug_assert();
    }
}
