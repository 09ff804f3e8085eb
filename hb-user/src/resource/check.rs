//! Checks of a resource beside its agent's own: by a connection, a request, a program, the age of a file.
//!
//! Connections, requests and files are looked at by the daemon itself, without a process. A check that does
//! not end within its timeout has failed.

mod http;
mod tally;

use std::{fs, io, path::PathBuf, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    task::{self, JoinHandle},
    time::{self, MissedTickBehavior},
};

use self::tally::Tally;
use super::{
    Order, Place, ResourceError, Verb,
    call::{Call, Ended, Stdout, environment},
};
use crate::{
    clock,
    config::{Check, CheckKind, Readable},
};

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no answer within {}", Readable(*.0))]
    Late(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it sent no HTTP/1 response: {0}")]
    NoHttp(String),
    #[error("status {found} in the place of {wanted}")]
    Status { found: u16, wanted: u16 },
    #[error("{0:?} is not in the first {most} bytes of the body", most = http::BODY_MOST)]
    Body(String),
    #[error("it was written {} ago", Readable(*.0))]
    Old(Duration),
    #[error("the look before has not ended yet")]
    Hangs,
    #[error("{0}")]
    Program(#[from] ResourceError),
    #[error("exit code {code}{}", .said.as_ref().map_or_else(String::new, |said| format!(" (it said: {said})")))]
    Exit { code: i32, said: Option<String> },
}

/// One check of a resource on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Name of the resource.
    pub resource: String,
    /// Where its programs run.
    pub place: Place,
    /// What is looked at, and how often.
    pub check: Check,
}

/// What has to outlive a look.
#[derive(Default)]
struct Looks {
    /// A file that hangs, on a network for instance: nobody can end that.
    file: Option<JoinHandle<io::Result<fs::Metadata>>>,
}

impl Probe {
    /// Looks until the check has failed as often in a row as it may; returns what failed and how. Dropping
    /// the future ends a program that runs.
    pub async fn until_failed(&self, order: &Order) -> String {
        self.follow(order, Tally::new(true, self.check.rise, self.check.fall), |verdict| {
            verdict.err()
        })
        .await
    }

    /// Looks for ever, and tells each time when the verdict is another one: the first look gives the first.
    pub async fn watch(&self, order: &Order, mut tell: impl FnMut(Result<(), String>)) {
        let tally = Tally::unknown(self.check.rise, self.check.fall);
        let told = |verdict| {
            tell(verdict);
            None::<()>
        };
        self.follow(order, tally, told).await;
    }

    async fn follow<T>(
        &self,
        order: &Order,
        mut tally: Tally,
        mut tell: impl FnMut(Result<(), String>) -> Option<T>,
    ) -> T {
        let mut looks = Looks::default();
        let mut interval = time::interval(self.check.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let seen = match time::timeout(self.check.timeout, self.look(order, &mut looks)).await {
                Ok(seen) => seen,
                Err(_) => Err(CheckError::Late(self.check.timeout)),
            };
            if !tally.note(seen.is_ok()) {
                continue;
            }
            let verdict = seen.map_err(|error| {
                format!("resource {}: check {} failed: {error}", self.resource, self.check.kind)
            });
            if let Some(done) = tell(verdict) {
                return done;
            }
        }
    }

    async fn look(&self, order: &Order, looks: &mut Looks) -> Result<(), CheckError> {
        match &self.check.kind {
            CheckKind::Tcp { address } => {
                let stream = TcpStream::connect(address).await?;
                // A port would be taken for a minute by each look that ends in order.
                Ok(stream.set_zero_linger()?)
            }
            CheckKind::Unix { path } => {
                UnixStream::connect(path).await?;
                Ok(())
            }
            CheckKind::Http { url, status, body } => http::get(url, *status, body.as_deref()).await,
            CheckKind::File { path, max_age } => looks.file(path.clone(), *max_age).await,
            CheckKind::Exec { command } => self.run(command, order).await,
        }
    }

    async fn run(&self, command: &[String], order: &Order) -> Result<(), CheckError> {
        let Some((program, args)) = command.split_first() else { return Ok(()) };
        let call = Call {
            resource: &self.resource,
            group: &self.place.group,
            verb: Verb::Check,
            program: program.as_ref(),
            args: args.iter().map(String::as_str).collect(),
            variables: environment(&self.resource, Verb::Check, &self.place, order),
            timeout: self.check.timeout,
            stdout: Stdout::Kept,
        };
        let Ended { code, last_line: said, .. } = call.run().await?;
        if code == 0 { Ok(()) } else { Err(CheckError::Exit { code, said }) }
    }
}

impl Looks {
    async fn file(&mut self, path: PathBuf, most: Duration) -> Result<(), CheckError> {
        let look = match self.file.take() {
            Some(before) if !before.is_finished() => {
                self.file = Some(before);
                return Err(CheckError::Hangs);
            }
            _ => task::spawn_blocking(move || fs::metadata(path)),
        };
        // Kept where this future is dropped because it takes too long.
        let file = self.file.insert(look);
        let metadata = file.await.map_err(io::Error::other)?;
        self.file = None;
        let age = clock::since(metadata?.modified()?);
        if age <= most { Ok(()) } else { Err(CheckError::Old(age)) }
    }
}

#[cfg(test)]
mod tests;
