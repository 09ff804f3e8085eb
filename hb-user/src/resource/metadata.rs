//! What an OCF agent says of itself (`meta-data`): its parameters, and how long its actions may take.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Order, Place, ResourceError, Verb,
    agent::{Agent, Look},
};
use crate::config::{RESOURCE_TIMEOUT, suggestion};

/// How long an agent may take to describe itself. It does nothing else meanwhile, so this forgives a busy machine.
pub const META_DATA_TIMEOUT: Duration = Duration::from_secs(30);

/// Actions without which an agent is none.
const MANDATORY: [&str; 3] = ["start", "stop", "monitor"];

/// Why a description is of no use, or a resource does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The agent did not describe itself.
    #[error(transparent)]
    Call(#[from] ResourceError),
    /// What it wrote is no XML.
    #[error("resource {resource}: the meta-data of its agent {agent} is no XML: look at the agent")]
    Xml {
        /// Name of the resource.
        resource: String,
        /// The agent, as `ocf:PROVIDER:TYPE`.
        agent: String,
        /// Where, and why not.
        source: roxmltree::Error,
    },
    /// What it wrote describes something else.
    #[error("resource {resource}: the meta-data of its agent {agent} {what}: look at the agent")]
    Shape {
        /// Name of the resource.
        resource: String,
        /// The agent.
        agent: String,
        /// What is wrong.
        what: String,
    },
    /// Parameters are missing, or it has none of that name.
    #[error("resource {resource}: {}", wrong.join("; "))]
    Params {
        /// Name of the resource.
        resource: String,
        /// What is wrong, one sentence each; never empty.
        wrong: Vec<String>,
    },
}

/// What an agent says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its parameters, each with whether it has to be given.
    parameters: BTreeMap<String, bool>,
    /// Its actions: name, level of the check, timeout where it says one that is possible.
    actions: Vec<(String, u32, Option<Duration>)>,
}

impl Metadata {
    /// Asks `agent`, which has [`META_DATA_TIMEOUT`] as the timeout of its checks.
    ///
    /// # Errors
    ///
    /// [`MetadataError`], all but [`MetadataError::Params`].
    pub async fn ask(agent: &Agent, place: &Place, order: &Order) -> Result<Self, MetadataError> {
        let resource = || agent.name.clone();
        let ended = agent.call(Verb::MetaData, Look::Probe, place, order).await?;
        if ended.code != 0 {
            return Err(MetadataError::Call(ResourceError::Exit {
                resource: resource(),
                verb: Verb::MetaData,
                code: ended.code,
                meaning: super::ocf::meaning(ended.code),
                last_line: ended.last_line,
            }));
        }
        let agent = agent.kind.to_string();
        let document = document(&ended.output).map_err(|source| MetadataError::Xml {
            resource: resource(),
            agent: agent.clone(),
            source,
        })?;
        Self::of(&document).map_err(|what| MetadataError::Shape {
            resource: resource(),
            agent,
            what,
        })
    }

    /// Reads a description, or says what is wrong with it.
    fn of(document: &roxmltree::Document<'_>) -> Result<Self, String> {
        let root = document.root_element();
        if !root.has_tag_name("resource-agent") {
            return Err(format!("is a <{}>, no <resource-agent>", root.tag_name().name()));
        }
        let mut metadata = Self::default();
        for parameter in below(root, "parameters", "parameter") {
            let Some(name) = parameter.attribute("name") else {
                return Err("has a parameter without a name".to_owned());
            };
            let default = parameter
                .children()
                .find(|child| child.has_tag_name("content"))
                .and_then(|content| content.attribute("default"));
            // One that has a default is required of the agent, not of who configures it.
            let needed = matches!(parameter.attribute("required"), Some("1" | "true"))
                && default.is_none_or(str::is_empty);
            metadata.parameters.insert(name.to_owned(), needed);
        }
        for action in below(root, "actions", "action") {
            let Some(name) = action.attribute("name") else {
                return Err("has an action without a name".to_owned());
            };
            let level = action.attribute("depth").and_then(|depth| depth.parse().ok());
            let timeout = action.attribute("timeout").and_then(time);
            metadata.actions.push((name.to_owned(), level.unwrap_or(0), timeout));
        }
        let has = |wanted: &&str| metadata.actions.iter().any(|(name, ..)| name == wanted);
        match MANDATORY.iter().find(|name| !has(name)) {
            Some(missing) => Err(format!("has no action {missing}")),
            None => Ok(metadata),
        }
    }

    /// Checks the parameters of `agent` against those it has.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Params`], with all that is wrong.
    pub fn check(&self, agent: &Agent, params: &[(String, String)]) -> Result<(), MetadataError> {
        let kind = agent.kind.to_string();
        let mut wrong = Vec::new();
        for (name, _) in params {
            if !self.parameters.contains_key(name) {
                let known = self.parameters.keys().map(String::as_str);
                let hint = suggestion(name, "parameters", known);
                wrong.push(format!("agent {kind} has no parameter {name:?}; {hint}"));
            }
        }
        for (name, _) in self.parameters.iter().filter(|(_, needed)| **needed) {
            if !params.iter().any(|(given, _)| given == name) {
                wrong.push(format!("agent {kind} needs parameter {name:?}; add it to params"));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(MetadataError::Params { resource: agent.name.clone(), wrong })
        }
    }

    /// Returns how long an action may take, by the agent's own word: the longest of the same name up to that
    /// level of checks.
    #[must_use]
    pub fn timeout(&self, action: &str, check_level: u32) -> Option<Duration> {
        let fits = |(name, level, _): &&(String, u32, Option<Duration>)| {
            name == action && *level <= check_level
        };
        self.actions.iter().filter(fits).filter_map(|(.., timeout)| *timeout).max()
    }
}

/// Parses a description. It names a type of document that nobody reads.
fn document(text: &str) -> Result<roxmltree::Document<'_>, roxmltree::Error> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(text.trim_start(), options)
}

/// Returns the elements called `name` in those of the root called `list`.
fn below<'d>(
    root: roxmltree::Node<'d, 'd>,
    list: &'static str,
    name: &'static str,
) -> impl Iterator<Item = roxmltree::Node<'d, 'd>> {
    let lists = root.children().filter(move |child| child.has_tag_name(list));
    lists.flat_map(|list| list.children()).filter(move |child| child.has_tag_name(name))
}

/// Reads a time as agents write it, `20s` or `20`, if it may be a timeout.
fn time(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let time = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "msec" => Duration::from_millis(number),
        "" | "s" | "sec" => Duration::from_secs(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" | "hr" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    RESOURCE_TIMEOUT.contains(&time).then_some(time)
}

#[cfg(test)]
mod tests;
