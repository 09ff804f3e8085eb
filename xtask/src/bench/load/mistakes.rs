//! When a node took a living peer for dead, in the words of each system.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ::lab::{
    clock::{self, RealTime},
    takeover,
};
use anyhow::{Context, Result, anyhow};
use hb_ebpf::time::BootTime;
use serde_json::Value;

/// A peer was taken for dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// From when on.
    pub(super) began: BootTime,
    /// Until when; `None` if it still was at the end.
    pub(super) ended: Option<BootTime>,
    /// Whether the service was taken over because of it.
    pub(super) took_over: bool,
    /// Whether it was the daemon that was taken for dead, while the node's kernel half answered.
    pub(super) of_controller: bool,
}

const CONTROLLER_DIED: &str = "peer's controller is dead, its kernel half answers";
const CONTROLLER_ALIVE: &str = "peer's controller is alive";

impl Mistake {
    /// One that goes on, without a takeover so far.
    const fn open(began: BootTime, of_controller: bool) -> Self {
        Self { began, ended: None, took_over: false, of_controller }
    }
}

fn end(mistakes: &mut [Mistake], of_controller: bool, at: BootTime) {
    let open = |m: &&mut Mistake| m.of_controller == of_controller && m.ended.is_none();
    if let Some(mistake) = mistakes.iter_mut().rev().find(open) {
        mistake.ended = Some(at);
    }
}

/// Reads the mistakes of one node of hb from its daemon's log, those that began at or after
/// `since`. A mistake begins with the kernel's verdict where a takeover names it, else with the
/// line in the log.
pub(super) fn of_hb(log: &Path, since: BootTime) -> Result<Vec<Mistake>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let clock = RealTime::sample();
    let mut mistakes: Vec<Mistake> = Vec::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let stamp = line["timestamp"].as_str().and_then(timestamp);
        let (Some(message), Some(stamp)) = (line["message"].as_str(), stamp) else { continue };
        let at = clock.boot_time(stamp);
        match message {
            "peer died" => mistakes.push(Mistake::open(at, false)),
            CONTROLLER_DIED => mistakes.push(Mistake::open(at, true)),
            "peer is alive" => end(&mut mistakes, false, at),
            CONTROLLER_ALIVE => end(&mut mistakes, true, at),
            _ => {}
        }
    }
    for takeover in takeover::takeovers(log)? {
        let Some(at) = takeover.verdict.or(takeover.seen).or(takeover.published) else { continue };
        let of_controller = takeover.cause == "controller-dead";
        // The line about the death comes a round of the daemon's loop before or after.
        let of_it = mistakes.iter_mut().find(|mistake| {
            mistake.of_controller == of_controller
                && !mistake.took_over
                && mistake.began.ns().abs_diff(at.ns()) < LINE_LATE.as_nanos() as u64
        });
        match of_it {
            Some(mistake) => {
                mistake.began = at.min(mistake.began);
                mistake.took_over = true;
            }
            None => {
                // It was alive again before the daemon had a line for it.
                let ended = Some(at);
                mistakes.push(Mistake {
                    ended,
                    took_over: true,
                    ..Mistake::open(at, of_controller)
                });
            }
        }
    }
    mistakes.retain(|mistake| mistake.began >= since);
    Ok(mistakes)
}

/// A line of the log comes no later than this after what it tells of, also under load.
const LINE_LATE: Duration = Duration::from_secs(1);

/// Reads a time as the log has it, `2026-11-26T12:22:46.347952Z`.
fn timestamp(text: &str) -> Option<libc::timespec> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let fraction = text.get(19..)?.strip_prefix('.')?.strip_suffix('Z')?;
    let nanoseconds = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // Days since 1970 in the Gregorian calendar, of years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(libc::timespec { tv_sec: (days - 719_468) * 86_400 + seconds, tv_nsec: nanoseconds })
}

/// When a node said that it was master, or that it was not.
type Said = Vec<(BootTime, bool)>;

/// Reads what keepalived says of its state on one node, as it says it.
#[derive(Debug)]
pub(super) struct Notices {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Said>>>,
}

impl Notices {
    /// Begins to read the named pipe; what lies in it is from before.
    pub(super) fn read(pipe: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(pipe)
            .with_context(|| format!("cannot open {}", pipe.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = stop.clone();
            thread::Builder::new().name("notices".into()).spawn(move || {
                // Above any load, so that the times are right.
                clock::real_time(60).context("cannot have SCHED_FIFO for the reader")?;
                let mut said = Vec::new();
                let mut buffer = [0; 4096];
                let mut rest = String::new();
                let mut before = true;
                loop {
                    let stopping = stop.load(Ordering::Acquire);
                    let at = clock::now();
                    match file.read(&mut buffer) {
                        Ok(length) => rest += &String::from_utf8_lossy(&buffer[..length]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error).context("keepalived's pipe broke"),
                    }
                    while let Some((line, tail)) = rest.split_once('\n') {
                        if let (Some(master), false) = (is_master(line), before) {
                            said.push((at, master));
                        }
                        rest = tail.to_owned();
                    }
                    before = false;
                    if stopping {
                        return Ok(said);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        };
        let thread = thread.context("cannot start the reader")?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops; returns when the node said that it was master, or that it was not.
    pub(super) fn finish(mut self) -> Result<Said> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the reader was finished twice")?;
        thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Returns what a line says of the instance, `None` for one that says something else.
fn is_master(line: &str) -> Option<bool> {
    let state = line.strip_prefix("INSTANCE ")?.split_whitespace().nth(1)?;
    match state {
        "MASTER" => Some(true),
        "BACKUP" | "FAULT" | "STOP" => Some(false),
        _ => None,
    }
}

/// Returns the mistakes of a standby that became master while the master lived.
pub(super) fn of_keepalived(said: &[(BootTime, bool)]) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for &(at, master) in said {
        match mistakes.last_mut().filter(|mistake| mistake.ended.is_none()) {
            Some(open) if !master => open.ended = Some(at),
            None if master => {
                mistakes.push(Mistake { took_over: true, ..Mistake::open(at, false) });
            }
            _ => {}
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_log_are_read() {
        let read = |text| timestamp(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Some((1, 500_000_000)));
        assert_eq!(read("2024-02-29T23:59:59.000001Z"), Some((1_709_251_199, 1000)));
        assert_eq!(read("2026-11-26T12:22:46.347952Z"), Some((1_795_695_766, 347_952_000)));
        assert_eq!(read("2026-11-26"), None);
    }

    #[test]
    fn masters_are_told_from_backups() {
        assert_eq!(is_master("INSTANCE \"web\" MASTER 253"), Some(true));
        assert_eq!(is_master("INSTANCE \"web\" BACKUP 253"), Some(false));
        assert_eq!(is_master("GROUP \"web\" MASTER 253"), None);
        let said = [(5, false), (10, true), (12, true), (20, false), (30, true)];
        let said = said.map(|(at, master)| (BootTime(at), master));
        let mistake = |began, ended: Option<u64>| Mistake {
            ended: ended.map(BootTime),
            took_over: true,
            ..Mistake::open(BootTime(began), false)
        };
        assert_eq!(of_keepalived(&said), [mistake(10, Some(20)), mistake(30, None)]);
    }
}
