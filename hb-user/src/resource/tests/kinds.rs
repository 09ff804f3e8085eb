//! Kinds of agents: how each is called, and what its exit codes and words mean.

use super::*;

/// An OCF agent, `test:svc`, that notes its environment.
fn ocf(bench: &Bench, body: &str) -> Agent {
    fs::create_dir_all(bench.path("ocf/resource.d/test")).unwrap();
    let mut agent = bench.script("ocf/resource.d/test/svc", body);
    agent.name = "web-1".into();
    let params = [("config", "/etc/a b"), ("port", "80")];
    agent.kind = ResourceKind::Ocf {
        provider: "test".into(),
        agent: "svc".into(),
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        check_level: 10,
    };
    agent
}

fn lsb(bench: &Bench, body: &str) -> Agent {
    let mut agent = bench.noting("svc", body);
    agent.kind = ResourceKind::Lsb { program: program(&agent) };
    agent
}

fn heartbeat(bench: &Bench, directory: &str, args: &[&str], body: &str) -> Agent {
    for directory in bench.directories() {
        fs::create_dir_all(directory).unwrap();
    }
    let mut agent = bench.noting(&format!("{directory}/svc"), body);
    agent.name = "svc".into();
    agent.kind = ResourceKind::Heartbeat {
        script: "svc".into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
    };
    agent
}

fn stop(agent: &Agent) -> Result<(), ResourceError> {
    block_on(agent.stop(&place(), &order()))
}

fn look(agent: &Agent, look: Look) -> State {
    block_on(agent.status(look, &place(), &order())).unwrap()
}

/// What an agent is asked for, and how.
type Ask = fn(&Agent) -> bool;

#[test]
fn an_ocf_agent_finds_its_parameters_and_what_it_is_asked_for() {
    let bench = Bench::new();
    let mut agent = ocf(&bench, "echo \"$@\" > $D/args; env | grep '^OCF_' | sort > $D/env");
    agent.start_timeout = Duration::from_millis(20_500);
    agent.interval = Some(Duration::from_secs(10));
    let expected = |name: &str, timeout: u64, interval: u64, level: Option<u32>| {
        let mut lines = vec![
            format!("OCF_RESKEY_CRM_meta_interval={interval}"),
            format!("OCF_RESKEY_CRM_meta_name={name}"),
            "OCF_RESKEY_CRM_meta_on_node=a".to_owned(),
            format!("OCF_RESKEY_CRM_meta_timeout={timeout}"),
            "OCF_RESKEY_config=/etc/a b".to_owned(),
            "OCF_RESKEY_port=80".to_owned(),
            "OCF_RA_VERSION_MAJOR=1".to_owned(),
            "OCF_RA_VERSION_MINOR=1".to_owned(),
            "OCF_RESOURCE_INSTANCE=web-1@web.lab".to_owned(),
            "OCF_RESOURCE_PROVIDER=test".to_owned(),
            "OCF_RESOURCE_TYPE=svc".to_owned(),
            format!("OCF_ROOT={}", bench.path("ocf").display()),
        ];
        lines.extend(level.map(|level| format!("OCF_CHECK_LEVEL={level}")));
        lines.sort();
        lines
    };
    let cases: [(Ask, &str, u64, u64, Option<u32>); 4] = [
        (|agent| start(agent).is_ok(), "start", 20_500, 0, None),
        (|agent| stop(agent).is_ok(), "stop", 30_000, 0, None),
        (|agent| look(agent, Look::Watch) == State::Running, "monitor", 30_000, 10_000, Some(10)),
        (|agent| look(agent, Look::Probe) == State::Running, "monitor", 30_000, 0, Some(0)),
    ];
    for (ask, name, timeout, interval, level) in cases {
        assert!(ask(&agent), "{name}");
        assert_eq!(bench.read("args"), format!("{name}\n"));
        let mut found: Vec<_> = bench.read("env").lines().map(str::to_owned).collect();
        found.sort();
        assert_eq!(found, expected(name, timeout, interval, level));
    }
}

