//! Carrying out what the core wants.

use hb_ebpf::wire::GROUPS;

use super::{Daemon, EngineKind};
use crate::{
    config::{Config, Local},
    core::{Action, Input, Reason, Transition},
    engine::controller::{News, Next},
    fast::{Command, Fast},
    id::{GroupId, NodeId},
    kernel::{Kernel, KernelError},
    resource::Order,
};

impl Daemon {
    /// Does everything that is to be done now. Returns whether the daemon shall exit.
    pub(super) fn act(&mut self) -> bool {
        loop {
            match self.steer(|controller, hands| controller.next(hands)) {
                Next::Do(action) => self.carry_out(action),
                // Telling takes longer than doing: it comes last.
                Next::Tell(told) => self.say(&told),
                Next::Rest => return false,
                Next::Exit(told) => {
                    self.say(&told);
                    return true;
                }
            }
        }
    }

    /// Tells people, and programs, what changed.
    fn say(&mut self, told: &[Transition]) {
        for transition in told {
            self.log(transition);
            self.notify(transition);
        }
    }

    fn carry_out(&mut self, action: Action) {
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
            Action::GiveUp { group } => self.command(Command::GiveUp { group }),
            Action::Announce { group } => self.command(Command::Announce { group }),
            Action::Release { group, successor, .. } => {
                self.prepare_bounce(group, successor);
                self.command(Command::Release { group, successor });
            }
            Action::Drop { group, .. } => self.command(Command::Drop { group }),
            Action::StartResources { group, epoch, reason } => {
                let resuming = self
                    .resuming
                    .get_mut(group.0 as usize)
                    .is_some_and(|resuming| std::mem::replace(resuming, false))
                    || reason == Reason::Maintained;
                match self.workers.get(group.0 as usize) {
                    Some(Some(worker)) => {
                        self.resource_states.insert(group, "starting");
                        worker.start(
                            Order {
                                epoch,
                                reason: self.reason(&reason),
                                cause: Some(reason.code()),
                            },
                            resuming,
                        );
                    }
                    _ => self.feed(Input::ResourcesStarted { group, epoch, result: Ok(()) }),
                }
            }
            Action::RestartResources { group, epoch, reason } => {
                let order =
                    Order { epoch, reason: self.reason(&reason), cause: Some(reason.code()) };
                match self.workers.get(group.0 as usize) {
                    Some(Some(worker)) => {
                        self.resource_states.insert(group, "starting");
                        worker.restart(order);
                    }
                    _ => self.feed(Input::ResourcesStarted { group, epoch, result: Ok(()) }),
                }
            }
            Action::StopResources { group, reason } => {
                let epoch = self.held_epoch(group);
                match self.workers.get(group.0 as usize) {
                    Some(Some(worker)) => {
                        self.resource_states.insert(group, "stopping");
                        worker.stop(Order {
                            epoch,
                            reason: self.reason(&reason),
                            cause: Some(reason.code()),
                        });
                    }
                    _ => self.feed(Input::ResourcesStopped { group, result: Ok(()) }),
                }
            }
            Action::Regroup => self.on_left(),
            // The engine carries these out.
            Action::Fence { .. } | Action::Place { .. } | Action::Log(_) | Action::Exit => {}
        }
    }

    pub(super) fn held_epoch(&self, group: GroupId) -> hb_ebpf::epoch::Epoch {
        let view = self.controller.core().view();
        view.groups
            .iter()
            .find(|view| view.group == group)
            .map_or_else(Default::default, |view| view.epoch)
    }

    /// Tells the core something, once it is its turn.
    pub(super) fn feed(&mut self, input: Input) {
        self.controller.feed(input);
    }

    pub(super) fn command(&self, to_do: Command) {
        command(&self.fast, to_do);
    }

    /// Tells people what may be worth it.
    pub(super) fn tell(&mut self, news: News) {
        match news {
            News::TakesPart(generation, why) => {
                tracing::info!(generation, why, "no learner any more");
                let done =
                    || Ok(format!("no learner any more: takes part from generation {generation}"));
                self.answer_confirmations(done);
            }
            News::UsedUp(first) => {
                if first {
                    tracing::error!("the generations are used up: give this node a new id");
                }
                self.answer_confirmations(|| Err("the generations are used up".to_owned()));
            }
            News::Disk(news) => self.on_disk_news(&news),
            News::Unbound(group) => {
                tracing::info!(group = self.group_name(group), "bound without an end no longer");
            }
            News::StandsBack(node) => tracing::warn!(
                node = self.node_name(node),
                "nobody answers this node, which may be the one that is cut off: the other one may fence it first"
            ),
            News::Late(group, epoch) => {
                let group = self.group_name(group);
                tracing::warn!(group, epoch = epoch.0, "report of a fence came too late: dropped");
            }
            News::Unstored(group) => tracing::error!(
                group = self.group_name(group),
                "promise not stored before leaving: the holder may have this node fenced"
            ),
            News::Unanswered(group, holder) => tracing::warn!(
                group = self.group_name(group),
                holder = self.node_name(holder),
                "the holder did not say that it goes on alone: it may have this node fenced"
            ),
        }
    }

    pub(super) fn node_name(&self, node: NodeId) -> &str {
        node_name(&self.config, &self.local, node)
    }

    pub(super) fn group_name(&self, group: GroupId) -> &str {
        group_name(&self.config, group)
    }
}

/// Has the fast path do something.
pub(super) fn command(fast: &Fast, command: Command) {
    if !fast.command(command) {
        // It does not go round any more: neither does the controller's stamp.
        tracing::error!(?command, "the fast path takes no commands: restart hb on this node");
    }
}

/// Begins to watch a peer, whoever counts its misses.
pub(super) fn watch(
    kernel: &mut Kernel,
    counts: EngineKind,
    peer: NodeId,
    forget: bool,
) -> Result<(), KernelError> {
    match counts {
        EngineKind::KernelTimer => kernel.arm(peer, forget),
        EngineKind::User => kernel.watch(peer, forget),
    }
}

pub(super) fn node_name<'a>(config: &'a Config, local: &'a Local, node: NodeId) -> &'a str {
    let named = config.nodes.iter().find(|known| known.id == node);
    let witness = local.witness.as_ref().filter(|witness| witness.id == node);
    named
        .map(|known| known.name.as_str())
        .or(witness.map(|witness| witness.name.as_str()))
        .unwrap_or("unknown node")
}

pub(super) fn group_name(config: &Config, group: GroupId) -> &str {
    config.group(group).map_or("unknown group", |known| known.name.as_str())
}
