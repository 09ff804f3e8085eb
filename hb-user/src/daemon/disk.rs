//! The disk, at arm's length: whatever the daemon stores while it runs.
//!
//! To store something is to wait for a disk, which takes milliseconds as a rule, a tenth of a second
//! on a busy machine, and has no end on a broken one. The main loop stamps the controller's slot and
//! must not wait for that. So a thread of its own has the state directory, and the main loop goes on
//! where it needs something stored once that is so; [`core::storage`](crate::core::storage) says when.

use std::{io, sync::mpsc as sync, thread, time::Duration};

use hb_ebpf::time::BootTime;
use tokio::sync::mpsc;

use super::{Daemon, resources::describe};
use crate::{
    config::Config,
    control::Reply,
    core::storage::{News, Write},
    parting,
    state_dir::{StateDir, StateDirError},
};

/// How long a node that leaves waits for its disk.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// What came of a write.
pub(super) type Written = Result<(), String>;

/// What the thread is to do.
enum Job {
    /// Of a group's, with its name.
    Write(Write, Option<String>),
    /// Leave a note that all that was promised has run out then; nothing comes after it.
    Part(BootTime, sync::Sender<Written>),
}

/// The thread, by its channels.
pub(super) struct Disk {
    jobs: sync::Sender<Job>,
    done: mpsc::UnboundedReceiver<Written>,
}

impl Disk {
    /// Starts the thread, which has the state directory from now on. It ends when this is dropped, once the disk
    /// has answered.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn start(state: StateDir) -> io::Result<Self> {
        let (jobs, asked) = sync::channel();
        let (report, done) = mpsc::unbounded_channel();
        thread::Builder::new().name("hb-disk".to_owned()).spawn(move || {
            let mut state = state;
            for job in asked {
                match job {
                    Job::Write(write, name) => {
                        let written = store(&mut state, name.as_deref(), &write);
                        // A daemon that is gone needs no answer.
                        drop(report.send(written.map_err(|error| describe(&error))));
                    }
                    Job::Part(end, reply) => {
                        let left = parting::leave(state.path(), end);
                        drop(reply.send(left.map_err(|error| describe(&error))));
                    }
                }
            }
        })?;
        Ok(Self { jobs, done })
    }

    /// Begins to store something, of the groups of `config`.
    pub(super) fn begin(&self, config: &Config, write: Write) {
        let name = name(config, &write);
        // The thread ends with this only, and a panic there ends the process.
        drop(self.jobs.send(Job::Write(write, name)));
    }

    /// Returns what came of the write under way; waits for ever if there is none.
    pub(super) async fn next(&mut self) -> Written {
        match self.done.recv().await {
            Some(written) => written,
            // The thread ends only with this, and a panic in it ends the process.
            None => std::future::pending().await,
        }
    }

    /// Leaves a note that all that was promised has run out by `end`, after all that is under way.
    ///
    /// # Errors
    ///
    /// Why there is none, as far as is known by then.
    pub(super) fn part(&self, end: BootTime) -> Written {
        let (reply, answer) = sync::channel();
        drop(self.jobs.send(Job::Part(end, reply)));
        answer.recv_timeout(LEAVE_WITHIN).unwrap_or_else(|_| {
            Err(format!("the disk has not answered for {} s", LEAVE_WITHIN.as_secs()))
        })
    }
}

/// Returns the name of the group that something is about: records may lie otherwise than groups in the file.
fn name(config: &Config, write: &Write) -> Option<String> {
    let Write::Vow(group, _) = write else { return None };
    config.group(*group).map(|group| group.name.to_string())
}

fn store(state: &mut StateDir, group: Option<&str>, write: &Write) -> Result<(), StateDirError> {
    match write {
        Write::Generation(generation) => state.raise_generation(*generation),
        Write::Voters(set) => state.store_voters(set),
        Write::Vow(_, epoch) => match group {
            Some(name) => state.store_vow(name, *epoch),
            // No group of this configuration.
            None => Ok(()),
        },
        Write::Aside(aside) => state.store_aside(*aside),
    }
}

impl Daemon {
    /// Goes on where something had to be stored first.
    pub(super) fn on_written(&mut self, written: Written) {
        self.steer(|controller, hands| controller.on_written(hands, written));
        self.answer_asides();
    }

    pub(super) fn on_disk_news(&mut self, news: &News) {
        match news {
            News::Failed(error) => {
                tracing::error!(error, "not stored: what needs it waits, and it is tried again");
            }
            News::Slow(waited) => {
                let for_ms = waited.as_millis() as u64;
                tracing::warn!(for_ms, "the disk does not answer: what needs it waits");
            }
            News::Mended => return tracing::info!("the disk answers again"),
        }
        let wait = format!("confirmed, and done once it is stored: {}", warning(news));
        self.answer_confirmations(|| Err(wait.clone()));
        let wait = format!("done once it is stored: {}", warning(news));
        for (_, reply) in self.asides.drain(..) {
            // Who asked may have gone.
            drop(reply.send(Reply::Error { message: wait.clone() }));
        }
    }
}

/// What an operator is told of a disk that is not well.
pub(super) fn warning(news: &News) -> String {
    match news {
        News::Failed(error) => format!("{error}; it is tried again"),
        News::Slow(waited) => format!(
            "the disk has not answered for {} ms: this node votes for no newer generation until it \
             does",
            waited.as_millis()
        ),
        News::Mended => "the disk answers again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hb_ebpf::epoch::Epoch;

    use super::*;
    use crate::id::GroupId;

    #[test]
    fn what_a_group_promised_is_stored_by_its_name_wherever_its_record_lies() {
        let example = include_str!("../../../packaging/hb.toml");
        let other = "\n[[group]]\nname = \"db\"\npreferred = \"a\"\n[[group.address]]\n\
                     address = \"192.0.2.201/24\"\ninterface = \"eth0\"\n";
        let path = Path::new("hb.toml");
        let mut config = Config::parse(&format!("{example}{other}"), path).unwrap();
        let [first, last] = &mut config.groups[..] else { panic!("two groups") };
        // As after a restart in place with the groups in another order.
        (first.id, last.id) = (GroupId(1), GroupId(0));
        let directory = tempfile::tempdir().unwrap();
        let mut state = StateDir::open(directory.path()).unwrap();
        let epoch = Some(Epoch(0x1_0000_0102));
        let write = Write::Vow(GroupId(0), epoch);
        store(&mut state, name(&config, &write).as_deref(), &write).unwrap();
        assert_eq!((state.vow("db").unwrap(), state.vow("web").unwrap()), (epoch, None));
        assert_eq!(name(&config, &Write::Generation(7)), None);
    }
}