#[test]
fn exit_codes_of_ocf_agents_are_told_in_words() {
    let bench = Bench::new();
    let agent = ocf(&bench, "echo oops >&2; exit $(cat $D/code)");
    let code = |code: i32| fs::write(bench.path("code"), code.to_string()).unwrap();
    let last_line = || Some("oops".to_owned());
    for (number, meaning) in [
        (1, "for no particular reason"),
        (2, "invalid argument"),
        (3, "not implemented"),
        (4, "insufficient privilege"),
        (5, "not installed"),
        (6, "not configured"),
        (9, "failed while promoted"),
    ] {
        code(number);
        let failed = State::Failed { code: number, meaning: Some(meaning), last_line: last_line() };
        assert_eq!(look(&agent, Look::Watch), failed);
        for (verb, error) in
            [("start", start(&agent).unwrap_err()), ("stop", stop(&agent).unwrap_err())]
        {
            assert_eq!(
                error.to_string(),
                format!(
                    "resource web-1: {verb} failed with exit code {number}, {meaning} (it said: oops)"
                )
            );
        }
    }
    code(42);
    let failed = State::Failed { code: 42, meaning: None, last_line: last_line() };
    assert_eq!(look(&agent, Look::Watch), failed);
    for (number, state) in [
        (0, State::Running),
        (7, State::Stopped),
        (8, State::Running),
        (190, State::Degraded { last_line: last_line() }),
        (191, State::Degraded { last_line: last_line() }),
    ] {
        code(number);
        assert_eq!(look(&agent, Look::Watch), state, "{number}");
    }
    // Told by a stop, "not running" is a failure, after which its monitor decides.
    code(7);
    stop(&agent).unwrap();
    let runs = ocf(&bench, "[ $1 = monitor ] || exit 7");
    assert!(stop(&runs).unwrap_err().to_string().contains("exit code 7, not running"));
}

#[test]
fn an_ocf_agent_that_is_not_there_is_named_by_its_path() {
    let bench = Bench::new();
    let mut agent = ocf(&bench, "");
    fs::remove_file(program(&agent)).unwrap();
    let text = start(&agent).unwrap_err().to_string();
    assert!(text.contains("ocf/resource.d/test/svc does not exist"), "{text}");
    agent.kind = ResourceKind::Heartbeat { script: "svc".into(), args: vec![] };
    let error = start(&agent).unwrap_err();
    assert!(error.never_ran());
    let text = error.to_string();
    assert!(text.contains("no script svc in /") && text.contains("resource.d or /"), "{text}");
}

#[test]
fn an_agent_that_others_may_write_is_not_run() {
    let bench = Bench::new();
    let agents = [
        ocf(&bench, "touch $D/ran"),
        lsb(&bench, "touch $D/ran"),
        heartbeat(&bench, "init.d", &[], "touch $D/ran"),
    ];
    for agent in agents {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(program(&agent), mode).unwrap();
        let error = start(&agent).unwrap_err();
        assert!(matches!(error, ResourceError::Untrusted { .. }), "{error}");
        assert!(!bench.path("ran").exists());
    }
}

#[test]
fn exit_codes_of_an_init_scripts_status_are_those_of_lsb() {
    let bench = Bench::new();
    let agent = lsb(&bench, "exit $(cat $D/code)");
    let status = |code: i32| {
        fs::write(bench.path("code"), code.to_string()).unwrap();
        look(&agent, Look::Watch)
    };
    let failed = |code, meaning| State::Failed { code, meaning, last_line: None };
    assert_eq!(status(0), State::Running);
    assert_eq!(status(1), failed(1, Some("dead, and its PID file is there")));
    assert_eq!(status(2), failed(2, Some("dead, and its lock file is there")));
    assert_eq!(status(3), State::Stopped);
    assert_eq!(status(4), failed(4, Some("unknown")));
    assert_eq!(status(7), failed(7, None), "OCF's code is none of LSB's");
}

