//! What the daemons and the resource noted of a takeover.

use std::{fs, io, path::Path, str::FromStr};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;
use serde_json::{Map, Value};

/// The log line `takeover` of a daemon, its instants `None` where it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Name of the group.
    pub group: String,
    /// Epoch it holds the group at from now on.
    pub epoch: Option<u64>,
    /// Name of the node it was taken from.
    pub peer: String,
    /// Why.
    pub cause: String,
    /// When silence would be deadtime.
    pub due: Option<BootTime>,
    /// When the kernel wrote its verdict.
    pub verdict: Option<BootTime>,
    /// When the fast path saw it.
    pub seen: Option<BootTime>,
    /// When it sought the group first.
    pub sought: Option<BootTime>,
    /// When a majority had promised, and the gate opened.
    pub won: Option<BootTime>,
    /// When the new epoch was published to the kernel.
    pub published: Option<BootTime>,
    /// When the last address was up.
    pub address: Option<BootTime>,
    /// When the first announcement had left.
    pub announced: Option<BootTime>,
}

impl Takeover {
    /// Returns the instants it names, in the order in which they come.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, BootTime)> {
        [
            ("silence is deadtime", self.due),
            ("verdict in the kernel", self.verdict),
            ("verdict seen by the fast path", self.seen),
            ("group sought", self.sought),
            ("lease won", self.won),
            ("epoch published", self.published),
            ("addresses up", self.address),
            ("first announcement has left", self.announced),
        ]
        .into_iter()
        .filter_map(|(what, at)| Some((what, at?)))
    }
}

/// Reads all takeovers from a daemon's log. Lines that are not JSON, as of a panic, are skipped.
///
/// # Errors
///
/// If the file cannot be read.
pub fn takeovers(log: &Path) -> Result<Vec<Takeover>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(text.lines().filter_map(takeover).collect())
}

/// Reads how the groups went from phase to phase from a daemon's log, one line for each step. Lines
/// that are not JSON are skipped.
///
/// # Errors
///
/// If the file cannot be read.
pub fn steps(log: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(text.lines().filter_map(step).collect())
}

fn step(line: &str) -> Option<String> {
    let fields = event(line, "group changes state")?;
    let (from, to, cause) = (text(&fields, "from"), text(&fields, "to"), text(&fields, "cause"));
    Some(format!("{from} to {to} ({cause})"))
}

/// Returns the fields of the event that a line of a log tells, if its message is `message`.
fn event(line: &str, message: &str) -> Option<Map<String, Value>> {
    let Ok(Value::Object(mut whole)) = serde_json::from_str(line) else { return None };
    // The fields of an event lie in `fields`, unless the format flattens them.
    let fields = match whole.remove("fields") {
        Some(Value::Object(fields)) => fields,
        _ => whole,
    };
    (fields.get("message")?.as_str()? == message).then_some(fields)
}

fn takeover(line: &str) -> Option<Takeover> {
    let fields = &event(line, "takeover")?;
    Some(Takeover {
        group: text(fields, "group"),
        epoch: number(fields, "epoch"),
        peer: text(fields, "peer"),
        cause: text(fields, "cause"),
        due: instant(fields, "due_ns"),
        verdict: instant(fields, "verdict_ns"),
        seen: instant(fields, "seen_ns"),
        sought: instant(fields, "sought_ns"),
        won: instant(fields, "won_ns"),
        published: instant(fields, "published_ns"),
        address: instant(fields, "address_ns"),
        announced: instant(fields, "announced_ns"),
    })
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> Option<u64> {
    let value = fields.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn instant(fields: &Map<String, Value>, name: &str) -> Option<BootTime> {
    number(fields, name).filter(|&ns| ns != 0).map(BootTime)
}

/// Something the resource was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When its program ran.
    pub at: BootTime,
    /// What it was told: `start`, `stop` or `monitor`.
    pub verb: String,
    /// By which node, `-` if it was not said.
    pub node: String,
    /// At which epoch, `-` if it was not said.
    pub epoch: String,
    /// For which group, `-` if it was not said.
    pub group: String,
    /// Why, `-` if it was not said.
    pub reason: String,
}

/// Reads all the resource was told; nothing yet if there is no log.
///
/// # Errors
///
/// If the file cannot be read or holds a line that no resource writes.
pub fn told(log: &Path) -> Result<Vec<Told>> {
    let text = match fs::read_to_string(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", log.display()))?,
    };
    text.lines().map(str::parse).collect()
}

impl FromStr for Told {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.splitn(6, ' ');
        let mut word = || words.next().with_context(|| format!("resource log line {line:?}"));
        let at = word()?.parse().with_context(|| format!("resource log line {line:?}"))?;
        Ok(Self {
            at: BootTime(at),
            verb: word()?.into(),
            node: word()?.into(),
            epoch: word()?.into(),
            group: word()?.into(),
            reason: word()?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takeovers_are_read_nested_and_flat() {
        let nested = r#"{"level":"INFO","fields":{"message":"takeover","group":"web","epoch":514,"peer":"a","cause":"silence","due_ns":7,"verdict_ns":8,"address_ns":0}}"#;
        let expected = Takeover {
            group: "web".into(),
            epoch: Some(514),
            peer: "a".into(),
            cause: "silence".into(),
            due: Some(BootTime(7)),
            verdict: Some(BootTime(8)),
            ..Takeover::default()
        };
        assert_eq!(takeover(nested), Some(expected.clone()));
        let flat = r#"{"message":"takeover","group":"web","epoch":"514","peer":"a","cause":"silence","due_ns":7,"verdict_ns":8}"#;
        assert_eq!(takeover(flat), Some(expected));
    }

    #[test]
    fn steps_of_a_group_are_read() {
        let line = r#"{"level":"INFO","fields":{"message":"group changes state","group":"web","from":"idle","to":"taking","cause":"a died"}}"#;
        assert_eq!(step(line).as_deref(), Some("idle to taking (a died)"));
        assert_eq!(step(r#"{"fields":{"message":"takeover","group":"web"}}"#), None);
    }

    #[test]
    fn other_lines_are_none() {
        for line in ["", "thread panicked", "{}", r#"{"message":"peer down"}"#, "[1]"] {
            assert_eq!(takeover(line), None, "{line}");
        }
    }

    #[test]
    fn resource_lines_are_read() {
        let line: Told = "12 start b - web a died: silence".parse().unwrap();
        assert_eq!((line.at, line.verb.as_str()), (BootTime(12), "start"));
        assert_eq!((line.group.as_str(), line.reason.as_str()), ("web", "a died: silence"));
        assert!("start b".parse::<Told>().is_err());
        assert!("12 start".parse::<Told>().is_err());
    }
}
