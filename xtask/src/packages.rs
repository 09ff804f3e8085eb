//! Installs what is missing, where that is ours to do: Debian, as root.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

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

/// Says in Debian's own way that no service may be started (`invoke-rc.d(8)`).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Like [`install`], for packages with services that are not wanted on this machine: none is
/// started, now or at the next boot.
///
/// # Errors
///
/// As [`install`]; when a service cannot be masked.
pub(crate) fn install_unstarted(packages: &[&str], services: &[&str], why: &str) -> Result<()> {
    for service in services {
        let place = Path::new("/etc/systemd/system").join(service);
        if place.symlink_metadata().is_err() && privilege::Status::of_this_process()?.is_root() {
            fs::create_dir_all("/etc/systemd/system")
                .and_then(|()| symlink("/dev/null", &place))
                .with_context(|| format!("cannot mask {service}"))?;
            eprintln!("masked {service}; undo with `rm {}`", place.display());
        }
    }
    let ours = !Path::new(POLICY).exists();
    if ours && is_debian() {
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}"))?;
    }
    let installed = install(packages, why);
    if ours && is_debian() {
        fs::remove_file(POLICY).with_context(|| format!("cannot remove {POLICY}"))?;
    }
    installed
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
