//! Agents that describe themselves are asked before anything is started: what their resources lack is found
//! then, and how long their calls may take.

use std::{collections::BTreeMap, io, path::PathBuf};

use hb_ebpf::epoch::Epoch;
use tokio::{runtime::Builder, task::JoinSet};

use super::resources::{agent, place};
use crate::{
    config::{Config, Local, ResourceKind},
    resource::{
        Agent, Order, ResourceError, Roots,
        metadata::{META_DATA_TIMEOUT, Metadata, MetadataError},
    },
};

/// Why an agent and its resource do not fit.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// By what the agent says.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// It could not be asked.
    #[error("cannot ask agents of resources for their meta-data")]
    Ask {
        /// Why not.
        source: io::Error,
    },
}

/// Asks each OCF agent of `config` that is there, all at once, and checks its resources. Blocks; called by no
/// thread that runs tasks. Agents lie below `roots`; one that is not there is told of by `hb check`, and by
/// its start.
///
/// # Errors
///
/// [`AgentError`]: an agent does not describe itself, or a resource does not fit what it says.
pub(super) fn ask(config: &mut Config, local: &Local, roots: &Roots) -> Result<(), AgentError> {
    let mut asked: BTreeMap<PathBuf, _> = BTreeMap::new();
    for group in &config.groups {
        for resource in &group.resources {
            let mut agent = Agent { roots: roots.clone(), ..agent(resource, None) };
            agent.status_timeout = META_DATA_TIMEOUT;
            if let (ResourceKind::Ocf { .. }, Some(program)) =
                (&agent.kind, roots.program(&agent.kind))
            {
                asked.entry(program).or_insert_with(|| (agent, place(config, local, group)));
            }
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let source = |source| AgentError::Ask { source };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(source)?;
    let described = runtime.block_on(async {
        let mut asking = JoinSet::new();
        for (program, (agent, place)) in asked {
            asking.spawn(async move {
                let order = Order { epoch: Epoch(0), reason: "check".to_owned(), cause: None };
                (program, Metadata::ask(&agent, &place, &order).await)
            });
        }
        asking.join_all().await
    });
    let described: BTreeMap<_, _> = described.into_iter().collect();
    for group in &mut config.groups {
        for resource in &mut group.resources {
            let ResourceKind::Ocf { params, check_level, .. } = &resource.kind else { continue };
            let agent = agent(resource, None);
            let program = roots.program(&agent.kind);
            let metadata = match program.and_then(|program| described.get(&program)) {
                Some(Ok(metadata)) => metadata,
                // Each is told of once, and those that are not there elsewhere.
                Some(Err(_)) | None => continue,
            };
            metadata.check(&agent, params)?;
            let level = *check_level;
            resource.start_timeout.advise(metadata.timeout("start", level));
            resource.stop_timeout.advise(metadata.timeout("stop", level));
            resource.status_timeout.advise(metadata.timeout("monitor", level));
        }
    }
    let is_there = |error: &MetadataError| {
        !matches!(
            error,
            MetadataError::Call(
                ResourceError::NotFound { .. } | ResourceError::NotExecutable { .. }
            )
        )
    };
    match described.into_values().filter_map(Result::err).find(is_there) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

    use super::*;
    use crate::config::{DEFAULT_FILE, Timeout};

    const DESCRIPTION: &str = "<resource-agent><parameters><parameter name='socket' required='1'/>\
        </parameters><actions><action name='start' timeout='2m'/><action name='stop'/>\
        <action name='monitor' timeout='33s'/></actions></resource-agent>";

    /// A node whose resource has an agent that does `body` when it is asked for its description.
    fn asked(body: Option<&str>, keys: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let agents = directory.path().join("resource.d/test");
        fs::create_dir_all(&agents).unwrap();
        if let Some(body) = body {
            let program = agents.join("lamp");
            fs::write(&program, format!("#!/bin/sh\n[ $1 = meta-data ] || exit 9\n{body}\n"))
                .unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (before, after) = DEFAULT_FILE.split_once("\ntype = \"script\"").unwrap();
        let (_, after) = after.split_once("\n\n").unwrap();
        let text = format!("{before}\ntype = \"ocf\"\nagent = \"test:lamp\"\n{keys}\n\n{after}");
        let mut config = Config::parse(&text, Path::new("hb.toml")).unwrap();
        let local = config.for_node("a").unwrap();
        let roots = Roots { ocf: directory.path().to_owned(), ..Roots::default() };
        ask(&mut config, &local, &roots)
            .map_err(|error| super::super::resources::describe(&error))?;
        Ok(config)
    }

    #[test]
    fn timeouts_that_the_file_does_not_give_are_those_the_agent_advises() {
        let says = format!("cat <<END\n{DESCRIPTION}\nEND");
        let keys = "params = { socket = 1 }\nstop_timeout = \"7s\"";
        for (body, seconds) in [(Some(says.as_str()), [120, 7, 33]), (None, [20, 7, 5])] {
            let config = asked(body, keys).unwrap();
            let resource = config.groups.iter().flat_map(|group| &group.resources).next().unwrap();
            let times = [resource.start_timeout, resource.stop_timeout, resource.status_timeout];
            assert_eq!(times.map(Timeout::get), seconds.map(Duration::from_secs));
        }
    }

    #[test]
    fn what_does_not_fit_and_what_does_not_describe_itself_is_refused() {
        let says = format!("cat <<END\n{DESCRIPTION}\nEND");
        for (body, keys, say) in [
            (says.as_str(), "", "agent ocf:test:lamp needs parameter \"socket\""),
            (
                says.as_str(),
                "params = { socket = 1, sokcet = 2 }",
                "has no parameter \"sokcet\"; did you mean \"socket\"?",
            ),
            (
                "echo hm >&2; exit 5",
                "",
                "meta-data failed with exit code 5, not installed (it said: hm)",
            ),
            (
                "echo usage",
                "",
                "the meta-data of its agent ocf:test:lamp is no XML: look at the agent: ",
            ),
            ("echo '<a/>'", "", "agent ocf:test:lamp is a <a>, no <resource-agent>"),
        ] {
            let error = asked(Some(body), keys).unwrap_err();
            assert!(error.contains("resource svc: ") && error.contains(say), "{error}\nnot: {say}");
        }
    }
}
