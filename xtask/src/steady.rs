//! A run, and once more where the machine itself stood still.
//!
//! Both nodes are on one machine. When that stands still for longer than silence means dead, each node
//! loses the other one, as it must, and may have taken over before the fault: of the fault such a run
//! says nothing. An independent recorder has to have seen the stall, and what must never be is a
//! failure all the same: two nodes that answer, a daemon that ended, a takeover that never came.

use std::{fmt::Write as _, time::Duration};

use ::lab::{
    Lab,
    addresses::NODES,
    config::Settings,
    stalls::{Record, Recorder},
    takeover,
};
use anyhow::{Context, Error, Result};
use hb_ebpf::time::BootTime;
use hb_user::config::parse_duration;

use crate::{demo, fault::Fault, timeline::Run};

/// A run is tried so often.
const TRIES: u32 = 5;
/// Of the time that means dead, a stall of one part in so many explains what went wrong: the next
/// heartbeats may be late for it too.
const PART: u32 = 2;
/// How often the recorder looks in that time: what it does not see of a stall is less than one look.
const LOOKS: u32 = 8;
/// The recorder does not look more often: it would have a part in what is shown.
const LOOK: Duration = Duration::from_millis(2);
/// So many steps of a group are told of a run that failed.
const TOLD: usize = 6;

/// Something was so before the fault that only a takeover by mistake explains.
#[derive(Debug)]
pub(crate) struct Astray(pub(crate) &'static str);

impl std::fmt::Display for Astray {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Astray {}

/// Runs `fault` as number `number`; what went wrong is in the run.
///
/// # Errors
///
/// If the cores cannot be watched.
pub(crate) fn run(lab: &mut Lab, fault: Fault, number: u32) -> Result<Run> {
    let dead = dead_after(lab.settings())?;
    let mut tries = 1;
    loop {
        let recorder = Recorder::start_every(LOOK.max(dead / LOOKS))?;
        let mut run = Run::new(number, fault);
        let outcome = demo::once(lab, fault, &mut run);
        let record = recorder.finish()?;
        let Err(error) = outcome else {
            run.ok = true;
            return Ok(run);
        };
        let Some(excuse) = excuse(&error, &record, served(&run), dead) else {
            run.error = Some(whole_story(lab, &error, &record));
            return Ok(run);
        };
        if tries == TRIES {
            run.error = Some(format!("{excuse}, in {TRIES} of {TRIES} tries"));
            return Ok(run);
        }
        println!("run {number}: {excuse}; once more");
        tries += 1;
    }
}

/// After which silence a node of this lab loses what it holds: of its kernel half or of its daemon.
fn dead_after(settings: &Settings) -> Result<Duration> {
    let read = |what, text: &str| {
        parse_duration(text).with_context(|| format!("the {what} {text} is none"))
    };
    let deadtime = read("interval", &settings.interval)? * settings.misses;
    Ok(deadtime.min(read("controller_deadtime", &settings.controller_deadtime)?))
}

/// What went wrong, and what the logs and the recorder say of it: of a run on another machine that
/// may be all that is left.
fn whole_story(lab: &Lab, error: &Error, record: &Record) -> String {
    let mut story = format!("{error:#}");
    for node in NODES {
        let Some(daemon) = lab.daemon(node) else { continue };
        let told = match takeover::steps(daemon.log()) {
            Ok(steps) => steps[steps.len().saturating_sub(TOLD)..].join(", "),
            Err(error) => format!("{error:#}"),
        };
        _ = write!(story, "; the last of the group on {node}: {told}");
    }
    _ = write!(story, "; longest stall of a core: {} us", record.longest().as_micros());
    story
}

/// When b first answered after the fault; what a core did later explains nothing.
fn served(run: &Run) -> Option<BootTime> {
    let fault = run.fault_ns?;
    let answered = run.instants.first_answer_new_ns.unwrap_or_default();
    Some(BootTime(fault.saturating_add_signed(answered)))
}

/// Says which stall of the machine before `served` explains what went wrong, if one does.
fn excuse(
    error: &Error,
    record: &Record,
    served: Option<BootTime>,
    dead: Duration,
) -> Option<String> {
    let before = record.stalls.iter().filter(|stall| served.is_none_or(|at| stall.began <= at));
    let longest = before.map(|stall| stall.length).max()?;
    (error.is::<Astray>() && longest >= dead / PART).then(|| {
        format!(
            "{error:#}, but a core of this machine stood still for {} us, and {} us of silence mean \
             dead",
            longest.as_micros(),
            dead.as_micros()
        )
    })
}

#[cfg(test)]
mod tests {
    use ::lab::stalls::Stall;
    use anyhow::anyhow;

    use super::*;

    fn stood_still(ms: u64) -> Record {
        let length = Duration::from_millis(ms);
        Record { stalls: vec![Stall { core: 1, began: BootTime(1000), length }], looks: 9 }
    }

    #[test]
    fn only_a_takeover_by_mistake_after_a_stall_is_excused() {
        let deadtime = Duration::from_millis(20);
        let astray = Error::from(Astray("node b answered before the fault"));
        let of = |record: &Record, served| excuse(&astray, record, served, deadtime);
        let said = of(&stood_still(40), None).unwrap();
        assert!(said.contains("40000 us, and 20000 us of silence mean dead"), "{said}");
        assert!(of(&stood_still(10), None).is_some());
        assert!(of(&stood_still(9), None).is_none());
        assert!(of(&Record::default(), None).is_none());
        assert!(of(&stood_still(40), Some(BootTime(1000))).is_some());
        assert!(of(&stood_still(40), Some(BootTime(999))).is_none(), "it was over by then");
        let two = anyhow!("node a still answered 12 us after node b began to");
        assert!(excuse(&two, &stood_still(40), None, deadtime).is_none());
    }

    #[test]
    fn whichever_half_of_a_node_is_given_up_first_counts() {
        let of = |interval: &str, misses, controller_deadtime: &str| {
            dead_after(&Settings {
                interval: interval.into(),
                misses,
                controller_deadtime: controller_deadtime.into(),
                ..Settings::default()
            })
        };
        assert_eq!(of("4ms", 20, "20ms").unwrap(), Duration::from_millis(20));
        assert_eq!(of("4ms", 20, "160ms").unwrap(), Duration::from_millis(80));
        let error = format!("{:#}", of("4ms", 20, "soon").unwrap_err());
        assert!(error.contains("the controller_deadtime soon is none"), "{error}");
    }

    #[test]
    fn what_counts_ends_with_the_first_answer() {
        let mut run = Run::new(1, Fault::Crash);
        assert_eq!(served(&run), None);
        run.fault_ns = Some(5000);
        assert_eq!(served(&run), Some(BootTime(5000)));
        run.instants.first_answer_new_ns = Some(700);
        assert_eq!(served(&run), Some(BootTime(5700)));
    }
}
