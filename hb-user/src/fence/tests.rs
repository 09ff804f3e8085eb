//! Real agents, as shell scripts.

use std::{collections::BTreeMap, fs, io::Write as _, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::{
    config::Name,
    id::NodeId,
    logging::tests::captured,
    resource::tests::{alive, block_on, wait_for},
};

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// An agent with that body; `$D` in it is the directory of this bench. Another process writes
    /// it: a descriptor open for writing that leaked into a child forked by a test beside this one
    /// would make the kernel refuse to run it.
    fn agent(&self, body: &str) -> Fence {
        let command = self.path("agent");
        let mut writer = std::process::Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&command)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\nD={}\n{body}\n", self.dir.path().display());
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let own = vec![option("plug", "7"), option("ip", "198.51.100.2")];
        let options =
            BTreeMap::from([(NodeId(1), vec![option("plug", "not this one")]), (NodeId(2), own)]);
        Fence {
            command,
            action: FenceAction::Off,
            timeout: Duration::from_secs(30),
            retries: 0,
            delay: Duration::ZERO,
            options,
        }
    }
}

fn ask(fence: &Fence, action: Action) -> Report {
    let target = Node { name: Name::new("b").unwrap(), id: NodeId(2) };
    let asker =
        Asker { cluster: "lab".into(), node: "a".into(), epoch: Some(Epoch((3 << 32) | 0x201)) };
    block_on(run(fence, &target, action, &asker))
}

#[test]
fn success_is_believed_and_the_agent_got_its_options() {
    let bench = Bench::new();
    let fence = bench.agent("cat > $D/options; env > $D/env; echo $# > $D/count; echo gone");
    let report = ask(&fence, Action::Off);
    assert!(report.fenced(), "{report}");
    assert_eq!(bench.read("options"), "action=off\nnodename=b\nplug=7\nip=198.51.100.2\n");
    assert_eq!(bench.read("count"), "0\n", "no arguments");
    let env = bench.read("env");
    for variable in ["HB_CLUSTER=lab", "HB_NODE=a", "HB_EPOCH=12884902401", "PATH=/"] {
        assert!(env.lines().any(|line| line.starts_with(variable)), "{env}");
    }
    assert!(!env.contains("CARGO"), "{env}");
    assert_eq!(report.attempts[0].said, ["gone"]);
    let text = report.to_string();
    assert!(text.starts_with("agent off of node b: done, 1 try in "), "{text}");
    assert!(text.ends_with(" (it said: gone)"), "{text}");
}

#[test]
fn a_status_that_is_not_zero_is_no_fence_whatever_the_agent_says() {
    let bench = Bench::new();
    let report = ask(&bench.agent("echo Success: Powered OFF; exit 3"), Action::Off);
    assert!(!report.fenced());
    assert!(matches!(report.attempts[..], [Attempt { outcome: Outcome::Exit { code: 3 }, .. }]));
    assert!(report.to_string().contains("failed with exit status 3"), "{report}");
    let killed = ask(&bench.agent("kill -9 $$"), Action::Off);
    assert!(!killed.fenced());
    assert!(killed.to_string().contains("killed by signal 9"), "{killed}");
}

#[test]
fn a_status_query_fences_nobody() {
    let bench = Bench::new();
    let on = ask(&bench.agent("exit 0"), Action::Status);
    assert!(!on.fenced());
    assert!(on.to_string().contains("the node is on"), "{on}");
    let mut fence = bench.agent("exit 2");
    fence.retries = 5;
    let off = ask(&fence, Action::Status);
    assert!(!off.fenced());
    assert_eq!(off.attempts.len(), 1, "an answer is no failure");
    assert!(off.to_string().contains("the node is off"), "{off}");
}

#[test]
fn failures_are_tried_again() {
    let bench = Bench::new();
    let mut fence = bench.agent("echo x >> $D/tries; test $(wc -l < $D/tries) = 2");
    fence.retries = 3;
    let report = ask(&fence, Action::Reboot);
    assert!(report.fenced(), "{report}");
    assert_eq!(report.attempts.len(), 2);
    assert!(report.took >= FENCE_PAUSE, "{:?}", report.took);
    assert!(report.took < fence.longest());
}

