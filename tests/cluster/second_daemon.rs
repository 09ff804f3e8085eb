//! Two daemons of one node; a daemon that is gone; strangers at the control socket.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use lab::addresses::{Machine, NODES, VIP4};

use super::{
    holders::Watch,
    support::{Cluster, slow},
};

#[test]
fn a_second_daemon_of_a_node_is_refused_and_disturbs_nothing() {
    let mut cluster = Cluster::up(slow());
    let watch = Watch::start(&cluster);
    let client = cluster.client(VIP4.into());
    for node in NODES {
        let config = cluster.lab.files().config.clone();
        let pid = cluster.lab.daemon(node).unwrap().pid();
        let incarnation = cluster.status(node)["incarnation"].clone();
        for verb in [&["run"][..], &["detach"]] {
            let arguments = ["--config", config.to_str().unwrap(), "--node", node.name()];
            let output = cluster.hb(node, &[verb, &arguments].concat());
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{verb:?}: {text}");
            assert!(text.contains(&format!("process {pid}")), "{verb:?}: {text}");
        }
        assert_eq!(cluster.status(node)["incarnation"], incarnation);
    }
    cluster.wait_until_serving(Machine::A);
    watch.finish().assert_never(Machine::B);
    let gap = client.finish().unwrap().longest_gap().unwrap();
    assert!(gap < Duration::from_millis(200), "{gap:?}");
}

#[test]
fn a_daemon_that_is_gone_is_reported_and_what_it_left_can_be_removed() {
    let mut cluster = Cluster::up(slow());
    cluster.kill(Machine::B);
    for verb in ["status", "stop"] {
        let output = cluster.ask(Machine::B, &[verb]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{verb}: {text}");
        let socket = cluster.lab.socket(Machine::B);
        assert!(text.contains(socket.to_str().unwrap()), "{verb}: {text}");
        assert!(text.contains("hb run"), "what to do is not said: {text}");
    }
    assert!(cluster.lab.pins(Machine::B).exists());
    let config = cluster.lab.files().config.clone();
    let arguments = ["detach", "--config", config.to_str().unwrap(), "--node", "b"];
    let output = cluster.hb(Machine::B, &arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"detached\n");
    assert!(!cluster.lab.pins(Machine::B).exists());
    for interface in ["eth0", "eth1"] {
        assert_eq!(cluster.xdp_mode(Machine::B, interface), None);
    }
    let output = cluster.hb(Machine::B, &arguments);
    assert_eq!(output.stdout, b"nothing was attached\n");
    cluster.wait_for(Machine::A, "b is dead", |status| status["peers"][0]["life"] == "dead");
    cluster.lab.start_daemon(Machine::B).unwrap();
    cluster.wait_until_serving(Machine::A);
}

#[test]
fn rubbish_on_the_control_socket_is_answered_and_forgotten() {
    let mut cluster = Cluster::up(slow());
    let path = cluster.lab.socket(Machine::A);
    let long = vec![b'x'; 100_000];
    let cases: [&[u8]; 7] = [
        b"\n",
        b"status\n",
        b"{\"request\":\"reboot\"}\n",
        b"{\"request\":\"clear\"}\n",
        b"\xff\xfe\x00\n",
        b"{\"request\":\"sta",
        &long,
    ];
    for case in cases {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // A daemon that has read enough closes; what it said before is there all the same.
        let _ = stream.write_all(case);
        let _ = stream.shutdown(Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply).into_owned();
        assert!(
            reply.contains("\"reply\":\"error\""),
            "{:?}: {reply}",
            &case[..case.len().min(40)]
        );
    }
    // Connections that say nothing do not keep others out for ever.
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    drop(idle);
    cluster.wait_until_serving(Machine::A);
    assert!(cluster.logged(Machine::B, "peer died").is_empty());
    let status = cluster.status(Machine::B);
    assert_eq!(status["peers"][0]["controller"]["alive"], true);
}
