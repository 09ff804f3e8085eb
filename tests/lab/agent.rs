//! What the lab runs as processes of their own, as hidden verbs of an executable that calls
//! [`main`] first.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    config::{self, Settings},
    fence, guard, keeper, load, responder,
};

/// Runs an agent if `arguments`, without the program's name, name one; `None` if they do not.
pub fn main(mut arguments: impl Iterator<Item = String>) -> Option<ExitCode> {
    let verb = arguments.next()?;
    let rest: Vec<String> = arguments.collect();
    let result = match verb.as_str() {
        "lab-guard" => guard::guard(),
        "lab-responder" => respond(&rest),
        "lab-fence" => fence::agent(&rest),
        "lab-resource" => config::resource(&rest),
        "lab-load" => load::agent(&rest),
        "lab-keeper" => keep(&rest),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{verb}: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn respond(arguments: &[String]) -> Result<()> {
    let [node, seconds, leases] = arguments else {
        anyhow::bail!("needs a node id, a number of seconds and a map, got {arguments:?}");
    };
    let node = node.parse().with_context(|| format!("{node:?} is no node id"))?;
    let seconds = seconds.parse().with_context(|| format!("{seconds:?} is no time"))?;
    responder::respond(node, Duration::from_secs(seconds), Path::new(leases))
}

fn keep(arguments: &[String]) -> Result<()> {
    let [name, hb, config, policy, lease] = arguments else {
        anyhow::bail!(
            "needs a name, an hb binary, a configuration, a policy and a lease, got {arguments:?}"
        );
    };
    let said = |text: &String| (text != "-").then(|| text.clone());
    let settings = Settings { policy: policy.clone(), lease: said(lease), ..Settings::default() };
    keeper::keep(name, said(hb).map(PathBuf::from), said(config).map(PathBuf::from), settings)
}