#[test]
fn what_cannot_be_run_is_named_and_not_tried_again() {
    let bench = Bench::new();
    let mut fence = bench.agent("exit 0");
    fence.command = bench.path("missing");
    fence.retries = 5;
    let report = ask(&fence, Action::Off);
    assert!(!report.fenced());
    assert_eq!(report.attempts.len(), 1);
    let text = report.to_string();
    assert!(text.contains("missing off of node b: could not be run: No such file"), "{text}");
}

#[test]
fn an_agent_that_hangs_is_killed_with_all_it_started() {
    let bench = Bench::new();
    let mut fence = bench.agent(
        "trap '' TERM; echo $$ > $D/agent-pid; sleep 300 & echo $! > $D/child; echo begun; wait; \
         wait; sleep 300",
    );
    fence.timeout = Duration::from_millis(300);
    let report = ask(&fence, Action::Off);
    assert!(!report.fenced());
    let [Attempt { outcome: Outcome::TimedOut { after, lingers }, said, .. }] =
        &report.attempts[..]
    else {
        panic!("{report}")
    };
    assert_eq!((*after, *lingers), (fence.timeout, false));
    assert_eq!(said[..], ["begun"]);
    assert!(report.took < fence.longest(), "{:?}", report.took);
    assert!(!alive(&bench.read("agent-pid")));
    let child = bench.read("child");
    block_on(wait_for("the child's end", || !alive(&child)));
    assert!(report.to_string().contains("did not end within 300ms and was killed"), "{report}");
}

/// A process that left the group cannot be killed with it, and keeps the output open: it is not
/// waited for.
#[test]
fn a_process_that_escapes_holds_nothing_up() {
    let bench = Bench::new();
    let mut fence = bench.agent("setsid sleep 300 & echo $! > $D/escaped; sleep 300");
    fence.timeout = Duration::from_millis(300);
    let report = ask(&fence, Action::Off);
    assert!(!report.fenced());
    assert!(report.took < fence.longest(), "{:?}", report.took);
    let escaped = bench.read("escaped");
    let pid: i32 = escaped.trim().parse().unwrap();
    // SAFETY: sends a signal to a process this test started; touches no memory.
    unsafe { libc::kill(pid, libc::SIGKILL) };

    // Nor does it turn success into failure.
    let report = ask(&bench.agent("setsid sleep 300 & echo $! > $D/escaped; exit 0"), Action::Off);
    assert!(report.fenced(), "{report}");
    let pid: i32 = bench.read("escaped").trim().parse().unwrap();
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

#[test]
fn success_after_the_timeout_is_too_late() {
    let bench = Bench::new();
    let mut fence = bench.agent("trap 'exit 0' TERM; sleep 300 & wait");
    fence.timeout = Duration::from_millis(200);
    let report = ask(&fence, Action::Off);
    assert!(!report.fenced(), "exit status 0, but only because it was told to end: {report}");
}

#[test]
fn a_flood_of_output_is_cut() {
    let bench = Bench::new();
    let fence = bench.agent("i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done");
    let (report, log) = captured(|| ask(&fence, Action::Off));
    assert!(report.fenced(), "{report}");
    let said = &report.attempts[0].said;
    assert_eq!(said.len(), KEPT_LINES);
    assert_eq!(said.last().unwrap(), "line 999");
    assert_eq!(log.lines().filter(|line| line.contains("line ")).count(), LOGGED_LINES, "{log}");
    assert!(log.contains("more output of the fence agent") && log.contains("800"), "{log}");
}

#[test]
fn an_agent_that_never_reads_its_options_is_judged_by_its_end() {
    let bench = Bench::new();
    let mut fence = bench.agent("exec 0<&-; sleep 0.1; exit 0");
    let long = ("filler".to_owned(), "x".repeat(200_000));
    fence.options.get_mut(&NodeId(2)).unwrap().push(long);
    assert!(ask(&fence, Action::Off).fenced());
    // And one that leaves them in the pipe for ever, by the clock.
    let mut fence = bench.agent("sleep 300");
    fence.options.get_mut(&NodeId(2)).unwrap().push(("filler".into(), "x".repeat(200_000)));
    fence.timeout = Duration::from_millis(200);
    assert!(!ask(&fence, Action::Off).fenced());
}

#[test]
fn the_lower_rank_waits() {
    let mut fence = Bench::new().agent("exit 0");
    fence.delay = Duration::from_secs(2);
    assert_eq!(fence.delay(NodeId(1), NodeId(2)), Duration::ZERO);
    assert_eq!(fence.delay(NodeId(2), NodeId(1)), Duration::from_secs(2));
}
