//! A service that is nothing but a process, named in a file: what the fault `service-kill` kills.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
};

use ::lab::clock;
use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;

/// The scripts of the service, as long as this value lives.
pub(crate) struct Service(PathBuf);

impl Service {
    /// Writes them.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn new() -> Result<Self> {
        let directory = directory();
        let wrong = || format!("cannot write to {}", directory.display());
        fs::DirBuilder::new().mode(0o755).create(&directory).with_context(wrong)?;
        let program = directory.join("service");
        // It ends by itself: the last one is nobody's to stop. The nodes have one file system, and the file that
        // hb is told of names the process that was started last.
        let text = format!(
            "#!/bin/sh\nD={}\nP=$D/pid-$HB_NODE\ncase $1 in\n\
             start) setsid sleep 300 </dev/null >/dev/null 2>&1 & echo $! >$P; cp $P $D/pid;;\n\
             stop) kill -9 $(cat $P) 2>/dev/null; rm -f $P;;\n\
             status) kill -0 $(cat $P) 2>/dev/null || exit 3;;\n\
             esac\nexit 0\n",
            directory.display()
        );
        fs::write(&program, text).with_context(wrong)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).with_context(wrong)?;
        Ok(Self(directory))
    }

    /// Returns it as a resource of the last group of a configuration.
    pub(crate) fn resource(&self) -> String {
        let place = self.0.display();
        format!(
            "[[group.resource]]\nname = \"service\"\ntype = \"script\"\nprogram = \"{place}/service\"\n\
             pid_file = \"{place}/pid\"\n"
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// Kills the service, wherever it runs; returns when.
///
/// # Errors
///
/// If it does not run.
pub(crate) fn kill() -> Result<BootTime> {
    let file = directory().join("pid");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("no service runs by {}", file.display()))?;
    let pid: libc::pid_t = text.trim().parse().with_context(|| format!("no number: {text:?}"))?;
    let at = clock::now();
    // SAFETY: sends a signal to the process that the service's script began, and touches no memory.
    let code = unsafe { libc::kill(pid, libc::SIGKILL) };
    anyhow::ensure!(code == 0, "process {pid} of {} does not run", file.display());
    Ok(at)
}

/// One for each process: nobody else writes there.
fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("hb-service-{}", std::process::id()))
}
