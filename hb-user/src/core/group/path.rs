//! How well this node is placed to hold a group: whether its addresses can be reached here, what is heard
//! on their interfaces, and whether anybody at all is.

use std::time::Duration;

use hb_ebpf::{time::BootTime, wire::Standing};

use super::{Around, Group};
use crate::core::{
    action::{Action, Transition},
    evidence::Evidence,
};

impl Group {
    /// Takes note of what is wrong with an interface of the group's addresses, if anything is.
    pub(in crate::core) fn path(
        &mut self,
        error: Option<String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if let (true, Some((_, since))) = (self.interface != error, &mut self.unrouted) {
            // What the kernel took along with an interface comes back after it.
            *since = now;
        }
        self.interface = error;
        self.weigh_path(now, out);
    }

    /// Takes note of which route to neighbours of the group's addresses is missing, if any is.
    pub(in crate::core) fn route(
        &mut self,
        error: Option<String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let since = self.unrouted.as_ref().map_or(now, |(_, since)| *since);
        self.unrouted = error.map(|error| (error, since));
        self.weigh_path(now, out);
    }

    /// Returns when a missing route begins to count, if one is missing.
    pub(super) fn route_counts(&self) -> Option<BootTime> {
        self.unrouted.as_ref().map(|(_, since)| since.after(self.bounds.route_loss))
    }

    /// Tells whether there is a path to the clients, as far as is known `now`.
    pub(super) fn weigh_path(&mut self, now: BootTime, out: &mut Vec<Action>) {
        let lost = self.route_counts().is_some_and(|counts| counts <= now);
        let unrouted = self.unrouted.as_ref().filter(|_| lost).map(|(error, _)| error);
        let error = self.interface.as_ref().or(unrouted);
        if self.path.as_ref() == error {
            return;
        }
        let error = error.cloned();
        let group = self.id();
        out.push(Action::Log(match &error {
            Some(error) => Transition::NoPath { group, error: error.clone() },
            None => Transition::Path { group },
        }));
        let before = std::mem::replace(&mut self.path, error);
        if self.path.is_none() {
            self.carried_again(now, out);
        }
        self.recovering = match (&self.path, before) {
            (None, Some(error)) => Some((error, now.after(self.bounds.hold_down))),
            _ => None,
        };
    }

    /// Takes note of what is heard on the interfaces of the group's addresses.
    pub(in crate::core) fn hear(&mut self, evidence: Evidence) {
        self.evidence = evidence;
    }

    /// Compares what this node hears with what others say that they hear. Where one of them hears more,
    /// for long enough that it is no matter of who looked first, this node has no path: until it hears
    /// again, or there is nobody to compare with.
    pub(super) fn compare(&mut self, around: &Around, out: &mut Vec<Action>) {
        let group = self.id();
        let Some(error) = self.evidence.wrong().filter(|_| around.comparable) else {
            self.outdone_since = None;
            if let Some(error) = self.outdone.take() {
                out.push(Action::Log(Transition::Path { group }));
                if self.evidence.wrong().is_none() {
                    let until = around.now.after(self.bounds.hold_down);
                    self.recovering = Some((error, until));
                }
            }
            return;
        };
        if let Some(outdone) = &mut self.outdone {
            // What is known of it may be more by now.
            error.clone_into(outdone);
            return;
        }
        if !around.outheard {
            self.outdone_since = None;
            return;
        }
        let since = *self.outdone_since.get_or_insert(around.now);
        // A node that stands by had better say so too early than too late.
        let lag = if self.phase.is_apart() { Duration::ZERO } else { self.evidence.lag };
        if since.after(lag) <= around.now {
            let error = error.to_owned();
            out.push(Action::Log(Transition::NoPath { group, error: error.clone() }));
            self.outdone = Some(error);
        }
    }

    /// Returns what this node says of what it hears.
    pub(in crate::core) fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Returns why the clients do not reach the group here, as far as is known.
    pub(super) fn broken(&self) -> Option<&String> {
        self.path.as_ref().or(self.outdone.as_ref())
    }

    /// Returns why this node is not to take the group: what is wrong with its path, or was a moment
    /// ago. One that comes and goes is none to rely on.
    pub(in crate::core) fn no_path(&self, now: BootTime) -> Option<&str> {
        let recovering = self.recovering.as_ref().filter(|(_, until)| now < *until);
        self.broken().or(recovering.map(|(error, _)| error)).map(String::as_str)
    }

    /// Tells the record how well this node is placed.
    pub(super) fn place(&mut self, around: &Around, out: &mut Vec<Action>) {
        // What arrives first when a port begins to forward may be a stranger's frame.
        let over = if around.heard { around.rival.is_none() } else { around.reached };
        self.isolated = around.isolated || (self.isolated && !over);
        let standing = self
            .evidence
            .standing()
            .with(Standing::NO_PATH, self.path.is_some())
            .with(Standing::ISOLATED, self.isolated);
        if self.placed != Some(standing) {
            self.placed = Some(standing);
            out.push(Action::Place { group: self.id(), standing });
        }
    }
}
