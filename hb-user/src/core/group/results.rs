//! What became of what a group had done: by the fast path, by the addresses, by the resources.

use std::time::Duration;

use hb_ebpf::{epoch::Epoch, time::BootTime};

use super::{Around, Group, Phase};
use crate::core::{
    action::{Action, Reason, Transition},
    facts::RecordState,
    setup::Restarts,
};

/// Doublings of the time between two tries to stop what did not.
const MOST_DOUBLINGS: u32 = 6;

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
            Phase::Starting { .. }
            | Phase::Serving { .. }
            | Phase::Stopping { .. }
            | Phase::Blocked { .. } => self.renumber(epoch),
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
            (Phase::Starting { epoch }, Err(error)) if self.maintenance => {
                self.overlook(format!("starting resources: {error}"), out);
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
        if !self.is_stopping() {
            return;
        }
        let Err(error) = result else {
            self.failures.ended(now);
            return self.stopped(self.reason.clone(), now, out);
        };
        self.fail_for_good(format!("stopping resources: {error}"), now, out);
        if !self.blocks() {
            return self.stopped(self.reason.clone(), now, out);
        }
        if self.stop_due.is_some() {
            // The same result once more.
            return;
        }
        if let Phase::Stopping { epoch } = self.phase {
            self.go(Phase::Blocked { epoch }, self.reason.clone(), now, out);
            out.push(Action::Log(Transition::Blocked { group: self.id() }));
        }
        let doublings = self.unstopped.min(MOST_DOUBLINGS);
        self.unstopped = self.unstopped.saturating_add(1);
        self.deadline = None;
        self.stop_due = Some(now.after(self.bounds.retry.saturating_mul(1 << doublings)));
    }

    /// Goes on with giving the group up once its resources are stopped, or taken for that.
    pub(super) fn stopped(&mut self, reason: Reason, now: BootTime, out: &mut Vec<Action>) {
        self.started = false;
        self.unstopped = 0;
        match self.phase {
            Phase::Stopping { epoch } | Phase::Blocked { epoch } => {
                self.go(Phase::Dropping { epoch }, reason, now, out);
                self.drop_addresses(now, out);
            }
            _ => self.go(Phase::Idle, reason, now, out),
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Blocked { .. } | Phase::Clearing)
    }

    /// Tells whether resources could not be stopped here, and may still run.
    pub(in crate::core) fn is_unstopped(&self) -> bool {
        self.is_stopping() && self.unstopped > 0
    }

    /// Tells whether nobody else is to have the group while its resources may run here.
    pub(super) fn blocks(&self) -> bool {
        self.setup.resources.is_some_and(|resources| resources.block)
    }

    pub(in crate::core) fn resources_failed(
        &mut self,
        error: &str,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let failed = format!("running resources: {error}");
        let up = matches!(self.phase, Phase::Starting { .. } | Phase::Serving { .. });
        if self.maintenance && up {
            return self.overlook(failed, out);
        }
        match self.phase {
            Phase::Serving { epoch } => {
                let times = self.restarts(now) + 1;
                let restarts = self.setup.resources.and_then(|bounds| bounds.restarts);
                let Some(Restarts { most, window }) = restarts.filter(|all| times <= all.most)
                else {
                    return self.fail(failed, now, out);
                };
                self.restarted.retain(|at| now.since(*at) < window);
                self.restarted.push(now);
                let (group, error) = (self.id(), error.to_owned());
                out.push(Action::Log(Transition::Restarts { group, error, times, most }));
                self.restart_resources(epoch, Reason::Failed(failed), now, out);
            }
            Phase::Starting { .. } => self.fail(failed, now, out),
            _ => {}
        }
    }

    fn overlook(&mut self, error: String, out: &mut Vec<Action>) {
        if self.overlooked.as_ref() != Some(&error) {
            let group = self.id();
            out.push(Action::Log(Transition::Overlooked { group, error: error.clone() }));
            self.overlooked = Some(error);
        }
    }

    /// Maintenance is wanted, or is not. When it is over, what was stopped or died meanwhile is started.
    pub(in crate::core) fn maintain(&mut self, wanted: bool, now: BootTime, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.maintenance, wanted) == wanted {
            return;
        }
        let group = self.id();
        out.push(Action::Log(Transition::Maintenance { group, begins: wanted }));
        self.overlooked = None;
        match (self.phase, self.setup.resources) {
            (Phase::Serving { epoch }, Some(bounds)) if !wanted => {
                let reason = Reason::Maintained;
                self.go_starting(epoch, reason.clone(), bounds.start, now, out);
                out.push(Action::StartResources { group, epoch, reason });
            }
            // What was armed before may have begun, and nobody here has heard of it yet.
            (phase, _) if wanted && phase.is_apart() => out.push(Action::GiveUp { group }),
            _ => {}
        }
    }

    /// Stops the resources and starts them again, where they run.
    pub(in crate::core) fn restart(&mut self, now: BootTime, out: &mut Vec<Action>) {
        if let Phase::Serving { epoch } = self.phase {
            self.restart_resources(epoch, Reason::Restart, now, out);
        }
    }

    fn restart_resources(
        &mut self,
        epoch: Epoch,
        reason: Reason,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        let Some(bounds) = self.setup.resources else { return };
        self.go_starting(epoch, reason.clone(), bounds.stop + bounds.start, now, out);
        out.push(Action::RestartResources { group: self.id(), epoch, reason });
    }

    /// Resources are about to start in this epoch, and to have started within `longest`.
    fn go_starting(
        &mut self,
        epoch: Epoch,
        reason: Reason,
        longest: Duration,
        now: BootTime,
        out: &mut Vec<Action>,
    ) {
        self.started = true;
        self.started_in = epoch;
        self.go(Phase::Starting { epoch }, reason, now, out);
        self.deadline = Some(now.after(longest));
    }

    /// Returns how often the resources were started again here after a failure, within the window that counts.
    pub(in crate::core) fn restarts(&self, now: BootTime) -> u32 {
        let window = self.setup.resources.and_then(|bounds| bounds.restarts).map(|all| all.window);
        let counts = |at: &&BootTime| window.is_some_and(|window| now.since(**at) < window);
        self.restarted.iter().filter(counts).count().try_into().unwrap_or(u32::MAX)
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

    /// Takes note of whether what the group needs here is well: no failure, and gone when its cause is.
    pub(in crate::core) fn fit(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let unfit = result.err();
        if self.unfit == unfit {
            return;
        }
        let group = self.id();
        match &unfit {
            Some(error) if self.unfit.is_none() => {
                out.push(Action::Log(Transition::Unfit { group, error: error.clone() }));
            }
            Some(_) => {}
            None => out.push(Action::Log(Transition::Fit { group })),
        }
        self.unfit = unfit;
    }

    pub(in crate::core) fn clear(&mut self, now: BootTime, out: &mut Vec<Action>) {
        self.restarted.clear();
        let undropped = self.undropped.take().is_some();
        if self.failures.clear() || undropped {
            out.push(Action::Log(Transition::Cleared { group: self.id() }));
            if self.phase.is_apart() {
                self.reason = Reason::Cleared;
            }
        }
        if self.is_unstopped() {
            // The operator says that nothing runs.
            self.stopped(Reason::Cleared, now, out);
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
        self.go_starting(epoch, reason.clone(), bounds.start, now, out);
        out.push(Action::StartResources { group: self.id(), epoch, reason });
    }
}
