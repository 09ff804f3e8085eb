//! The answering side: takes requests in, hands them to the daemon, writes replies out.

use std::{
    fs::{self, DirBuilder, Permissions},
    io, mem,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time,
};

use super::{LINE_BYTES, Reply, Request};

/// Connections served at a time; one more is told so and closed.
pub const MAX_CONNECTIONS: usize = 16;
/// How long a client may take to send a line or to take a reply.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the daemon may take for anything but a stop, which waits for resources.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(5);
/// How long open connections are waited for at the end.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Between two looks whether the socket's file is still there.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted, for lack of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request for the daemon, and where its answer goes.
#[derive(Debug)]
pub struct Command {
    /// What is asked; the right to ask it was checked.
    pub request: Request,
    /// Takes the answer. If the client has gone, sending fails, which is no error of the daemon.
    pub reply: oneshot::Sender<Reply>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon serves this path.
    #[error(
        "another daemon answers at {}: stop it first, or give this one another socket",
        path.display()
    )]
    InUse {
        /// Path of the socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error(
        "{} exists and is no socket: remove it, or configure another path",
        path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("the control socket {} could not be made: {what} failed", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    file: (u64, u64),
    /// Mode, user and group of the file as they were last: somebody may have changed them.
    access: (u32, u32, u32),
    /// Why a file that is gone could not be made again, as it was said last.
    said: String,
}

impl Server {
    /// Makes the socket at `path`, mode 0660, and its directory (0755) if missing. The file of a
    /// daemon that is dead is replaced.
    ///
    /// Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// If another daemon answers there, something else is in the way or the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |what| move |source| ControlError::Io { path: path.to_owned(), what, source };
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
            && !directory.exists()
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o755)))
                .map_err(failed("making its directory"))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed("binding"))?;
        let described = fs::set_permissions(path, Permissions::from_mode(0o660))
            .and_then(|()| fs::symlink_metadata(path));
        let found = described.map_err(failed("setting its mode"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: id(&found),
            access: access(&found),
            said: String::new(),
        })
    }

    /// Makes the socket anew if its file is gone, with the access it had.
    fn look(&mut self) {
        if let Ok(found) = fs::symlink_metadata(&self.path)
            && id(&found) == self.file
        {
            self.access = access(&found);
            return;
        }
        match self.again() {
            Ok(()) => {
                tracing::warn!(path = %self.path.display(), "the control socket was removed: made anew");
            }
            Err(error) => {
                let error = error.to_string();
                if error != self.said {
                    tracing::error!(
                        error,
                        "the control socket is gone: nobody can ask this daemon"
                    );
                    self.said = error;
                }
            }
        }
    }

    fn again(&mut self) -> Result<(), ControlError> {
        let mut new = Self::bind(&self.path)?;
        let (mode, user, group) = self.access;
        let source = std::os::unix::fs::chown(&self.path, Some(user), Some(group))
            .and_then(|()| fs::set_permissions(&self.path, Permissions::from_mode(mode)));
        let path = || self.path.clone();
        source.map_err(|source| ControlError::Io {
            path: path(),
            what: "giving it its owner",
            source,
        })?;
        mem::swap(&mut self.listener, &mut new.listener);
        // What is dropped then owns no file: the new one stays.
        self.file = mem::take(&mut new.file);
        self.said = String::new();
        Ok(())
    }

    /// Serves until the receiver of `commands` is dropped, and then until the replies that were
    /// given are written, for at most a fifth of a second.
    ///
    /// Dropping the future only ends the accepting.
    pub async fn serve(mut self, commands: mpsc::Sender<Command>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut looks = time::interval(LOOK);
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = looks.tick() => {
                    self.look();
                    continue;
                }
                () = commands.closed() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                turn_away(&stream);
                continue;
            };
            let commands = commands.clone();
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &commands).await {
                    tracing::debug!(%error, "a control connection ended early");
                }
                drop(place);
            });
        }
        let all = places.acquire_many(MAX_CONNECTIONS as u32);
        if time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::debug!("control connections are still open at the end");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| id(&file) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the control socket could not be removed");
        }
    }
}

/// Returns what tells a file from every other one.
fn id(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Returns who may use a file.
fn access(file: &fs::Metadata) -> (u32, u32, u32) {
    (file.mode() & 0o7777, file.uid(), file.gid())
}

/// Removes the socket of a daemon that no longer listens.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let path_buf = || path.to_owned();
    let failed = |what| move |source| ControlError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking for an old one")(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path_buf() });
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(ControlError::InUse { path: path_buf() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let path = path.display();
            tracing::info!(%path, "replacing the control socket of a daemon that is gone");
            fs::remove_file(path_buf()).map_err(failed("removing the old one"))
        }
        Err(error) => Err(failed("asking who listens on the old one")(error)),
    }
}

/// Tells one client too many, without waiting for it.
fn turn_away(stream: &UnixStream) {
    let message = format!("{MAX_CONNECTIONS} control connections are open: try again later");
    let line = encode(&Reply::Error { message });
    if let Err(error) = stream.try_write(&line) {
        tracing::debug!(%error, "a control connection too many could not be told so");
    }
}

