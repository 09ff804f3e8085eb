//! Programs that are told what changes.

use std::{ops::RangeInclusive, time::Duration};

use super::{
    super::{Name, Notify, NotifyForm, file::Section},
    duration_within,
    resources::command,
};
use crate::notify::Kind;

/// Least and most of the time that a program may take.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// Most programs.
const MOST: usize = 8;

/// Reads them.
pub(super) fn notifies(root: &Section<'_>) -> Vec<Notify> {
    let mut all: Vec<Notify> = Vec::new();
    for (index, section) in root.sections("notify", "[[notify]]").into_iter().enumerate() {
        let position = section.position;
        if index >= MOST {
            let message = format!("this is program {}, and {MOST} are the most", index + 1);
            section.problems.add(position, message);
        }
        let Some(notify) = notify(section) else { continue };
        if all.iter().any(|known| known.name == notify.name) {
            let name = notify.name.as_str();
            root.problems.add(position, format!("notify {name:?} is there twice; rename one"));
        }
        all.push(notify);
    }
    all
}

fn notify(section: Section<'_>) -> Option<Notify> {
    let text = section.required_text("name", "give every program that is told a name of its own");
    let name = section.checked(text, Name::new);
    let command = command(&section, "/usr/local/sbin/page");
    let on = kinds(&section);
    let forms = [NotifyForm::Hb, NotifyForm::Keepalived].map(|form| (form.as_str(), form));
    let form = match section.has("form") {
        Some(_) => section.choice("form", &forms),
        None => Some(NotifyForm::default()),
    };
    let timeout = duration_within(&section, "timeout", Duration::from_secs(10), TIMEOUT);
    section.finish();
    Some(Notify { name: name?.value, command: command?, on: on?, form: form?, timeout: timeout? })
}

fn kinds(section: &Section<'_>) -> Option<Vec<Kind>> {
    let Some(position) = section.has("on") else { return Some(Kind::ALL.into()) };
    let mut kinds = Vec::new();
    for text in section.texts("on")? {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == text.value) else {
            let message = format!(
                "{:?} is nothing to tell of; write \"group\", \"peer\", \"link\" or \"node\"",
                text.value
            );
            section.problems.add(text.position, message);
            continue;
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        section.problems.add(position, "on is empty: the program is told of nothing".to_owned());
        return None;
    }
    kinds.sort_unstable();
    Some(kinds)
}
