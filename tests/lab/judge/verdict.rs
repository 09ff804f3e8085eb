//! What the judge makes of what it saw: plain functions over departures.

use std::{collections::BTreeMap, fmt};

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
    /// Newest epoch that the node had held when it read the question; 0 for none.
    pub epoch: u64,
    /// When its question was sent.
    pub asked: BootTime,
}

/// A claim of a service address, in ARP or as a Neighbor Advertisement, that left a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeClaim {
    /// When it came out of the node's port.
    pub at: BootTime,
    /// The node, known by its port.
    pub node: Machine,
}

/// All that left the nodes.
#[derive(Clone, Debug, Default)]
pub struct Departures {
    /// Answers.
    pub answers: Vec<Departure>,
    /// Claims.
    pub claims: Vec<NodeClaim>,
}

/// Which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An answer left a node under an epoch, after another node had answered under that epoch or
    /// a higher one.
    Order,
    /// A node claimed a service address while another one had answered under an epoch that the
    /// claiming node did not reach with its next answer either.
    Claim,
    /// A question that was asked before another node began to serve was answered by a node that had
    /// served before that one and did so again: work of epoch e in e + 2.
    Stale,
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
    /// Under which epoch, for a claim that of the node's next answer.
    pub epoch: u64,
    /// The answer of the other node that makes it a breach.
    pub after: Departure,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.rule {
            Rule::Order => "answered",
            Rule::Claim => "claimed a service address",
            Rule::Stale => "answered an old question",
        };
        write!(
            f,
            "{} {what} under epoch {:#x}, {:.3} ms after {} had answered under epoch {:#x}",
            self.node,
            self.epoch,
            self.at.ns().saturating_sub(self.after.at.ns()) as f64 / 1e6,
            self.after.node,
            self.after.epoch
        )
    }
}

/// What is known of one node while its departures are read in order of time.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its answer under the highest epoch so far, the first of that epoch.
    highest: Option<Departure>,
    /// First answer under each epoch.
    first: BTreeMap<u64, Departure>,
}

/// Returns every violation, in order of time. The departures must be in that order.
#[must_use]
pub fn violations(seen: &Departures) -> Vec<Violation> {
    let mut known = vec![Known::default(); NODES.len()];
    let mut found = Vec::new();
    let mut claims = seen.claims.iter().copied().peekable();
    let mut waiting: Vec<(NodeClaim, Departure)> = Vec::new();
    for &answer in &seen.answers {
        while let Some(claim) = claims.next_if(|claim| claim.at <= answer.at) {
            if let Some(after) = known[place(claim.node.peer())].highest {
                waiting.push((claim, after));
            }
        }
        // A node's epochs only grow: had it held at a higher epoch when it claimed, then its next
        // answer would say so.
        waiting.retain(|&(claim, after)| {
            if claim.node != answer.node {
                return true;
            }
            if answer.epoch <= after.epoch {
                let (at, node, epoch) = (claim.at, claim.node, answer.epoch);
                found.push(Violation { rule: Rule::Claim, at, node, epoch, after });
            }
            false
        });
        let other = &known[place(answer.node.peer())];
        let own = &known[place(answer.node)];
        let breach = |rule, after| Violation {
            rule,
            at: answer.at,
            node: answer.node,
            epoch: answer.epoch,
            after,
        };
        if let Some(after) = other.highest.filter(|after| answer.epoch <= after.epoch) {
            found.push(breach(Rule::Order, after));
        } else if let Some((_, &after)) = other.first.range(..answer.epoch).next_back()
            && after.at > answer.asked
            && own.first.range(..after.epoch).next().is_some()
        {
            found.push(breach(Rule::Stale, after));
        }
        let own = &mut known[place(answer.node)];
        own.first.entry(answer.epoch).or_insert(answer);
        if own.highest.is_none_or(|highest| answer.epoch > highest.epoch) {
            own.highest = Some(answer);
        }
    }
    found.sort_by_key(|violation| violation.at);
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

/// Returns who answered when, shortened to stretches.
#[must_use]
pub fn stretches(answers: &[Departure]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for &answer in answers {
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

/// Returns the longest time without an answer of any node between `from` and `to`, in nanoseconds.
#[must_use]
pub fn longest_silence(answers: &[Departure], from: BootTime, to: BootTime) -> u64 {
    let within = answers.iter().map(|answer| answer.at).filter(|&at| at > from && at < to);
    let mut longest = 0;
    let mut last = from;
    for at in within.chain([to]) {
        longest = longest.max(at.ns().saturating_sub(last.ns()));
        last = at;
    }
    longest
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
