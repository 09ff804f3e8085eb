//! What a program is told of: as environment, as JSON, and as keepalived's arguments.

use serde::Serialize;

use crate::config::NotifyForm;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A group on this node.
    Group,
    /// The life of another machine.
    Peer,
    /// A link to another machine.
    Link,
    /// This node itself.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Group, Self::Peer, Self::Link, Self::Node];

    /// Returns the word of the file and of `HB_EVENT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Peer => "peer",
            Self::Link => "link",
            Self::Node => "node",
        }
    }
}

/// Something that changed. Written as one JSON object; what does not apply is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// What it is about.
    pub event: Kind,
    /// What happened, as docs/notify.md lists it: never translated, never renamed.
    pub code: &'static str,
    /// The same for people.
    pub text: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Epoch under which this node holds the group, or held it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// State before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// State after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why, as a code of docs/notify.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Name of the other machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Name of the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// When it was noticed, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The same in milliseconds since 1970, by the clock on the wall.
    pub unix_ms: u64,
    /// Events before this one that no program was told of, since too many waited.
    pub lost: u64,
    /// Whether this node is where the group is to be; not told.
    #[serde(skip)]
    pub preferred: bool,
}

impl Event {
    /// Returns the variables that the program finds beside `PATH`.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("HB_EVENT", self.event.as_str().to_owned()),
            ("HB_CODE", self.code.to_owned()),
            ("HB_REASON", self.text.clone()),
            ("HB_CLUSTER", self.cluster.clone()),
            ("HB_NODE", self.node.clone()),
            ("HB_BOOT_NS", self.boot_ns.to_string()),
            ("HB_UNIX_MS", self.unix_ms.to_string()),
            ("HB_LOST", self.lost.to_string()),
        ];
        let texts = [
            ("HB_GROUP", &self.group),
            ("HB_FROM", &self.from),
            ("HB_TO", &self.to),
            ("HB_PEER", &self.peer),
            ("HB_LINK", &self.link),
        ];
        all.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
        all.extend(self.cause.map(|cause| ("HB_CAUSE", cause.to_owned())));
        all.extend(self.epoch.map(|epoch| ("HB_EPOCH", epoch.to_string())));
        all
    }

    /// Returns what the program reads on its standard input: one line.
    ///
    /// # Errors
    ///
    /// None that a text could cause.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self).map(|line| line + "\n")
    }

    /// Returns the arguments after those of the file; `None` if such a program is not called for this.
    ///
    /// Those of keepalived (keepalived.conf(5), `notify`): `INSTANCE`, name of the group, `MASTER`, `BACKUP`,
    /// `FAULT` or `STOP`, and a priority: 100 where the group is preferred, else 90.
    #[must_use]
    pub fn arguments(&self, form: NotifyForm) -> Option<Vec<String>> {
        match form {
            NotifyForm::Hb => Some(Vec::new()),
            NotifyForm::Keepalived => {
                let group = self.group.clone()?;
                let state = self.keepalived()?.to_owned();
                let priority = if self.preferred { "100" } else { "90" };
                Some(vec!["INSTANCE".to_owned(), group, state, priority.to_owned()])
            }
        }
    }

    /// Returns the state in which keepalived would be, if it told of this.
    fn keepalived(&self) -> Option<&'static str> {
        if self.event != Kind::Group {
            return None;
        }
        match (self.code, self.to.as_deref()) {
            ("failed" | "blocked" | "unfit" | "no_path", _) => Some("FAULT"),
            ("state", Some("serving")) => Some("MASTER"),
            ("state", Some("idle")) if self.cause == Some("leaving") => Some("STOP"),
            ("state", Some("idle" | "released")) | ("fit" | "path" | "cleared", _) => {
                Some("BACKUP")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::notify) fn event() -> Event {
        Event {
            event: Kind::Group,
            code: "state",
            text: "b died: silence".to_owned(),
            cluster: "pair".to_owned(),
            node: "a".to_owned(),
            group: Some("web".to_owned()),
            epoch: Some(0x1_0000_0201),
            from: Some("starting".to_owned()),
            to: Some("serving".to_owned()),
            cause: Some("holder_died"),
            peer: None,
            link: None,
            boot_ns: 7,
            unix_ms: 9,
            lost: 0,
            preferred: true,
        }
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let json: serde_json::Value = serde_json::from_str(&event().json().unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "event": "group", "code": "state", "text": "b died: silence", "cluster": "pair",
                "node": "a", "group": "web", "epoch": 0x1_0000_0201_u64, "from": "starting",
                "to": "serving", "cause": "holder_died", "boot_ns": 7, "unix_ms": 9, "lost": 0,
            })
        );
        let names: Vec<_> = event().variables().into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"HB_GROUP") && !names.contains(&"HB_PEER"), "{names:?}");
    }

    #[test]
    fn keepalived_is_told_of_what_it_knows() {
        let with = |code, to: &str, cause| Event {
            code,
            to: Some(to.to_owned()),
            cause: Some(cause),
            ..event()
        };
        for (event, state) in [
            (with("state", "serving", "holder_died"), Some("MASTER")),
            (with("state", "starting", "holder_died"), None),
            (with("state", "released", "moved"), Some("BACKUP")),
            (with("state", "idle", "lost"), Some("BACKUP")),
            (with("state", "idle", "leaving"), Some("STOP")),
            (with("no_path", "", ""), Some("FAULT")),
            (Event { event: Kind::Peer, ..event() }, None),
        ] {
            let told = event.arguments(NotifyForm::Keepalived);
            assert_eq!(told.as_ref().map(|all| all[2].as_str()), state, "{event:?}");
            if let Some(all) = told {
                assert_eq!([&all[0], &all[1], &all[3]], ["INSTANCE", "web", "100"]);
            }
            assert_eq!(event.arguments(NotifyForm::Hb), Some(Vec::new()));
        }
    }
}
