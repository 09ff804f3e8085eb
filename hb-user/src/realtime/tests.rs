use super::{
    reason::{Facts, cpu_cgroup, explain},
    *,
};

const DEADLINE: Policy = Policy::Deadline {
    runtime: Duration::from_micros(50),
    deadline: Duration::from_micros(100),
    period: Duration::from_millis(1),
};
const FIFO_PRIORITY: u8 = 50;
const FIFO: Policy = Policy::Fifo { priority: FIFO_PRIORITY };

/// Runs `body` on a thread of its own, whose scheduling may change.
fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

/// The policy the kernel says the calling thread has.
fn policy_number() -> libc::c_int {
    // SAFETY: takes an integer; 0 is the calling thread.
    unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
}

fn demand() -> Demand {
    let Policy::Deadline { runtime, deadline, period } = DEADLINE else { unreachable!() };
    Demand { runtime, deadline, period, fifo_priority: Demand::DEFAULT_FIFO_PRIORITY }
}

fn check(scheduling: &Scheduling) {
    let (number, refusals) = match scheduling.policy {
        Policy::Deadline { .. } => (libc::SCHED_DEADLINE, 0),
        Policy::Fifo { .. } => (libc::SCHED_FIFO, 1),
        Policy::Ordinary => (libc::SCHED_OTHER, 2),
    };
    assert_eq!(policy_number(), number, "{scheduling}");
    assert_eq!(scheduling.refused.len(), refusals, "{scheduling}");
}

#[test]
fn what_is_reported_is_in_force() {
    on_a_thread(|| {
        let scheduling = prefer_deadline(demand());
        check(&scheduling);
        // A thread it starts is ordinary, whatever it is itself.
        on_a_thread(|| assert_eq!(policy_number(), libc::SCHED_OTHER));
    });
}

#[test]
fn nonsense_falls_through_to_ordinary_with_reasons() {
    on_a_thread(|| {
        let demand = Demand { runtime: Duration::from_secs(9), fifo_priority: 100, ..demand() };
        let scheduling = prefer_deadline(demand);
        assert_eq!(scheduling.policy, Policy::Ordinary);
        check(&scheduling);
        let text = scheduling.to_string();
        assert!(text.starts_with("ordinary scheduling; SCHED_DEADLINE"), "{text}");
        assert!(text.contains("9s"), "{text}");
        assert!(text.contains("SCHED_FIFO priority 100 refused"), "{text}");
    });
}

#[test]
fn a_reservation_that_is_refused_anew_leaves_the_best_of_the_rest() {
    let too_much = Demand { runtime: Duration::from_secs(9), ..demand() };
    let may_fifo = on_a_thread(|| prefer_fifo(FIFO_PRIORITY).policy == FIFO);
    for (fifo_priority, possible) in [(FIFO_PRIORITY, may_fifo), (100, false)] {
        on_a_thread(|| {
            let _ = prefer_deadline(demand());
            let (policy, errno) = reserve_anew(Demand { fifo_priority, ..too_much });
            let (wanted, number) = if possible {
                (FIFO, libc::SCHED_FIFO)
            } else {
                (Policy::Ordinary, libc::SCHED_OTHER)
            };
            assert_eq!((policy, policy_number()), (wanted, number));
            assert_ne!(errno, 0);
        });
    }
}

#[test]
fn refusals_are_told_apart() {
    let able = Facts { may_nice: Some(true), cpus: Some((2, 2)), ..Facts::default() };
    let unable = Facts { may_nice: Some(false), ..able.clone() };
    let pinned = Facts { cpus: Some((1, 2)), ..able.clone() };
    let child = Facts { cgroup: Some("/system.slice".into()), ..able.clone() };
    let root = Facts { cgroup: Some("/".into()), ..able.clone() };
    let throttled = Facts { runtime_us: Some(0), ..able.clone() };
    let filtered = Facts { filtered: Some(true), ..root.clone() };
    let cases = [
        (DEADLINE, libc::EPERM, &unable, "CAP_SYS_NICE"),
        (FIFO, libc::EPERM, &unable, "CAP_SYS_NICE"),
        (DEADLINE, libc::EPERM, &pinned, "1 of 2 CPUs"),
        (DEADLINE, libc::EPERM, &throttled, "sched_rt_runtime_us is 0"),
        (DEADLINE, libc::EPERM, &filtered, "RestrictRealtime"),
        (FIFO, libc::EPERM, &filtered, "RestrictRealtime"),
        (FIFO, libc::EPERM, &child, "cgroup /system.slice has no real-time runtime"),
        (FIFO, libc::EPERM, &root, "cgroup / has no real-time runtime"),
        (DEADLINE, libc::EPERM, &root, "sched_setattr(2)"),
        (DEADLINE, libc::EBUSY, &able, "lower the runtime"),
        (DEADLINE, libc::EINVAL, &able, "100 to 4194304 us"),
        (FIFO, libc::EINVAL, &able, "1 to 99"),
    ];
    for (policy, errno, facts, expected) in cases {
        let hint = explain(policy, errno, facts);
        assert!(hint.contains(expected), "{policy}, {errno}: {hint}");
    }
}

#[test]
fn the_cpu_cgroup_is_found_in_both_versions() {
    let v1 = "4:memory:/a\n3:cpu,cpuacct:/b:c\n0::/d\n";
    assert_eq!(cpu_cgroup(v1).as_deref(), Some("/b:c"));
    assert_eq!(
        cpu_cgroup("0::/system.slice/hb.service\n").as_deref(),
        Some("/system.slice/hb.service")
    );
    assert_eq!(cpu_cgroup(""), None);
}

#[test]
fn the_facts_of_this_thread_are_found() {
    let facts = Facts::gather();
    assert!(facts.may_nice.is_some());
    assert!(facts.cpus.is_some_and(|(allowed, _)| allowed > 0));
}

#[test]
fn timers_are_tightened() {
    on_a_thread(|| {
        tighten_timers().unwrap();
        // SAFETY: takes integers only.
        let slack_ns = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0) };
        // A thread under a real-time policy has none at all.
        assert!(slack_ns <= 1, "{slack_ns}");
    });
}

#[test]
fn a_stack_is_touched_as_far_as_it_goes() {
    // More than asked for may be there: the C library hands out stacks of former threads again.
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(|| {
        prefault_stack(0).unwrap();
        prefault_stack(256 * 1024).unwrap();
        let Err(StackError::TooSmall { asked_bytes, left_bytes }) = prefault_stack(usize::MAX)
        else {
            panic!("no stack is that large");
        };
        assert_eq!(asked_bytes, usize::MAX);
        assert!(left_bytes > 256 * 1024);
        // Less what this call and another one's frames may differ by.
        prefault_stack(left_bytes - 4096).unwrap();
        assert!(prefault_stack(left_bytes + 4096).is_err());
    });
    thread.unwrap().join().unwrap();
}
