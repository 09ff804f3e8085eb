//! The process that a file names, whose end the kernel tells of at once: nobody has to ask for it.

use std::{
    fs, io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task, time,
};

/// How long a file may name no process that lives after its service was started: some write it late, and what
/// an earlier process left may be there until then.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The process of a resource, by its PID file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Name of the resource.
    pub resource: String,
    /// The file, absolute.
    pub pid_file: PathBuf,
}

impl Process {
    /// Waits until the process has ended, and no other one has its place; returns what to say of that. Called
    /// once the resource was started.
    pub async fn ended(&self) -> String {
        let (resource, file) = (&self.resource, self.pid_file.display());
        let mut last = None;
        loop {
            let (pid, process) = match self.find(last).await {
                Ok(found) => found,
                Err(error) => {
                    return match last {
                        Some(pid) => format!("resource {resource}: its process {pid} has ended"),
                        None => format!("resource {resource}: {file} names no process: {error}"),
                    };
                }
            };
            if let Some(before) = last {
                tracing::info!(resource, before, pid, "another process serves");
            }
            last = Some(pid);
            // An error of the runtime, which has no reason for one, must not look like a death.
            if let Err(error) = process.readable().await {
                tracing::warn!(resource, pid, %error, "the end of the process is not heard of");
                return std::future::pending().await;
            }
        }
    }

    /// Finds the process that the file names: at once if `ended` did before, else within the grace.
    async fn find(&self, ended: Option<u32>) -> io::Result<(u32, AsyncFd<OwnedFd>)> {
        let give_up = time::sleep(GRACE);
        tokio::pin!(give_up);
        loop {
            let path = self.pid_file.clone();
            let read = task::spawn_blocking(move || fs::read_to_string(path));
            let found = read.await.map_err(io::Error::other)?.and_then(|text| {
                let pid = text.split_whitespace().next().and_then(|word| word.parse().ok());
                let pid = pid.filter(|pid| *pid > 0 && ended != Some(*pid));
                let pid = pid.ok_or_else(|| io::Error::other("there is no number in it"))?;
                Ok((pid, listen(open(pid)?)?))
            });
            if found.is_ok() || ended.is_some() {
                return found;
            }
            tokio::select! {
                () = &mut give_up => return found,
                () = time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

fn listen(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: it owns its descriptor, returns the same one always, and closes it only when it is dropped, after
    // `AsyncFd` has deregistered it.
    let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    process.map_err(io::Error::from)
}

/// Opens a process, whatever becomes of its number (pidfd_open(2), Linux 5.3).
fn open(pid: u32) -> io::Result<OwnedFd> {
    let none: libc::c_uint = 0;
    // SAFETY: both arguments are numbers; the kernel touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, none) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::resource::tests::block_on;

    const SHORT: Duration = Duration::from_millis(100);

    fn service() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn process(directory: &tempfile::TempDir) -> Process {
        Process { resource: "svc".into(), pid_file: directory.path().join("pid") }
    }

    fn watch(process: &Process) -> task::JoinHandle<String> {
        let process = process.clone();
        task::spawn(async move { process.ended().await })
    }

    fn write(process: &Process, child: &Child) {
        fs::write(&process.pid_file, format!("{}\n", child.id())).unwrap();
    }

    #[test]
    fn the_end_of_a_process_is_heard_of_and_that_of_no_other_one() {
        let directory = tempfile::tempdir().unwrap();
        let process = process(&directory);
        let (child, other) = (service(), service());
        write(&process, &child);
        block_on(async {
            let ended = watch(&process);
            time::sleep(SHORT).await;
            end(other);
            time::sleep(SHORT).await;
            assert!(!ended.is_finished());
            let pid = child.id();
            end(child);
            let text = time::timeout(GRACE, ended).await.unwrap().unwrap();
            assert_eq!(text, format!("resource svc: its process {pid} has ended"));
        });
    }

    #[test]
    fn a_service_that_replaced_its_process_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let process = process(&directory);
        let (old, new) = (service(), service());
        write(&process, &old);
        block_on(async {
            let ended = watch(&process);
            time::sleep(SHORT).await;
            write(&process, &new);
            end(old);
            time::sleep(SHORT).await;
            assert!(!ended.is_finished());
            end(new);
            assert!(time::timeout(GRACE, ended).await.unwrap().unwrap().contains("has ended"));
        });
    }

    #[test]
    fn a_file_that_comes_late_or_names_what_is_gone_at_first_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let process = process(&directory);
        let child = service();
        block_on(async {
            let ended = watch(&process);
            time::sleep(SHORT).await;
            fs::write(&process.pid_file, "4194305").unwrap();
            time::sleep(SHORT).await;
            write(&process, &child);
            time::sleep(SHORT).await;
            assert!(!ended.is_finished());
            end(child);
            assert!(time::timeout(GRACE, ended).await.unwrap().unwrap().contains("has ended"));
        });
    }

    #[test]
    fn a_file_that_names_no_process_is_a_failure_after_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let process = process(&directory);
        for (text, said) in [
            (None, "No such file"),
            (Some("abc"), "there is no number in it"),
            (Some("-1"), "there is no number in it"),
            // Beyond the greatest number that the kernel gives.
            (Some("4194305"), "No such process"),
        ] {
            if let Some(text) = text {
                fs::write(&process.pid_file, text).unwrap();
            }
            let error = block_on(process.ended());
            assert!(error.contains("names no process") && error.contains(said), "{error}");
        }
    }
}
