//! Resources in the background: one worker per group, so that a slow script holds up nothing else.

use hb_ebpf::epoch::Epoch;
use tokio::sync::mpsc;

use crate::{
    id::GroupId,
    resource::{Order, Sequence},
};

/// What a worker is asked for.
#[derive(Debug)]
enum Job {
    /// Start everything in order.
    Start { order: Order, resuming: bool },
    /// Stop everything in reverse; cuts a running start short.
    Stop { order: Order },
}

/// What became of it. Errors are texts for people.
#[derive(Debug)]
pub(super) enum Done {
    /// A start.
    Started {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
        /// Whether all run.
        result: Result<(), String>,
    },
    /// A stop.
    Stopped {
        /// The group.
        group: GroupId,
        /// Whether none runs.
        result: Result<(), String>,
    },
}

/// The resources of one group.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Worker {
    /// Starts a worker that reports to `done`; it ends when dropped.
    pub(super) fn spawn(
        group: GroupId,
        sequence: Sequence,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        tokio::spawn(work(group, sequence, queue, done));
        Self { jobs }
    }

    /// Asks for a start; with `resuming`, what runs already is left alone.
    pub(super) fn start(&self, order: Order, resuming: bool) {
        // A worker ends only when its sender is gone.
        drop(self.jobs.send(Job::Start { order, resuming }));
    }

    /// Asks for a stop.
    pub(super) fn stop(&self, order: Order) {
        drop(self.jobs.send(Job::Stop { order }));
    }
}

async fn work(
    group: GroupId,
    sequence: Sequence,
    mut queue: mpsc::UnboundedReceiver<Job>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut next = None;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let report = match job {
            Job::Start { order, resuming } => {
                let epoch = order.epoch;
                tokio::select! {
                    result = sequence.start_all(&order, resuming) => Done::Started {
                        group,
                        epoch,
                        result: result.map_err(|error| describe(&error)),
                    },
                    job = queue.recv() => {
                        let Some(job) = job else { return };
                        next = Some(job);
                        Done::Started {
                            group,
                            epoch,
                            result: Err("cut short by another request".to_owned()),
                        }
                    }
                }
            }
            Job::Stop { order } => Done::Stopped {
                group,
                result: sequence.stop_all(&order).await.map_err(|error| describe(&error)),
            },
        };
        if done.send(report).is_err() {
            return;
        }
    }
}

/// Returns the error with its causes, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
