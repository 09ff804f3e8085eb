//! What has to be there before a lab can be set up: privileges, programs, the `hb` binary.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

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

/// Returns `given`, or builds `hb` in release and returns where it lies.
///
/// # Errors
///
/// If there is no such file, or it does not build.
pub(crate) fn hb(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "hb-user", "--bin", "hb"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo build of hb failed with {}", output.status);
    for line in output.stdout.split(|&byte| byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
        if message["target"]["name"] == "hb"
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("cargo built hb but named no executable")
}
