//! What has to be there before a lab can be set up: privileges and programs.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Checks privileges and programs; installs `iproute2` where that is possible.
///
/// # Errors
///
/// With what is missing and how to get it.
pub(crate) fn machine() -> Result<()> {
    ::lab::requirements::check_privileges()?;
    if has_ip() {
        return Ok(());
    }
    ensure!(
        Path::new("/etc/debian_version").exists(),
        "program ip is missing; install iproute2 with the package manager of this system"
    );
    println!("program ip is missing; running apt-get install --yes iproute2");
    let status = Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends", "iproute2"])
        .status()
        .context("cannot run apt-get")?;
    ensure!(
        status.success() && has_ip(),
        "apt-get install iproute2 failed with {status}; `apt-get update` may help"
    );
    Ok(())
}

fn has_ip() -> bool {
    Command::new("ip")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
