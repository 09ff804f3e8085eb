//! What a packet costs in the kernel's programs: every kind of packet beside a program that does
//! nothing, in turns.

use std::{cell::RefCell, time::Duration};

use crate::{
    bpf::{Counted, Hook, Program, Statistics, XDP_DROP, XDP_PASS, XDP_TX},
    cable::{Cable, INTERFACE},
    half::Half,
    packets::{self, MY_MAC, MY_V4, MY_V6, PEER_MAC, PEER_V4, PEER_V6, VIP_V4, VIP_V6},
    stand_in::StandIn,
};
use anyhow::{Context, Result, ensure};
use hb_ebpf::{
    maps::Transport,
    refusal::Refusal,
    wire::{Be16, Be32, Frame, Kind},
};
use hb_user::{
    clock,
    link::{Ends, LinkSocket},
};

/// Loopback, which every namespace has.
const LOOPBACK: u32 = 1;
/// `TCX_NEXT` and `TC_ACT_SHOT` (`linux/bpf.h`, `linux/pkt_cls.h`).
const TCX_NEXT: u32 = u32::MAX;
const SHOT: u32 = 2;
/// How the heartbeats that are repeated arrive.
const TRANSPORT: Transport = Transport::Udp4;

/// A packet that leaves itself and the program's state as they are, so that it can be repeated.
pub struct Case {
    /// What it is.
    pub name: String,
    /// Which of the figures it belongs to.
    pub class: Class,
    /// Where its program is attached.
    pub hook: Hook,
    program: Program,
    packet: Packet,
    verdict: u32,
}

enum Packet {
    /// Good for ever.
    Lasting(Vec<u8>),
    /// Of an earlier life of the peer: refused as such only for as long as the frame is fresh and the
    /// present life of the peer is not silent, so both are made anew for each sample.
    Earlier(Box<RefCell<StandIn>>),
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The program that does nothing.
    Empty,
    /// Neither a heartbeat nor for a service address.
    Foreign,
    /// To or from a service address.
    Gated,
    /// A heartbeat that is refused.
    Refused,
}

impl Case {
    /// Runs it `repeat` times; returns the mean.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the program does not decide about this packet as it must.
    pub fn run(&self, repeat: u32) -> Result<Duration> {
        let interface = (self.hook == Hook::Xdp).then_some(LOOPBACK);
        let earlier;
        let packet = match &self.packet {
            Packet::Lasting(packet) => packet,
            Packet::Earlier(peer) => {
                let peer = &mut *peer.borrow_mut();
                live_on(peer, &self.program)?;
                let frame = changed(peer, |frame| frame.incarnation = Be32::new(1));
                earlier = packets::heartbeat(TRANSPORT, &frame);
                &earlier
            }
        };
        let run = self.program.run(packet, interface, repeat).context("a test run")?;
        ensure!(
            run.verdict == self.verdict,
            "{}: verdict {} instead of {}",
            self.name,
            run.verdict,
            self.verdict
        );
        Ok(run.each)
    }
}

/// All cases, and the kernel halves that they run in.
pub struct Cases {
    /// The cases; the empty programs first.
    pub all: Vec<Case>,
    _halves: [Half; 2],
}

impl Cases {
    /// Loads two kernel halves, one that holds its group and one that does not, and prepares a packet
    /// of every kind.
    ///
    /// # Errors
    ///
    /// What is missing, a privilege or a feature of the kernel.
    pub fn new() -> Result<Self> {
        let closed = Half::open(1, TRANSPORT, LOOPBACK, PEER_MAC)?;
        let mut open = Half::open(1, TRANSPORT, LOOPBACK, PEER_MAC)?;
        open.hold()?;
        let mut all = Vec::new();
        for hook in [Hook::Xdp, Hook::TcxIngress] {
            let name = if hook == Hook::Xdp { "empty, XDP" } else { "empty, TCX" };
            all.push(Case {
                name: name.into(),
                class: Class::Empty,
                hook,
                program: Program::empty(hook)?,
                packet: Packet::Lasting(packets::tcp4(PEER_V4, MY_V4, 64)),
                verdict: if hook == Hook::Xdp { XDP_PASS } else { TCX_NEXT },
            });
        }
        foreign(&mut all, &closed)?;
        gated(&mut all, &closed, false)?;
        gated(&mut all, &open, true)?;
        refused(&mut all, &closed)?;
        Ok(Self { all, _halves: [closed, open] })
    }

    /// Returns the empty program that belongs to a case.
    #[must_use]
    pub fn empty_for(&self, case: &Case) -> Option<&Case> {
        self.all.iter().find(|other| other.class == Class::Empty && other.hook == case.hook)
    }
}

