//! Installs what is missing, where that is ours to do: Debian, as root.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{privilege, run};

/// Installs Debian packages, saying which and why.
///
/// # Errors
///
/// When this is not Debian or not root, with the command to run instead; when apt-get fails.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !is_debian() {
        bail!("{why} is missing, and this is not Debian; there it comes with `{by_hand}`");
    }
    if !privilege::Status::of_this_process()?.is_root() {
        bail!("{why} is missing; as root, run `{by_hand}`");
    }
    eprintln!("installing {} for {why}", packages.join(", "));
    run::run(apt_get().args(["update", "--quiet"]))?;
    run::run(
        apt_get().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages),
    )
    .with_context(|| format!("cannot install {why}"))
}

/// Whether packages could be installed by [`install`] on this machine.
pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && run::which("apt-get").is_some()
}

/// Makes sure that a program is on the path, installing its package when it is not.
///
/// # Errors
///
/// As [`install`]; when the program is still missing after its package was installed.
pub(crate) fn require(program: &str, package: &str) -> Result<()> {
    if run::which(program).is_none() {
        install(&[package], &format!("the program `{program}`"))?;
    }
    if run::which(program).is_none() {
        bail!(
            "the program `{program}` is missing although package {package} is installed: look at PATH"
        );
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
