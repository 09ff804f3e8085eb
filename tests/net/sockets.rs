//! What becomes of clients' sockets when a service address moves away.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use hb_user::{
    address::{AddressSocket, Batch, Change, Done, Vip},
    clock,
    sockets::{Sweeper, Swept, discard_unread},
};

use super::{
    allocations::allocations,
    namespace::{Namespace, PATIENCE},
};

const VIP4: &str = "10.9.0.100";
const VIP6: &str = "fd09::100";

fn vips() -> [IpAddr; 2] {
    [VIP4, VIP6].map(|ip| ip.parse().unwrap())
}

/// A holder of both service addresses, and a client.
fn holder_and_client() -> (Namespace, Namespace) {
    let (holder, client) = Namespace::pair();
    let (index, _) = holder.end("left");
    let mut batch = Batch::new();
    for ip in vips() {
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        batch.push(Change::Add, Vip::new(index, ip, prefix).unwrap()).unwrap();
    }
    let mut results = [Ok(Done::Missing); 2];
    holder.inside(|| AddressSocket::open().unwrap().execute(&batch, &mut results).unwrap());
    assert_eq!(results, [Ok(Done::Added); 2]);
    (holder, client)
}

fn sweeper(holder: &Namespace) -> Sweeper {
    holder.inside(|| Sweeper::open(&vips()).unwrap())
}

fn sweep(sweeper: &mut Sweeper) -> Swept {
    sweeper.destroy(PATIENCE)
}

fn listener(holder: &Namespace, on: &str) -> TcpListener {
    holder.inside(|| TcpListener::bind(on).unwrap())
}

fn connect(client: &Namespace, ip: &str, port: u16) -> TcpStream {
    let to = SocketAddr::new(ip.parse().unwrap(), port);
    let stream = client.inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Asks on one end and reads on the other.
fn works(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"ping").unwrap();
    let mut bytes = [0; 4];
    to.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ping");
}

fn udp(place: &Namespace, on: &str) -> UdpSocket {
    let socket = place.inside(|| UdpSocket::bind(on).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Waits until a datagram is there to be read, and leaves it there.
fn unread(socket: &UdpSocket) {
    socket.peek_from(&mut [0; 8]).unwrap();
}

fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    // An error left by the destruction is told once, before what waits.
    let first = socket.recv(&mut [0; 8]);
    let first = match first {
        Err(error) if error.kind() == ErrorKind::ConnectionAborted => socket.recv(&mut [0; 8]),
        other => other,
    };
    socket.set_nonblocking(false).unwrap();
    match first {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            true
        }
    }
}

#[test]
fn connections_to_a_service_address_end_and_no_others() {
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    // Dual: `[::]` speaks IPv4 as well, so such a connection has a mapped address.
    for (on, service, own) in [
        ("0.0.0.0:7001", VIP4, "10.9.0.1"),
        ("[::]:7002", VIP6, "fd09::1"),
        ("[::]:7003", VIP4, "10.9.0.1"),
    ] {
        let listener = listener(&holder, on);
        let port = listener.local_addr().unwrap().port();
        let mut asked = connect(&client, service, port);
        let mut accepted = accept(&listener);
        works(&mut asked, &mut accepted);
        let mut managed = connect(&client, own, port);
        let mut manager = accept(&listener);
        works(&mut managed, &mut manager);
        asked.write_all(b"unread").unwrap();

        assert_eq!(sweep(&mut sweeper), Swept { tcp: 1, udp: 0, left: None }, "{on}");
        let error = accepted.write_all(b"late answer").unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe),
            "{on}: {error}"
        );
        let error = asked.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{on}: told by the kernel's reset");
        works(&mut managed, &mut manager);
        works(&mut manager, &mut managed);

        // Nothing is left, and the listener serves on.
        assert_eq!(sweep(&mut sweeper), Swept::default(), "{on}");
        let mut again = connect(&client, service, port);
        works(&mut again, &mut accept(&listener));
        assert_eq!(sweep(&mut sweeper).tcp, 1, "{on}");
    }
}

/// A request left unread in the queue of a listener bound to the address itself.
#[test]
fn a_connection_nobody_accepted_ends_too() {
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    let listener = listener(&holder, &format!("{VIP4}:7004"));
    let mut asked = connect(&client, VIP4, 7004);
    asked.write_all(b"request").unwrap();
    assert_eq!(sweep(&mut sweeper), Swept { tcp: 1, udp: 0, left: None });
    assert_eq!(asked.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"answer").unwrap_err();
    // The listener itself is as it was.
    let mut again = connect(&client, VIP4, 7004);
    works(&mut again, &mut accept(&listener));
}

