//! A private piece of the system for another failover software: its own mounts, host name, process
//! numbers and System V memory, in the network namespace of its node.
//!
//! Such software takes the machine for its own: fixed paths below `/etc`, `/run` and `/var/lib`, the
//! node's name from `uname -n`, a search of `/proc` for another copy of itself. Two of them beside
//! each other, and beside the machine's own, need all that to be apart. The cage is a shell script
//! under `unshare` (util-linux), kept in the lab's directory, where it can be read and run by hand.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result};

use super::Peer;
use crate::{addresses::Machine, guard, netns::Netns, node::Process};

/// Where a cage shows the directory with its peer's files and logs.
pub const HOME: &str = "/mnt";
const SCRIPT: &str = "start.sh";

/// Starts `peer` on `node`, with nothing left of an earlier start. Kill the process, and all of the
/// cage is gone: its first process is the init of the others.
///
/// # Errors
///
/// If a file cannot be written or `unshare` cannot be run.
pub fn start(peer: &dyn Peer, node: Machine, netns: &Netns, directory: &Path) -> Result<Process> {
    let home = home(directory, node);
    guard::remove_path(&home)?;
    write(peer, node, &home)?;
    let mut command = netns.command("unshare")?;
    command
        .args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg("sh")
        .arg(home.join(SCRIPT))
        .stdin(Stdio::null());
    let what = format!("{} on {node}", peer.name());
    Process::spawn(command, what, &directory.join(format!("peer-{node}.log")))
}

/// Returns where a cage's files and logs lie, below the lab's directory.
#[must_use]
pub fn home(directory: &Path, node: Machine) -> PathBuf {
    directory.join(format!("peer-{node}"))
}

fn write(peer: &dyn Peer, node: Machine, home: &Path) -> Result<()> {
    fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
    // Peers that give up root read their files too.
    fs::set_permissions(home, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot open up {}", home.display()))?;
    for file in peer.files(node) {
        let path = home.join(file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        put(&path, file.mode, &file.text)?;
    }
    put(&home.join(SCRIPT), 0o755, &script(peer, node, home)?)
}

fn put(path: &PathBuf, mode: u32, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn script(peer: &dyn Peer, node: Machine, home: &Path) -> Result<String> {
    let mut script = format!(
        "#!/bin/sh\n# {name} on node {node}\nset -eu\n\
         echo {node} > /proc/sys/kernel/hostname\n\
         mount --bind '{home}' {HOME}\n",
        name = peer.name(),
        home = home.display()
    );
    for place in ["/run", "/tmp", "/dev/shm"].iter().chain(peer.empty()) {
        writeln!(script, "mount -t tmpfs -o mode=1777 lab {place}")?;
    }
    for (from, to) in peer.shown() {
        writeln!(script, "mount --bind {HOME}/{from} {to}")?;
    }
    script.push_str(&peer.commands(node));
    script.push('\n');
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{File, Keepalived};

    #[test]
    fn a_cage_hides_before_it_shows_and_then_starts() {
        let peer = Keepalived { real_time: false };
        let text = script(&peer, Machine::B, Path::new("/somewhere")).unwrap();
        let order = [
            "echo b >",
            "--bind '/somewhere' /mnt",
            "tmpfs -o mode=1777 lab /run",
            "exec keepalived",
        ]
        .map(|part| text.find(part).unwrap_or_else(|| panic!("no {part} in {text}")));
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn keys_stay_secret() {
        assert_eq!(File::secret("k", "x").mode, 0o600);
    }
}
