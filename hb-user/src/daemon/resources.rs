//! Resources in the background: one worker per group, so that a slow script holds up nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future,
    time::Duration,
};

use hb_ebpf::epoch::Epoch;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    config::{Check, Config, Group, Local, Resource},
    id::GroupId,
    resource::{Agent, Order, Place, Probe, Process, Roots, Sequence, State},
};

/// What a worker is asked for.
#[derive(Debug)]
enum Job {
    /// Start everything in order.
    Start { order: Order, resuming: bool },
    /// Stop everything in reverse, then start everything in order.
    Restart { order: Order },
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
    /// A resource that ran does not any more.
    Failed {
        /// The group.
        group: GroupId,
        /// Which, and how.
        error: String,
    },
    /// What is looked at on a node that stands by is well, or is not.
    Fit {
        /// The group.
        group: GroupId,
        /// Or what is wrong.
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

/// What a worker goes by. A change counts from its next job, or its next look at a group that runs.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// The resources, in order.
    pub(super) sequence: Sequence,
    /// Between two looks; `None` for no looks.
    pub(super) interval: Option<Duration>,
    /// Processes whose end is heard of.
    pub(super) processes: Vec<Process>,
    /// What else is looked at.
    pub(super) probes: Vec<Probe>,
}

/// The resources of one group.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    rule: watch::Sender<Rule>,
}

impl Worker {
    /// Starts a worker on `background` that goes by `rule` and reports to `done`; it ends when dropped.
    pub(super) fn spawn(
        background: &Handle,
        group: GroupId,
        rule: Rule,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (rule, rules) = watch::channel(rule);
        background.spawn(work(group, rules, queue, done));
        Self { jobs, rule }
    }

    /// Has it go by another rule.
    pub(super) fn go_by(&self, rule: Rule) {
        // A worker ends only when this is gone.
        drop(self.rule.send(rule));
    }

    /// Asks for a start; with `resuming`, what runs already is left alone.
    pub(super) fn start(&self, order: Order, resuming: bool) {
        // A worker ends only when its sender is gone.
        drop(self.jobs.send(Job::Start { order, resuming }));
    }

    /// Asks for a stop and a start.
    pub(super) fn restart(&self, order: Order) {
        drop(self.jobs.send(Job::Restart { order }));
    }

    /// Asks for a stop.
    pub(super) fn stop(&self, order: Order) {
        drop(self.jobs.send(Job::Stop { order }));
    }
}

