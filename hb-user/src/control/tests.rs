//! Client and server over real sockets.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon on a thread of its own that answers what `answer` says, and notes what it was asked.
struct Daemon {
    path: PathBuf,
    asked: Arc<Mutex<Vec<Request>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _dir: TempDir,
}

impl Daemon {
    fn new(answer: impl Fn(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/hb/control");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stop, mut stopped) = oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let (socket, notes) = (path.clone(), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            block_on(async {
                let server = Server::bind(&socket).unwrap();
                ready.send(()).unwrap();
                let (sender, mut commands) = mpsc::channel(4);
                let serving = tokio::spawn(server.serve(sender));
                loop {
                    tokio::select! {
                        _ = &mut stopped => break,
                        command = commands.recv() => {
                            let Command { request, reply } = command.unwrap();
                            if let Some(answer) = answer(&request) {
                                // The client may have gone meanwhile.
                                drop(reply.send(answer));
                            }
                            notes.lock().unwrap().push(request);
                        }
                    }
                }
                drop(commands);
                serving.await.unwrap();
            });
        });
        bound.recv().unwrap();
        Self { path, asked, stop: Some(stop), thread: Some(thread), _dir: dir }
    }

    fn polite() -> Self {
        Self::new(|request| {
            Some(match request {
                Request::Ping => Reply::Pong { version: "0.1.0".into() },
                Request::Clear { group } if group == "web" => {
                    Reply::Done { message: "web may serve here again".into() }
                }
                Request::Clear { group } => Reply::Error { message: format!("no group {group}") },
                Request::Maintenance { .. } => Reply::Done { message: "as asked".into() },
                Request::RestartResources { group } => {
                    Reply::Done { message: format!("the resources of {group} are started again") }
                }
                Request::Move { group, node } => {
                    Reply::Done { message: format!("moving {group} to {node}") }
                }
                Request::Confirm => Reply::Error { message: "nothing to confirm".into() },
                Request::LoadKeys | Request::UseKey { .. } | Request::KeepKey { .. } => {
                    Reply::Done { message: "keys are as asked".into() }
                }
                Request::Status
                | Request::Reload
                | Request::Standby { .. }
                | Request::Unstandby
                | Request::Stop => Reply::Done { message: "left".into() },
            })
        })
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, PATIENCE).unwrap()
    }

    /// Sends raw bytes and returns everything that comes back until the daemon hangs up.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up before it took everything.
        drop(stream.write_all(bytes));
        let mut text = Vec::new();
        // What was not taken makes the kernel report a reset after the reply.
        drop(stream.read_to_end(&mut text));
        String::from_utf8(text).unwrap()
    }

    fn end(&mut self) {
        // Dropped, it wakes the other side as a message would.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn requests_reach_the_daemon_and_replies_come_back() {
    let daemon = Daemon::polite();
    let mut client = daemon.client();
    let pong = Reply::Pong { version: "0.1.0".into() };
    assert_eq!(client.ask(&Request::Ping).unwrap(), pong);
    let clear = |group: &str| Request::Clear { group: group.into() };
    let done = Reply::Done { message: "web may serve here again".into() };
    assert_eq!(client.ask(&clear("web")).unwrap(), done);
    let error = client.ask(&clear("db")).unwrap_err();
    assert_eq!(error.to_string(), "no group db");
    assert_eq!(client.ask(&Request::Ping).unwrap(), pong);
    client.ask(&Request::Stop).unwrap();
    assert!(matches!(client.status(), Err(ClientError::Unexpected { .. })));
    assert_eq!(
        *daemon.asked.lock().unwrap(),
        [Request::Ping, clear("web"), clear("db"), Request::Ping, Request::Stop, Request::Status]
    );
}

