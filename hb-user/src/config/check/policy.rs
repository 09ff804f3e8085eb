//! The policy and what belongs to it: leases, the witness, the fence, the gate.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use hb_ebpf::{lease::TermsError, maps::MAX_NODES};

use super::{
    super::{
        Fence, FenceAction, Gate, GateMode, LeaseTiming, LeaseValues, Name, Policy, Timers,
        Witness,
        error::{At, Position},
        file::Section,
        lease,
    },
    absolute_path, duration_within,
    network::Nodes,
};
use crate::id::NodeId;

/// Least and most of a fence's `timeout`.
const FENCE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);
/// Least and most of a fence's `delay`.
const FENCE_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// The most tries after the first.
const FENCE_RETRIES: u32 = 100;
/// Least and most of `handover_bounce`.
const BOUNCE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// The least `rho`, in 1024ths, for 0.002: two clocks that the kernel may each steer by 500 ppm
/// (`adjtimex(2)`), and crystals that are as far off again.
const RHO_LEAST: u32 = 3;

/// Reads `policy` of `[cluster]`.
pub(super) fn policy(section: &Section<'_>) -> Option<Policy> {
    let hint = "say who may serve when nodes cannot hear each other: policy = \"witness\", \
                \"safe\" or \"available\"";
    section.required_text("policy", hint)?;
    let words =
        [Policy::Witness, Policy::Safe, Policy::Available].map(|policy| (policy.as_str(), policy));
    section.choice("policy", &words)
}

/// The witness, as far as it could be read.
pub(super) struct ReadWitness {
    pub(super) name: Option<Name>,
    pub(super) complete: Option<Witness>,
    pub(super) position: Position,
}

/// Reads `[witness]`, which belongs to policy `witness` and no other.
pub(super) fn witness(
    root: &Section<'_>,
    policy: Option<At<Policy>>,
    nodes: &Nodes,
) -> Option<ReadWitness> {
    let wanted = policy.map(|policy| policy.value == Policy::Witness);
    let Some(section) = root.section("witness", "[witness]") else {
        if let (Some(true), Some(policy), None) = (wanted, policy, root.has("witness")) {
            let message = "policy = \"witness\" needs a third machine that votes; add [witness] \
                           with its name and id, and its address on a link";
            root.problems.add(policy.position, message);
        }
        return None;
    };
    if let (Some(false), Some(policy)) = (wanted, policy) {
        let message = format!(
            "[witness] has no vote under policy = {:?}; set policy = \"witness\" or remove it",
            policy.value.as_str()
        );
        section.problems.add(section.position, message);
    }
    let position = section.position;
    let text = section.required_text("name", "give the witness a name");
    let name = section.checked(text, Name::new);
    if let Some(name) = &name
        && nodes.knows(name.value.as_str())
    {
        let message = format!(
            "{:?} is the name of a node, and the witness is another machine; rename one",
            name.value.as_str()
        );
        section.problems.add(name.position, message);
    }
    if section.has("id").is_none() {
        section.missing("id", "give the witness a number of its own");
    }
    let id = section.integer("id", 1, MAX_NODES as u32);
    if let Some(id) = id
        && nodes.complete.iter().any(|node| u32::from(node.id.0) == id.value)
    {
        let message = format!("id {} is taken by a node; change one", id.value);
        section.problems.add(id.position, message);
    }
    section.finish();
    let name = name.map(|name| name.value);
    let id = id.and_then(|id| u8::try_from(id.value).ok()).map(NodeId);
    let complete = name.clone().zip(id).map(|(name, id)| Witness { name, id });
    Some(ReadWitness { name, complete, position })
}

/// Reads `[lease]` and checks it together with the timers.
pub(super) fn lease(
    root: &Section<'_>,
    policy: Option<At<Policy>>,
    timers: Option<&Timers>,
    nodes: &Nodes,
    witness: Option<&ReadWitness>,
) -> Option<LeaseTiming> {
    let section = root.section("lease", "[lease]");
    let mut values = LeaseValues::default();
    if let Some(section) = &section {
        let duration = |key| section.duration(key).map(|at| at.value);
        values = LeaseValues {
            length: duration("length"),
            margin: duration("margin"),
            drain: duration("drain"),
            seek: duration("seek"),
            rho: rho(section),
        };
    }
    let timers = timers?;
    let timing = LeaseTiming::new(&values, timers);
    let witness = match witness {
        Some(read) => Some(read.complete.as_ref()?.id),
        None => None,
    };
    let mut voters: Vec<NodeId> = nodes.complete.iter().map(|node| node.id).collect();
    voters.extend(witness);
    let (policy, own) = (policy?.value, *voters.first()?);
    if let Err(error) = lease::terms(policy, &timing, timers, &voters, own, witness) {
        // Too few nodes, or an id twice, was reported where it stands.
        if let Some(key) = key(&error) {
            let written = section.as_ref().and_then(|section| section.has(key));
            let place = written.or_else(|| section.as_ref().map(|section| section.position));
            let place = place.or_else(|| root.has("timers")).unwrap_or(root.position);
            root.problems.add(place, format!("[lease] {key}: {error}"));
        }
    }
    if let Some(section) = section {
        section.finish();
    }
    Some(timing)
}

