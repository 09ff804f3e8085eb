//! What the judge makes of what it saw: plain functions over departures.
//!
//! Epochs order the holdings of one group as long as both nodes go by one file. Once a file was
//! changed, an address may be in another group on each of them, and what is left is the order of time:
//! between two departures of one holding, nothing leaves the other node.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use hb_ebpf::time::BootTime;

use super::place;
use crate::addresses::{Machine, NODES};

/// An answer of the service that left a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// When it came out of the node's port.
    pub at: BootTime,
    /// The node, known by its port.
    pub node: Machine,
    /// The service address that answered.
    pub address: IpAddr,
    /// Newest epoch that the node had held when it read the question; 0 for none.
    pub epoch: u64,
    /// When its question was sent.
    pub asked: BootTime,
}

/// What else left a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A claim of a service address, in ARP or as a Neighbor Advertisement.
    Claim,
    /// Any other packet with a service address as its source.
    Data,
}

/// A packet of a service address that left a node and does not say under which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it came out of the node's port.
    pub at: BootTime,
    /// The node, known by its port.
    pub node: Machine,
    /// The service address.
    pub address: IpAddr,
    /// What it is.
    pub what: What,
}

/// All that left the nodes.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    /// Answers.
    pub answers: Vec<Departure>,
    /// What says no epoch.
    pub packets: Vec<Packet>,
    /// Addresses that are of one group each, and so have epochs in common. All are, if there is none.
    pub lines: Vec<Vec<IpAddr>>,
    /// When which machine got another configuration, in order of time.
    pub edits: Vec<(BootTime, Machine)>,
}

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An answer left a node under an epoch, after another node had answered under that epoch or
    /// a higher one.
    Order,
    /// A node answered in a holding in which it had answered already, and another node had in between.
    Return,
    /// A node claimed a service address while another one held it: that one had answered under an
    /// epoch that the claiming node did not reach with its next answer either, or answered in the same
    /// holding before and after.
    Claim,
    /// Any other packet left a service address so.
    Data,
    /// A question that was asked before another node began to serve was answered by a node that had
    /// served before that one and did so again: work of epoch e in e + 2.
    Stale,
}

impl From<What> for Rule {
    fn from(what: What) -> Self {
        match what {
            What::Claim => Self::Claim,
            What::Data => Self::Data,
        }
    }
}

/// A breach of the invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// When what broke it left.
    pub at: BootTime,
    /// Which node that was.
    pub node: Machine,
    /// From which address.
    pub address: IpAddr,
    /// Under which epoch; for a packet that says none, that of the node's next answer, else of its
    /// last one, or 0.
    pub epoch: u64,
    /// The answer of the other node that makes it a breach.
    pub after: Departure,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.rule {
            Rule::Order => "answered",
            Rule::Return => "went on to answer",
            Rule::Claim => "claimed the address",
            Rule::Data => "sent a packet",
            Rule::Stale => "answered an old question",
        };
        write!(
            f,
            "{} {what} for {} under epoch {:#x}, {:.3} ms after {} had answered under epoch {:#x}",
            self.node,
            self.address,
            self.epoch,
            self.at.ns().saturating_sub(self.after.at.ns()) as f64 / 1e6,
            self.after.node,
            self.after.epoch
        )
    }
}

/// What a node held: how often its configuration had changed by then, and the epoch.
type Holding = (usize, u64);

impl Departures {
    /// Returns in which holding an answer left.
    fn holding(&self, answer: &Departure) -> Holding {
        let edits = self.edits.iter();
        let before = edits.filter(|(at, node)| *node == answer.node && *at <= answer.at);
        (before.count(), answer.epoch)
    }

    /// Returns the part of it that is of some addresses.
    fn of(&self, line: &[IpAddr]) -> Self {
        Self {
            answers: self.answers.iter().filter(|a| line.contains(&a.address)).copied().collect(),
            packets: self.packets.iter().filter(|p| line.contains(&p.address)).copied().collect(),
            lines: Vec::new(),
            edits: self.edits.clone(),
        }
    }

    /// Returns the parts in which epochs say who came later; each address alone where the files may
    /// differ.
    fn lines(&self) -> Vec<Self> {
        if !self.edits.is_empty() {
            let mut all: Vec<_> = self.answers.iter().map(|answer| answer.address).collect();
            all.sort_unstable();
            all.dedup();
            return all.into_iter().map(|address| self.of(&[address])).collect();
        }
        if self.lines.is_empty() {
            return vec![self.clone()];
        }
        self.lines.iter().map(|line| self.of(line)).collect()
    }
}

/// Returns every violation, in order of time. The departures must be in that order.
#[must_use]
pub fn violations(seen: &Departures) -> Vec<Violation> {
    let mut found = Vec::new();
    for line in seen.lines() {
        if line.edits.is_empty() {
            found.extend(by_epoch(&line));
        } else {
            found.extend(by_return(&line));
        }
        for violation in between(&line) {
            let known = |v: &Violation| {
                (v.rule, v.at, v.node) == (violation.rule, violation.at, violation.node)
            };
            if !found.iter().any(known) {
                found.push(violation);
            }
        }
    }
    found.sort_by_key(|violation| violation.at);
    found
}

/// What is known of one node while its departures are read in order of time.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its answer under the highest epoch so far, the first of that epoch.
    highest: Option<Departure>,
    /// First answer under each epoch.
    first: BTreeMap<u64, Departure>,
}

