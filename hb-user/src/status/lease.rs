//! A group's lease: may its packets pass here, by whose word, and to whom this node gave its own.

use serde::{Deserialize, Serialize};

use super::{GroupState, GroupStatus, Page, span};

/// This node's permission to serve a group, and its own vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Whether packets of the group's addresses may pass here now.
    pub open: bool,
    /// How long the lease lasts from now; absent without one, and for one without an end.
    pub ends_in_us: Option<u64>,
    /// How long ago it ran out, while this node holds and has none.
    pub ended_us_ago: Option<u64>,
    /// Whether it ends with this node's daemon and not before.
    pub endless: bool,
    /// Length of a lease that is asked for.
    pub length_us: u64,
    /// Votes that are needed, this node's own included; 1 if no promises are asked for.
    pub needed: u8,
    /// The voters, this node first; empty if no promises are asked for.
    pub votes: Vec<Vote>,
    /// To whom this node gave its vote.
    pub promised: Option<Promise>,
}

/// A voter, as its word stands here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Its name.
    pub voter: String,
    /// Whether its promise to this node runs.
    pub given: bool,
    /// How long that promise counts from now; absent for this node's own vote.
    pub ends_in_us: Option<u64>,
}

/// A promise that this node gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// To whom.
    pub node: String,
    /// For which epoch.
    pub epoch: u64,
    /// How long it binds from now; absent for one without an end.
    pub ends_in_us: Option<u64>,
    /// Whether the holder has given the group up since.
    pub released: bool,
}

/// Writes a group's lease below its verdict.
pub(super) fn lines(page: &mut Page, group: &GroupStatus) {
    let Some(lease) = &group.lease else { return };
    if group.state == GroupState::Holding {
        page.line(&format!("    {}", held(lease)));
    }
    if lease.votes.is_empty() {
        return;
    }
    if matches!(group.state, GroupState::Holding | GroupState::Seeking) {
        page.line(&format!("    votes ({} of {} needed): {}", lease.needed, lease.votes.len(), {
            let votes: Vec<_> = lease.votes.iter().map(vote).collect();
            votes.join(", ")
        }));
    }
    if let Some(Promise { node, epoch, ends_in_us, released }) = &lease.promised {
        let released = if *released { ", which released it" } else { "" };
        page.line(&match ends_in_us {
            Some(us) => format!(
                "    this node's vote: promised to {node}{released}, epoch {epoch}, for {}",
                span(*us)
            ),
            None => format!(
                "    this node's vote: promised to {node}{released}, epoch {epoch}, WITHOUT END"
            ),
        });
    }
}

fn held(lease: &LeaseStatus) -> String {
    match lease {
        LeaseStatus { open: true, endless: true, .. } => {
            "lease: for as long as this daemon lives".to_owned()
        }
        LeaseStatus { open: true, ends_in_us: Some(us), length_us, .. } => {
            format!("lease: for {} more, of {}", span(*us), span(*length_us))
        }
        LeaseStatus { endless: true, .. } => "NO LEASE: this daemon is too old".to_owned(),
        LeaseStatus { ended_us_ago: Some(us), .. } => {
            format!("NO LEASE: it ran out {} ago, nothing passes the gate", span(*us))
        }
        _ => "NO LEASE: nothing passes the gate".to_owned(),
    }
}

fn vote(vote: &Vote) -> String {
    match vote {
        Vote { voter, given: true, ends_in_us: Some(us) } => format!("{voter} {}", span(*us)),
        Vote { voter, given: true, ends_in_us: None } => voter.clone(),
        Vote { voter, given: false, .. } => format!("{voter} NONE"),
    }
}
