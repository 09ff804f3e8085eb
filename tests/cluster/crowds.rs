//! A service address with so many connections that ending them takes long.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use lab::{
    addresses::{Link, Machine, VIP4, VIP6},
    config::Settings,
};

use super::support::{Cluster, both_vips, slow, wait_for};

/// Connections of one listener: each client has a port of its own.
const EACH: u16 = 30_000;
const FIRST_PORT: u16 = 20_000;

/// Makes a TCP socket of the family of `from`, bound to it.
fn socket(from: SocketAddr) -> OwnedFd {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    with(from, |address, length| {
        // SAFETY: the address outlives the call, and its length is given.
        unsafe { libc::bind(fd, address, length) }
    });
    socket
}

fn connect(socket: &OwnedFd, to: SocketAddr) {
    with(to, |address, length| {
        // SAFETY: the address outlives the call, and its length is given.
        unsafe { libc::connect(socket.as_raw_fd(), address, length) }
    });
}

/// Calls with `at` as the kernel wants it.
fn with(at: SocketAddr, call: impl Fn(*const libc::sockaddr, libc::socklen_t) -> libc::c_int) {
    let code = match at {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            call((&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            };
            call((&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        }
    };
    assert_eq!(code, 0, "{at}: {}", std::io::Error::last_os_error());
}

/// Closes a connection without a word to the other end, which keeps it.
fn vanish(socket: OwnedFd) {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option is an integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            length,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    drop(socket);
}

/// Opens [`EACH`] connections to each service address, which nobody accepts and nobody ends.
fn crowd(cluster: &Cluster, node: Machine) -> Vec<TcpListener> {
    let netns = cluster.lab.netns(node);
    netns.sysctl("core/somaxconn", &EACH.to_string()).unwrap();
    netns.sysctl("ipv4/tcp_max_syn_backlog", &EACH.to_string()).unwrap();
    let mut listeners = Vec::new();
    for (vip, port, any, own) in [
        (IpAddr::from(VIP4), 7795, "0.0.0.0", IpAddr::from(Machine::Client.v4(Link::Client))),
        (IpAddr::from(VIP6), 7796, "::", IpAddr::from(Machine::Client.v6())),
    ] {
        let any: IpAddr = any.parse().unwrap();
        let listener = netns.enter(|| TcpListener::bind((any, port)).unwrap()).unwrap();
        // SAFETY: plain system call on a descriptor that is open.
        let again = unsafe { libc::listen(listener.as_raw_fd(), i32::from(EACH)) };
        assert_eq!(again, 0, "{}", std::io::Error::last_os_error());
        listeners.push(listener);
        let client = cluster.lab.netns(Machine::Client);
        let connect_all = || {
            for number in 0..EACH {
                let socket = socket((own, FIRST_PORT + number).into());
                connect(&socket, (vip, port).into());
                vanish(socket);
            }
        };
        client.enter(connect_all).unwrap();
    }
    listeners
}

/// They are no failure, and the node can hold again once they are ended.
#[test]
fn a_node_with_sixty_thousand_connections_gives_the_group_away_and_can_have_it_back() {
    let settings = Settings { policy: "witness".into(), resource: false, ..slow() };
    let mut cluster = Cluster::up(settings);
    let listeners = crowd(&cluster, Machine::A);
    let moved = cluster.ask(Machine::A, &["move", "web", "b"]);
    assert!(moved.status.success(), "{moved:?}");
    let ended = wait_for("the end of the connections", || {
        let status = cluster.lab.status(Machine::A).ok()?;
        let group = &status["groups"][0];
        assert_ne!(group["health"], "failed", "{group:#}");
        cluster.logged(Machine::A, "open work ended").last().cloned()
    });
    assert!(ended["connections"].as_u64().unwrap() >= 2 * u64::from(EACH), "{ended}");
    assert!(cluster.logged(Machine::A, "open work not ended").is_empty());
    cluster.wait_until_serving(Machine::B);
    cluster.kill(Machine::B);
    cluster.wait_until_alone(Machine::A);
    drop(listeners);

    // A node that leaves ends them as well, with its gate.
    let listeners = crowd(&cluster, Machine::A);
    cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    cluster.lab.daemon_mut(Machine::A).unwrap().wait(Duration::from_secs(40)).unwrap();
    assert_eq!(both_vips().intersection(&cluster.vips(Machine::A)).count(), 0);
    assert!(!cluster.lab.pins(Machine::A).exists());
    drop(listeners);
}
