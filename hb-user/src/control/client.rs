//! The asking side.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Reply, Request};
use crate::status::StatusReport;

/// Longest reply taken, in bytes: a report of 64 peers and 4 links each is below 1 MiB.
const REPLY_BYTES: u64 = 16 << 20;

/// A connection to the daemon of this node.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    timeout: Duration,
}

/// Why the daemon did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: is `hb run` running on this node?", path.display())]
    NoDaemon {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error(
        "the daemon's socket {} may not be opened: run as root or as a member of its group",
        path.display()
    )]
    Denied {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody listens and is silent.
    #[error(
        "the daemon at {} did not answer within {timeout:?}: it is stuck or stopped, see its log",
        path.display()
    )]
    Timeout {
        /// Path of the socket.
        path: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// It hung up.
    #[error(
        "the daemon at {} closed the connection without a reply: see its log",
        path.display()
    )]
    Closed {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The connection broke otherwise.
    #[error("the connection to the daemon at {} broke", path.display())]
    Broken {
        /// Path of the socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What it said is no reply.
    #[error(
        "the reply of the daemon at {} is not understood: are both of one version?",
        path.display()
    )]
    Malformed {
        /// Path of the socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A reply, to another question.
    #[error(
        "the daemon at {} answered something else than was asked: are both of one version?",
        path.display()
    )]
    Unexpected {
        /// Path of the socket.
        path: PathBuf,
    },
    /// It said no.
    #[error("{message}")]
    Refused {
        /// The daemon's words.
        message: String,
    },
}

impl Client {
    /// Connects to the socket at `path`; each later step waits for at most `timeout`.
    ///
    /// # Errors
    /// If nobody listens there, it may not be opened, or `timeout` is zero.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let path = path.to_owned();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(source) => {
                return Err(match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        ClientError::NoDaemon { path, source }
                    }
                    io::ErrorKind::PermissionDenied => ClientError::Denied { path, source },
                    _ => ClientError::Broken { path, source },
                });
            }
        };
        let limited = stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)));
        match limited {
            Ok(()) => Ok(Self { stream: BufReader::new(stream), path, timeout }),
            Err(source) => Err(ClientError::Broken { path, source }),
        }
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// If the daemon refuses ([`ClientError::Refused`]), is silent, hangs up or is not understood.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|source| self.malformed(source))?;
        line.push(b'\n');
        // A daemon that hung up may have said why before: so the reply is read all the same.
        let written = match self.stream.get_mut().write_all(&line) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(self.broken(error));
            }
            written => written,
        };

        line.clear();
        let mut limited = (&mut self.stream).take(REPLY_BYTES);
        if let Err(error) = limited.read_until(b'\n', &mut line) {
            return Err(self.broken(error));
        }
        if line.is_empty() || written.is_err() && !line.ends_with(b"\n") {
            return Err(ClientError::Closed { path: self.path.clone() });
        }
        match serde_json::from_slice(&line).map_err(|source| self.malformed(source))? {
            Reply::Error { message } => Err(ClientError::Refused { message }),
            reply => Ok(reply),
        }
    }

    /// Asks for the status.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<StatusReport, ClientError> {
        match self.ask(&Request::Status)? {
            Reply::Status { report } => Ok(*report),
            _ => Err(ClientError::Unexpected { path: self.path.clone() }),
        }
    }

    fn malformed(&self, source: serde_json::Error) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), source }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ClientError::Timeout { path, timeout: self.timeout }
            }
            io::ErrorKind::ConnectionReset => ClientError::Closed { path },
            _ => ClientError::Broken { path, source },
        }
    }
}
