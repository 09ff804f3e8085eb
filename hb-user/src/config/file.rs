//! The shape of the file: tables, keys and the kinds of their values.
//!
//! A [`Section`] is asked for each key it may have. What nobody asked for is an unknown key, so
//! the list of known keys cannot go stale. Errors are collected, and reading goes on with what is
//! left; an absent or ill-formed value reads as `None`.

use std::{cell::RefCell, net::IpAddr, ops::RangeInclusive, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Readable, duration,
    error::{At, Position, Problems},
    names::NameError,
    nearest::suggestion,
};

/// For how long a preferred node may have to stand by.
const FAILBACKS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);

/// One table of the file.
pub(super) struct Section<'d> {
    /// How the file writes it, such as `[timers]`.
    name: String,
    /// Where its header, or its `{`, stands.
    pub(super) position: Position,
    table: &'d DeTable<'d>,
    pub(super) problems: &'d Problems<'d>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(table: &'d DeTable<'d>, problems: &'d Problems<'d>) -> Self {
        Self::new("the file".into(), 0, table, problems)
    }

    fn new(
        name: String,
        offset: usize,
        table: &'d DeTable<'d>,
        problems: &'d Problems<'d>,
    ) -> Self {
        let position = problems.position(offset);
        Self { name, position, table, problems, asked: RefCell::default() }
    }

    /// Reports every key nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let text = key.get_ref().as_ref();
            if !asked.contains(&text) {
                let hint = suggestion(text, "known keys", asked.iter().copied());
                let message = format!("unknown key {text:?} in {}; {hint}", self.name);
                self.problems.add(self.problems.position(key.span().start), message);
            }
        }
    }

    /// Reports that `key` is missing; `hint` says what to write.
    pub(super) fn missing(&self, key: &str, hint: &str) {
        self.problems.add(self.position, format!("{key} is missing in {}; {hint}", self.name));
    }

    /// Tells whether `key` is there, and where.
    pub(super) fn has(&self, key: &'static str) -> Option<Position> {
        self.value(key).map(|value| self.at(value))
    }

    fn value(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn at(&self, value: &Spanned<DeValue<'_>>) -> Position {
        self.problems.position(value.span().start)
    }

    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'_>>, hint: &str) {
        let shown = shown(value.get_ref());
        self.problems.add(self.at(value), format!("{key} = {shown} is {hint}"));
    }

    pub(super) fn text(&self, key: &'static str) -> Option<At<&'d str>> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text, position: self.at(value) }),
            None => {
                self.wrong_kind(key, value, "no text; write it in quotes");
                None
            }
        }
    }

    pub(super) fn required_text(&self, key: &'static str, hint: &str) -> Option<At<&'d str>> {
        if self.value(key).is_none() {
            self.missing(key, hint);
        }
        self.text(key)
    }

    /// Reads a text that `check` has to accept.
    pub(super) fn checked<T>(
        &self,
        text: Option<At<&str>>,
        check: impl FnOnce(&str) -> Result<T, NameError>,
    ) -> Option<At<T>> {
        let At { value, position } = text?;
        match check(value) {
            Ok(value) => Some(At { value, position }),
            Err(error) => {
                self.problems.add(position, error.to_string());
                None
            }
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(*flag);
        }
        self.wrong_kind(key, value, "neither true nor false; write one of them, without quotes");
        None
    }

    /// Reads an integer from `least` to `most`.
    pub(super) fn integer(&self, key: &'static str, least: u32, most: u32) -> Option<At<u32>> {
        let value = self.value(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|integer| u32::from_str_radix(integer.as_str(), integer.radix()).ok());
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Some(At { value: number, position: self.at(value) }),
            None => {
                let hint = format!("no whole number from {least} to {most}; choose one of these");
                self.wrong_kind(key, value, &hint);
                None
            }
        }
    }

    /// Reads a number as it is written, `1` or `0.2`.
    pub(super) fn number(&self, key: &'static str) -> Option<At<String>> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.to_string(),
            DeValue::Integer(integer) => integer.to_string(),
            _ => {
                self.wrong_kind(key, value, "no number; write one such as 0.2, without quotes");
                return None;
            }
        };
        Some(At { value: number, position: self.at(value) })
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<At<Duration>> {
        let value = self.value(key)?;
        let DeValue::String(text) = value.get_ref() else {
            let hint = "no duration; write a number and a unit in quotes, such as \"1ms\"";
            self.wrong_kind(key, value, hint);
            return None;
        };
        match duration::parse(text) {
            Ok(duration) => Some(At { value: duration, position: self.at(value) }),
            Err(error) => {
                self.problems.add(self.at(value), format!("{key}: {error}"));
                None
            }
        }
    }

    /// Reads for how long a preferred node has to stand by before it gets a group back; `Some(None)` for never.
    pub(super) fn failback(&self, key: &'static str) -> Option<Option<Duration>> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Boolean(flag) => return Some(flag.then_some(Duration::ZERO)),
            DeValue::String(text) => text,
            _ => "",
        };
        let Some(after) = text.strip_prefix("after ") else {
            let hint = "neither true nor false, which are written without quotes, nor such as \"after 5m\"";
            self.wrong_kind(key, value, hint);
            return None;
        };
        match duration::parse(after) {
            Ok(after) if FAILBACKS.contains(&after) => return Some(Some(after)),
            Ok(after) => {
                let message = format!(
                    "{key} = \"after {}\" is out of range; give {} to {}",
                    Readable(after),
                    Readable(*FAILBACKS.start()),
                    Readable(*FAILBACKS.end())
                );
                self.problems.add(self.at(value), message);
            }
            Err(error) => self.problems.add(self.at(value), format!("{key}: {error}")),
        }
        None
    }

    /// Reads one of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let chosen = choices.iter().find(|(word, _)| *word == text.value);
        if chosen.is_none() {
            self.unknown_choice(key, text, choices.iter().map(|(word, _)| *word));
        }
        chosen.map(|(_, choice)| *choice)
    }

    /// Reports a word that is none of `choices`.
    pub(super) fn unknown_choice<'c>(
        &self,
        key: &str,
        text: At<&str>,
        choices: impl IntoIterator<Item = &'c str> + Clone,
    ) {
        let hint = suggestion(text.value, "choose one of", choices);
        self.problems.add(text.position, format!("{key} = {:?} is unknown; {hint}", text.value));
    }

    pub(super) fn ip(&self, text: Option<At<&str>>) -> Option<At<IpAddr>> {
        let At { value, position } = text?;
        match value.parse() {
            Ok(address) => Some(At { value: address, position }),
            Err(_) => {
                let message = format!(
                    "{value:?} is no IP address; write one such as \"192.0.2.1\" or \
                     \"2001:db8::1\", without prefix, port or zone"
                );
                self.problems.add(position, message);
                None
            }
        }
    }

    /// Reads a list of texts; absent is empty.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<At<&'d str>>> {
        let Some(value) = self.value(key) else { return Some(Vec::new()) };
        let list = value.get_ref().as_array().and_then(|array| {
            let text = |value: &'d Spanned<DeValue<'d>>| {
                Some(At { value: value.get_ref().as_str()?, position: self.at(value) })
            };
            array.iter().map(text).collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            self.wrong_kind(key, value, "no list of texts; write it as [\"one\", \"two\"]");
        }
        list
    }

    fn child(&self, name: &str, value: &'d Spanned<DeValue<'d>>) -> Option<Self> {
        let table = value.get_ref().as_table()?;
        Some(Self::new(name.to_owned(), value.span().start, table, self.problems))
    }

    /// Reads the table `key`, written `name`.
    pub(super) fn section(&self, key: &'static str, name: &str) -> Option<Self> {
        let value = self.value(key)?;
        let child = self.child(name, value);
        if child.is_none() {
            self.wrong_kind(key, value, &format!("no table; write it as {name}"));
        }
        child
    }

    /// Reads the tables `key`, each written `name`.
    pub(super) fn sections(&self, key: &'static str, name: &str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let children = value
            .get_ref()
            .as_array()
            .and_then(|array| array.iter().map(|value| self.child(name, value)).collect());
        children.unwrap_or_else(|| {
            self.wrong_kind(key, value, &format!("no list of tables; write each as {name}"));
            Vec::new()
        })
    }

    /// Reads the tables within this one, whose keys are the file's to choose, and with which this
    /// table is read to its end.
    pub(super) fn entries(self) -> Vec<(At<&'d str>, Option<Self>)> {
        let entry = |(key, value): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let text: &'d std::borrow::Cow<'d, str> = key.get_ref();
            let key =
                At { value: text.as_ref(), position: self.problems.position(key.span().start) };
            let name = format!(
                "{}.{}",
                self.name.trim_end_matches("NAME]").trim_end_matches('.'),
                key.value
            ) + "]";
            let child = self.child(&name, value);
            if child.is_none() {
                self.wrong_kind(key.value, value, &format!("no table; write it as {name}"));
            }
            (key, child)
        };
        self.table.iter().map(entry).collect()
    }

    /// Reads the texts, whole numbers and truth values of this table, whose keys are the file's to
    /// choose, as they would be written without quotes. With that the table is read to its end.
    pub(super) fn scalars(self) -> Vec<(At<&'d str>, Option<String>)> {
        let scalar = |(key, value): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let text: &'d std::borrow::Cow<'d, str> = key.get_ref();
            let key =
                At { value: text.as_ref(), position: self.problems.position(key.span().start) };
            let value = match value.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                DeValue::Integer(integer) if integer.radix() == 10 => Some(integer.to_string()),
                DeValue::Boolean(flag) => Some(flag.to_string()),
                _ => {
                    self.wrong_kind(key.value, value, "no text; write it in quotes");
                    None
                }
            };
            (key, value)
        };
        self.table.iter().map(scalar).collect()
    }

    /// Reads `key` as a text for all, or as a table of texts by a name of the file's choice.
    pub(super) fn text_or_map(&self, key: &'static str) -> Option<TextOrMap<'d>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            return self.text(key).map(TextOrMap::Text);
        };
        let mut map = Vec::new();
        for (name, value) in table {
            let text = value.get_ref().as_str();
            if text.is_none() {
                self.wrong_kind(name.get_ref(), value, "no text; write it in quotes");
            }
            let name = At {
                value: name.get_ref().as_ref(),
                position: self.problems.position(name.span().start),
            };
            map.push((name, text.map(|text| At { value: text, position: self.at(value) })));
        }
        Some(TextOrMap::Map(self.at(value), map))
    }
}

/// A text for all, or one for each.
pub(super) enum TextOrMap<'d> {
    Text(At<&'d str>),
    /// Where the table is, its keys, and their texts where they have one.
    Map(Position, Vec<(At<&'d str>, Option<At<&'d str>>)>),
}

/// Shows a value as it may stand in the file, or what it is if it is long.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "[..]".into(),
        DeValue::Table(_) => "{..}".into(),
    }
}
