//! The machine a figure was taken on.

use std::{collections::BTreeMap, fs, process::Command};

use crate::run;

/// Returns what a figure is not to be quoted without; a fact that cannot be had is left out.
pub(super) fn machine() -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.insert(name.to_owned(), value);
        }
    };
    add("kernel", read("/proc/sys/kernel/osrelease"));
    add("cpu", cpu("model name"));
    add("cpus", std::thread::available_parallelism().ok().map(|count| count.to_string()));
    add("clocksource", read("/sys/devices/system/clocksource/clocksource0/current_clocksource"));
    add("sched_rt_runtime_us", read("/proc/sys/kernel/sched_rt_runtime_us"));
    add("bpf_jit_enable", read("/proc/sys/net/core/bpf_jit_enable"));
    // Others may use the machine at the same time.
    add("load_average", read("/proc/loadavg"));
    let mut git = Command::new("git");
    git.current_dir(run::workspace()).args(["rev-parse", "--short", "HEAD"]);
    add("revision", run::output(&mut git).ok());
    let mut date = Command::new("date");
    add("date", run::output(date.args(["-u", "+%Y-%m-%d"])).ok());
    facts
}

/// Returns them for a person, one on each line.
pub(super) fn lines(facts: &BTreeMap<String, String>) -> String {
    facts.iter().map(|(name, fact)| format!("{name}: {fact}\n")).collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cpu(key: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_a_kernel_and_processors() {
        let facts = super::machine();
        assert!(facts.contains_key("kernel") && facts.contains_key("cpus"), "{facts:?}");
    }
}
