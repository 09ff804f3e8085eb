//! Agents of the Open Cluster Framework: what they find in their environment, and what their exit codes say
//! (Resource Agent API 1.1).

use std::time::Duration;

use super::{Agent, Look, Place, State, Verb};
use crate::config::ResourceKind;

/// The version of the API that is spoken here.
const VERSION: (&str, &str) = ("1", "1");

/// Exit code: it does not run, and was stopped cleanly.
const NOT_RUNNING: i32 = 7;
/// Exit code: it runs, promoted.
const RUNNING_PROMOTED: i32 = 8;
/// Exit code: it runs, and is more likely to fail than it should be.
const DEGRADED: i32 = 190;
/// The same, promoted.
const DEGRADED_PROMOTED: i32 = 191;

/// Returns what an exit code above 0 means.
pub(super) fn meaning(code: i32) -> Option<&'static str> {
    Some(match code {
        1 => "for no particular reason",
        2 => "invalid argument",
        3 => "not implemented",
        4 => "insufficient privilege",
        5 => "not installed",
        6 => "not configured",
        NOT_RUNNING => "not running",
        RUNNING_PROMOTED => "running promoted",
        9 => "failed while promoted",
        DEGRADED => "running degraded",
        DEGRADED_PROMOTED => "running degraded and promoted",
        _ => return None,
    })
}

/// Reads the exit code of `monitor`.
pub(super) fn state(code: i32, last_line: Option<String>) -> State {
    match code {
        0 | RUNNING_PROMOTED => State::Running,
        DEGRADED | DEGRADED_PROMOTED => State::Degraded { last_line },
        NOT_RUNNING => State::Stopped,
        _ => State::Failed { code, meaning: meaning(code), last_line },
    }
}

/// Returns the variables of an agent, none for one of another kind.
///
/// The name of the instance differs for all resources of a machine: agents make the names of files of it.
/// `OCF_RESKEY_CRM_meta_interval` is 0 for everything but a repeated `monitor`, by which agents tell one that
/// may well find nothing.
pub(super) fn variables(
    agent: &Agent,
    verb: Verb,
    look: Look,
    timeout: Duration,
    place: &Place,
) -> Vec<(String, String)> {
    let ResourceKind::Ocf { provider, agent: what, params, check_level } = &agent.kind else {
        return Vec::new();
    };
    let watches = verb == Verb::Monitor && look == Look::Watch;
    let interval = agent.interval.filter(|_| watches).unwrap_or_default();
    let mut variables: Vec<_> = [
        ("OCF_ROOT", agent.roots.ocf.display().to_string()),
        ("OCF_RA_VERSION_MAJOR", VERSION.0.to_owned()),
        ("OCF_RA_VERSION_MINOR", VERSION.1.to_owned()),
        ("OCF_RESOURCE_INSTANCE", format!("{}@{}.{}", agent.name, place.group, place.cluster)),
        ("OCF_RESOURCE_TYPE", what.clone()),
        ("OCF_RESOURCE_PROVIDER", provider.clone()),
        ("OCF_RESKEY_CRM_meta_name", verb.as_str().to_owned()),
        ("OCF_RESKEY_CRM_meta_timeout", timeout.as_millis().to_string()),
        ("OCF_RESKEY_CRM_meta_interval", interval.as_millis().to_string()),
        ("OCF_RESKEY_CRM_meta_on_node", place.node.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if verb == Verb::Monitor {
        let level = if watches { *check_level } else { 0 };
        variables.push(("OCF_CHECK_LEVEL".to_owned(), level.to_string()));
    }
    let params = params.iter().map(|(name, value)| (format!("OCF_RESKEY_{name}"), value.clone()));
    variables.extend(params);
    variables
}