/// A connection that its program closed goes on sending what it owes, with nobody to tell it not to.
#[test]
fn an_orphan_ends_too() {
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    let listener = listener(&holder, "0.0.0.0:7005");
    let mut asked = connect(&client, VIP4, 7005);
    let mut accepted = accept(&listener);
    accepted.set_nonblocking(true).unwrap();
    // More than both ends hold, so that some is still owed.
    while accepted.write(&[7; 65536]).is_ok() {}
    drop(accepted);
    assert_eq!(sweep(&mut sweeper).tcp, 1);
    let mut bytes = Vec::new();
    let error = asked.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn many_connections_end_within_the_time_given_and_without_allocating() {
    const MANY: usize = 600;
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    let listener = listener(&holder, "[::]:7006");
    let mut kept = Vec::new();
    for _ in 0..MANY / 2 {
        for ip in [VIP4, VIP6] {
            kept.push((connect(&client, ip, 7006), accept(&listener)));
        }
    }
    let short = sweeper.destroy(Duration::ZERO);
    assert_eq!(short.left, Some(hb_user::sockets::Left::Late));
    let began = clock::now();
    let mut swept = Swept::default();
    let count = allocations(|| swept = sweep(&mut sweeper));
    let took = clock::now().since(began);
    assert_eq!(count, 0);
    assert_eq!(swept, Swept { tcp: MANY as u32, udp: 0, left: None }, "{took:?}");
    println!("{MANY} connections destroyed in {took:?}");
    let began = clock::now();
    assert_eq!(sweep(&mut sweeper), Swept::default());
    println!("nothing to destroy: {:?}", clock::now().since(began));
}

/// Why destroying is not enough for UDP: the kernel leaves what waits.
#[test]
fn datagrams_nobody_read_are_never_answered() {
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    let from = udp(&client, "[::]:0");
    let send = |ip: &str, port: u16| {
        from.send_to(b"request", SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port)).unwrap()
    };
    let bound = udp(&holder, &format!("{VIP4}:7007"));
    let bound6 = udp(&holder, &format!("[{VIP6}]:7007"));
    let any = udp(&holder, "0.0.0.0:7008");
    let dual = udp(&holder, "[::]:7009");
    let own = udp(&holder, "10.9.0.1:7007");
    let from4 = udp(&client, "0.0.0.0:0");
    for (ip, port) in [(VIP4, 7007), ("10.9.0.1", 7007), (VIP4, 7008)] {
        from4.send_to(b"request", (ip, port)).unwrap();
    }
    send(VIP6, 7007);
    send(VIP6, 7009);
    for socket in [&bound, &bound6, &any, &dual, &own] {
        unread(socket);
    }
    assert_eq!(sweep(&mut sweeper), Swept::default(), "none is connected");
    let discarded = holder.inside(|| discard_unread(&vips()).unwrap());
    assert_eq!((discarded.datagrams, discarded.left.len()), (4, 0), "{discarded:?}");
    for socket in [&bound, &bound6, &any, &dual] {
        assert!(is_empty(socket));
    }
    assert!(!is_empty(&own), "not ours to empty");
    assert_eq!(holder.inside(|| discard_unread(&vips()).unwrap()), Default::default());
}

/// Connected UDP: the kernel disconnects it, and what waited is thrown away with the rest.
#[test]
fn connected_udp_ends() {
    let (holder, client) = holder_and_client();
    let mut sweeper = sweeper(&holder);
    let server = udp(&holder, &format!("{VIP4}:7010"));
    let from = udp(&client, "0.0.0.0:0");
    from.send_to(b"hello", (VIP4, 7010)).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
    server.connect(peer).unwrap();
    let own = udp(&holder, "10.9.0.1:7011");
    own.connect(peer).unwrap();
    from.send_to(b"request", (VIP4, 7010)).unwrap();
    unread(&server);

    assert_eq!(sweep(&mut sweeper), Swept { tcp: 0, udp: 1, left: None });
    assert!(server.peer_addr().is_err(), "it is connected to nobody any more");
    assert!(own.peer_addr().is_ok());
    let discarded = holder.inside(|| discard_unread(&vips()).unwrap());
    assert_eq!(discarded.datagrams, 1, "destroying left it there");
    assert!(is_empty(&server));
}

#[test]
fn a_sweeper_of_no_address_destroys_nothing() {
    let (holder, client) = holder_and_client();
    let listener = listener(&holder, "0.0.0.0:7012");
    let mut asked = connect(&client, VIP4, 7012);
    let mut accepted = accept(&listener);
    let mut none = holder.inside(|| Sweeper::open(&[]).unwrap());
    assert_eq!(sweep(&mut none), Swept::default());
    works(&mut asked, &mut accepted);
}
