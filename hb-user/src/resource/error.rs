//! What can go wrong with a resource, in words an operator can act on.

use std::{fmt, io, path::PathBuf, time::Duration};

use super::call::Verb;
use crate::trust::Untrusted;

/// Why an agent could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// The configured path could mean another program tomorrow.
    #[error(
        "resource {resource}: program {} is not an absolute path: write it from / on",
        program.display()
    )]
    NotAbsolute {
        /// Name of the resource.
        resource: String,
        /// The program as configured.
        program: PathBuf,
    },
    /// There is no such program.
    #[error(
        "resource {resource}: program {} does not exist: install it or correct the path",
        program.display()
    )]
    NotFound {
        /// Name of the resource.
        resource: String,
        /// The program as configured.
        program: PathBuf,
    },
    /// There is no such script where Heartbeat looks for them.
    #[error(
        "resource {resource}: there is no script {script} in {}: install it or correct the name",
        listed_paths(places)
    )]
    NoScript {
        /// Name of the resource.
        resource: String,
        /// Name of the script.
        script: String,
        /// The directories.
        places: Vec<PathBuf>,
    },
    /// The program exists; what its first line names does not.
    #[error(
        "resource {resource}: the interpreter in the first line of {} does not exist: install it \
         or correct the line",
        program.display()
    )]
    NoInterpreter {
        /// Name of the resource.
        resource: String,
        /// The program as configured.
        program: PathBuf,
    },
    /// The program exists and may not be run.
    #[error(
        "resource {resource}: program {} is not executable: run `chmod +x` on it, and look for a \
         file system mounted noexec",
        program.display()
    )]
    NotExecutable {
        /// Name of the resource.
        resource: String,
        /// The program as configured.
        program: PathBuf,
    },
    /// Somebody else may change the program.
    #[error("resource {resource}: not run")]
    Untrusted {
        /// Name of the resource.
        resource: String,
        /// Who, and how that is mended.
        source: Untrusted,
    },
    /// The kernel refused to start it for another reason.
    #[error("resource {resource}: program {} could not be run", program.display())]
    Spawn {
        /// Name of the resource.
        resource: String,
        /// The program as configured.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It said that it failed.
    #[error(
        "resource {resource}: {verb} failed with exit code {code}{}{}",
        meant(meaning),
        said(last_line)
    )]
    Exit {
        /// Name of the resource.
        resource: String,
        /// What it was asked for.
        verb: Verb,
        /// Its exit code, 1 to 255.
        code: i32,
        /// What that means, where the kind of agent has a word for it.
        meaning: Option<&'static str>,
        /// Last line it wrote to standard error.
        last_line: Option<String>,
    },
    /// A signal ended it.
    #[error("resource {resource}: {verb} was killed by signal {signal}{}", said(last_line))]
    Signal {
        /// Name of the resource.
        resource: String,
        /// What it was asked for.
        verb: Verb,
        /// Number of the signal.
        signal: i32,
        /// Last line it wrote to standard error.
        last_line: Option<String>,
    },
    /// It did not end in time and was killed with its process group.
    #[error(
        "resource {resource}: {verb} timed out after {after:?}{}: find out what it waits for, or \
         raise its timeout",
        said(last_line)
    )]
    TimedOut {
        /// Name of the resource.
        resource: String,
        /// What it was asked for.
        verb: Verb,
        /// The timeout.
        after: Duration,
        /// Last line it wrote to standard error.
        last_line: Option<String>,
    },
    /// Its end could not be waited for.
    #[error("resource {resource}: the end of {verb} could not be waited for")]
    Wait {
        /// Name of the resource.
        resource: String,
        /// What it was asked for.
        verb: Verb,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ResourceError {
    /// Returns whether nothing ran at all, so that there is nothing to undo.
    #[must_use]
    pub fn never_ran(&self) -> bool {
        match self {
            Self::NotAbsolute { .. }
            | Self::NotFound { .. }
            | Self::NoScript { .. }
            | Self::NoInterpreter { .. }
            | Self::NotExecutable { .. }
            | Self::Untrusted { .. }
            | Self::Spawn { .. } => true,
            Self::Exit { .. } | Self::Signal { .. } | Self::TimedOut { .. } | Self::Wait { .. } => {
                false
            }
        }
    }
}

fn meant(meaning: &Option<&'static str>) -> String {
    meaning.map_or_else(String::new, |meaning| format!(", {meaning}"))
}

fn listed_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

fn said(last_line: &Option<String>) -> String {
    last_line.as_ref().map_or_else(String::new, |line| format!(" (it said: {line})"))
}

/// A group that could not be started: why, and what could not be undone.
#[derive(Debug, thiserror::Error)]
#[error("group {group} could not be started: {}{}", chain(cause), left(not_stopped))]
pub struct StartError {
    /// Name of the group.
    pub group: String,
    /// What failed.
    pub cause: ResourceError,
    /// Resources that had been started and then did not stop; empty if the group is down.
    pub not_stopped: Vec<ResourceError>,
}

/// A group that could not be stopped: every resource that may still run, last of the list first.
#[derive(Debug, thiserror::Error)]
#[error("group {group} may still run here: {}", listed(errors))]
pub struct Failures {
    /// Name of the group.
    pub group: String,
    /// Why each of them could not be stopped; never empty.
    pub errors: Vec<ResourceError>,
}

fn left(errors: &[ResourceError]) -> String {
    if errors.is_empty() {
        String::new()
    } else {
        format!("; and afterwards not stopped: {}", listed(errors))
    }
}

fn listed(errors: &[ResourceError]) -> String {
    errors.iter().map(chain).collect::<Vec<_>>().join("; ")
}

/// Writes an error with its sources, which a list of errors has no other way to show.
fn chain(error: &ResourceError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
