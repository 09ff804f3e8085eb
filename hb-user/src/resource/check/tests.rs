//! Each type of check against a real server, program or file.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
};

use super::*;
use crate::{config::Url, resource::tests::block_on};

const SHORT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

fn probe(kind: CheckKind) -> Probe {
    let check = Check {
        kind,
        interval: Duration::from_millis(1),
        timeout: PATIENCE,
        rise: 1,
        fall: 1,
        standby: false,
    };
    let place = Place { cluster: "lab".into(), node: "a".into(), group: "web".into() };
    Probe { resource: "svc".into(), place, check }
}

fn order() -> Order {
    Order { epoch: hb_ebpf::epoch::Epoch(0x101), reason: "test".into(), cause: None }
}

/// What one look says.
async fn look(probe: &Probe) -> Result<(), String> {
    let looked = time::timeout(probe.check.timeout, async {
        probe.look(&order(), &mut Looks::default()).await.map_err(|error| error.to_string())
    });
    looked.await.unwrap_or_else(|_| Err("late".to_owned()))
}

/// A server that reads a request and answers each with `answer`; without one it says nothing.
async fn server(answer: Option<&'static str>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    task::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let _read = stream.read(&mut request).await;
            match answer {
                Some(answer) => {
                    // In two parts: what is read first need not end where the head does.
                    let (first, second) = answer.split_at(answer.len() / 3);
                    let _sent = stream.write_all(first.as_bytes()).await;
                    task::yield_now().await;
                    let _sent = stream.write_all(second.as_bytes()).await;
                }
                None => silent.push(stream),
            }
        }
    });
    address
}

fn http(address: SocketAddr, status: u16, body: Option<&str>) -> Probe {
    let url = Url { address, path: "/health".into() };
    probe(CheckKind::Http { url, status, body: body.map(str::to_owned) })
}

#[test]
fn a_port_and_a_socket_take_connections_or_do_not() {
    block_on(async {
        let address = server(None).await;
        assert_eq!(look(&probe(CheckKind::Tcp { address })).await, Ok(()));
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = look(&probe(CheckKind::Tcp { address: free })).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let socket = probe(CheckKind::Unix { path });
        assert_eq!(look(&socket).await, Ok(()));
        drop(listener);
        assert!(look(&socket).await.is_err());
    });
}

#[test]
fn a_request_is_answered_as_wanted_or_not() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                          3\r\nrea\r\n2;x=y\r\ndy\r\n0\r\n\r\n";
    const CLOSED: &str = "HTTP/1.0 200 OK\r\n\r\nall is ready here";
    const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\n\r\nready";
    block_on(async {
        for (answer, status, body, wanted) in [
            (OK, 200, None, Ok(())),
            (OK, 200, Some("ready"), Ok(())),
            (CHUNKS, 200, Some("ready"), Ok(())),
            (CLOSED, 200, Some("ready"), Ok(())),
            (BROKEN, 500, Some("ready"), Ok(())),
            (BROKEN, 200, None, Err("status 500 in the place of 200")),
            (OK, 204, None, Err("status 200 in the place of 204")),
            (OK, 200, Some("steady"), Err("\"steady\" is not in the first 65536 bytes")),
            (CHUNKS, 200, Some("rea2"), Err("is not in the first")),
            (CLOSED, 200, Some("steady"), Err("is not in the first")),
            ("SSH-2.0-OpenSSH\r\n", 200, None, Err("it sent no HTTP/1 response")),
            ("HTTP/1.1 200 OK\r\nServer: x", 200, None, Err("it ends in its head")),
            ("", 200, None, Err("it ends in its head")),
        ] {
            let seen = look(&http(server(Some(answer)).await, status, body)).await;
            match (&seen, wanted) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) if error.contains(part) => {}
                _ => panic!("{answer:?}: {seen:?}, and not {wanted:?}"),
            }
        }
    });
}

#[test]
fn a_head_without_an_end_is_read_no_further() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        task::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _sent = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await;
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        });
        let error = look(&http(address, 200, None)).await.unwrap_err();
        assert!(error.contains("too long"), "{error}");
    });
}

#[test]
fn a_file_is_fresh_old_or_gone() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stamp");
        let fresh = probe(CheckKind::File { path: path.clone(), max_age: PATIENCE });
        assert!(look(&fresh).await.unwrap_err().contains("No such file"));
        fs::write(&path, "").unwrap();
        assert_eq!(look(&fresh).await, Ok(()));
        let old = probe(CheckKind::File { path, max_age: Duration::from_millis(10) });
        time::sleep(SHORT).await;
        assert!(look(&old).await.unwrap_err().contains("it was written"));
    });
}

#[test]
fn a_program_ends_with_0_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("check");
    fs::write(&program, "#!/bin/sh\necho \"$HB_ACTION of $HB_RESOURCE is bad\" >&2\nexit $1\n")
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let command = |args: &[&str]| {
        let program = [program.to_str().unwrap()];
        let words = program.iter().chain(args).map(|word| (*word).to_owned());
        probe(CheckKind::Exec { command: words.collect() })
    };
    block_on(async {
        assert_eq!(look(&command(&["0"])).await, Ok(()));
        let error = look(&command(&["4"])).await.unwrap_err();
        assert_eq!(error, "exit code 4 (it said: check of svc is bad)");
    });
}

#[test]
fn a_check_that_hangs_has_failed_and_says_so() {
    block_on(async {
        let mut silent = http(server(None).await, 200, None);
        silent.check.timeout = SHORT;
        let error = time::timeout(PATIENCE, silent.until_failed(&order())).await.unwrap();
        let url = &silent.check.kind;
        assert_eq!(error, format!("resource svc: check {url} failed: no answer within 100ms"));
    });
}

#[test]
fn a_failure_now_and_then_is_forgiven_and_a_row_of_them_is_not() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stamp");
        let mut probe = probe(CheckKind::File { path: path.clone(), max_age: PATIENCE });
        (probe.check.rise, probe.check.fall) = (3, 50);
        fs::write(&path, "").unwrap();
        let order = order();
        let mut failed = Box::pin(probe.until_failed(&order));
        for _ in 0..3 {
            fs::remove_file(&path).unwrap();
            let some = time::timeout(Duration::from_millis(10), &mut failed).await;
            assert!(some.is_err(), "ten are no fifty");
            fs::write(&path, "").unwrap();
            assert!(time::timeout(Duration::from_millis(10), &mut failed).await.is_err());
        }
        fs::remove_file(&path).unwrap();
        assert!(failed.await.contains("check file"));
    });
}
