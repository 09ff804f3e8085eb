//! Carrying out what the core wants.

use hb_ebpf::{lease::op::Order as LeaseOrder, wire::GROUPS};

use super::Daemon;
use crate::{
    clock,
    core::{Action, Input, Transition},
    fast::Command,
    id::{GroupId, NodeId},
    resource::Order,
};

impl Daemon {
    /// Tells the core what is new, one input at a time, and carries out everything it has in mind
    /// before the next. Returns whether the daemon shall exit.
    pub(super) fn act(&mut self) -> bool {
        loop {
            if self.carry_out() {
                return true;
            }
            let Some(input) = self.inputs.pop_front() else { return false };
            self.core.handle(input, clock::now());
        }
    }

    fn carry_out(&mut self) -> bool {
        // Telling takes longer than doing: it comes last.
        let mut told = Vec::new();
        let exit = self.do_all(&mut told);
        for transition in &told {
            self.log(transition);
            self.tell(transition);
        }
        exit
    }

    fn do_all(&mut self, told: &mut Vec<Transition>) -> bool {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Publish { health, leaving } => {
                    self.command(Command::Publish { health, leaving });
                }
                Action::Arm { peer, groups } => {
                    let mut armed = [false; GROUPS];
                    for group in groups {
                        if let Some(slot) = armed.get_mut(group.0 as usize) {
                            *slot = true;
                        }
                    }
                    self.command(Command::Arm { peer, groups: armed });
                }
                Action::Seek { group, .. } => self.command(Command::Seek { group }),
                Action::Fence { group, epoch, node } => self.fence(group, epoch, node),
                Action::GiveUp { group } => self.command(Command::GiveUp { group }),
                Action::Announce { group } => self.command(Command::Announce { group }),
                Action::Release { group, successor, .. } => {
                    self.prepare_bounce(group, successor);
                    self.warm.leave(group);
                    self.command(Command::Release { group, successor });
                }
                Action::Drop { group, .. } => {
                    self.warm.leave(group);
                    self.command(Command::Drop { group });
                }
                Action::StartResources { group, epoch, reason } => {
                    let resuming = self
                        .resuming
                        .get_mut(group.0 as usize)
                        .is_some_and(|resuming| std::mem::replace(resuming, false));
                    match self.workers.get(group.0 as usize) {
                        Some(Some(worker)) => {
                            self.resource_states.insert(group, "starting");
                            worker.start(Order { epoch, reason: self.reason(&reason) }, resuming);
                        }
                        _ => self.feed(Input::ResourcesStarted { group, epoch, result: Ok(()) }),
                    }
                }
                Action::StopResources { group, reason } => {
                    let epoch = self.held_epoch(group);
                    match self.workers.get(group.0 as usize) {
                        Some(Some(worker)) => {
                            self.resource_states.insert(group, "stopping");
                            worker.stop(Order { epoch, reason: self.reason(&reason) });
                        }
                        _ => self.feed(Input::ResourcesStopped { group, result: Ok(()) }),
                    }
                }
                Action::Place { group, standing } => {
                    self.order_with(LeaseOrder::placed(group.0, standing));
                }
                Action::Regroup => self.on_left(),
                Action::Log(transition) => told.push(transition),
                Action::Exit => return true,
            }
        }
        false
    }

    pub(super) fn held_epoch(&self, group: GroupId) -> hb_ebpf::epoch::Epoch {
        let view = self.core.view();
        view.groups
            .iter()
            .find(|view| view.group == group)
            .map_or_else(Default::default, |view| view.epoch)
    }

    /// Puts an input in the queue that [`act`](Self::act) empties.
    pub(super) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    pub(super) fn command(&self, command: Command) {
        if !self.fast.command(command) {
            // It does not go round any more: neither does the controller's stamp.
            tracing::error!(?command, "the fast path takes no commands: restart hb on this node");
        }
    }

    pub(super) fn node_name(&self, node: NodeId) -> &str {
        let named = self.config.nodes.iter().find(|known| known.id == node);
        let witness = self.local.witness.as_ref().filter(|witness| witness.id == node);
        named
            .map(|known| known.name.as_str())
            .or(witness.map(|witness| witness.name.as_str()))
            .unwrap_or("unknown node")
    }

    pub(super) fn group_name(&self, group: GroupId) -> &str {
        let named = self.config.group(group);
        named.map_or("unknown group", |known| known.name.as_str())
    }
}