#[test]
fn what_does_not_run_is_stopped_whatever_its_script_says() {
    let bench = Bench::new();
    let agent = lsb(&bench, "[ $1 = stop ] && exit 1; exit $(cat $D/code)");
    for (code, stopped) in [(0, false), (1, true), (2, true), (3, true), (4, false)] {
        fs::write(bench.path("code"), code.to_string()).unwrap();
        assert_eq!(stop(&agent).is_ok(), stopped, "status {code}");
        assert_eq!(bench.log(), ["svc stop", "svc status"]);
        fs::remove_file(bench.path("log")).unwrap();
    }
    for (code, stopped) in [(0, false), (3, true)] {
        let body = format!("[ $1 = stop ] && sleep 60; exit {code}");
        let mut hangs = bench.script("hangs", &body);
        hangs.stop_timeout = Duration::from_millis(200);
        match stop(&hangs) {
            Ok(()) => assert!(stopped),
            Err(error) => assert!(!stopped && matches!(error, ResourceError::TimedOut { .. })),
        }
    }
    let text = stop(&lsb(&bench, "[ $1 = stop ] && exit 5; exit 0")).unwrap_err().to_string();
    assert!(text.contains("stop failed with exit code 5, not installed"), "{text}");
}

#[test]
fn a_script_of_heartbeat_gets_its_arguments_before_the_verb() {
    let bench = Bench::new();
    let body = "echo \"$@\" >> $D/calls; [ $3 = status ] && echo stopped; exit 0";
    let agent = heartbeat(&bench, "resource.d", &["/dev/sdb1", "/srv"], body);
    start(&agent).unwrap();
    stop(&agent).unwrap();
    assert_eq!(
        bench.read("calls"),
        "/dev/sdb1 /srv status\n/dev/sdb1 /srv start\n/dev/sdb1 /srv stop\n"
    );
}

#[test]
fn heartbeats_directory_comes_before_that_of_init_scripts() {
    let bench = Bench::new();
    let only = heartbeat(&bench, "init.d", &[], "echo init.d >> $D/which");
    start(&only).unwrap();
    let both = heartbeat(&bench, "resource.d", &[], "echo resource.d >> $D/which");
    start(&both).unwrap();
    assert_eq!(bench.read("which"), "init.d\ninit.d\nresource.d\nresource.d\n");
}

#[test]
fn words_decide_whether_a_script_of_heartbeat_runs() {
    let bench = Bench::new();
    let agent = heartbeat(&bench, "resource.d", &[], "cat $D/says; exit 1");
    let says = |text: &str| {
        fs::write(bench.path("says"), text).unwrap();
        look(&agent, Look::Watch)
    };
    for text in ["running", "svc (pid 7) is Running...", "OK\n", "status: ok", "x\nrunning\ny"] {
        assert_eq!(says(text), State::Running, "{text}");
    }
    for text in ["stopped", "svc is Stopped", "svc is not running", "down\nNOT RUNNING\n"] {
        assert_eq!(says(text), State::Stopped, "{text}");
    }
    for text in ["", "broken", "token"] {
        assert!(matches!(says(text), State::Failed { code: 1, .. }), "{text}");
    }
}

#[test]
fn heartbeats_script_is_not_started_twice_nor_stopped_in_vain() {
    let bench = Bench::new();
    let body = "case $1 in status) cat $D/says;; start) exit 1;; stop) exit 1;; esac";
    let agent = heartbeat(&bench, "resource.d", &[], body);
    let says = |text: &str| fs::write(bench.path("says"), text).unwrap();
    says("running");
    start(&agent).unwrap();
    assert!(stop(&agent).is_err());
    says("stopped");
    assert!(start(&agent).is_err());
    stop(&agent).unwrap();
    says("who knows");
    assert!(stop(&agent).is_err());
}
