//! An independent witness of the machine's own stalls, so that who accuses a peer of silence is not
//! also who excuses itself.
//!
//! On every core a thread under `SCHED_FIFO` at priority 99 sleeps for a period, [`PERIOD`] if
//! nobody asks for another, and notes how late it woke. What it spent waiting on the run queue is
//! taken off (the second number of `/proc/thread-self/schedstat`, see the kernel's `sched-stats`): there the core
//! ran, only somebody else on it, such as the ordinary threads that the kernel's deadline server
//! lets in before a `SCHED_FIFO` hog. What is left is time in which the core woke nobody: the
//! hypervisor took it, or interrupts were off. So no load that a test makes excuses a takeover.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;

use crate::{clock, load};

/// Time between two looks: a stall is known to about this.
pub const PERIOD: Duration = Duration::from_micros(100);
/// What is shorter is not kept.
pub const THRESHOLD: Duration = Duration::from_micros(400);

/// A core did not run for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Which core.
    pub core: usize,
    /// When the thread was to wake.
    pub began: BootTime,
    /// How long nothing woke it, without its time on the run queue.
    pub length: Duration,
}

impl Stall {
    /// Returns whether it explains that something was silent for `deadtime` until `verdict`: it
    /// was as long as that, as far as it is known, and lay in the time of the silence.
    #[must_use]
    pub fn explains(&self, verdict: BootTime, deadtime: Duration) -> bool {
        let ended = self.began.after(self.length);
        self.length + PERIOD >= deadtime
            && self.began <= verdict
            && ended.after(deadtime) >= verdict
    }
}

/// Watches every core until [`Recorder::finish`].
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Core>>>,
}

/// What one core's thread knows.
#[derive(Debug)]
struct Core {
    stalls: Vec<Stall>,
    looks: u64,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Stalls of all cores in order of time.
    pub stalls: Vec<Stall>,
    /// Looks of all cores.
    pub looks: u64,
}

impl Record {
    /// Returns the longest stall; zero if none was kept.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.stalls.iter().map(|stall| stall.length).max().unwrap_or_default()
    }
}

impl Recorder {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// If a core cannot be watched: no `CAP_SYS_NICE`, or a kernel without `CONFIG_SCHED_INFO`.
    pub fn start() -> Result<Self> {
        Self::start_every(PERIOD)
    }

    /// Begins to watch, and looks each `period` only: a stall is then known to about that, and the
    /// looks themselves cost next to nothing.
    ///
    /// # Errors
    ///
    /// As for [`Recorder::start`].
    pub fn start_every(period: Duration) -> Result<Self> {
        let cores = thread::available_parallelism().context("cannot count cores")?.get();
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(Barrier::new(cores + 1));
        let threads = (0..cores)
            .map(|core| {
                let (stop, ready) = (stop.clone(), ready.clone());
                thread::Builder::new()
                    .name(format!("stalls-{core}"))
                    .spawn(move || {
                        let prepared = prepare(core);
                        ready.wait();
                        watch(core, period, &prepared?, &stop)
                    })
                    .with_context(|| format!("cannot watch core {core}"))
            })
            .collect::<Result<Vec<_>>>()?;
        ready.wait();
        Ok(Self { stop, threads })
    }

    /// Stops, and returns what was recorded.
    ///
    /// # Errors
    ///
    /// If a core could not be watched.
    pub fn finish(mut self) -> Result<Record> {
        self.stop.store(true, Ordering::Release);
        let mut record = Record::default();
        for thread in self.threads.drain(..) {
            let core =
                thread.join().map_err(|_| anyhow!("a thread of the recorder panicked"))??;
            record.stalls.extend(core.stalls);
            record.looks += core.looks;
        }
        record.stalls.sort_by_key(|stall| stall.began);
        Ok(record)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn prepare(core: usize) -> Result<File> {
    load::pin(core)?;
    clock::real_time(99).context("cannot have SCHED_FIFO for the recorder of stalls")?;
    let file = File::open("/proc/thread-self/schedstat")
        .context("cannot read this thread's time on the run queue")?;
    waited(&file)?;
    Ok(file)
}

fn watch(core: usize, period: Duration, schedstat: &File, stop: &AtomicBool) -> Result<Core> {
    let mut found = Core { stalls: Vec::with_capacity(4096), looks: 0 };
    let mut before = waited(schedstat)?;
    let mut due = clock::now().after(period);
    while !stop.load(Ordering::Acquire) {
        clock::sleep_until(due);
        let now = clock::now();
        let after = waited(schedstat)?;
        let length = stalled(now.since(due), after.saturating_sub(before));
        if length >= THRESHOLD {
            found.stalls.push(Stall { core, began: due, length });
        }
        before = after;
        found.looks += 1;
        due = due.after(period).max(now);
    }
    Ok(found)
}

/// Returns how long the core did not run, of a thread that woke `late` and spent `waited_ns` of it
/// on the run queue.
fn stalled(late: Duration, waited_ns: u64) -> Duration {
    late.saturating_sub(Duration::from_nanos(waited_ns))
}

/// Returns how long the thread has waited on run queues, in nanoseconds.
fn waited(schedstat: &File) -> Result<u64> {
    let mut buffer = [0; 96];
    let length = schedstat.read_at(&mut buffer, 0).context("cannot read schedstat")?;
    let text = std::str::from_utf8(&buffer[..length]).context("schedstat is no text")?;
    let word = text.split_whitespace().nth(1).context("schedstat has no second number")?;
    word.parse().with_context(|| format!("{word:?} in schedstat is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stall_explains_what_it_covers_and_is_long_enough_for() {
        let stall = Stall { core: 0, began: BootTime(10_000_000), length: 2 * MS };
        let at = |us: u64| BootTime(us * 1000);
        assert!(stall.explains(at(12_010), 2 * MS));
        assert!(stall.explains(at(11_500), MS));
        assert!(!stall.explains(at(12_010), 3 * MS), "too short");
        assert!(!stall.explains(at(9_000), MS), "before it");
        assert!(!stall.explains(at(15_000), 2 * MS), "long after it");
    }

    #[test]
    fn time_on_the_run_queue_excuses_nothing() {
        assert_eq!(stalled(50 * MS, 50_000_000), Duration::ZERO);
        assert_eq!(stalled(50 * MS, 49_000_000), MS);
        assert_eq!(stalled(MS, 5_000_000), Duration::ZERO);
    }
}
