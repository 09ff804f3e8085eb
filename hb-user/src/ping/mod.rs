//! Asks other machines whether they hear this one.
//!
//! A ping group is asked all the time. The neighbourhood of an interface is asked only while nobody knows
//! whose fault a silent link is. By echo requests (RFC 792, page 14; RFC 4443, section 4.1); a ping group
//! may want its targets asked for their link-layer addresses instead.

mod arp;
mod echo;
mod neighbours;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hb_ebpf::time::BootTime;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use self::echo::{is_reply, request};
use crate::{
    clock,
    config::{Name, PingGroup, PingMethod, index_of},
    id::NodeId,
};

pub(crate) use neighbours::ask_around;

/// Ping groups that are asked.
#[derive(Debug, Default)]
pub(crate) struct Pings(Vec<Asked>);

/// One of them. Its tasks end with it.
#[derive(Debug)]
struct Asked {
    name: Name,
    interval: Duration,
    deadping: Duration,
    interface: String,
    answers: Answers,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Pings {
    /// Begins to ask `groups`, each behind its interface of the node `me`, by tasks of `background`.
    pub(crate) fn start(groups: &[PingGroup], me: NodeId, background: &Handle) -> Self {
        let now = clock::now();
        // Each target its own: a socket hears everybody until it is connected.
        let mut identifiers = (1..).map(|number: u16| identifier().wrapping_add(number));
        let asked = groups.iter().filter_map(|group| {
            let interface = group.interface(me)?.as_str().to_owned();
            let answers = Answers::new(group.targets.len(), now);
            let tasks = group.targets.iter().enumerate().map(|(index, target)| {
                let (interface, answers) = (interface.clone(), answers.clone());
                let target = Target {
                    address: *target,
                    interface,
                    method: group.method,
                    identifier: identifiers.next().unwrap_or_default(),
                };
                let interval = group.interval;
                background.spawn(async move {
                    target.ask(interval, || answers.note(index, clock::now())).await;
                })
            });
            let tasks = tasks.collect();
            let (name, interval, deadping) = (group.name.clone(), group.interval, group.deadping);
            Some(Asked { name, interval, deadping, interface, answers, tasks })
        });
        Self(asked.collect())
    }

    /// Returns the longest time between two requests behind `interface`: so much later may another node
    /// notice that nobody answers any more.
    pub(crate) fn interval(&self, interface: &str) -> Duration {
        let asked = self.0.iter().filter(|asked| asked.interface == interface);
        asked.map(|asked| asked.interval).max().unwrap_or_default()
    }

    /// Returns what to tell people of the groups behind `interface` of which no target answers.
    pub(crate) fn unreached(&self, interface: &str, now: BootTime) -> Option<String> {
        let asked = self.0.iter().find(|asked| {
            let silence = now.since(asked.answers.newest());
            asked.interface == interface && silence >= asked.deadping
        })?;
        let name = &asked.name;
        Some(format!("no target of ping group {name} answers on {interface}"))
    }
}

/// When each target of a group answered last; at first, when it was asked first.
#[derive(Clone, Debug)]
struct Answers(Arc<[AtomicU64]>);

impl Answers {
    fn new(targets: usize, now: BootTime) -> Self {
        Self((0..targets).map(|_| AtomicU64::new(now.0)).collect())
    }

    fn note(&self, target: usize, now: BootTime) {
        if let Some(last) = self.0.get(target) {
            last.store(now.0, Ordering::Relaxed);
        }
    }

    fn newest(&self) -> BootTime {
        let all = self.0.iter().map(|last| last.load(Ordering::Relaxed));
        BootTime(all.max().unwrap_or(u64::MAX))
    }
}

/// Who is asked, and how.
struct Target {
    address: IpAddr,
    interface: String,
    method: PingMethod,
    /// Of echo requests.
    identifier: u16,
}

impl Target {
    /// Asks it for ever.
    async fn ask(&self, interval: Duration, answered: impl Fn()) {
        let (target, interface) = (self.address, &self.interface);
        let mut sequence = 0u16;
        loop {
            sequence = sequence.wrapping_add(1);
            let next = Instant::now() + interval;
            match timeout(interval, self.ask_once(sequence)).await {
                Ok(Ok(())) => answered(),
                Ok(Err(error)) => tracing::debug!(%target, interface, %error, "not asked"),
                Err(_) => tracing::debug!(%target, interface, "no answer"),
            }
            sleep_until(next).await;
        }
    }

