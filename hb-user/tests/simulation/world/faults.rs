//! Faults begin and end.

use hb_user::{core::Input, id::GroupId};

use super::{Event, MS, World};
use crate::{judge::HEAL, schedule::Fault};

impl World {
    pub(super) fn begin(&mut self, fault: Fault) {
        self.note(|_| format!("begin {fault:?}"));
        match fault {
            Fault::Crash { node } => self.nodes[node].power_off(),
            Fault::KillDaemon { node } => {
                let now = self.now;
                if self.nodes[node].core.is_some() {
                    self.nodes[node].kill_daemon(now);
                }
            }
            Fault::Leave { node } => self.tell(node, Input::Stop),
            Fault::CutLink { pair, link } => self.cut(pair, &[link], true),
            Fault::Partition { pair } => self.cut(pair, &[0, 1], true),
            Fault::Loss => self.loss_permille = 30,
            Fault::FailStarts { node } => self.nodes[node].fail_starts = true,
            Fault::FailTakes { node } => self.nodes[node].fail_takes = true,
            Fault::FailDrops { node } => self.nodes[node].fail_drops = true,
            Fault::FailRunning { node } => {
                for group in 0..self.double.len() {
                    let error = "it ended".to_owned();
                    let group = GroupId(group as u8);
                    self.tell(node, Input::ResourcesFailed { group, error });
                }
            }
        }
        if let Fault::FailStarts { node } | Fault::FailTakes { node } = fault {
            // Only who takes a group can fail to: make the holder lose it.
            let holder = (node + 1) % self.nodes.len();
            for group in 0..self.double.len() {
                let error = "it ended".to_owned();
                self.tell(holder, Input::ResourcesFailed { group: GroupId(group as u8), error });
            }
        }
    }

    pub(super) fn end(&mut self, index: usize) {
        let fault = self.schedule.faults[index].0;
        self.note(|_| format!("end {fault:?}"));
        match fault {
            Fault::Crash { node } => self.boot(node),
            Fault::KillDaemon { node } => {
                let now = self.now;
                if self.nodes[node].powered && self.nodes[node].core.is_none() {
                    self.nodes[node].start_daemon(&self.config, now);
                    self.excuse_late_yield();
                    self.stats.resumes += 1;
                    self.wake(node);
                    self.obey(node);
                }
            }
            Fault::Leave { node } => {
                let leaving =
                    self.nodes[node].core.as_ref().is_some_and(|core| core.view().leaving);
                if leaving {
                    self.after(10 * MS, Event::End { fault: index });
                } else {
                    self.boot(node);
                }
            }
            Fault::CutLink { pair, link } => self.cut(pair, &[link], false),
            Fault::Partition { pair } => self.cut(pair, &[0, 1], false),
            Fault::Loss => self.loss_permille = 0,
            Fault::FailStarts { .. }
            | Fault::FailTakes { .. }
            | Fault::FailDrops { .. }
            | Fault::FailRunning { .. } => {
                self.excuse_late_yield();
                for node in 0..self.nodes.len() {
                    let broken = &mut self.nodes[node];
                    (broken.fail_starts, broken.fail_takes, broken.fail_drops) = Default::default();
                    // Half of the operators forget.
                    if self.rng.chance(500) {
                        for group in 0..self.double.len() {
                            self.tell(node, Input::Clear { group: GroupId(group as u8) });
                        }
                    }
                }
            }
        }
    }

    /// Gives a node that could not yield after a partition the time to do it now.
    fn excuse_late_yield(&mut self) {
        if self.double.contains(&true) {
            self.excused_until = self.excused_until.max(self.now + HEAL);
        }
    }

    fn cut(&mut self, pair: (usize, usize), links: &[usize], begin: bool) {
        let before = self.is_partitioned();
        let cuts = self.cuts.entry(pair).or_default();
        for link in links {
            cuts[*link] = if begin { cuts[*link] + 1 } else { cuts[*link] - 1 };
        }
        let after = self.is_partitioned();
        if after {
            self.partitioned_ever = true;
            self.excused_until = u64::MAX;
        } else if before {
            self.excused_until = self.now + HEAL;
        }
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        self.cuts.values().any(|links| links.iter().all(|cuts| *cuts > 0))
    }
}
