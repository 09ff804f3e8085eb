//! Programs that are told what changes, one event after the other.
//!
//! Each has a queue of its own and is called for the next event when it has ended, so it hears of everything in
//! the order in which it happened. A queue that is full loses what comes next: nothing waits for a program
//! that hangs. It runs as resources do: in a process group of its own, in `/`, at ordinary priority.

mod event;

use std::{
    io,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    runtime::Handle,
    sync::mpsc::{self, Receiver, Sender},
    task::JoinHandle,
    time,
};

pub use event::{Event, Kind};

use crate::{
    config::Notify,
    resource::{
        confine::{confine, restore_limit},
        output::capture,
        running::{OUTPUT_WAIT, Running, ended_output, search_path},
    },
    trust,
};

/// Events that wait for one program at most.
const QUEUE: usize = 256;

/// All programs that are told.
#[derive(Default)]
pub struct Notifiers(Vec<Notifier>);

/// One of them.
struct Notifier {
    notify: Notify,
    events: Sender<Event>,
    lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Notifiers {
    /// Begins to call these programs, on `background`.
    #[must_use]
    pub fn start(all: &[Notify], background: &Handle) -> Self {
        let start = |notify: &Notify| {
            let (events, waiting) = mpsc::channel(QUEUE);
            let task = background.spawn(run(notify.clone(), waiting));
            Notifier { notify: notify.clone(), events, lost: Arc::default(), task }
        };
        Self(all.iter().map(start).collect())
    }

    /// Tells whether a program is called for events of that kind.
    #[must_use]
    pub fn wants(&self, kind: Kind) -> bool {
        self.0.iter().any(|one| one.notify.on.contains(&kind))
    }

    /// Tells every program that wants to hear of it. Never waits.
    pub fn tell(&self, event: &Event) {
        for one in self.0.iter().filter(|one| one.notify.on.contains(&event.event)) {
            let lost = one.lost.load(Ordering::Relaxed);
            if one.events.try_send(Event { lost, ..event.clone() }).is_err() {
                one.lost.store(lost + 1, Ordering::Relaxed);
                if lost == 0 {
                    let notify = one.notify.name.as_str();
                    tracing::warn!(notify, "events lost: the program does not end fast enough");
                }
            } else if lost > 0 {
                one.lost.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Waits until all programs were told everything, for at most `patience`.
    pub async fn finish(self, patience: Duration) {
        let all = async {
            for Notifier { events, task, notify, .. } in self.0 {
                drop(events);
                if let Err(error) = task.await {
                    let notify = notify.name.as_str();
                    tracing::error!(notify, %error, "the task that calls a program ended early");
                }
            }
        };
        if time::timeout(patience, all).await.is_err() {
            tracing::warn!("leaving before all programs of [[notify]] were told everything");
        }
    }
}

async fn run(notify: Notify, mut events: Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(arguments) = event.arguments(notify.form) else { continue };
        if let Err(error) = call(&notify, &event, &arguments).await {
            let (notify, code) = (notify.name.as_str(), event.code);
            tracing::warn!(notify, code, %error, "a program was not told of an event");
        }
    }
}

/// Why a program was not told.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("{program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("{program} ended with {status}")]
    Failed { program: String, status: std::process::ExitStatus },
    #[error("{program} took longer than its timeout and was ended")]
    TimedOut { program: String },
}

async fn call(notify: &Notify, event: &Event, arguments: &[String]) -> Result<(), CallError> {
    let Some((program, args)) = notify.command.split_first() else { return Ok(()) };
    let failed = |source| CallError::Run { program: program.clone(), source };
    // Looked at when the daemon started, and again: it may be long since.
    trust::check_program(Path::new(program)).map_err(io::Error::other).map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .args(arguments)
        .env_clear()
        .env("PATH", search_path())
        .envs(event.variables())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    confine(&mut command);
    let child = command.spawn().map_err(failed)?;
    restore_limit(child.id());
    let mut running = Running(child);
    let log = |stream: &'static str| {
        let notify = notify.name.to_string();
        move |line: io::Result<&str>| match line {
            Ok(line) => tracing::info!(notify, stream, "{line}"),
            Err(error) => tracing::info!(notify, stream, %error, "output could not be read"),
        }
    };
    let stdout = running.0.stdout.take().map(|pipe| capture(pipe, log("stdout")).0);
    let stderr = running.0.stderr.take().map(|pipe| capture(pipe, log("stderr")).0);
    let output = [stdout, stderr];
    let input = running.0.stdin.take();
    let line = event.json().map_err(io::Error::other).map_err(failed)?;
    let ended = async {
        if let Some(mut input) = input {
            // A program that goes by its environment alone need not read it.
            match input.write_all(line.as_bytes()).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        running.0.wait().await
    };
    match time::timeout(notify.timeout, ended).await {
        Ok(ended) => {
            let status = ended.map_err(failed)?;
            ended_output(output, OUTPUT_WAIT).await;
            let program = || program.clone();
            status
                .success()
                .then_some(())
                .ok_or_else(|| CallError::Failed { program: program(), status })
        }
        Err(_) => {
            running.terminate(output).await.map_err(failed)?;
            Err(CallError::TimedOut { program: program.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::{event::tests::event, *};
    use crate::config::{Name, NotifyForm};

    /// A program that appends what it is told to a file beside it.
    fn program(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("told");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn notify(program: &Path, form: NotifyForm) -> Notify {
        Notify {
            name: Name::new("told").unwrap(),
            command: vec![program.to_str().unwrap().to_owned(), "first".to_owned()],
            on: Kind::ALL.into(),
            form,
            timeout: Duration::from_secs(20),
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn events_are_told_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let out_text = out.display();
        let program = program(
            directory.path(),
            &format!("read line; echo \"$1 $HB_EPOCH $HB_CODE $line\" >> {out_text}"),
        );
        block_on(async {
            let all = Notifiers::start(&[notify(&program, NotifyForm::Hb)], &Handle::current());
            for epoch in 1..=20 {
                all.tell(&Event { epoch: Some(epoch), ..event() });
            }
            all.finish(Duration::from_secs(30)).await;
        });
        let told = fs::read_to_string(out).unwrap();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines.len(), 20, "{told}");
        for (epoch, line) in (1..).zip(lines) {
            let json = Event { epoch: Some(epoch), ..event() }.json().unwrap();
            assert_eq!(line, format!("first {epoch} state {}", json.trim_end()));
        }
    }

    #[test]
    fn a_form_is_that_of_keepalived() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let program = program(directory.path(), &format!("echo \"$*\" >> {}", out.display()));
        block_on(async {
            let notify = notify(&program, NotifyForm::Keepalived);
            let all = Notifiers::start(&[notify], &Handle::current());
            all.tell(&Event { event: Kind::Peer, ..event() });
            all.tell(&event());
            all.finish(Duration::from_secs(30)).await;
        });
        assert_eq!(fs::read_to_string(out).unwrap(), "first INSTANCE web MASTER 100\n");
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_loses_what_it_has_no_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let script =
            format!("echo \"$HB_LOST\" >> {}; [ $HB_EPOCH = 1 ] && sleep 600", out.display());
        let program = program(directory.path(), &script);
        block_on(async {
            let notify =
                Notify { timeout: Duration::from_millis(700), ..notify(&program, NotifyForm::Hb) };
            let all = Notifiers::start(&[notify], &Handle::current());
            // The first is taken out of the queue; 256 wait; 43 are lost.
            all.tell(&Event { epoch: Some(1), ..event() });
            while !out.exists() {
                time::sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..299 {
                all.tell(&Event { epoch: Some(2), ..event() });
            }
            // There is room again once the first was ended.
            while fs::read_to_string(&out).unwrap().lines().count() < 3 {
                time::sleep(Duration::from_millis(5)).await;
            }
            all.tell(&Event { epoch: Some(3), ..event() });
            all.finish(Duration::from_secs(120)).await;
        });
        let told = fs::read_to_string(out).unwrap();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!((lines.len(), lines.last()), (258, Some(&"43")), "{told}");
        assert!(lines[..257].iter().all(|line| *line == "0"), "{told}");
    }
}
