//! Policy `safe` on this machine: delays, and agents that fence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hb_ebpf::epoch::Epoch;
use tokio::{runtime::Handle, sync::mpsc};

use super::Daemon;
use crate::{
    config::{Config, FENCE_ASK, Local},
    fence::{self, Asker, Report},
    id::{GroupId, NodeId},
    ping::ask_around,
};

/// How often a node that leaves looks whether the other one goes on alone.
const LOOK: Duration = Duration::from_millis(1);

/// An answer that takes longer is not waited for: the question is asked again.
const ANSWER: Duration = Duration::from_millis(50);

/// What the tasks of a fence tell the main loop.
pub(super) enum Word {
    /// The delay before a fence of this node is over.
    Due(NodeId),
    /// The agent is done.
    Done(Box<Report>),
    /// A node was fenced, and its last packets have left: for the groups whose records waited.
    Silent(Vec<(GroupId, Epoch)>),
}

/// Who runs them.
pub(super) struct Fences {
    background: Handle,
    sender: mpsc::UnboundedSender<Word>,
    receiver: mpsc::UnboundedReceiver<Word>,
    /// Whether anybody answered during the newest delay before a fence of a node.
    answered: BTreeMap<NodeId, Arc<AtomicBool>>,
}

impl Fences {
    /// Returns none; agents are run by `background`.
    pub(super) fn new(background: Handle) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { background, sender, receiver, answered: BTreeMap::new() }
    }

    /// Returns the next word; waits for ever if there is none.
    pub(super) async fn next(&mut self) -> Word {
        match self.receiver.recv().await {
            Some(word) => word,
            // Not reached while this holds a sender of its own.
            None => std::future::pending().await,
        }
    }

    /// Says a word after a while.
    fn say_after(&self, delay: Duration, word: Word) {
        let sender = self.sender.clone();
        self.background.spawn(async move {
            tokio::time::sleep(delay).await;
            // The daemon that is gone needs no fence, and holds nothing.
            drop(sender.send(word));
        });
    }

    /// Begins the delay before a fence, and asks the neighbourhood of these interfaces meanwhile: until one
    /// answers, and for a moment at least.
    pub(super) fn delay(&mut self, node: NodeId, delay: Duration, interfaces: BTreeSet<String>) {
        let answered = Arc::new(AtomicBool::new(false));
        self.answered.insert(node, Arc::clone(&answered));
        let sender = self.sender.clone();
        self.background.spawn(async move {
            let mut asked: tokio::task::JoinSet<_> =
                interfaces.into_iter().map(until_answered).collect();
            let asking = async {
                let answer = tokio::time::timeout(delay.max(FENCE_ASK), asked.join_next()).await;
                answered.store(matches!(answer, Ok(Some(Ok(())))), Ordering::Relaxed);
            };
            tokio::join!(tokio::time::sleep(delay), asking);
            drop(sender.send(Word::Due(node)));
        });
    }

    /// Tells whether anybody answered during that.
    pub(super) fn is_answered(&self, node: NodeId) -> bool {
        self.answered.get(&node).is_some_and(|answered| answered.load(Ordering::Relaxed))
    }

    /// Says once the last packets of a node that was fenced have left.
    pub(super) fn await_silence(&self, asked: Vec<(GroupId, Epoch)>, last_packets: Duration) {
        self.say_after(last_packets, Word::Silent(asked));
    }

    /// Starts the agent that fences a node, for what is sought in this epoch.
    ///
    /// # Errors
    ///
    /// If none is configured.
    pub(super) fn run(
        &self,
        config: &Config,
        local: &Local,
        node: NodeId,
        epoch: Option<Epoch>,
    ) -> Result<(), String> {
        let (agent, named) = (config.fence.clone(), config.nodes.iter());
        let (Some(agent), Some(named)) = (agent, named.clone().find(|known| known.id == node))
        else {
            // The configuration of policy safe has both.
            return Err("no fence is configured".to_owned());
        };
        let named = named.clone();
        tracing::warn!(
            node = named.name.as_str(),
            epoch = epoch.unwrap_or_default().0,
            agent = %agent.command.display(),
            "fencing: the node is silent or hears nothing, and nobody serves before it is off"
        );
        let asker = Asker {
            cluster: config.cluster.name.to_string(),
            node: local.me.name.to_string(),
            epoch,
        };
        let sender = self.sender.clone();
        self.background.spawn(async move {
            let action = agent.action.into();
            let report = fence::run(&agent, &named, action, &asker).await;
            drop(sender.send(Word::Done(Box::new(report))));
        });
        Ok(())
    }
}

impl Daemon {
    pub(super) fn on_fence(&mut self, word: Word) {
        match word {
            Word::Due(node) => {
                self.steer(|controller, hands| controller.on_fence_due(hands, node));
            }
            Word::Done(report) => {
                let (node, result) = (report.node, outcome(&report));
                self.steer(|controller, hands| controller.on_agent(hands, node, &result));
            }
            Word::Silent(asked) => {
                self.steer(|controller, hands| controller.on_silent(hands, asked));
            }
        }
    }

    /// Binds this node, which leaves, to the node that holds each group, so that it goes on without
    /// a fence; and waits a moment for it to say so.
    pub(super) async fn bid_farewell(&mut self) {
        while !self.steer(|controller, hands| controller.bid_farewell(hands)) {
            tokio::select! {
                written = self.disk.next() => self.on_written(written),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// Asks the neighbourhood of an interface again and again; returns once somebody answers.
async fn until_answered(interface: String) {
    for sequence in 0.. {
        let begun = tokio::time::Instant::now();
        match tokio::time::timeout(ANSWER, ask_around(&interface, sequence)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(interface, %error, "neighbourhood not asked"),
            Err(_) => {}
        }
        tokio::time::sleep_until(begun + ANSWER).await;
    }
}

/// Returns whether an agent fenced, and tells people.
fn outcome(report: &Report) -> Result<(), String> {
    if report.fenced() {
        tracing::info!(%report, "fenced");
        Ok(())
    } else {
        tracing::error!(%report, "not fenced: nobody serves, and it is tried again");
        Err(report.to_string())
    }
}
