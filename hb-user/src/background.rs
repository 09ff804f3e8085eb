//! Where programs are started and clients served: a thread beside the main loop.
//!
//! To start a program is to wait until it has come as far as its first instruction, which an
//! ordinary process on a busy machine may take tens of milliseconds for. The main loop stamps the
//! controller's slot and must not wait for that.

use std::{future::Future, io, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::realtime;

/// The thread. Dropping it ends its tasks, and what they run is killed.
pub(crate) struct Background {
    handle: Handle,
    thread: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Background {
    /// Starts the thread, with ordinary scheduling: programs it starts inherit that.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, asked) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("hb-background".to_owned()).spawn(move || {
            if let Err(error) = realtime::be_ordinary() {
                tracing::warn!(%error, "programs are scheduled as this daemon was");
            }
            // An error says that the sender is gone, which means the same.
            runtime.block_on(async { drop(asked.await) });
        })?;
        Ok(Self { handle, thread: Some((end, thread)) })
    }

    /// Returns what spawns tasks there.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a task there.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(task)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let Some((end, thread)) = self.thread.take() else { return };
        drop(end);
        // A panic there has ended the process already.
        drop(thread.join());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_task_that_blocks_holds_up_nobody_here_and_dropping_ends_the_others() {
        struct Dropped(std::sync::mpsc::Sender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let background = Background::start().unwrap();
        let (began, begun) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (dropped, ended) = std::sync::mpsc::channel();
        let guard = Dropped(dropped);
        let endless = background.spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        let blocking = background.spawn(async move {
            began.send(()).unwrap();
            wait.recv().unwrap();
        });
        // Here it goes on although the thread there waits.
        begun.recv().unwrap();
        assert!(!blocking.is_finished());
        go_on.send(()).unwrap();
        drop(background);
        ended.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(endless.is_finished() && blocking.is_finished());
    }
}