    /// Asks it once, and waits until it answers. By a socket for each request: the interface may be another
    /// one of the same name.
    async fn ask_once(&self, sequence: u16) -> io::Result<()> {
        let Self { address: target, interface, method, identifier } = self;
        match (method, target) {
            (PingMethod::Icmp, _) => {
                let socket = open(*target, interface)?;
                socket.get_ref().connect(&address(*target, interface)?.into())?;
                socket.get_ref().send(&request(*target, *identifier, sequence))?;
                reply(&socket, *target, *identifier, sequence).await
            }
            (PingMethod::Arp, IpAddr::V4(target)) => arp::ask(*target, interface).await,
            (PingMethod::Arp, IpAddr::V6(target)) => arp::solicit(*target, interface).await,
        }
    }
}

/// Waits for a reply to a request of that number, of whomever the socket hears.
async fn reply(
    socket: &AsyncFd<Socket>,
    target: IpAddr,
    identifier: u16,
    sequence: u16,
) -> io::Result<()> {
    answer(socket, |packet| is_reply(target, packet, identifier, sequence)).await
}

/// Waits for a packet that is one of those.
async fn answer(socket: &AsyncFd<Socket>, is_one: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let mut ready = socket.readable().await?;
        let received = ready.try_io(|socket| io::Read::read(&mut socket.get_ref(), &mut buffer));
        if let Ok(received) = received
            && is_one(&buffer[..received?])
        {
            return Ok(());
        }
    }
}

/// What tells the requests of this process from those of others.
fn identifier() -> u16 {
    std::process::id() as u16
}

/// Opens a socket for echo requests to `target` by `interface`. Raw, since those for everybody are for
/// the groups of `net.ipv4.ping_group_range` only, in which root need not be (icmp(7)).
fn open(target: IpAddr, interface: &str) -> io::Result<AsyncFd<Socket>> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    registered(socket)
}

/// Has the runtime watch a socket that does not block.
fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket is this one until it is dropped, and is dropped after its registration.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// Returns where to send what is for `target`; a link-local address needs the interface (RFC 4007).
fn address(target: IpAddr, interface: &str) -> io::Result<SocketAddr> {
    let mut address = SocketAddr::new(target, 0);
    if let SocketAddr::V6(v6) = &mut address {
        v6.set_scope_id(index_of(interface));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_that_answers_is_enough() {
        let at = |seconds: u64| BootTime(seconds * 1_000_000_000);
        let answers = Answers::new(3, at(10));
        assert_eq!(answers.newest(), at(10), "silence counts from the first request");
        answers.note(1, at(20));
        answers.note(0, at(15));
        assert_eq!(answers.newest(), at(20));
        answers.note(7, at(30));
        assert_eq!(answers.newest(), at(20), "a target that is not there");
    }

    #[test]
    fn an_interface_leads_nowhere_once_a_group_behind_it_was_silent_for_deadping() {
        let at = |ms: u64| BootTime(1_000_000_000 + ms * 1_000_000);
        let asked = |name: &str, interface: &str, deadping| Asked {
            name: Name::new(name).unwrap(),
            interval: Duration::from_millis(deadping / 3),
            deadping: Duration::from_millis(deadping),
            interface: interface.to_owned(),
            answers: Answers::new(2, at(0)),
            tasks: Vec::new(),
        };
        let pings = Pings(vec![
            asked("routers", "eth0", 300),
            asked("clients", "eth0", 600),
            asked("elsewhere", "eth1", 3000),
        ]);
        assert_eq!(pings.unreached("eth0", at(299)), None);
        let silent = |name| Some(format!("no target of ping group {name} answers on eth0"));
        assert_eq!(pings.unreached("eth0", at(300)), silent("routers"));
        assert_eq!(pings.unreached("eth1", at(2999)), None);
        pings.0[0].answers.note(1, at(400));
        assert_eq!(pings.unreached("eth0", at(599)), None);
        assert_eq!(pings.unreached("eth0", at(600)), silent("clients"), "each group has to answer");
        assert_eq!(pings.interval("eth0"), Duration::from_millis(200));
        assert_eq!(pings.interval("eth2"), Duration::ZERO);
        assert_eq!(pings.unreached("eth2", at(9000)), None);
    }

    #[tokio::test]
    async fn a_machine_that_is_there_answers_and_one_that_is_not_does_not() {
        // Only root opens raw sockets; what an ordinary user sees is the error.
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let target =
                Target { address, interface: "lo".into(), method: PingMethod::Icmp, identifier: 5 };
            match timeout(Duration::from_secs(5), target.ask_once(7)).await.unwrap() {
                Ok(()) => {}
                Err(error) => assert!(
                    error.raw_os_error() == Some(libc::EPERM) || address.is_ipv6(),
                    "{error}"
                ),
            }
            // Whose interface has no such addresses cannot be asked for them.
            let target = Target { method: PingMethod::Arp, ..target };
            timeout(Duration::from_secs(5), target.ask_once(8)).await.unwrap().unwrap_err();
        }
    }
}
