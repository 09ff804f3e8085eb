//! What the daemon hears and sees: reports, the maps, requests.

use std::time::Duration;

use hb_ebpf::{
    maps::{Event, EventKind},
    time::BootTime,
};

use super::{Daemon, Done, log_attachment, resources::describe};
use crate::{
    clock,
    core::Input,
    fast::{EffectError, Report, Steps, Trigger},
    id::{GroupId, NodeId},
    kernel::{Attachment, Mode, NotReplaced},
    selftest::{Trial, Verdict},
};

/// How often the kernel half's own counters are looked at.
const COUNT_EVERY: Duration = Duration::from_secs(1);

impl Daemon {
    /// Says what did not go as wished at the start, and what an operator should mend.
    pub(super) fn warn_of_the_start(&self, queues: Vec<String>) {
        for queue in queues {
            tracing::warn!(queue, "packets may leave later than the leases allow for");
        }
        let running = self.fast.running();
        for refusal in &running.scheduling.refused {
            tracing::warn!(%refusal, "scheduling of the fast path");
        }
        if let Err(error) = &running.locked {
            tracing::warn!(error = describe(error), "the fast path may wait for memory");
        }
        if let Err(error) = &running.stack {
            tracing::warn!(error, "the fast path may wait for memory or timers");
        }
        let blocked = |group: &GroupId| Some(self.shared.record(*group)?.blocked_until_ns);
        let until = self.groups().iter().filter_map(blocked).max().map(BootTime);
        let wait = until.map(|until| until.since(clock::now())).filter(|wait| !wait.is_zero());
        if let (Some(wait), false) = (wait, self.controller.is_learner()) {
            tracing::info!(
                for_ms = wait.as_millis() as u64,
                "taking no part yet: what an earlier life promised may bind"
            );
        }
    }

    pub(super) fn on_report(&mut self, report: Report) {
        match report {
            Report::Event(event) => self.on_event(&event),
            Report::Sought { group } => {
                self.steer(|controller, hands| controller.on_sought(hands, group));
            }
            Report::Took { group, epoch, trigger, steps, unsent, result } => {
                let why = match trigger {
                    Trigger::Asked => None,
                    Trigger::Death(peer, cause) => Some((peer, cause.as_str())),
                    Trigger::Controller(peer) => Some((peer, "controller-dead")),
                    Trigger::Release(peer) => Some((peer, "handed-over")),
                };
                if let Some((peer, cause)) = why {
                    self.log_takeover(group, epoch, peer, cause, &steps, &result);
                }
                if unsent > 0 {
                    let group = self.group_name(group);
                    tracing::warn!(group, unsent, "announcements could not be sent; more follow");
                }
                self.look_after_warm(group);
                let result = result.map_err(|error| describe(&error));
                self.steer(|controller, hands| controller.on_took(hands, group, epoch, result));
            }
            Report::Rescheduled { policy, errno } => self.on_rescheduled(policy, errno),
            Report::Refused { group, vip, error } => self.on_refused(group, &vip, &error),
            Report::Warmed { group, result } => {
                let result = result.map_err(|error| describe(&error));
                self.steer(|controller, hands| controller.on_warmed(hands, group, &result));
            }
            Report::Dropped { group, result, .. } => {
                let result = result.map_err(|error| describe(&error));
                self.steer(|controller, hands| controller.on_dropped(hands, group, result));
            }
        }
    }

    fn log_takeover(
        &self,
        group: GroupId,
        epoch: hb_ebpf::epoch::Epoch,
        peer: NodeId,
        cause: &'static str,
        steps: &Steps,
        result: &Result<(), EffectError>,
    ) {
        tracing::info!(
            group = self.group_name(group),
            epoch = epoch.0,
            peer = self.node_name(peer),
            cause,
            due_ns = steps.due.ns(),
            verdict_ns = steps.verdict.ns(),
            seen_ns = steps.seen.ns(),
            sought_ns = steps.sought.ns(),
            won_ns = steps.won.ns(),
            address_ns = steps.address.ns(),
            announced_ns = steps.announced.ns(),
            took_us = steps.announced.since(steps.due).as_micros() as u64,
            failed = result.as_ref().err().map(ToString::to_string),
            "takeover"
        );
    }