/// Returns the key of `[lease]` to change, or `None` if the error is one of the voters, which are
/// checked where they are read.
fn key(error: &TermsError) -> Option<&'static str> {
    match error {
        TermsError::Rho { .. } => Some("rho"),
        TermsError::NoMargin | TermsError::MarginLong { .. } => Some("margin"),
        TermsError::DrainShort { .. } | TermsError::DrainLong { .. } => Some("drain"),
        TermsError::SeekShort { .. } | TermsError::SeekLong { .. } => Some("seek"),
        TermsError::Count { .. } | TermsError::Voter { .. } | TermsError::Stranger { .. } => None,
        // Deadtimes that no lease can go with are about the length of leases, too.
        _ => Some("length"),
    }
}

fn rho(section: &Section<'_>) -> Option<u32> {
    let At { value, position } = section.number("rho")?;
    let parts = lease::rho(&value).filter(|parts| *parts >= RHO_LEAST);
    if parts.is_none() {
        let message = format!(
            "rho = {value} is no decimal from 0.002 to 1; write by how much one clock may run \
             faster than another, such as 0.2"
        );
        section.problems.add(position, message);
    }
    parts
}

/// Reads `[fence]`, which belongs to policy `safe` and no other.
pub(super) fn fence(
    root: &Section<'_>,
    policy: Option<At<Policy>>,
    nodes: &Nodes,
) -> Option<Fence> {
    let wanted = policy.map(|policy| policy.value == Policy::Safe);
    let Some(section) = root.section("fence", "[fence]") else {
        if let (Some(true), Some(policy), None) = (wanted, policy, root.has("fence")) {
            let message = "policy = \"safe\" needs a fence: without one a node that dies can never \
                           be replaced; add [fence] with command = \"/usr/sbin/fence_..\" and \
                           [fence.node.NAME] for every node";
            root.problems.add(policy.position, message);
        }
        return None;
    };
    if let (Some(false), Some(policy)) = (wanted, policy) {
        let message = format!(
            "[fence] is never used under policy = {:?}, so nothing would be fenced; set policy = \
             \"safe\" or remove it",
            policy.value.as_str()
        );
        section.problems.add(section.position, message);
    }
    let hint = "name the fence agent, such as \"/usr/sbin/fence_ipmilan\"";
    let command = section.required_text("command", hint);
    let command: Option<PathBuf> = absolute_path(&section, "command", command);
    let actions = [FenceAction::Off, FenceAction::Reboot].map(|action| (action.as_str(), action));
    let action = match section.has("action") {
        Some(_) => section.choice("action", &actions),
        None => Some(FenceAction::Off),
    };
    let timeout = duration_within(&section, "timeout", Duration::from_secs(60), FENCE_TIMEOUT);
    let delay = duration_within(&section, "delay", Duration::from_secs(2), FENCE_DELAY);
    let retries = match section.has("retries") {
        Some(_) => section.integer("retries", 0, FENCE_RETRIES).map(|at| at.value),
        None => Some(1),
    };
    let options = fence_nodes(&section, nodes);
    section.finish();
    Some(Fence {
        command: command?,
        action: action?,
        timeout: timeout?,
        retries: retries?,
        delay: delay?,
        options,
    })
}

/// Reads the options of `[fence.node.NAME]`, a table that every node has.
fn fence_nodes(section: &Section<'_>, nodes: &Nodes) -> BTreeMap<NodeId, Vec<(String, String)>> {
    let mut options = BTreeMap::new();
    let Some(table) = section.section("node", "[fence.node.NAME]") else {
        if section.has("node").is_none() {
            let message = "[fence] does not say how the agent knows the nodes; add \
                           [fence.node.NAME] for every node, such as plug = \"1\"";
            section.problems.add(section.position, message);
        }
        return options;
    };
    let entries = table.entries();
    let have = |node: &str| entries.iter().any(|(name, _)| name.value == node);
    nodes.check_all(section, section.position, have, |node| {
        format!("the fence has no options for node {node}; add [fence.node.{node}]")
    });
    for (name, entry) in entries {
        let node = nodes.find(section, name);
        let mut pairs = Vec::new();
        for (option, value) in entry.into_iter().flat_map(Section::scalars) {
            let why = if option.value == "action" {
                "is set by hb; use action in [fence] for it"
            } else if !option_name(option.value) {
                "is no name of an option; use letters, digits, _ and -"
            } else {
                let broken = |value: &String| value.contains(['\n', '\r', '\0']);
                if value.as_ref().is_some_and(broken) {
                    "has a line break or a zero byte in its value, and each option is one line; \
                     remove that"
                } else {
                    pairs.extend(value.map(|value| (option.value.to_owned(), value)));
                    continue;
                }
            };
            section.problems.add(option.position, format!("option {:?} {why}", option.value));
        }
        if let Some(node) = node {
            options.insert(node, pairs);
        }
    }
    options
}

fn option_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Reads `[gate]`.
pub(super) fn gate(root: &Section<'_>) -> Option<Gate> {
    let default = Gate { mode: GateMode::On, handover_bounce: Duration::from_secs(1) };
    let Some(section) = root.section("gate", "[gate]") else { return Some(default) };
    let modes =
        [GateMode::On, GateMode::DryRun, GateMode::Bypass].map(|mode| (mode.as_str(), mode));
    let mode = match section.has("mode") {
        Some(_) => section.choice("mode", &modes),
        None => Some(default.mode),
    };
    let bounce = duration_within(&section, "handover_bounce", default.handover_bounce, BOUNCE);
    section.finish();
    Some(Gate { mode: mode?, handover_bounce: bounce? })
}
