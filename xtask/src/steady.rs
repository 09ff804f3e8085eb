//! A run, and once more where the machine itself stood still.
//!
//! Both nodes are on one machine. When that stands still for longer than silence means dead, each node
//! loses the other one, as it must, and may have taken over before the fault: of the fault such a run
//! says nothing. An independent recorder has to have seen the stall, and what must never be is a
//! failure all the same: two nodes that answer, a daemon that ended, a takeover that never came.

use std::time::Duration;

use ::lab::{
    Lab,
    stalls::{Record, Recorder},
};
use anyhow::{Context, Error, Result};
use hb_user::config::parse_duration;

use crate::{demo, fault::Fault, timeline::Run};

/// A run is tried so often.
const TRIES: u32 = 5;
/// Of the time that means dead, a stall of one part in so many explains what went wrong: the next
/// heartbeats may be late for it too.
const PART: u32 = 2;
/// The recorder does not look more often: it would have a part in what is shown.
const LOOK: Duration = Duration::from_millis(2);

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
    let settings = lab.settings();
    let interval = parse_duration(&settings.interval)
        .with_context(|| format!("the interval {} is none", settings.interval))?;
    let deadtime = interval * settings.misses;
    let mut tries = 1;
    loop {
        let recorder = Recorder::start_every(LOOK.max(deadtime / PART))?;
        let mut run = Run::new(number, fault);
        let outcome = demo::once(lab, fault, &mut run);
        let record = recorder.finish()?;
        match outcome {
            Ok(()) => run.ok = true,
            Err(error) if is_excused(&error, &record, deadtime) && tries < TRIES => {
                println!("run {number}: {}; once more", why(&error, &record, deadtime));
                tries += 1;
                continue;
            }
            Err(error) if is_excused(&error, &record, deadtime) => {
                run.error = Some(format!(
                    "{}, in {TRIES} of {TRIES} tries",
                    why(&error, &record, deadtime)
                ));
            }
            Err(error) => run.error = Some(format!("{error:#}")),
        }
        return Ok(run);
    }
}

/// Tells whether a stall of the machine explains what went wrong.
fn is_excused(error: &Error, record: &Record, deadtime: Duration) -> bool {
    error.is::<Astray>() && record.longest() >= deadtime / PART
}

fn why(error: &Error, record: &Record, deadtime: Duration) -> String {
    format!(
        "{error:#}, but a core of this machine stood still for {} us, and {} us of silence mean dead",
        record.longest().as_micros(),
        deadtime.as_micros()
    )
}

#[cfg(test)]
mod tests {
    use ::lab::stalls::Stall;
    use anyhow::anyhow;
    use hb_ebpf::time::BootTime;

    use super::*;

    fn stood_still(ms: u64) -> Record {
        let length = Duration::from_millis(ms);
        Record { stalls: vec![Stall { core: 1, began: BootTime(1), length }], looks: 9 }
    }

    #[test]
    fn only_a_takeover_by_mistake_in_a_stall_is_excused() {
        let deadtime = Duration::from_millis(20);
        let astray = Error::from(Astray("node b answered before the fault"));
        assert!(is_excused(&astray, &stood_still(40), deadtime));
        assert!(is_excused(&astray, &stood_still(10), deadtime));
        assert!(!is_excused(&astray, &stood_still(9), deadtime));
        assert!(!is_excused(&astray, &Record::default(), deadtime));
        let two = anyhow!("node a still answered 12 us after node b began to");
        assert!(!is_excused(&two, &stood_still(40), deadtime));
        assert!(
            why(&astray, &stood_still(40), deadtime)
                .contains("40000 us, and 20000 us of silence mean dead")
        );
    }
}