/// The worker. While a group runs it is watched, and while it does not what it needs here, as the configuration
/// says.
async fn work(
    group: GroupId,
    mut rules: watch::Receiver<Rule>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut next = None;
    let mut running = None;
    let mut fit = Ok(());
    loop {
        let rule = rules.borrow_and_update().clone();
        let sequence = &rule.sequence;
        let job = match next.take() {
            Some(job) => job,
            None => tokio::select! {
                job = queue.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
                changed = rules.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                never = stand_by(group, &rule, running.is_none(), &mut fit, &done) => match never {},
                error = failure(&rule, running.as_ref()) => {
                    running = None;
                    if done.send(Done::Failed { group, error }).is_err() {
                        return;
                    }
                    continue;
                }
            },
        };
        running = None;
        let report = match job {
            Job::Start { ref order, .. } | Job::Restart { ref order } => {
                let epoch = order.epoch;
                tokio::select! {
                    result = start(sequence, &job) => {
                        if result.is_ok() {
                            running = Some(order.clone());
                        }
                        Done::Started { group, epoch, result }
                    }
                    job = queue.recv() => {
                        let Some(job) = job else { return };
                        next = Some(job);
                        let result = Err("cut short by another request".to_owned());
                        Done::Started { group, epoch, result }
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

/// Starts everything, if need be after a stop.
async fn start(sequence: &Sequence, job: &Job) -> Result<(), String> {
    let (order, resuming) = match job {
        Job::Start { order, resuming } => (order, *resuming),
        Job::Restart { order } => {
            let stopped = sequence.stop_all(order).await;
            stopped.map_err(|error| format!("stopping them first: {}", describe(&error)))?;
            (order, false)
        }
        Job::Stop { .. } => return Ok(()),
    };
    sequence.start_all(order, resuming).await.map_err(|error| describe(&error))
}

/// Looks at what a node that stands by needs, if it does, and reports when that is `fit` or is not any more.
async fn stand_by(
    group: GroupId,
    rule: &Rule,
    stands_by: bool,
    fit: &mut Result<(), String>,
    done: &mpsc::UnboundedSender<Done>,
) -> Infallible {
    let mut tell = |result: Result<(), String>| {
        if *fit != result {
            fit.clone_from(&result);
            // Who would hear it is gone only when this worker is about to end.
            drop(done.send(Done::Fit { group, result }));
        }
    };
    if !stands_by {
        return future::pending().await;
    }
    let (verdicts, mut heard) = mpsc::unbounded_channel();
    let mut looking = JoinSet::new();
    let probes = rule.probes.iter().filter(|probe| probe.check.standby);
    for (place, probe) in probes.cloned().enumerate() {
        let verdicts = verdicts.clone();
        looking.spawn(async move {
            let order = Order { epoch: Epoch::NONE, reason: "standing by".to_owned(), cause: None };
            let tell = |verdict| drop(verdicts.send((place, verdict)));
            probe.watch(&order, tell).await;
        });
    }
    if looking.is_empty() {
        tell(Ok(()));
    }
    let mut bad = BTreeMap::new();
    loop {
        // This function holds a sender itself.
        let Some((place, verdict)) = heard.recv().await else { return future::pending().await };
        match verdict {
            Ok(()) => bad.remove(&place),
            Err(error) => bad.insert(place, error),
        };
        tell(bad.values().next().map_or(Ok(()), |error| Err(error.clone())));
    }
}

/// Waits until something is wrong with a group that runs, and says what.
async fn failure(rule: &Rule, running: Option<&Order>) -> String {
    let Some(order) = running else { return future::pending().await };
    let mut looking = JoinSet::new();
    for process in &rule.processes {
        let process = process.clone();
        looking.spawn(async move { process.ended().await });
    }
    for probe in &rule.probes {
        let (probe, order) = (probe.clone(), order.clone());
        looking.spawn(async move { probe.until_failed(&order).await });
    }
    tokio::select! {
        error = not_running(&rule.sequence, order, rule.interval) => error,
        Some(Ok(error)) = looking.join_next() => error,
    }
}

/// Waits until a resource does not run any more by what its agent says, and says which and how.
async fn not_running(sequence: &Sequence, order: &Order, interval: Option<Duration>) -> String {
    let Some(interval) = interval else { return future::pending().await };
    let mut degraded = BTreeSet::new();
    loop {
        tokio::time::sleep(interval).await;
        for (resource, state) in sequence.status_all(order).await {
            match state {
                Ok(State::Running) => {
                    if degraded.remove(&resource) {
                        tracing::info!(resource, "runs degraded no more");
                    }
                }
                Ok(State::Degraded { last_line }) => {
                    if !degraded.contains(&resource) {
                        tracing::warn!(resource, last_line, "runs degraded");
                        degraded.insert(resource);
                    }
                }
                Ok(State::Stopped) => return format!("resource {resource} does not run any more"),
                Ok(State::Failed { code, meaning, last_line }) => {
                    let means = meaning.map_or_else(String::new, |words| format!(", {words}"));
                    let said = last_line.map_or_else(String::new, |line| format!(": {line}"));
                    return format!("resource {resource} is broken (status {code}{means}){said}");
                }
                Err(error) => return format!("resource {resource}: {}", describe(&error)),
            }
        }
    }
}

/// Returns what the worker of a group with resources goes by.
pub(super) fn rule(config: &Config, local: &Local, group: &Group) -> Rule {
    let interval = group.resources.iter().filter_map(|resource| resource.status_interval).min();
    let agents = group.resources.iter().map(|resource| agent(resource, interval)).collect();
    let place = place(config, local, group);
    let probes = group.resources.iter().flat_map(|resource| {
        let probe = |check: &Check| Probe {
            resource: resource.name.to_string(),
            place: place.clone(),
            check: check.clone(),
        };
        resource.checks.iter().map(probe)
    });
    let probes = probes.collect();
    let processes = group.resources.iter().filter_map(|resource| {
        let pid_file = resource.pid_file.clone()?;
        Some(Process { resource: resource.name.to_string(), pid_file })
    });
    let processes = processes.collect();
    Rule { sequence: Sequence::new(place, agents), interval, processes, probes }
}

/// Returns where agents of a group run.
pub(super) fn place(config: &Config, local: &Local, group: &Group) -> Place {
    Place {
        cluster: config.cluster.name.to_string(),
        node: local.me.name.to_string(),
        group: group.name.to_string(),
    }
}

/// Returns the agent of a resource that is looked at every `interval`.
pub(super) fn agent(resource: &Resource, interval: Option<Duration>) -> Agent {
    Agent {
        name: resource.name.to_string(),
        kind: resource.kind.clone(),
        roots: Roots::default(),
        start_timeout: resource.start_timeout.get(),
        stop_timeout: resource.stop_timeout.get(),
        status_timeout: resource.status_timeout.get(),
        interval,
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;
    use crate::config::{CheckKind, ResourceKind};

    const GROUP: GroupId = GroupId(0);
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A resource that runs while the file `runs` is there.
    fn sequence(directory: &Path) -> Sequence {
        let program = directory.join("svc");
        let runs = directory.join("runs");
        let runs = runs.display();
        let text = format!(
            "#!/bin/sh\ncase $1 in\nstart) : >{runs};;\nstop) rm -f {runs};;\n\
             status) [ -e {runs} ] || exit 3;;\nesac\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let script = Agent {
            name: "svc".into(),
            kind: ResourceKind::Script { program, args: vec![] },
            roots: Roots::default(),
            start_timeout: TIMEOUT,
            stop_timeout: TIMEOUT,
            status_timeout: TIMEOUT,
            interval: None,
        };
        let word = |word: &str| word.to_owned();
        Sequence::new(Place { cluster: word("c"), node: word("a"), group: word("g") }, vec![script])
    }

    fn order() -> Order {
        Order { epoch: Epoch(0x101), reason: "test".into(), cause: None }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_resource_that_dies_is_noticed_and_one_that_is_stopped_is_not() {
        let directory = tempfile::tempdir().unwrap();
        block_on(async {
            let (done, mut results) = mpsc::unbounded_channel();
            let interval = Some(Duration::from_millis(20));
            let rule = Rule {
                sequence: sequence(directory.path()),
                interval,
                processes: vec![],
                probes: vec![],
            };
            let worker = Worker::spawn(&Handle::current(), GROUP, rule, done);
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            fs::remove_file(directory.path().join("runs")).unwrap();
            let Some(Done::Failed { error, .. }) = results.recv().await else { panic!() };
            assert!(error.contains("svc"), "{error}");

            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            worker.stop(order());
            assert!(matches!(results.recv().await, Some(Done::Stopped { result: Ok(()), .. })));
            // Nothing is said of what was stopped, until something else is.
            tokio::time::sleep(Duration::from_millis(100)).await;
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
        });
    }

    /// A check of the file `well`, every millisecond.
    fn probe(directory: &Path, standby: bool) -> Probe {
        let (interval, timeout) = (Duration::from_millis(1), TIMEOUT);
        let kind = CheckKind::File { path: directory.join("well"), max_age: TIMEOUT * 100 };
        let place = Place { cluster: "c".into(), node: "a".into(), group: "g".into() };
        let check = Check { kind, interval, timeout, rise: 2, fall: 3, standby };
        Probe { resource: "svc".into(), place, check }
    }

    #[test]
    fn a_check_that_fails_while_the_group_runs_is_a_failure_and_one_of_a_standby_a_fact() {
        let directory = tempfile::tempdir().unwrap();
        let well = directory.path().join("well");
        block_on(async {
            let (done, mut results) = mpsc::unbounded_channel();
            let probes = vec![probe(directory.path(), true), probe(directory.path(), false)];
            let rule = Rule {
                sequence: sequence(directory.path()),
                interval: None,
                processes: vec![],
                probes,
            };
            let worker = Worker::spawn(&Handle::current(), GROUP, rule, done);
            // It stands by, and the file is not there.
            let Some(Done::Fit { result: Err(error), .. }) = results.recv().await else { panic!() };
            assert!(error.starts_with("resource svc: check file /"), "{error}");
            fs::write(&well, "").unwrap();
            assert!(matches!(results.recv().await, Some(Done::Fit { result: Ok(()), .. })));

            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            fs::remove_file(&well).unwrap();
            assert!(matches!(results.recv().await, Some(Done::Failed { .. })));
            // Then it stands by again, or is about to.
            assert!(matches!(results.recv().await, Some(Done::Fit { result: Err(_), .. })));
            fs::write(&well, "").unwrap();
            assert!(matches!(results.recv().await, Some(Done::Fit { result: Ok(()), .. })));

            // A check that is no more says nothing any more.
            fs::remove_file(&well).unwrap();
            assert!(matches!(results.recv().await, Some(Done::Fit { result: Err(_), .. })));
            let rule = Rule {
                sequence: sequence(directory.path()),
                interval: None,
                processes: vec![],
                probes: vec![],
            };
            worker.go_by(rule);
            assert!(matches!(results.recv().await, Some(Done::Fit { result: Ok(()), .. })));
        });
    }

    #[test]
    fn a_process_is_watched_from_the_start_to_the_stop() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let begin = || {
            let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            fs::write(&pid_file, child.id().to_string()).unwrap();
            child
        };
        let end = |mut child: std::process::Child| {
            child.kill().unwrap();
            child.wait().unwrap();
        };
        block_on(async {
            let (done, mut results) = mpsc::unbounded_channel();
            let processes = vec![Process { resource: "svc".into(), pid_file: pid_file.clone() }];
            let sequence = sequence(directory.path());
            let rule = Rule { sequence, interval: None, processes, probes: vec![] };
            let worker = Worker::spawn(&Handle::current(), GROUP, rule, done);
            let child = begin();
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            tokio::time::sleep(Duration::from_millis(50)).await;
            end(child);
            let heard = tokio::time::timeout(TIMEOUT, results.recv()).await.unwrap();
            let Some(Done::Failed { error, .. }) = heard else { panic!() };
            assert!(error.starts_with("resource svc: its process"), "{error}");

            // What ends in a stop is no failure.
            let child = begin();
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            tokio::time::sleep(Duration::from_millis(50)).await;
            worker.stop(order());
            end(child);
            let stopped = results.recv().await;
            // The end may be heard of before the stop is begun.
            if !matches!(stopped, Some(Done::Stopped { .. })) {
                assert!(matches!(stopped, Some(Done::Failed { .. })), "{stopped:?}");
                assert!(matches!(results.recv().await, Some(Done::Stopped { .. })));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(results.try_recv().is_err());
        });
    }

    #[test]
    fn a_restart_stops_what_runs_and_watches_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path().join("runs");
        block_on(async {
            let (done, mut results) = mpsc::unbounded_channel();
            let rule = Rule {
                sequence: sequence(directory.path()),
                interval: Some(Duration::from_millis(20)),
                processes: vec![],
                probes: vec![],
            };
            let worker = Worker::spawn(&Handle::current(), GROUP, rule, done);
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            fs::write(&runs, "of the first start").unwrap();
            worker.restart(order());
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            assert_eq!(fs::read_to_string(&runs).unwrap(), "", "it was stopped");
            fs::remove_file(&runs).unwrap();
            assert!(matches!(results.recv().await, Some(Done::Failed { .. })));

            // What does not stop is not started again.
            worker.restart(order());
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            fs::write(
                directory.path().join("svc"),
                "#!/bin/sh\ncase $1 in status) exit 0;; start) exit 0;; esac; exit 1\n",
            )
            .unwrap();
            worker.restart(order());
            let Some(Done::Started { result: Err(error), .. }) = results.recv().await else {
                panic!()
            };
            assert!(error.starts_with("stopping them first: "), "{error}");
        });
    }

    #[test]
    fn a_new_rule_counts_while_the_group_runs() {
        let directory = tempfile::tempdir().unwrap();
        block_on(async {
            let (done, mut results) = mpsc::unbounded_channel();
            let rule = |interval| Rule {
                sequence: sequence(directory.path()),
                interval,
                processes: vec![],
                probes: vec![],
            };
            let worker = Worker::spawn(&Handle::current(), GROUP, rule(None), done);
            worker.start(order(), false);
            assert!(matches!(results.recv().await, Some(Done::Started { result: Ok(()), .. })));
            // Nobody looks.
            fs::remove_file(directory.path().join("runs")).unwrap();
            let silence = tokio::time::timeout(Duration::from_millis(100), results.recv()).await;
            assert!(silence.is_err());
            worker.go_by(rule(Some(Duration::from_millis(20))));
            assert!(matches!(results.recv().await, Some(Done::Failed { .. })));
        });
    }
}
