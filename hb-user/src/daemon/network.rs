//! A start waits for the network: at boot an interface, or its address, may come late.

use std::time::Duration;

use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{
    PrepareError, RunError,
    prepare::{Fit, Plan},
    report,
    signals::{Asked, Signals, log_ignored},
};
use crate::{
    clock,
    config::Readable,
    control::{Command, Reply, Request},
};

/// Between two looks at the host.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until this host has what `plan` needs; returns `None` if told to end meanwhile. Nothing is changed,
/// and whoever asks by the control socket is told what is missing.
///
/// # Errors
///
/// What is wrong if it cannot pass, or did not within the wait that is configured.
pub(super) async fn wait(
    plan: &Plan,
    commands: &mut mpsc::Receiver<Command>,
    signals: &mut Signals,
) -> Result<Option<Fit>, RunError> {
    let limit = plan.config.cluster.network_wait;
    let began = clock::now();
    let mut missing = String::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            asked = signals.next() => match asked {
                Asked::Leave(signal) => {
                    tracing::info!(signal, "ends: nothing was started yet");
                    return Ok(None);
                }
                Asked::Reload => {
                    tracing::warn!(missing, "not reloaded: this node has not started yet");
                }
                Asked::Nothing(signal) => log_ignored(signal),
            },
            _ = looks.tick() => {
                let waited = clock::now().since(began);
                let found = match plan.fit() {
                    Ok(fit) => {
                        if !missing.is_empty() {
                            let waited_ms = waited.as_millis() as u64;
                            tracing::info!(waited_ms, "the network is there: the start goes on");
                        }
                        return Ok(Some(fit));
                    }
                    Err(error) if !error.may_pass() => return Err(error.into()),
                    Err(error) if limit.is_some_and(|limit| waited >= limit) => {
                        return Err(error.into());
                    }
                    Err(error) => lines(&error),
                };
                if found != missing {
                    let network_wait = limit.map(|limit| Readable(limit).to_string());
                    tracing::warn!(
                        missing = found,
                        network_wait,
                        "waits for the network: this host lacks what the configuration names"
                    );
                    missing = found;
                }
            }
            Some(command) = commands.recv() => if answer(command, &missing) {
                tracing::info!("ends by the control socket: nothing was started yet");
                return Ok(None);
            }
        }
    }
}

/// Returns all that is wrong, in one line.
fn lines(error: &PrepareError) -> String {
    error.to_string().replace('\n', "; ")
}

fn refusal(missing: &str) -> String {
    format!(
        "this node waits for the network and has not started: {missing}; bring that up, or correct \
         the file and restart hb"
    )
}

/// Answers who asks; returns whether the daemon was told to end.
fn answer(Command { request, reply }: Command, missing: &str) -> bool {
    let stop = request == Request::Stop;
    let answer = match request {
        Request::Ping => Reply::Pong { version: report::VERSION.to_owned() },
        Request::Stop => Reply::Done { message: "ends: nothing was started yet".to_owned() },
        _ => Reply::Error { message: refusal(missing) },
    };
    // Who asked may have gone.
    drop(reply.send(answer));
    stop
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn ask(request: Request) -> (bool, Reply) {
        let (reply, mut answered) = oneshot::channel();
        let ends = answer(Command { request, reply }, "no interface eth7");
        (ends, answered.try_recv().unwrap())
    }

    #[test]
    fn who_asks_meanwhile_is_told_what_is_missing_and_may_end_it() {
        for request in [Request::Status, Request::Confirm, Request::Clear { group: "web".into() }] {
            let (ends, Reply::Error { message }) = ask(request) else { panic!() };
            assert!(!ends && message.contains("no interface eth7"), "{message}");
        }
        assert!(matches!(ask(Request::Ping), (false, Reply::Pong { .. })));
        assert!(matches!(ask(Request::Stop), (true, Reply::Done { .. })));
    }
}
