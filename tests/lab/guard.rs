//! Cleaning up whatever happens to the lab's process: a process of its own, in a session of its
//! own, that waits for the lab to end - in order, by a panic, by a signal, killed - and removes
//! what is left. What a killed guard leaves is swept by the next lab.

use std::{
    fs, io,
    io::{BufRead, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::netns;

/// Prefix of the names of all namespaces of all labs, and of their clusters.
const PREFIX: &str = "hb";

/// Where labs keep configuration, sockets and logs.
pub const DIRECTORY: &str = "/run/hb-lab";

/// The lab's side: what is to be removed when this process ends.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard; `agent` is an executable that calls [`crate::agent::main`].
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub fn start(agent: &Path) -> Result<Self> {
        let mut command = Command::new(agent);
        command.arg("lab-guard").stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: one system call between fork and exec. In a session of its own, the guard does
        // not get the Ctrl-C that ends the lab.
        #[expect(clippy::disallowed_methods, reason = "no real-time daemon forks here")]
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let mut child =
            command.spawn().with_context(|| format!("cannot run {} lab-guard", agent.display()))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Has the namespace of that name removed, and what runs in it killed, in the end.
    ///
    /// # Errors
    ///
    /// If the guard is gone.
    pub fn netns(&mut self, name: &str) -> Result<()> {
        self.tell("netns", Path::new(name))
    }

    /// Has a directory or file removed in the end.
    ///
    /// # Errors
    ///
    /// If the guard is gone.
    pub fn path(&mut self, path: &Path) -> Result<()> {
        self.tell("path", path)
    }

    /// Has `path` kept after all.
    ///
    /// # Errors
    ///
    /// If the guard is gone.
    pub fn keep(&mut self, path: &Path) -> Result<()> {
        self.tell("keep", path)
    }

    fn tell(&mut self, verb: &str, what: &Path) -> Result<()> {
        let pipe = self.pipe.as_mut().context("the lab's guard is closed")?;
        writeln!(pipe, "{verb} {}", what.display()).context("the lab's guard is gone")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        match self.child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("lab: the guard could not remove everything: {status}"),
            Err(error) => eprintln!("lab: cannot wait for the guard: {error}"),
        }
    }
}

/// The guard's own side: reads what to remove until the lab ends, then removes it.
///
/// # Errors
///
/// If something could not be removed; the rest has been.
pub fn guard() -> Result<()> {
    let mut namespaces = Vec::new();
    let mut paths = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read from the lab")?;
        match line.split_once(' ') {
            Some(("netns", name)) => namespaces.push(name.to_owned()),
            Some(("path", path)) => paths.push(PathBuf::from(path)),
            Some(("keep", path)) => paths.retain(|known| known != Path::new(path)),
            _ => bail!("the lab said {line:?}, which a guard does not understand"),
        }
    }
    let results = namespaces
        .iter()
        .map(|name| netns::remove(name))
        .chain(paths.iter().map(|path| remove_path(path)));
    let failures: Vec<_> =
        results.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Removes a file or a directory with all in it; one that is gone already is fine.
///
/// # Errors
///
/// If the system refuses.
pub fn remove_path(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Returns the name of the `number`th lab of this process: `hb<pid>-<number>`.
#[must_use]
pub fn lab_name(number: u32) -> String {
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// Removes the namespaces, and what runs in them, of labs whose process has ended; returns their
/// names.
///
/// # Errors
///
/// If one could not be removed.
pub fn sweep() -> Result<Vec<String>> {
    let entries = match fs::read_dir(netns::NAMES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", netns::NAMES)),
    };
    let mut swept = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot list {}", netns::NAMES))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            netns::remove(name)?;
            swept.push(name.to_owned());
        }
    }
    Ok(swept)
}

/// Returns the pid in a namespace's name, or `None` for a name that no lab gave.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let (number, _machine) = rest.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("hb12-3-a"), Some(12));
        assert_eq!(owner(&format!("{}-sw", lab_name(7))), Some(std::process::id()));
        for name in ["hb-3-a", "hb12", "hb12-a", "hbx-3-a", "other", "hb12--a", "hb12-x-a"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