/// Answers one request after the other until the client closes or is wrong.
async fn converse(mut stream: UnixStream, commands: &mpsc::Sender<Command>) -> io::Result<()> {
    let may_change = may_change(stream.peer_cred()?.uid());
    let mut received = BytesMut::new();
    loop {
        let read = read_line(&mut stream, &mut received);
        let line = match time::timeout(CLIENT_TIMEOUT, read).await {
            Ok(line) => line?,
            Err(_) => Line::Wrong(format!(
                "no complete request arrived within {CLIENT_TIMEOUT:?}: end it with a line feed"
            )),
        };
        let request = match line {
            Line::End => return Ok(()),
            Line::Whole(line) => serde_json::from_slice::<Request>(&line)
                .map_err(|error| format!("the request is not understood: {error}")),
            Line::Wrong(message) => Err(message),
        };
        match request {
            Ok(request) => {
                let reply = answer(request, may_change, commands).await;
                write(&mut stream, &reply).await?;
            }
            Err(message) => return write(&mut stream, &Reply::Error { message }).await,
        }
    }
}

async fn answer(request: Request, may_change: bool, commands: &mpsc::Sender<Command>) -> Reply {
    let name = request.as_str();
    if request.changes() && !may_change {
        let message = format!("only root and the daemon's own user may ask for {name}: use sudo");
        return Reply::Error { message };
    }
    let patient = request == Request::Stop;
    let asked = async {
        let (reply, answer) = oneshot::channel();
        commands.send(Command { request, reply }).await.ok()?;
        answer.await.ok()
    };
    let answered =
        if patient { Ok(asked.await) } else { time::timeout(DAEMON_TIMEOUT, asked).await };
    let message = match answered {
        Ok(Some(reply)) => return reply,
        Ok(None) => format!("the daemon ends and did not answer {name}"),
        Err(_) => {
            format!("the daemon did not answer {name} within {DAEMON_TIMEOUT:?}: see its log")
        }
    };
    Reply::Error { message }
}

/// Returns whether the user `uid` may change something: root, or who the daemon runs as.
fn may_change(uid: libc::uid_t) -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    uid == 0 || uid == unsafe { libc::geteuid() }
}

/// What a client sent.
enum Line {
    /// Nothing more.
    End,
    /// A line.
    Whole(Bytes),
    /// Something that can be no request, and why.
    Wrong(String),
}

/// Takes the next line from what was `received`, with its line feed, and reads more until there is one.
async fn read_line(stream: &mut UnixStream, received: &mut BytesMut) -> io::Result<Line> {
    let mut searched = 0;
    loop {
        if let Some(at) = received[searched..].iter().position(|byte| *byte == b'\n') {
            return Ok(Line::Whole(received.split_to(searched + at + 1).freeze()));
        }
        searched = received.len();
        if searched >= LINE_BYTES {
            return Ok(Line::Wrong(format!("the request is longer than {LINE_BYTES} bytes")));
        }
        if stream.read_buf(&mut received.limit(LINE_BYTES - searched)).await? == 0 {
            return Ok(if received.is_empty() {
                Line::End
            } else {
                Line::Wrong("the request ends without a line feed".to_owned())
            });
        }
    }
}

async fn write(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    match time::timeout(CLIENT_TIMEOUT, stream.write_all(&encode(reply))).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no reply")),
    }
}

fn encode(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_else(|error| {
        // Only a number that JSON cannot hold could do this, and serde writes those as null.
        format!(r#"{{"reply":"error","message":"the reply cannot be written: {error}"}}"#).into()
    });
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_may_only_read_changes_nothing() {
        let (sender, mut commands) = mpsc::channel(4);
        let moved = Request::Move { group: "web".into(), node: "b".into() };
        let clear = Request::Clear { group: "web".into() };
        for request in [Request::Stop, clear, moved, Request::Confirm] {
            let Reply::Error { message } = answer(request, false, &sender).await else {
                panic!("a stranger's request was granted");
            };
            assert!(message.starts_with("only root and the daemon's own user may"), "{message}");
        }
        // Reading is for all, and is the first thing the daemon hears of.
        let daemon = tokio::spawn(async move {
            let Command { request, reply } = commands.recv().await.unwrap();
            reply.send(Reply::Pong { version: request.as_str().into() }).unwrap();
        });
        let reply = answer(Request::Status, false, &sender).await;
        assert_eq!(reply, Reply::Pong { version: "status".into() });
        daemon.await.unwrap();
    }

    #[test]
    fn root_and_the_daemons_own_user_may_change_things() {
        // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
        let own = unsafe { libc::geteuid() };
        assert!(may_change(0));
        assert!(may_change(own));
        assert!(!may_change(own + 1));
        assert!(!may_change(65_534) || own == 65_534);
    }

    #[test]
    fn a_silent_daemon_is_reported() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, _commands) = mpsc::channel(1);
            let Reply::Error { message } = answer(Request::Ping, false, &sender).await else {
                panic!("nobody answered, and yet there is an answer");
            };
            assert_eq!(message, "the daemon did not answer ping within 5s: see its log");
        });
    }
}
