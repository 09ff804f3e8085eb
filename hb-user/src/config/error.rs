//! What is wrong with a configuration, and where.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
};

/// A place in the file; both numbers count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) position: Position,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where, unless it is about the whole file.
    pub position: Option<Position>,
    /// What is wrong, with the value, and what to do; one line.
    pub message: String,
    /// Whether it may pass with time: the host lacks something that may come yet, as at boot.
    pub passes: bool,
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
///
/// Displays one line per error: `file:line:column: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    path: PathBuf,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// Returns the file the errors are of.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the errors, at least one.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }

    /// Returns whether all of it may pass with time, so that waiting for the network is worth while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.errors.iter().all(|error| error.passes)
    }

    pub(super) fn of_file(path: &Path, message: String) -> Self {
        Self {
            path: path.to_owned(),
            errors: vec![ConfigError { position: None, message, passes: false }],
        }
    }

    /// Returns `Ok` if nothing is wrong.
    pub(super) fn unless_empty(path: &Path, mut errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort();
        errors.dedup();
        Err(Self { path: path.to_owned(), errors })
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(position) = error.position {
                write!(f, "{position}:")?;
            }
            write!(f, " {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what is wrong while a file is read, so that one run reports all of it.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, errors: RefCell::default() }
    }

    /// Returns the line and column of byte `offset`.
    pub(super) fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    pub(super) fn add(&self, position: Position, message: impl Into<String>) {
        let error =
            ConfigError { position: Some(position), message: message.into(), passes: false };
        self.errors.borrow_mut().push(error);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let problems = Problems::new("a\nüb = 1\n");
        assert_eq!(problems.position(0), Position { line: 1, column: 1 });
        let b = "a\nü".len();
        assert_eq!(problems.position(b), Position { line: 2, column: 2 });
        assert_eq!(problems.position(3), Position { line: 3, column: 1 }, "inside a character");
        assert_eq!(problems.position(1000).line, 3);
    }

    #[test]
    fn one_line_per_error() {
        let at = |line, column| Some(Position { line, column });
        let errors = vec![
            ConfigError { position: at(2, 1), message: "second".into(), passes: false },
            ConfigError { position: at(1, 5), message: "first".into(), passes: false },
            ConfigError { position: at(1, 5), message: "first".into(), passes: false },
        ];
        let errors = ConfigErrors::unless_empty(Path::new("/etc/hb/hb.toml"), errors).unwrap_err();
        assert_eq!(errors.to_string(), "/etc/hb/hb.toml:1:5: first\n/etc/hb/hb.toml:2:1: second");
    }
}
