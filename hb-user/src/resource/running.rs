//! A program that runs for the daemon, and how it is ended with all that it started.

use std::{ffi::OsString, io, time::Duration};

use tokio::{process::Child, task::JoinHandle, time};

/// Time between `SIGTERM` and `SIGKILL`.
pub(crate) const GRACE: Duration = Duration::from_secs(1);
/// How long the end of the output is waited for after the end of the program: enough for what is
/// in the pipe; a service in the background that holds it open is not waited for.
pub(crate) const OUTPUT_WAIT: Duration = Duration::from_millis(200);
/// Time between two looks at a program that was told to end.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where programs are looked for if the daemon itself was not told.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the `PATH` of the programs that the daemon runs.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| PATH.into())
}

/// Waits until the output ended, for at most `limit`; what comes later is still logged.
pub(crate) async fn ended_output(output: [Option<JoinHandle<()>>; 2], limit: Duration) {
    let all = async {
        for task in output.into_iter().flatten() {
            if let Err(error) = task.await {
                tracing::warn!(%error, "the task that logs a script's output ended early");
            }
        }
    };
    if time::timeout(limit, all).await.is_err() {
        tracing::debug!("a script's output outlives it: it left a process in the background");
    }
}

/// A program whose process group dies with this value unless its leader was reaped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Ends the process group: asks, waits for the grace, kills, reaps.
    ///
    /// The leader is not reaped before the last signal was sent: until then the kernel gives its
    /// id to nobody else, so the signal cannot hit a stranger.
    pub(crate) async fn terminate(
        &mut self,
        output: [Option<JoinHandle<()>>; 2],
    ) -> io::Result<()> {
        self.signal(libc::SIGTERM);
        let gone = async {
            while self.leader_lives() {
                time::sleep(LOOK_EVERY).await;
            }
            // Other members of the group may still be ending in order.
            ended_output(output, GRACE).await;
        };
        // Either way the group is killed next: what has ended does not mind.
        let _ended_by_itself = time::timeout(GRACE, gone).await.is_ok();
        self.signal(libc::SIGKILL);
        self.0.wait().await.map(drop)
    }

    fn signal(&self, signal: libc::c_int) {
        let Some(leader) = self.0.id() else { return };
        // SAFETY: sends a signal and touches no memory; the negative number names the process
        // group that the unreaped child leads, which cannot be another's.
        let code = unsafe { libc::kill(-(leader as libc::pid_t), signal) };
        if code != 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(leader, signal, %error, "a script's process group got no signal");
        }
    }

    /// Returns whether the leader still runs, without reaping it.
    fn leader_lives(&self) -> bool {
        let Some(leader) = self.0.id() else { return false };
        // SAFETY: all zero is a valid value of `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is a local that outlives the call, and WNOWAIT leaves the child to its
        // owner.
        let code = unsafe { libc::waitid(libc::P_PID, leader, &raw mut info, options) };
        // SAFETY: waitid filled `info`, or left the zeros, which mean "still runs".
        code == 0 && unsafe { info.si_pid() } == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Reaped afterwards by the runtime, which adopts a child that is dropped.
        self.signal(libc::SIGKILL);
    }
}
