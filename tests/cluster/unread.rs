//! Work accepted under one epoch is not answered under a later one: connections to a service
//! address end with the lease.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use lab::{
    addresses::{Machine, SERVICE_PORT, VIP4},
    client::Pace,
    clock,
    responder::{Datagram, Order},
};
use zerocopy::IntoBytes;

use super::support::{Cluster, PATIENCE, slow};

/// An answer that comes at all comes within this.
const WHILE: Duration = Duration::from_millis(500);

/// A connection of the client to the service, with a question in it.
fn ask(cluster: &Cluster) -> TcpStream {
    let mut stream = cluster
        .lab
        .netns(Machine::Client)
        .enter(|| TcpStream::connect_timeout(&(VIP4, SERVICE_PORT).into(), PATIENCE).unwrap())
        .unwrap();
    stream.set_read_timeout(Some(WHILE)).unwrap();
    stream.write_all(Datagram::default().as_bytes()).unwrap();
    stream
}

/// Returns whether an answer comes.
fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = [0; size_of::<Datagram>()];
    stream.read_exact(&mut answer).is_ok()
}

fn order(cluster: &mut Cluster, order: Order) {
    cluster.lab.responder_mut(Machine::A).unwrap().order(order).unwrap();
}

#[test]
fn a_question_left_unread_is_answered_as_long_as_the_node_holds() {
    let mut cluster = Cluster::up(slow());
    order(&mut cluster, Order::Hold);
    let mut stream = ask(&cluster);
    assert!(!is_answered(&mut stream));
    order(&mut cluster, Order::Read);
    assert!(is_answered(&mut stream));
}

#[test]
fn a_question_left_unread_over_takeover_and_failback_is_never_answered() {
    let mut cluster = Cluster::up(slow());
    let epoch = cluster.epoch(Machine::A);
    order(&mut cluster, Order::Hold);
    let mut stream = ask(&cluster);
    // The kernel has taken the question before the lease ends.
    thread::sleep(Duration::from_millis(50));

    let client = cluster.lab.client(Pace { limit: PATIENCE * 4, ..Pace::default() }).unwrap();
    let frozen = cluster.lab.signal(Machine::A, libc::SIGSTOP).unwrap();
    assert!(client.wait_for_answer(Machine::B, frozen, PATIENCE));
    cluster.lab.signal(Machine::A, libc::SIGCONT).unwrap();
    cluster.wait_until_serving(Machine::B);
    client.finish().unwrap();

    cluster.lab.signal(Machine::B, libc::SIGTERM).unwrap();
    cluster.wait_for_end(Machine::B);
    cluster.wait_for(Machine::A, "it holds", |status| {
        let group = &status["groups"][0];
        group["state"] == "holding" && group["health"] == "healthy"
    });
    assert!(cluster.epoch(Machine::A) > epoch);
    let back = clock::now();
    order(&mut cluster, Order::Read);
    assert!(
        !is_answered(&mut stream),
        "answered {:?} after the failback",
        clock::now().since(back)
    );
    // A new question is.
    assert!(is_answered(&mut ask(&cluster)));
}