fn foreign(all: &mut Vec<Case>, half: &Half) -> Result<()> {
    let tcp = packets::tcp4(PEER_V4, MY_V4, 64);
    for (name, packet) in [
        ("foreign: ARP", packets::arp(MY_V4)),
        ("foreign: IPv4 TCP", tcp.clone()),
        ("foreign: IPv4 TCP, 1400 bytes", packets::tcp4(PEER_V4, MY_V4, 1346)),
        ("foreign: IPv4 TCP in a VLAN", packets::tagged(&tcp)),
        ("foreign: IPv4 UDP", packets::udp4(PEER_V4, MY_V4, 64)),
        ("foreign: IPv6 TCP", packets::tcp6(PEER_V6, MY_V6, 64)),
    ] {
        all.push(Case {
            name: name.into(),
            class: Class::Foreign,
            hook: Hook::Xdp,
            program: half.program("heartbeat")?,
            packet: Packet::Lasting(packet),
            verdict: XDP_PASS,
        });
    }
    for (name, program) in
        [("foreign: TCX in", "gate_ingress"), ("foreign: TCX out", "gate_egress")]
    {
        all.push(Case {
            name: name.into(),
            class: Class::Foreign,
            hook: Hook::TcxIngress,
            program: half.program(program)?,
            packet: Packet::Lasting(tcp.clone()),
            verdict: TCX_NEXT,
        });
    }
    Ok(())
}

fn gated(all: &mut Vec<Case>, half: &Half, open: bool) -> Result<()> {
    let word = if open { "open" } else { "closed" };
    let xdp = if open { XDP_PASS } else { XDP_DROP };
    let tcx = if open { TCX_NEXT } else { SHOT };
    for (name, hook, program, packet) in [
        ("in, IPv4", Hook::Xdp, "heartbeat", packets::tcp4(PEER_V4, VIP_V4, 64)),
        ("in, IPv6", Hook::Xdp, "heartbeat", packets::tcp6(PEER_V6, VIP_V6, 64)),
        ("in, ARP request", Hook::Xdp, "heartbeat", packets::arp(VIP_V4)),
        ("in, IPv4, TCX", Hook::TcxIngress, "gate_ingress", packets::tcp4(PEER_V4, VIP_V4, 64)),
        ("out, IPv4, TCX", Hook::TcxIngress, "gate_egress", packets::tcp4(VIP_V4, PEER_V4, 64)),
        ("out, IPv6, TCX", Hook::TcxIngress, "gate_egress", packets::tcp6(VIP_V6, PEER_V6, 64)),
    ] {
        all.push(Case {
            name: format!("gate {word}: {name}"),
            class: Class::Gated,
            hook,
            program: half.program(program)?,
            packet: Packet::Lasting(packet),
            verdict: if hook == Hook::Xdp { xdp } else { tcx },
        });
    }
    Ok(())
}

/// One frame for each reason that leaves no trace but a counter.
fn refused(all: &mut Vec<Case>, half: &Half) -> Result<()> {
    let program = half.program("heartbeat")?;
    let mut peer = half.stand_in();
    let taken = live_on(&mut peer, &program)?;
    for &reason in Refusal::ALL {
        let packet = if reason == Refusal::Incarnation {
            Packet::Earlier(Box::new(RefCell::new(peer.clone())))
        } else {
            Packet::Lasting(refusable(&mut peer, &taken, reason))
        };
        all.push(Case {
            name: format!("refused: {}", reason.as_str()),
            class: Class::Refused,
            hook: Hook::Xdp,
            program: half.program("heartbeat")?,
            packet,
            verdict: XDP_DROP,
        });
    }
    Ok(())
}

/// Has the program take a probe of the peer's second life, which is then its present one.
fn live_on(peer: &mut StandIn, program: &Program) -> Result<Frame> {
    let now = clock::now();
    peer.echo = (now.ns(), now);
    let frame = changed(peer, |frame| frame.incarnation = Be32::new(2));
    let run = program.run(&packets::heartbeat(TRANSPORT, &frame), Some(LOOPBACK), 1)?;
    ensure!(run.verdict == XDP_TX, "a probe was not answered: verdict {}", run.verdict);
    Ok(frame)
}