#[test]
fn the_protocol_is_lines_of_json_spelled_like_this() {
    let daemon = Daemon::polite();
    let mut stream = UnixStream::connect(&daemon.path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"{\"request\":\"ping\"}\n{\"request\":\"clear\",\"group\":\"web\"}\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), r#"{"reply":"pong","version":"0.1.0"}"#);
    assert_eq!(next(), r#"{"reply":"done","message":"web may serve here again"}"#);
    let mut stream = UnixStream::connect(&daemon.path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(
            b"{\"request\":\"move\",\"group\":\"web\",\"node\":\"b\"}\n{\"request\":\"confirm\"}\n",
        )
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), r#"{"reply":"done","message":"moving web to b"}"#);
    assert_eq!(next(), r#"{"reply":"error","message":"nothing to confirm"}"#);
    let asked = daemon.asked.lock().unwrap();
    let moved = Request::Move { group: "web".into(), node: "b".into() };
    assert_eq!(asked[2..], [moved, Request::Confirm]);
}

#[test]
fn nonsense_gets_a_reason_and_a_closed_connection_and_harms_nobody() {
    let daemon = Daemon::polite();
    let mut before = daemon.client();
    before.ask(&Request::Ping).unwrap();
    let long = vec![b' '; LINE_BYTES + 1];
    let deep = "[".repeat(20_000) + "\n";
    for (bytes, reason) in [
        (&b"{\"request\":\"explode\"}\n"[..], "unknown variant `explode`"),
        (b"not json\n", "the request is not understood: expected"),
        (b"{\"request\":\"clear\"}\n", "missing field `group`"),
        (b"{\"request\":\"move\",\"group\":\"web\"}\n", "missing field `node`"),
        (b"{\"request\":\"clear\",\"group\":\"web\",\"force\":1}\n", "unknown field `force`"),
        (b"\n", "the request is not understood"),
        (b"\xff\xfe\n", "the request is not understood"),
        (deep.as_bytes(), "the request is not understood"),
        (&long, "the request is longer than 65536 bytes"),
    ] {
        let text = daemon.raw(bytes);
        assert!(text.starts_with(r#"{"reply":"error","message":""#), "{text}");
        assert!(text.contains(reason), "{reason}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    before.ask(&Request::Ping).unwrap();
    assert_eq!(*daemon.asked.lock().unwrap(), [Request::Ping, Request::Ping]);
}

#[test]
fn a_request_without_its_line_feed_is_refused_when_the_client_is_done_or_silent() {
    let daemon = Daemon::polite();
    let text = |half_closed: bool| {
        let mut stream = UnixStream::connect(&daemon.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"{\"request\":\"stop\"}").unwrap();
        if half_closed {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(text(true).contains("the request ends without a line feed"));
    assert!(text(false).contains("no complete request arrived within 5s"));
    assert!(daemon.asked.lock().unwrap().is_empty());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let daemon = Daemon::polite();
    let mut held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| daemon.client()).collect();
    for client in &mut held {
        client.ask(&Request::Ping).unwrap();
    }
    let error = daemon.client().ask(&Request::Ping).unwrap_err();
    assert_eq!(error.to_string(), "16 control connections are open: try again later");

    // A place that was given back is found again, if not at once.
    held.pop();
    let until = crate::clock::now().after(PATIENCE);
    while let Err(error) = daemon.client().ask(&Request::Ping) {
        assert!(crate::clock::now() < until, "{error}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_socket_is_for_its_group_and_the_directory_for_all_to_pass() {
    let mut daemon = Daemon::polite();
    assert_eq!(mode(&daemon.path), 0o660);
    assert_eq!(mode(daemon.path.parent().unwrap()), 0o755);
    daemon.end();
    assert!(!daemon.path.exists(), "the socket outlived its daemon");
}

#[test]
fn a_living_daemons_socket_is_left_alone_and_a_dead_ones_replaced() {
    let daemon = Daemon::polite();
    let error = block_on(async { Server::bind(&daemon.path).unwrap_err() });
    let text = error.to_string();
    let wanted = format!("another daemon answers at {}", daemon.path.display());
    assert!(text.starts_with(&wanted), "{text}");
    daemon.client().ask(&Request::Ping).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    // The standard library's listener leaves its file behind, as a killed daemon does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    block_on(async {
        let server = Server::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(server);
    });
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let error = block_on(async { Server::bind(&path).unwrap_err() });
    assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_successors_socket_survives_the_end_of_its_predecessor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    block_on(async {
        let first = Server::bind(&path).unwrap();
        // Both exist at once, so the second cannot be given the inode number of the first.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let _second = Server::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
    });
}

#[test]
fn a_client_without_a_daemon_is_told_what_to_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let wanted =
        format!("no daemon answers at {}: is `hb run` running on this node?", path.display());
    assert_eq!(Client::connect(&path, PATIENCE).unwrap_err().to_string(), wanted);
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(Client::connect(&path, PATIENCE).unwrap_err().to_string(), wanted);
}

#[test]
fn silence_and_hanging_up_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path, Duration::from_millis(100)).unwrap();
    let error = client.ask(&Request::Ping).unwrap_err();
    assert!(error.to_string().contains("did not answer within 100ms"), "{error}");

    let hang_up = thread::spawn(move || {
        listener.accept().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert_ne!(stream.read(&mut [0; 100]).unwrap(), 0);
    });
    let error = Client::connect(&path, PATIENCE).unwrap().ask(&Request::Ping).unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error}");
    hang_up.join().unwrap();
}

#[test]
fn a_request_that_the_daemon_drops_is_answered_all_the_same() {
    let daemon = Daemon::new(|_| None);
    let error = daemon.client().ask(&Request::Status).unwrap_err();
    assert_eq!(error.to_string(), "the daemon ends and did not answer status");
}

#[test]
fn the_last_reply_gets_out_before_serving_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let socket = path.clone();
    let (ready, bound) = std::sync::mpsc::channel();
    let daemon = thread::spawn(move || {
        block_on(async {
            let server = Server::bind(&socket).unwrap();
            ready.send(()).unwrap();
            let (sender, mut commands) = mpsc::channel(1);
            let serving = tokio::spawn(server.serve(sender));
            let Command { request, reply } = commands.recv().await.unwrap();
            assert_eq!(request, Request::Stop);
            reply.send(Reply::Done { message: "left".into() }).unwrap();
            drop(commands);
            serving.await.unwrap();
        });
    });
    bound.recv().unwrap();
    let reply = Client::connect(&path, PATIENCE).unwrap().ask(&Request::Stop).unwrap();
    assert_eq!(reply, Reply::Done { message: "left".into() });
    daemon.join().unwrap();
}

#[test]
fn a_socket_that_is_removed_comes_back_as_it_was() {
    let daemon = Daemon::new(|_| Some(Reply::Pong { version: "1".into() }));
    let set = |mode| fs::set_permissions(&daemon.path, fs::Permissions::from_mode(mode)).unwrap();
    let mode = || fs::metadata(&daemon.path).map(|found| found.permissions().mode() & 0o777);
    let ping = || Client::connect(&daemon.path, PATIENCE)?.ask(&Request::Ping);
    // What an operator set is seen at the next look.
    set(0o666);
    thread::sleep(Duration::from_millis(1500));
    fs::remove_dir_all(daemon.path.parent().unwrap()).unwrap();
    ping().unwrap_err();
    let until = Duration::from_millis(20);
    let back = (0..500).any(|_| {
        thread::sleep(until);
        ping().is_ok()
    });
    assert!(back, "it does not come back");
    assert_eq!(mode().unwrap(), 0o666);
    // What somebody else put there is left alone.
    fs::remove_file(&daemon.path).unwrap();
    fs::write(&daemon.path, "no socket").unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(fs::read_to_string(&daemon.path).unwrap(), "no socket");
    fs::remove_file(&daemon.path).unwrap();
    assert!((0..500).any(|_| {
        thread::sleep(until);
        ping().is_ok()
    }));
}

/// Requests, and an answer.
fn lines() -> Vec<Vec<u8>> {
    let requests = [
        Request::Ping,
        Request::Move { group: "web".to_owned(), node: "b".to_owned() },
        Request::UseKey { id: 7, force: false },
    ];
    let answers = [
        Reply::Pong { version: "0.1.0".to_owned() },
        Reply::Error { message: "no \u{e9} \" group".to_owned() },
    ];
    let lines = requests.iter().map(|request| serde_json::to_vec(request).unwrap());
    lines.chain(answers.iter().map(|answer| serde_json::to_vec(answer).unwrap())).collect()
}

/// Reads a line as either side does.
fn read_line(line: &[u8]) -> Option<Request> {
    if let Ok(Reply::Status { report }) = serde_json::from_slice(line) {
        let _ = crate::status::render(&report);
    }
    let request = serde_json::from_slice::<Request>(line).ok()?;
    let _ = (request.changes(), request.as_str());
    Some(request)
}

#[test]
fn any_line_is_read() {
    crate::fuzz::holds(20_000, &lines(), read_line);
}

#[test]
fn a_panic_at_one_value_of_a_request_is_found() {
    crate::fuzz::finds(20_000, &lines(), |line| {
        assert!(!matches!(read_line(line), Some(Request::UseKey { id, .. }) if id != 7));
    });
}
