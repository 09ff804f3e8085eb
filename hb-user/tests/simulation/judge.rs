//! What must never be seen.

use hb_ebpf::{
    epoch::Epoch,
    wire::{GroupWord, Health, State},
};
use hb_user::core::{Core, Phase};

use crate::{
    node::{INITDEAD, INTERVAL, Node},
    world::{MS, World},
};

/// How long two servers may last after all links are back: 10 intervals and the work itself.
pub(crate) const HEAL: u64 = 10 * INTERVAL + 2 * MS;

impl World {
    pub(crate) fn judge_word(&mut self, index: usize, group: usize, word: &GroupWord) {
        let old = self.nodes[index].words[group];
        if word.epoch() < old.epoch() {
            self.wrong = Some(format!("node {} goes back in epochs", index + 1));
        }
        if word.state() == State::Holding {
            if word.epoch().node() != self.nodes[index].id.0 {
                self.wrong = Some(format!("node {} holds another's epoch", index + 1));
            }
            if old.state() != State::Holding || old.epoch() != word.epoch() {
                self.judge_epoch(index, group, word.epoch());
            }
        }
    }

    pub(crate) fn judge_epoch(&mut self, index: usize, group: usize, epoch: Epoch) {
        self.stats.holds += 1;
        if epoch <= self.highest[group] && !self.partitioned_ever {
            self.wrong = Some(format!("node {} takes group {group} at an old epoch", index + 1));
        }
        self.highest[group] = self.highest[group].max(epoch);
    }

    pub(crate) fn judge_addresses(&mut self) {
        for group in 0..self.double.len() {
            let up = self.nodes.iter().filter(|node| node.addresses[group]);
            let (count, frozen) = up.fold((0, false), |(count, frozen), node| {
                (count + 1, frozen || node.core.is_none() || node.fail_drops)
            });
            if count < 2 {
                self.double[group] = false;
            } else if self.now <= self.excused_until {
                self.double[group] = true;
            } else if self.double[group] && frozen {
                // It began in a partition, and a node that should yield cannot.
                self.excused_until = self.now + HEAL;
            } else {
                self.wrong = Some(format!("group {group} is up on {count} nodes"));
            }
        }
    }

    /// Who leaves in order leaves nothing behind that another node could have.
    pub(crate) fn judge_exit(&mut self, index: usize) {
        if self.is_partitioned() || self.now <= self.excused_until || self.nodes[index].fail_drops {
            return;
        }
        for group in 0..self.double.len() {
            // A group that went on to another node, or was never here, is no concern of it.
            if self.nodes[index].words[group].state() == State::Idle {
                continue;
            }
            let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != index);
            let words = others.filter(|(_, node)| node.powered);
            let mut able = false;
            for (_, node) in words {
                let word = &node.words[group];
                if word.state() == State::Holding {
                    able = false;
                    break;
                }
                let view = node.core.as_ref().map(Core::view);
                able |= view.is_some_and(|view| {
                    let since = view.groups[group].since.0;
                    !view.leaving
                        && word.health() == Health::Standby
                        && since + 5 * MS < self.now
                        && node.daemon_since + INITDEAD + 5 * MS < self.now
                });
            }
            if able {
                self.wrong = Some(format!("node {} left group {group} to nobody", index + 1));
            }
        }
    }

    /// All faults are over for long: who holds what?
    pub(crate) fn judge_the_end(&self) -> Result<(), String> {
        for group in 0..self.double.len() {
            let up: Vec<_> = self.nodes.iter().filter(|node| node.addresses[group]).collect();
            let can = |node: &&Node| {
                let failed = node.words[group].health() == Health::Failed;
                node.core.is_some() && !failed
            };
            let able: Vec<_> = self.nodes.iter().filter(can).collect();
            match up.as_slice() {
                [] if able.is_empty() => {}
                [] => return Err(format!("nobody has group {group} up, and {} could", able[0].id)),
                [holder] => {
                    let Some(core) = &holder.core else { continue };
                    let view = &core.view().groups[group];
                    if !matches!(view.phase, Phase::Serving { .. }) {
                        return Err(format!(
                            "{} does not serve group {group}: {view:?}",
                            holder.id
                        ));
                    }
                    let preferred = able
                        .iter()
                        .find(|node| Some(node.id) == self.config.preferred[group])
                        .filter(|_| self.config.auto_failback[group]);
                    if let Some(preferred) = preferred.filter(|node| node.id != holder.id) {
                        let (has, wants) = (holder.id, preferred.id);
                        return Err(format!("{has} has group {group}, {wants} should"));
                    }
                    if self.config.resources[group] != holder.resources[group] {
                        return Err(format!("{} has group {group} without resources", holder.id));
                    }
                }
                // A dead daemon cannot yield what it got in a partition.
                several if self.double[group] && several.iter().any(|node| node.core.is_none()) => {
                }
                several => {
                    return Err(format!("group {group} stays up on {} nodes", several.len()));
                }
            }
            let stray = self.nodes.iter().find(|node| {
                node.core.is_some() && node.resources[group] && !node.addresses[group]
            });
            if let Some(node) = stray {
                return Err(format!("{} runs resources of group {group} it lacks", node.id));
            }
        }
        Ok(())
    }
}