/// A packet that is refused for `reason`, after `taken` was taken.
fn refusable(peer: &mut StandIn, taken: &Frame, reason: Refusal) -> Vec<u8> {
    /// Offsets of the hop limit and of the last byte of the source in a packet over IPv4.
    const TTL: usize = 14 + 8;
    const SOURCE: usize = 14 + 15;
    let mut frame = changed(peer, |frame| {
        frame.incarnation = Be32::new(2);
        match reason {
            Refusal::Version => frame.version = 9,
            Refusal::Kind => frame.kind = 9,
            Refusal::Source => frame.source = 65,
            Refusal::Link => {
                frame.link_fingerprint = Be32::new(!frame.link_fingerprint.get());
            }
            Refusal::KeyId => frame.key_id = 9,
            Refusal::MustUnderstand => {
                // A probe would be answered.
                frame.kind = Kind::Answer as u8;
                frame.must_understand = Be16::new(1);
            }
            _ => {}
        }
    });
    match reason {
        // Refused before the tag is looked at.
        Refusal::Replay => frame = *taken,
        Refusal::Tag => frame.tag[0] ^= 1,
        _ => {}
    }
    let mut packet = packets::heartbeat(TRANSPORT, &frame);
    match reason {
        Refusal::Length => packet.push(0),
        Refusal::Address => packet[SOURCE] ^= 1,
        Refusal::Hops => packet[TTL] = 64,
        _ => {}
    }
    packet
}

/// The next probe, changed and signed again.
fn changed(peer: &mut StandIn, change: impl FnOnce(&mut Frame)) -> Frame {
    let mut frame = peer.frame(Kind::Probe, clock::now());
    change(&mut frame);
    frame.sign(&peer.key.1);
    frame
}

/// A node at the end of a cable, to whom real frames are sent: what a program that changes state or
/// packet costs. The kernel times each run while the program is at work.
pub struct Live {
    half: Half,
    program: Program,
    empty: Program,
    peer: StandIn,
    socket: LinkSocket,
    _statistics: Statistics,
    _attached: crate::bpf::Attached,
    _cable: Cable,
}

/// Means of one batch of frames, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Of a frame in the program of the node.
    pub frame_ns: f64,
    /// Of an answer in the program at the other end, which does nothing; `None` where the frames are
    /// not answered. What is left of it is what the counting costs.
    pub empty_ns: Option<f64>,
}

impl Live {
    /// Lays a cable with a kernel half of `groups` groups at its end.
    ///
    /// # Errors
    ///
    /// What is missing: a privilege, a program or a feature of the kernel.
    pub fn new(groups: u8) -> Result<Self> {
        let cable = Cable::lay()?;
        let empty = Program::empty(Hook::Xdp)?;
        let index = cable.peers_index;
        let attached = cable.peers.enter(|| empty.attach(Hook::Xdp, index))??;
        let ends = Ends::Ethernet { own: PEER_MAC, peer: MY_MAC };
        let socket = cable.peers.enter(|| LinkSocket::open(index, ends))??;
        let index = cable.node_index;
        let half = cable.node.enter(|| -> Result<Half> {
            let mut half = Half::open(groups, Transport::Ethernet, index, PEER_MAC)?;
            half.kernel.attach(INTERFACE, index, None)?;
            Ok(half)
        })??;
        let program = half.program("heartbeat")?;
        let peer = half.stand_in();
        let statistics = Statistics::hold().context("BPF_ENABLE_STATS")?;
        Ok(Self {
            half,
            program,
            empty,
            peer,
            socket,
            _statistics: statistics,
            _attached: attached,
            _cable: cable,
        })
    }

    /// Sends `count` frames of a kind, one after the other.
    ///
    /// # Errors
    ///
    /// If one is not taken as it must be.
    pub fn batch(&mut self, kind: Kind, count: u64) -> Result<Batch> {
        let (id, link) = (self.peer.id, self.peer.link);
        let taken = |half: &Half| -> Result<u64> {
            let (_, link) = half.shared.link(id, link).context("no such link")?;
            Ok(if kind == Kind::Probe { link.answered } else { link.received })
        };
        let (before, first) = (self.counted()?, taken(&self.half)?);
        for _ in 0..count {
            let now = clock::now();
            self.peer.echo = (now.ns(), now);
            let frame = self.peer.frame(kind, now);
            self.socket.send(zerocopy::transmute_ref!(&frame)).context("cannot send a frame")?;
        }
        // The last may still be on its way.
        let end = clock::now().after(Duration::from_secs(1));
        while taken(&self.half)? < first + count && clock::now() < end {
            std::thread::yield_now();
        }
        let done = taken(&self.half)? - first;
        ensure!(done == count, "{done} of {count} frames were taken as they must be");
        let after = self.counted()?;
        let [node, empty] = [0, 1].map(|n: usize| after[n].since(before[n]));
        Ok(Batch {
            frame_ns: node.mean_ns().context("the program did not run")?,
            empty_ns: empty.mean_ns(),
        })
    }

    fn counted(&self) -> Result<[Counted; 2]> {
        Ok([self.program.counted()?, self.empty.counted()?])
    }
}