    fn on_event(&mut self, event: &Event) {
        let peer = NodeId(event.peer);
        if event.silence_ns > 0 {
            self.remember_silence(peer, event.silence_ns);
        }
        if EventKind::from_code(event.kind) == Some(EventKind::Unwatched) {
            tracing::warn!(
                peer = self.node_name(peer),
                "this daemon did not run for a while, and the kernel stopped watching: going on"
            );
        }
        self.steer(|controller, hands| controller.on_event(hands, event));
        match EventKind::from_code(event.kind) {
            Some(EventKind::Paused) => self.log_pause(peer, event),
            Some(EventKind::Claim) => self.on_claim(event),
            Some(EventKind::Carrier) => self.on_lost_carrier(event.interface),
            _ => {}
        }
    }

    /// Tells the core what the map says of a peer now.
    pub(super) fn look_at(&mut self, peer: NodeId) {
        self.steer(|controller, hands| controller.look_at(hands, peer));
    }

    /// Goes round: looks at everything that an event may have been lost of, and mends what it finds.
    pub(super) fn on_tick(&mut self) {
        self.steer(|controller, hands| controller.on_tick(hands));
        let now = clock::now();
        for peer in self.others() {
            let Some(state) = self.maps().peer(peer) else { continue };
            self.log_refusal(peer, &state);
            self.log_links(peer, &state);
            self.try_links(peer, now);
        }
        self.listen(now);
        self.go_on_defending(now);
        self.go_on_with_keys();
        self.settle_wishes();
        self.go_on_with_groups(now);
        self.go_on_with_timers(now);
        if now.since(self.counted) >= COUNT_EVERY {
            self.counted = now;
            self.count_lost_events();
            self.count_lost_lines();
            for peer in self.others() {
                self.log_refused(peer, now);
            }
            let served = self.vips.iter().flatten().map(|local| local.vip.interface()).collect();
            self.surveyor.begin(self.kernel.pinnings(&self.pins_lock), served);
            self.look_at_routes();
        }
    }

    fn count_lost_events(&mut self) {
        match self.kernel.lost_events() {
            Ok(lost) if lost > self.lost_events => {
                let more = lost - self.lost_events;
                tracing::warn!(more, "events of the kernel half did not fit; the maps were read");
                self.lost_events = lost;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = describe(&error), "lost events not counted"),
        }
    }

    fn count_lost_lines(&mut self) {
        let lost = self.log_lost.lines();
        if lost > self.told_lost {
            tracing::warn!(lines = lost - self.told_lost, "the log was not written fast enough");
            self.told_lost = lost;
        }
    }

    /// Puts native attachments on trial, and replaces those whose answers nobody hears.
    fn try_links(&mut self, peer: NodeId, now: BootTime) {
        for link in self.local.links.clone() {
            let interface = link.own.interface.as_str();
            if self.local.attach(interface) == Some(Mode::Native) {
                continue;
            }
            let attached =
                self.kernel.attachments().iter().find(|held| held.interface == interface);
            let Some((index, Mode::Native)) = attached.map(|held| (held.index, held.mode)) else {
                continue;
            };
            let Some((_, state)) = self.shared.link(peer, link.id) else { continue };
            let trial =
                self.trials.entry((peer, link.id)).or_insert_with(|| Trial::new(&state, now));
            if trial.look(&state, now) != Verdict::Failed {
                continue;
            }
            self.trials.remove(&(peer, link.id));
            let reason = format!(
                "self-test failed: {} heard none of the answers sent in native mode",
                self.node_name(peer)
            );
            if let Some(held) = self.kernel.lend(index) {
                self.surveyor.replace(held, reason);
            }
        }
    }

    /// Another thread has attached to an interface in generic mode, or could not.
    pub(super) fn on_replaced(&mut self, replaced: Result<Attachment, Box<NotReplaced>>) {
        match replaced {
            Ok(attachment) => {
                log_attachment(&attachment);
                self.kernel.hold(attachment);
            }
            Err(failed) => {
                let NotReplaced { interface, kept, error } = *failed;
                tracing::error!(interface, error = describe(&error), "no program attached");
                if let Some(kept) = kept {
                    self.kernel.hold(kept);
                }
            }
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        let state =
            |result: &Result<(), String>, good, bad| if result.is_ok() { good } else { bad };
        match done {
            Done::Started { group, epoch, result } => {
                self.resource_states.insert(group, state(&result, "running", "failed"));
                self.feed(Input::ResourcesStarted { group, epoch, result });
            }
            Done::Failed { group, error } => {
                self.resource_states.insert(group, "failed");
                self.feed(Input::ResourcesFailed { group, error });
            }
            Done::Fit { group, result } => self.feed(Input::Fit { group, result }),
            Done::Stopped { group, result } => {
                self.resource_states.insert(group, state(&result, "stopped", "failed"));
                self.feed(Input::ResourcesStopped { group, result });
            }
        }
    }
}
