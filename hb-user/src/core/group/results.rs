//! What became of what a group had done: by the fast path, by the addresses, by the resources.

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{Around, Group, Phase};
use crate::core::{
    action::{Action, Reason, Transition},
    facts::RecordState,
};

impl Group {
    pub(in crate::core) fn took(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if epoch.node() != self.me.0 {
            return;
        }
        let known = self.phase.held() == Some(epoch);
        match self.phase {
            Phase::Seeking => self.taken(epoch, result, now, out),
            Phase::Resuming { .. } if known => self.taken(epoch, result, now, out),
            Phase::Idle | Phase::Released { .. } if self.record.held() == Some(epoch) => {
                self.started = false;
                self.reason = Reason::FastPath;
                self.taken(epoch, result, now, out);
            }
            Phase::Idle | Phase::Released { .. } | Phase::Resuming { .. } => {
                // Lost again before this was heard.
                if result.is_ok() {
                    self.drop_again(out);
                }
            }
            Phase::Starting { .. } | Phase::Serving { .. } | Phase::Stopping { .. } => {
                self.renumber(epoch);
            }
            Phase::Dropping { .. } | Phase::Yielding { .. } => {
                self.renumber(epoch);
                self.drop_addresses(now, out);
            }
            Phase::Clearing => self.give_way(epoch, self.reason.clone(), now, out),
        }
    }

    pub(in crate::core) fn dropped(
        &mut self,
        result: Result<(), String>,
        around: &Around,
        out: &mut Vec<Action>,
    ) {
        let now = around.now;
        if !self.is_dropping() {
            return;
        }
        if let Err(error) = result {
            self.fail_to_drop(format!("removing addresses: {error}"), out);
            let retry = now.after(self.bounds.retry);
            self.deadline = Some(self.deadline.map_or(retry, |deadline| deadline.min(retry)));
            return;
        }
        if self.undropped.take().is_some() && self.failures.error().is_none() {
            out.push(Action::Log(Transition::Cleared { group: self.id() }));
        }
        let reason = self.reason.clone();
        match self.phase {
            Phase::Dropping { epoch } => {
                let successor = self.heir;
                self.go(Phase::Released { epoch, successor }, reason, now, out);
            }
            _ if self.started && self.setup.resources.is_some() => {
                self.go(Phase::Clearing, reason.clone(), now, out);
                self.stop_resources(reason, now, out);
            }
            _ => {
                self.started = false;
                self.go(Phase::Idle, reason, now, out);
            }
        }
    }

    /// Takes note that dropping goes forward, however long it takes.
    pub(in crate::core) fn still_dropping(&mut self, now: BootTime) {
        if self.is_dropping() {
            self.deadline = Some(now.after(self.bounds.drop));
        }
    }

    pub(in crate::core) fn resources_started(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        match (self.phase, result) {
            _ if epoch != self.started_in => {}
            (Phase::Starting { epoch }, Ok(())) => {
                self.go(Phase::Serving { epoch }, Reason::Done, now, out);
            }
            (Phase::Starting { .. }, Err(error)) => {
                self.fail(format!("starting resources: {error}"), now, out);
            }
            _ => {}
        }
    }

    pub(in crate::core) fn resources_stopped(
        &mut self,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if !matches!(self.phase, Phase::Stopping { .. } | Phase::Clearing) {
            return;
        }
        if let Err(error) = result {
            self.fail_for_good(format!("stopping resources: {error}"), now, out);
        }
        self.started = false;
        let reason = self.reason.clone();
        if let Phase::Stopping { epoch } = self.phase {
            self.go(Phase::Dropping { epoch }, reason, now, out);
            self.drop_addresses(now, out);
        } else {
            self.go(Phase::Idle, reason, now, out);
        }
    }

    pub(in crate::core) fn resources_failed(
        &mut self,
        error: &str,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        if matches!(self.phase, Phase::Starting { .. } | Phase::Serving { .. }) {
            self.fail(format!("running resources: {error}"), now, out);
        }
    }

    /// Takes note of whether the gate stands first: unlike a failure it goes when its cause does.
    pub(in crate::core) fn gated(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let ungated = result.err().map(|error| format!("not gated: {error}"));
        if self.ungated == ungated {
            return;
        }
        let group = self.id();
        out.push(Action::Log(match &ungated {
            Some(error) => Transition::Failed { group, error: error.clone() },
            None => Transition::Cleared { group },
        }));
        self.ungated = ungated;
    }

    pub(in crate::core) fn clear(&mut self, out: &mut Vec<Action>) {
        let undropped = self.undropped.take().is_some();
        if self.failures.clear() || undropped {
            out.push(Action::Log(Transition::Cleared { group: self.id() }));
            if self.phase.is_apart() {
                self.reason = Reason::Cleared;
            }
        }
    }

    pub(super) fn taken(
        &mut self,
        epoch: Epoch,
        result: Result<(), String>,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        self.vain = 0;
        self.record.state = RecordState::Holding;
        self.record.epoch = epoch;
        self.record.lease_end = self.record.lease_end.max(now.after(self.bounds.promise));
        if let Err(error) = result {
            self.fail(format!("adding addresses: {error}"), now, out);
            let reason = Reason::Failed(error);
            return self.release(epoch, reason, now, out);
        }
        let reason = self.reason.clone();
        let Some(bounds) = self.setup.resources else {
            return self.go(Phase::Serving { epoch }, reason, now, out);
        };
        self.started = true;
        self.started_in = epoch;
        self.go(Phase::Starting { epoch }, reason.clone(), now, out);
        self.deadline = Some(now.after(bounds.start));
        out.push(Action::StartResources { group: self.id(), epoch, reason });
    }
}
