//! Resources as the file describes them.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use super::Name;

/// Something to start and stop with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, unique in its group.
    pub name: Name,
    /// What it is.
    pub kind: ResourceKind,
    /// How long a start may take.
    pub start_timeout: Timeout,
    /// How long a stop may take.
    pub stop_timeout: Timeout,
    /// How long a status check may take.
    pub status_timeout: Timeout,
    /// Time between two checks while the group serves; none if it is not watched.
    pub status_interval: Option<Duration>,
    /// The file that names its process, whose end is a failure.
    pub pid_file: Option<PathBuf>,
    /// What else is looked at.
    pub checks: Vec<Check>,
}

/// Something that is looked at beside what the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub kind: CheckKind,
    /// Time between two looks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Looks in a row that have to succeed before a standby is able again.
    pub rise: u32,
    /// Looks in a row that have to fail.
    pub fall: u32,
    /// Whether it is looked at on a node that stands by, too.
    pub standby: bool,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A port takes connections.
    Tcp {
        /// Which.
        address: SocketAddr,
    },
    /// A server answers a request as it should.
    Http {
        /// What is asked for.
        url: Url,
        /// The status of the answer.
        status: u16,
        /// A text in its body.
        body: Option<String>,
    },
    /// A socket takes connections.
    Unix {
        /// Its path.
        path: PathBuf,
    },
    /// A program ends with 0.
    Exec {
        /// The program, absolute, and its arguments.
        command: Vec<String>,
    },
    /// A file was written lately.
    File {
        /// Its path.
        path: PathBuf,
        /// How long ago at most.
        max_age: Duration,
    },
}

impl fmt::Display for CheckKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address } => write!(f, "tcp {address}"),
            Self::Http { url, .. } => write!(f, "http {url}"),
            Self::Unix { path } => write!(f, "unix {}", path.display()),
            Self::Exec { command } => write!(f, "exec {}", command.join(" ")),
            Self::File { path, .. } => write!(f, "file {}", path.display()),
        }
    }
}

/// What to ask a server of HTTP for. It has an address and no name, since to look one up may take any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Of the server.
    pub address: SocketAddr,
    /// Path and query, with the first `/`.
    pub path: String,
}

impl Url {
    /// Reads `http://ADDRESS[:PORT][/PATH]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let at = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let with_port = host.parse().ok();
        let address = with_port.or_else(|| format!("{host}:80").parse().ok())?;
        let sound = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        sound.then_some(Self { address, path })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// How long a call of a resource may take.
#[derive(Clone, Copy, Debug)]
pub enum Timeout {
    /// What the file says, or the default.
    Fixed(Duration),
    /// What the agent itself advises; the default until it was asked.
    Advised(Duration),
}

impl Timeout {
    /// Returns the time.
    #[must_use]
    pub const fn get(self) -> Duration {
        match self {
            Self::Fixed(time) | Self::Advised(time) => time,
        }
    }

    /// Takes what the agent advises, unless the file says something.
    pub fn advise(&mut self, time: Option<Duration>) {
        if let (Self::Advised(current), Some(time)) = (self, time) {
            *current = time;
        }
    }
}

/// As the file says it: two that are left to the agent are the same, whether it was asked or not.
impl PartialEq for Timeout {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => one == other,
            (Self::Advised(_), Self::Advised(_)) => true,
            _ => false,
        }
    }
}

impl Eq for Timeout {}

/// What a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// A program, called as `program VERB args..`.
    Script {
        /// Its path, absolute.
        program: PathBuf,
        /// Arguments after the verb.
        args: Vec<String>,
    },
    /// A resource agent of the Open Cluster Framework (Resource Agent API 1.1).
    Ocf {
        /// Whose it is: the directory below `resource.d`.
        provider: String,
        /// What it manages: the file in that directory.
        agent: String,
        /// Its instance parameters, by name.
        params: Vec<(String, String)>,
        /// How thorough a check is (`OCF_CHECK_LEVEL`).
        check_level: u32,
    },
    /// An init script (Linux Standard Base Core 5.0, section 22.2), called as `program VERB`.
    Lsb {
        /// Its path, absolute.
        program: PathBuf,
    },
    /// A resource script of Heartbeat, called as `script args.. VERB`.
    Heartbeat {
        /// Its name.
        script: String,
        /// Arguments before the verb.
        args: Vec<String>,
    },
}

impl ResourceKind {
    /// Returns the word of the file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Script { .. } => "script",
            Self::Ocf { .. } => "ocf",
            Self::Lsb { .. } => "lsb",
            Self::Heartbeat { .. } => "heartbeat",
        }
    }
}

/// The word of the file and the agent: `ocf:heartbeat:Dummy`, `heartbeat:IPaddr`, `script`.
impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Ocf { provider, agent, .. } => write!(f, ":{provider}:{agent}"),
            Self::Heartbeat { script, .. } => write!(f, ":{script}"),
            Self::Script { .. } | Self::Lsb { .. } => Ok(()),
        }
    }
}