/// Judges by the numbers of the epochs.
fn by_epoch(seen: &Departures) -> Vec<Violation> {
    let mut known = vec![Known::default(); NODES.len()];
    let mut found = Vec::new();
    let mut packets = seen.packets.iter().copied().peekable();
    let mut waiting: Vec<(Packet, Departure)> = Vec::new();
    for &answer in &seen.answers {
        while let Some(packet) = packets.next_if(|packet| packet.at <= answer.at) {
            if let Some(after) = known[place(packet.node.peer())].highest {
                waiting.push((packet, after));
            }
        }
        // A node's epochs only grow: had it held at a higher epoch when it sent, then its next answer
        // would say so.
        waiting.retain(|&(packet, after)| {
            if packet.node != answer.node {
                return true;
            }
            if answer.epoch <= after.epoch {
                let Packet { at, node, address, what } = packet;
                let (rule, epoch) = (what.into(), answer.epoch);
                found.push(Violation { rule, at, node, address, epoch, after });
            }
            false
        });
        let other = &known[place(answer.node.peer())];
        let own = &known[place(answer.node)];
        if let Some(after) = other.highest.filter(|after| answer.epoch <= after.epoch) {
            found.push(breach(Rule::Order, &answer, after));
        } else if let Some((_, &after)) = other.first.range(..answer.epoch).next_back()
            && after.at > answer.asked
            && own.first.range(..after.epoch).next().is_some()
        {
            found.push(breach(Rule::Stale, &answer, after));
        }
        let own = &mut known[place(answer.node)];
        own.first.entry(answer.epoch).or_insert(answer);
        if own.highest.is_none_or(|highest| answer.epoch > highest.epoch) {
            own.highest = Some(answer);
        }
    }
    found
}

const fn breach(rule: Rule, answer: &Departure, after: Departure) -> Violation {
    let &Departure { at, node, address, epoch, .. } = answer;
    Violation { rule, at, node, address, epoch, after }
}

/// Judges by who answers in turn with whom in one holding.
fn by_return(seen: &Departures) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut first: [BTreeMap<Holding, BootTime>; NODES.len()] = Default::default();
    let mut newest = [None; NODES.len()];
    for &answer in &seen.answers {
        let (own, other) = (place(answer.node), place(answer.node.peer()));
        let began = *first[own].entry(seen.holding(&answer)).or_insert(answer.at);
        if let Some(after) = newest[other].filter(|after: &Departure| after.at > began) {
            found.push(breach(Rule::Return, &answer, after));
        }
        newest[own] = Some(answer);
    }
    found
}

/// Judges what says no epoch by whether the other node answered in one holding before and after.
fn between(seen: &Departures) -> Vec<Violation> {
    let answers = |node: Machine| -> Vec<Departure> {
        seen.answers.iter().filter(|answer| answer.node == node).copied().collect()
    };
    let answers = NODES.map(answers);
    let mut found = Vec::new();
    for &Packet { at, node, address, what } in &seen.packets {
        let (own, others) = (&answers[place(node)], &answers[place(node.peer())]);
        let next = others.partition_point(|answer| answer.at <= at);
        let Some((before, after)) = others[..next].last().zip(others.get(next)) else { continue };
        if seen.holding(before) == seen.holding(after) {
            // Epochs only grow: where no answer follows, the last one before says no less.
            let follows = own.partition_point(|answer| answer.at <= at);
            let own = own.get(follows).or_else(|| own[..follows].last());
            let epoch = own.map_or(0, |answer| answer.epoch);
            if seen.edits.is_empty() && epoch > before.epoch {
                // It was the other node that went on too long, and that is a breach of its own.
                continue;
            }
            let rule = what.into();
            found.push(Violation { rule, at, node, address, epoch, after: *before });
        }
    }
    found
}

/// A stretch of answers of one node under one epoch, undisturbed by the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first answer.
    pub first: Departure,
    /// When the last one left.
    pub last: BootTime,
    /// How many.
    pub count: usize,
}

/// Returns who answered for one address when, shortened to stretches.
#[must_use]
pub fn stretches(answers: &[Departure], address: IpAddr) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for &answer in answers.iter().filter(|answer| answer.address == address) {
        match found.last_mut() {
            Some(stretch)
                if stretch.first.node == answer.node && stretch.first.epoch == answer.epoch =>
            {
                stretch.last = answer.at;
                stretch.count += 1;
            }
            _ => found.push(Stretch { first: answer, last: answer.at, count: 1 }),
        }
    }
    found
}

/// Time without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// When it began.
    pub from: BootTime,
    /// How long it lasted, in nanoseconds.
    pub ns: u64,
}

/// Returns the longest time without an answer of any node for one address between `from` and `to`.
#[must_use]
pub fn longest_silence(
    answers: &[Departure],
    address: IpAddr,
    from: BootTime,
    to: BootTime,
) -> Silence {
    let answers = answers.iter().filter(|answer| answer.address == address);
    let within = answers.map(|answer| answer.at).filter(|&at| at > from && at < to);
    let mut longest = Silence { from, ns: 0 };
    let mut last = from;
    for at in within.chain([to]) {
        let ns = at.ns().saturating_sub(last.ns());
        if ns > longest.ns {
            longest = Silence { from: last, ns };
        }
        last = at;
    }
    longest
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
