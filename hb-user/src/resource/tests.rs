//! Real shell scripts, seen from outside.

use std::{
    fs,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hb_ebpf::epoch::Epoch;
use tempfile::TempDir;

use super::*;
use crate::{background::Background, clock, config::ResourceKind, logging::tests::captured};

mod kinds;

/// Long enough on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Writes a script. `$D` in it is the directory of this bench; `$1` the verb.
    ///
    /// Another process writes it: a descriptor open for writing that leaked into a child forked
    /// by a test beside this one would make the kernel refuse to run it ("text file busy").
    fn script(&self, name: &str, body: &str) -> Agent {
        let program = self.path(name);
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\nD={}\n{body}\n", self.dir.path().display());
        writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        Agent {
            name: name.to_owned(),
            kind: ResourceKind::Script { program, args: Vec::new() },
            roots: Roots { ocf: self.path("ocf"), heartbeat: self.directories() },
            start_timeout: PATIENCE,
            stop_timeout: PATIENCE,
            status_timeout: PATIENCE,
            interval: None,
        }
    }

    /// Where scripts of Heartbeat lie here.
    fn directories(&self) -> Vec<PathBuf> {
        ["resource.d", "init.d"].map(|name| self.path(name)).into()
    }

    /// A script that notes each verb in `log`, and then runs `body`.
    fn noting(&self, name: &str, body: &str) -> Agent {
        self.script(name, &format!("echo {name} $1 >> $D/log\n{body}"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn log(&self) -> Vec<String> {
        self.read("log").lines().map(str::to_owned).collect()
    }
}

fn place() -> Place {
    Place { cluster: "lab".into(), node: "a".into(), group: "web".into() }
}

fn order() -> Order {
    Order {
        epoch: Epoch((3 << 32) | 0x201),
        reason: "peer dead".into(),
        cause: Some("holder_died"),
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn start(script: &Agent) -> Result<(), ResourceError> {
    block_on(script.start(&place(), &order()))
}

fn program(agent: &Agent) -> PathBuf {
    agent.roots.program(&agent.kind).unwrap()
}

/// Has a script be another program.
fn be(agent: &mut Agent, program: PathBuf) {
    agent.kind = ResourceKind::Script { program, args: Vec::new() };
}

/// Whether that process is there: a leader that was reaped is not, at once; what was killed with
/// it goes when the kernel gets to it.
pub(crate) fn alive(pid: &str) -> bool {
    // A zombie that nobody has reaped yet is dead for our purpose.
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = clock::now().after(PATIENCE);
    while !condition() {
        assert!(clock::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_script_sees_its_variables_and_no_other() {
    let bench = Bench::new();
    let mut script =
        bench.script("web-server", "env > $D/env; echo \"$@\" > $D/args; pwd > $D/cwd");
    let program = program(&script);
    script.kind = ResourceKind::Script { program, args: vec!["--port".into(), "80 80".into()] };
    start(&script).unwrap();

    assert_eq!(bench.read("args"), "start --port 80 80\n");
    assert_eq!(bench.read("cwd"), "/\n");
    let mut seen: Vec<_> = bench.read("env").lines().map(str::to_owned).collect();
    // The shell itself sets these.
    seen.retain(|line| {
        !["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own))
    });
    seen.sort();
    let path = seen.pop().unwrap();
    assert!(path.starts_with("PATH=/"), "{path}");
    assert_eq!(
        seen,
        [
            "HB_ACTION=start",
            "HB_CAUSE=holder_died",
            "HB_CLUSTER=lab",
            "HB_EPOCH=12884902401",
            "HB_GENERATION=3",
            "HB_GROUP=web",
            "HB_NODE=a",
            "HB_REASON=peer dead",
            "HB_RESOURCE=web-server",
        ]
    );
}

#[test]
fn exit_codes_of_status_are_those_of_lsb_and_ocf() {
    let bench = Bench::new();
    let script = bench.script("s", "echo ignored; cat $D/why >&2; exit $(cat $D/code)");
    fs::write(bench.path("why"), "first\ndisk full\n").unwrap();
    let status = |code: &str| {
        fs::write(bench.path("code"), code).unwrap();
        block_on(script.status(Look::Watch, &place(), &order())).unwrap()
    };
    assert_eq!(status("0"), State::Running);
    assert_eq!(status("3"), State::Stopped);
    assert_eq!(status("7"), State::Stopped);
    let last_line = Some("disk full".to_owned());
    assert_eq!(status("1"), State::Failed { code: 1, meaning: None, last_line });
}

#[test]
fn errors_name_the_resource_and_what_to_do() {
    let bench = Bench::new();
    let mut script = bench.script("db", "echo no room >&2; exit 5");
    let text = |script: &Agent| start(script).unwrap_err().to_string();
    assert_eq!(text(&script), "resource db: start failed with exit code 5 (it said: no room)");

    let path = program(&script).display().to_string();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(text(&script).contains(&format!("program {path} is not executable: run `chmod")));

    be(&mut script, bench.path("nothing"));
    assert!(text(&script).ends_with("nothing does not exist: install it or correct the path"));
    be(&mut script, "relative".into());
    assert!(text(&script).contains("program relative is not an absolute path"));

    let odd = bench.script("odd", "");
    let rewrite = "printf '#!/no/such/shell\\n' > \"$0\"";
    assert!(
        Command::new("/bin/sh")
            .args(["-c", rewrite])
            .arg(program(&odd))
            .status()
            .unwrap()
            .success()
    );
    let error = start(&odd).unwrap_err();
    assert!(matches!(error, ResourceError::NoInterpreter { .. }), "{error}");

    let error = start(&bench.script("own", "kill -9 $$")).unwrap_err();
    assert_eq!(error.to_string(), "resource own: start was killed by signal 9");
}

#[test]
fn a_timeout_ends_the_whole_process_group() {
    let bench = Bench::new();
    let body =
        "echo waiting for godot >&2\nsleep 600 & echo $! > $D/child\necho $$ > $D/self\nwait";
    let mut script = bench.script("slow", body);
    script.start_timeout = Duration::from_millis(500);
    let error = start(&script).unwrap_err();
    assert_eq!(
        error.to_string(),
        "resource slow: start timed out after 500ms (it said: waiting for godot): find out what it \
         waits for, or raise its timeout"
    );
    assert!(!bench.read("child").is_empty());
    assert!(!alive(&bench.read("self")));
    let child = bench.read("child");
    block_on(wait_for("the child's end", || !alive(&child)));
}

#[test]
fn who_ignores_sigterm_is_killed_and_who_heeds_it_gets_its_grace() {
    let bench = Bench::new();
    let mut deaf =
        bench.script("deaf", "trap '' TERM\necho $$ > $D/deaf.pid\nwhile :; do sleep 1; done");
    deaf.start_timeout = Duration::from_millis(300);
    assert!(matches!(start(&deaf), Err(ResourceError::TimedOut { .. })));
    assert!(!bench.read("deaf.pid").is_empty());
    assert!(!alive(&bench.read("deaf.pid")));

    // The leader dies of the signal at once; its child needs a moment to end in order.
    let body = "sh -c 'trap \"sleep 0.2; echo tidy > $0/tidy; exit\" TERM; touch $0/ready; \
                while :; do sleep 0.05; done' $D &\nwait";
    let mut polite = bench.script("polite", body);
    polite.start_timeout = Duration::from_secs(2);
    assert!(matches!(start(&polite), Err(ResourceError::TimedOut { .. })));
    assert!(bench.path("ready").exists());
    assert_eq!(bench.read("tidy"), "tidy\n");
}

#[test]
fn dropping_the_future_kills_the_process_group() {
    let bench = Bench::new();
    let script = bench.script("s", "sleep 600 & echo $! > $D/child\necho $$ > $D/self\nwait");
    block_on(async {
        let place = place();
        let order = order();
        let written = wait_for("the script", || !bench.read("self").trim().is_empty());
        tokio::select! {
            ended = script.start(&place, &order) => panic!("ended by itself: {ended:?}"),
            () = written => {}
        }
        let (child, leader) = (bench.read("child"), bench.read("self"));
        wait_for("their end", || !alive(&child) && !alive(&leader)).await;
    });
}

#[test]
fn a_background_process_that_keeps_the_output_open_is_neither_waited_for_nor_harmed() {
    let bench = Bench::new();
    let body = "(while [ ! -e $D/go ]; do sleep 0.05; done; echo late words; echo on > $D/on) &";
    let first = bench.script("daemon", body);
    let second = bench.noting("next", "");
    let (_, log) = captured(|| {
        block_on(async {
            let before = clock::now();
            let sequence = Sequence::new(place(), vec![first, second]);
            sequence.start_all(&order(), false).await.unwrap();
            assert!(clock::now().since(before) < PATIENCE);
            assert_eq!(bench.log(), ["next start"]);
            assert!(!bench.path("on").exists());

            fs::write(bench.path("go"), "").unwrap();
            wait_for("the daemon to survive its first words", || bench.path("on").exists()).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        });
    });
    assert!(log.contains("late words"), "{log}");
}

#[test]
fn output_goes_line_by_line_into_the_log() {
    let bench = Bench::new();
    let script = bench.script("s", "echo one; echo two >&2; printf 'no newline'");
    let (result, log) = captured(|| start(&script));
    result.unwrap();
    let line = |text: &str| {
        let line = log.lines().find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("no {text} in {log}")).to_owned()
    };
    assert!(line("one").contains("group=\"web\" resource=\"s\" stream=\"stdout\""), "{log}");
    assert!(line("two").contains("stream=\"stderr\""), "{log}");
    line("no newline");
}

#[test]
fn a_child_inherits_no_scheduling_signal_mask_or_descriptor() {
    let bench = Bench::new();
    let body = "cut -d' ' -f41 /proc/$$/stat > $D/policy\n\
                grep SigBlk /proc/self/status > $D/mask\n\
                ls -l /proc/$$/fd > $D/fds";
    let script = bench.script("s", body);
    let (reader, _writer) = std::io::pipe().unwrap();
    let secret = fs::File::create(bench.path("secret")).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: changes this short-lived thread alone, apart from the two descriptors' flags,
            // on which no other test depends.
            unsafe {
                let parameter = libc::sched_param { sched_priority: 0 };
                assert_eq!(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter), 0);
                let mut mask: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut mask);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
                for fd in [reader.as_raw_fd(), secret.as_raw_fd()] {
                    assert_eq!(libc::fcntl(fd, libc::F_SETFD, 0), 0);
                }
            }
            keep_descriptors().unwrap();
            let background = Background::start().unwrap();
            let started = background.spawn(async move { script.start(&place(), &order()).await });
            block_on(started).unwrap().unwrap();
        });
    });

    assert_eq!(bench.read("policy"), "0\n");
    assert_eq!(bench.read("mask"), "SigBlk:\t0000000000000000\n");
    // The shell itself holds the script open.
    let own = [" -> /dev/null", " -> pipe:[", bench.path("s").to_str().unwrap()].map(str::to_owned);
    let fds = bench.read("fds");
    let pipes = fds.lines().filter(|line| line.contains("pipe:[")).count();
    assert!(pipes <= 2, "{fds}");
    assert!(!fds.contains("secret"), "{fds}");
    for line in fds.lines().skip(1) {
        let ours = own.iter().any(|own| line.contains(own.as_str())) || line.contains("/fds");
        assert!(ours, "unexpected descriptor {line} in {fds}");
    }
}

#[test]
fn a_program_may_have_as_many_descriptors_as_the_daemon_was_started_with() {
    // SAFETY: all zero is a valid limit; both are plain calls, and other tests need fewer.
    let hard = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = 1000;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        limit.rlim_max
    };
    assert_eq!(raise_limit().unwrap(), hard.min(65_536));
    let bench = Bench::new();
    let script = bench.script("s", "sleep 0.3; ulimit -Sn > $D/limit");
    let background = Background::start().unwrap();
    let started = background.spawn(async move { script.start(&place(), &order()).await });
    block_on(started).unwrap().unwrap();
    assert_eq!(bench.read("limit"), "1000\n");
}

fn three(bench: &Bench, second: &str) -> Sequence {
    let scripts = vec![bench.noting("a", ""), bench.noting("b", second), bench.noting("c", "")];
    Sequence::new(place(), scripts)
}

#[test]
fn a_group_starts_in_order_and_stops_in_reverse() {
    let bench = Bench::new();
    let group = three(&bench, "");
    block_on(group.start_all(&order(), false)).unwrap();
    block_on(group.stop_all(&order())).unwrap();
    assert_eq!(bench.log(), ["a start", "b start", "c start", "c stop", "b stop", "a stop"]);
}

#[test]
fn a_failing_start_takes_down_what_came_up() {
    let bench = Bench::new();
    let group = three(&bench, "[ $1 = stop ] || exit 1");
    let error = block_on(group.start_all(&order(), false)).unwrap_err();
    let text = "group web could not be started: resource b: start failed with exit code 1";
    assert_eq!(error.to_string(), text);
    assert_eq!(bench.log(), ["a start", "b start", "b stop", "a stop"]);
}

#[test]
fn what_never_ran_is_not_stopped() {
    let bench = Bench::new();
    let mut missing = bench.noting("b", "");
    be(&mut missing, bench.path("missing"));
    let group = Sequence::new(place(), vec![bench.noting("a", ""), missing]);
    let error = block_on(group.start_all(&order(), false)).unwrap_err();
    assert!(error.not_stopped.is_empty());
    assert!(matches!(error.cause, ResourceError::NotFound { .. }));
    assert_eq!(bench.log(), ["a start", "a stop"]);
}

#[test]
fn a_failing_stop_does_not_keep_the_others_up_and_every_failure_is_told() {
    let bench = Bench::new();
    let fails = "[ $1 = stop ] && exit 4; exit 0";
    let scripts = vec![bench.noting("a", fails), bench.noting("b", ""), bench.noting("c", fails)];
    let group = Sequence::new(place(), scripts);
    let error = block_on(group.stop_all(&order())).unwrap_err();
    assert_eq!(bench.log(), ["c stop", "c status", "b stop", "a stop", "a status"]);
    assert_eq!(
        error.to_string(),
        "group web may still run here: resource c: stop failed with exit code 4; \
         resource a: stop failed with exit code 4"
    );
}

#[test]
fn resuming_leaves_alone_what_runs() {
    let bench = Bench::new();
    let scripts = vec![
        bench.noting("a", ""),
        bench.noting("b", "[ $1 = status ] && exit 3; exit 0"),
        bench.noting("c", "[ $1 = status ] && exit 1; exit 0"),
    ];
    let group = Sequence::new(place(), scripts);
    block_on(group.start_all(&order(), true)).unwrap();
    assert_eq!(bench.log(), ["a status", "b status", "b start", "c status", "c start"]);
}

#[test]
fn states_come_by_name_in_order() {
    let bench = Bench::new();
    let states = block_on(three(&bench, "exit 3").status_all(&order()));
    let states: Vec<_> = states.into_iter().map(|(name, state)| (name, state.unwrap())).collect();
    assert_eq!(
        states,
        [
            ("a".to_owned(), State::Running),
            ("b".to_owned(), State::Stopped),
            ("c".to_owned(), State::Running)
        ]
    );
}

#[test]
fn a_path_is_shown_as_configured() {
    let error = ResourceError::NotFound {
        resource: "db".into(),
        program: Path::new("/usr/lib/hb/db").to_owned(),
    };
    assert!(error.to_string().contains("/usr/lib/hb/db"));
    assert!(error.never_ran());
}
