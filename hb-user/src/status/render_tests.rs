//! Whole pages, as an operator sees them.

use std::collections::BTreeMap;

use hb_ebpf::gate::Count;
use proptest::prelude::*;

use super::*;
use crate::status::{
    AddressAtGate, AddressStatus, AttachMode, Controller, Engine, GateReport, GroupHealth,
    GroupState, InterfaceAtGate, KeysReport, LeaseStatus, LinkStatus, Misses, PausesReport,
    PeerController, Promise, ResourceStatus, Scheduling, Vote, render_gate,
};

fn link(name: &str, interface: &str) -> LinkStatus {
    LinkStatus {
        link: name.into(),
        transport: "ethernet".into(),
        interface: interface.into(),
        attach_mode: AttachMode::Native,
        attach_reason: None,
        up: true,
        last_arrival_us_ago: Some(120),
        received: 1_234_567,
        answered: 1_234_560,
        send_errors: 0,
        sent: 1_234_570,
        refused: [].into(),
        unfresh: 2,
        rtt_us: Some(Quantiles { p50: 12.34, p99: 45.0, max: Some(1310.7) }),
        gap_us: Some(Quantiles { p50: 199.96, p99: 310.2, max: None }),
        answers_heard_by_peer: true,
    }
}

fn peer(node: &str, id: u8, links: Vec<LinkStatus>) -> PeerStatus {
    PeerStatus {
        node: node.into(),
        id,
        witness: false,
        life: PeerLife::Alive,
        cause: None,
        since_us_ago: 273_600_000_000,
        last_arrival_us_ago: Some(120),
        incarnation: Some(7),
        controller: Some(PeerController { alive: true, age_us: 340 }),
        config_matches: Some(true),
        config_differs: Vec::new(),
        refuses_us: None,
        misses: Misses { consecutive: 0, total: 12 },
        doubts_total: 3,
        deaths_total: 1,
        offset_us: Some(-12.04),
        pauses: PausesReport::default(),
        links,
    }
}

pub(in crate::status) fn healthy() -> StatusReport {
    StatusReport {
        version: "0.1.0".into(),
        cluster: "edge".into(),
        cluster_id: 77,
        node: "a".into(),
        node_id: 1,
        incarnation: 9,
        config_hash: "0123456789abcdef".into(),
        engine: Engine {
            kind: EngineKind::KernelTimer,
            reason: "the kernel has BPF timers".into(),
        },
        scheduling: Scheduling { policy: "SCHED_DEADLINE".into(), refused: vec![] },
        controller: Controller { age_us: 410, tick_ms: 1 },
        keys: KeysReport { accepted: vec![1], sends_with: 1 },
        policy: "witness".into(),
        uptime_s: 273_661,
        pauses: PausesReport::default(),
        peers: vec![
            peer("b", 2, vec![link("direct", "eth1"), link("lan", "eth0")]),
            PeerStatus {
                witness: true,
                controller: None,
                ..peer("witness", 3, vec![link("lan", "eth0")])
            },
        ],
        groups: vec![GroupStatus {
            group: "web".into(),
            state: GroupState::Holding,
            health: GroupHealth::Healthy,
            fingerprint: "91902f90".into(),
            record: 0,
            lacking: vec![],
            holder: Some("a".into()),
            holder_health: Some(GroupHealth::Healthy),
            restarts: 0,
            aside: false,
            maintenance: false,
            epoch: 513,
            generation: 0,
            lease: Some(held()),
            addresses: vec![
                AddressStatus {
                    address: "192.0.2.10/24".into(),
                    interface: "eth0".into(),
                    present: true,
                    warm: false,
                },
                AddressStatus {
                    address: "2001:db8::10/64".into(),
                    interface: "eth0".into(),
                    present: false,
                    warm: false,
                },
            ],
            resources: vec![ResourceStatus {
                name: "nginx".into(),
                kind: "ocf:heartbeat:nginx".into(),
                state: "running".into(),
                watched: vec!["status every 10s".into(), "tcp 127.0.0.1:80 every 10ms".into()],
            }],
            reason: None,
            since_us_ago: 4_980_000_000,
        }],
        gate: Some(gate("on")),
        refused: BTreeMap::new(),
        warnings: vec![],
        mend: 0,
    }
}

fn held() -> LeaseStatus {
    let vote = |voter: &str, ends_in_us| Vote { voter: voter.into(), given: true, ends_in_us };
    LeaseStatus {
        open: true,
        ends_in_us: Some(4_712),
        ended_us_ago: None,
        endless: false,
        length_us: 5_000,
        needed: 2,
        votes: vec![vote("a", None), vote("b", Some(4_712)), vote("witness", Some(4_640))],
        promised: None,
    }
}

fn gate(mode: &str) -> GateReport {
    let counts = Count::ALL.iter().map(|what| (what.as_str().to_owned(), *what as u64 * 3));
    let interface = |name: &str, arriving: &str| InterfaceAtGate {
        interface: name.into(),
        arriving: arriving.into(),
        leaving: "tcx".into(),
        before: Vec::new(),
    };
    GateReport {
        pinned: None,
        mode: mode.into(),
        daemon_alive: true,
        daemon_age_us: 410,
        interfaces: vec![interface("eth0", "xdp"), interface("eth2", "tcx")],
        not_gated: vec![],
        buried: 0,
        addresses: vec![
            AddressAtGate {
                address: "192.0.2.10".into(),
                group: "web".into(),
                open: true,
                reason: None,
                counts: counts.collect(),
                claimed_by: Some("02:00:00:00:00:07".into()),
            },
            AddressAtGate {
                address: "2001:db8::10".into(),
                group: "web".into(),
                open: false,
                reason: Some("expired".into()),
                counts: BTreeMap::new(),
                claimed_by: None,
            },
        ],
    }
}

fn broken() -> StatusReport {
    let mut report = healthy();
    report.policy = "safe".into();
    report.engine.kind = EngineKind::User;
    report.engine.reason = "the kernel refuses BPF timers (PREEMPT_RT)".into();
    report.scheduling = Scheduling {
        policy: "SCHED_OTHER".into(),
        refused: vec![
            "SCHED_DEADLINE: operation not permitted".into(),
            "SCHED_FIFO: operation not permitted: the cpu cgroup has no real-time budget".into(),
        ],
    };
    let group = &mut report.groups[0];
    group.state = GroupState::Seeking;
    group.health = GroupHealth::Standby;
    group.holder = None;
    group.since_us_ago = 2_140_000;
    group.reason = Some("b fell silent and its fence has not been confirmed".into());
    group.addresses.truncate(1);
    group.addresses[0].present = false;
    group.resources[0].state = "stopped".into();
    let lease = group.lease.as_mut().unwrap();
    (lease.open, lease.ends_in_us) = (false, None);
    for vote in &mut lease.votes[1..] {
        (vote.given, vote.ends_in_us) = (false, None);
    }
    let mut standby = group.clone();
    standby.group = "db".into();
    standby.holder = Some("b".into());
    standby.state = GroupState::Idle;
    standby.health = GroupHealth::Failed;
    standby.reason = Some(
        "resource postgres: start failed with exit code 1 (it said: could not create lock file: \
         no space left on device \u{e9}): run `hb clear db` when it is mended"
            .into(),
    );
    standby.addresses[0].present = true;
    standby.resources[0].state = "failed: exit code 1".into();
    standby.lease.as_mut().unwrap().promised =
        Some(Promise { node: "b".into(), epoch: 770, ends_in_us: Some(6_100), released: false });
    report.gate = Some(gate("dry-run"));
    let gate = report.gate.as_mut().unwrap();
    gate.not_gated = vec!["eth3".into()];
    gate.addresses.truncate(1);
    gate.addresses[0].open = false;
    gate.addresses[0].reason = Some("not-holding".into());
    gate.addresses[0].claimed_by = None;
    gate.addresses[0].counts.retain(|name, _| !name.contains("claims") && name != "bounced");
    report.groups.push(standby);
    report.peers.truncate(1);
    let b = &mut report.peers[0];
    b.life = PeerLife::Dead;
    b.cause = Some("silence".into());
    b.since_us_ago = 2_139_000;
    b.last_arrival_us_ago = Some(2_140_500);
    b.controller = Some(PeerController { alive: false, age_us: 52_000 });
    b.config_matches = Some(false);
    b.config_differs = vec!["timers".into(), "link".into()];
    b.refuses_us = Some("key id".into());
    b.misses = Misses { consecutive: 10_697, total: 10_709 };
    b.links[0].up = false;
    b.links[0].attach_mode = AttachMode::Generic;
    b.links[0].attach_reason = Some("the driver has no native mode".into());
    b.links[0].refused = [("tag".into(), 3), ("replay".into(), 41)].into();
    b.links[1].answers_heard_by_peer = false;
    b.links[1].rtt_us = None;
    b.links[1].gap_us = None;
    report.warnings = vec!["only one link to b is up: look at eth1".into()];
    report
}

#[track_caller]
fn assert_page(report: &StatusReport, golden: &str) {
    let page = render(report);
    assert_eq!(page.trim_end(), golden.trim(), "\n{page}");
    assert_fits(&page);
}

#[track_caller]
fn assert_fits(page: &str) {
    assert!(page.is_ascii());
    for line in page.lines() {
        assert!(line.len() <= WIDTH && !line.ends_with(' '), "{line:?}");
    }
}

#[test]
fn a_healthy_cluster() {
    assert_page(
        &healthy(),
        r"
web: served here by a for 1 h 23 min, epoch 513, healthy
    lease: for 4.7 ms more, of 5.0 ms
    votes (2 of 3 needed): a, b 4.7 ms, witness 4.6 ms

web here:
  address   192.0.2.10/24    on eth0              present
  address   2001:db8::10/64  on eth0              MISSING
  resource  nginx            ocf:heartbeat:nginx  running
  nginx: watched by status every 10s; tcp 127.0.0.1:80 every 10ms

gate: on
at the gate   now      way  passed  not held  expired  no daemon
192.0.2.10    open     in        0         6       12         18
                       out       3         9       15         21
2001:db8::10  EXPIRED  in        0         0        0          0
                       out       0         0        0          0
  192.0.2.10: 24 packets sent on after a planned move
  192.0.2.10: CLAIMED by others 27 times, last by 02:00:00:00:00:07

peer     life   for      heard       controller  config
b        alive  3 d 4 h  120 us ago  340 us      same
witness  alive  3 d 4 h  120 us ago  witness     same

peer     misses  ever  doubts  deaths  clock us
b             0    12       3       1     -12.0
witness       0    12       3       1     -12.0

link         via       on    attached  state  heard
b/direct     ethernet  eth1  native    up     120 us ago
b/lan        ethernet  eth0  native    up     120 us ago
witness/lan  ethernet  eth0  native    up     120 us ago

link            sent  errors  received  answered  unfresh  refused
b/direct     1234570       0   1234567   1234560        2        0
b/lan        1234570       0   1234567   1234560        2        0
witness/lan  1234570       0   1234567   1234560        2        0

link         rtt us p50   p99   max  gap us p50    p99  max
b/direct           12.3  45.0  1311       200.0  310.2    -
b/lan              12.3  45.0  1311       200.0  310.2    -
witness/lan        12.3  45.0  1311       200.0  310.2    -

node a (id 1) of edge (id 77), policy witness
daemon: version 0.1.0, start 9, up 3 d 4 h, config 0123456789abcdef
keys: takes 1, sends with 1
engine: kernel timers (the kernel has BPF timers)
scheduling: SCHED_DEADLINE
controller: 410 us old, one round per 1 ms
",
    );
}

#[test]
fn a_broken_one() {
    assert_page(
        &broken(),
        r"
web: SERVED BY NOBODY for 2.1 s: b fell silent and its fence has not been
    confirmed; here seeking, standby, epoch 513
    votes (2 of 3 needed): a, b NONE, witness NONE
db: served by b for 2.1 s, epoch 513; here idle, failed
    not here: resource postgres: start failed with exit code 1 (it said: could
        not create lock file: no space left on device ?): run `hb clear db` when
        it is mended
    this node's vote: promised to b, epoch 770, for 6.1 ms

web here:
  address   192.0.2.10/24  on eth0              absent
  resource  nginx          ocf:heartbeat:nginx  stopped
  nginx: watched by status every 10s; tcp 127.0.0.1:80 every 10ms

db here:
  address   192.0.2.10/24  on eth0              STILL PRESENT
  resource  nginx          ocf:heartbeat:nginx  FAILED: exit code 1
  nginx: watched by status every 10s; tcp 127.0.0.1:80 every 10ms

GATE IS DRY-RUN: it counts and stops nothing; two nodes may serve at once
NOT GATED: eth3: packets of service addresses pass there without a lease
at the gate  now     way  passed  not held  expired  no daemon
192.0.2.10   closed  in        0         6       12         18
                     out       3         9       15         21

peer  life  for    heard      controller    config
b     DEAD  2.1 s  2.1 s ago  DEAD 52.0 ms  DIFFERS
  b is dead: silence
  the file of b differs in [timers], [link]: with a copy of it here, `hb check
      --against COPY` names the keys
  b REFUSES our frames: key id

peer  misses   ever  doubts  deaths  clock us
b      10697  10709       3       1     -12.0

link      via       on    attached  state  heard
b/direct  ethernet  eth1  generic   DOWN   120 us ago
b/lan     ethernet  eth0  native    up     120 us ago

link         sent  errors  received  answered  unfresh  refused
b/direct  1234570       0   1234567   1234560        2       44
b/lan     1234570       0   1234567   1234560        2        0

link      rtt us p50   p99   max  gap us p50    p99  max
b/direct        12.3  45.0  1311       200.0  310.2    -
b/lan              -     -     -           -      -    -
  b/direct is attached in generic mode, slower: the driver has no native mode
  b/direct refused: replay 41, tag 3
  b/lan: we hear b, b does NOT hear our answers

node a (id 1) of edge (id 77), policy safe
daemon: version 0.1.0, start 9, up 3 d 4 h, config 0123456789abcdef
keys: takes 1, sends with 1
engine: userspace thread (the kernel refuses BPF timers (PREEMPT_RT))
scheduling: SCHED_OTHER
  refused: SCHED_DEADLINE: operation not permitted
  refused: SCHED_FIFO: operation not permitted: the cpu cgroup has no real-time
      budget
controller: 410 us old, one round per 1 ms
WARNING: only one link to b is up: look at eth1
",
    );
}

#[test]
fn the_gate_of_a_node_whose_daemon_is_dead() {
    let mut report = gate("bypass");
    report.daemon_alive = false;
    report.daemon_age_us = 61_000_000;
    report.interfaces[1].arriving = "nothing".into();
    report.addresses.truncate(1);
    report.addresses[0].open = false;
    report.addresses[0].reason = Some("controller-dead".into());
    let page = render_gate(&report);
    assert_fits(&page);
    assert_eq!(
        page.trim_end(),
        r"
GATE IS BYPASSED: it does not even look; two nodes may serve at once
DAEMON DEAD for 1 min 1 s: leases are not asked for any more

interface  arriving  leaving
eth0       xdp       tcx
eth2       NOTHING   tcx

at the gate  now          way  passed  not held  expired  no daemon
192.0.2.10   DAEMON DEAD  in        0         6       12         18
                          out       3         9       15         21
  192.0.2.10: 24 packets sent on after a planned move
  192.0.2.10: CLAIMED by others 27 times, last by 02:00:00:00:00:07
"
        .trim(),
        "\n{page}"
    );
}

#[test]
fn a_node_that_has_just_started() {
    let mut report = healthy();
    report.groups.clear();
    report.gate = None;
    report.peers.truncate(1);
    let b = &mut report.peers[0];
    b.life = PeerLife::Unheard;
    b.since_us_ago = 900;
    (b.last_arrival_us_ago, b.incarnation, b.controller) = (None, None, None);
    (b.config_matches, b.offset_us) = (None, None);
    b.links.clear();
    let page = render(&report);
    assert_fits(&page);
    let lines: Vec<_> = page.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "no group is configured",
            "",
            "peer  life     for     heard  controller  config",
            "b     unheard  900 us  never  -           -",
        ]
    );

    report.peers.clear();
    assert!(render(&report).contains("no peer is configured"));
}

#[test]
fn the_report_survives_json_and_keeps_its_spelling() {
    for report in [healthy(), broken()] {
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<StatusReport>(&text).unwrap(), report);
        assert!(!text.contains('\n'));
    }
    let json = serde_json::to_value(broken()).unwrap();
    assert_eq!(json["engine"]["kind"], "user");
    assert_eq!(json["peers"][0]["life"], "dead");
    assert_eq!(json["peers"][0]["misses"]["consecutive"], 10_697);
    assert_eq!(json["peers"][0]["links"][0]["attach_mode"], "generic");
    assert_eq!(json["peers"][0]["links"][0]["refused"]["replay"], 41);
    assert_eq!(json["groups"][0]["state"], "seeking");
    assert_eq!(json["groups"][0]["holder"], serde_json::Value::Null);
    let kernel = serde_json::to_value(healthy()).unwrap();
    assert_eq!(kernel["engine"]["kind"], "kernel-timer");
}

#[test]
fn spans_have_two_or_three_digits() {
    for (us, text) in [
        (0, "0 us"),
        (999, "999 us"),
        (1_000, "1.0 ms"),
        (12_345, "12.3 ms"),
        (999_999, "999.9 ms"),
        (59_999_999, "59.9 s"),
        (60_000_000, "1 min 0 s"),
        (3_599_999_999, "59 min 59 s"),
        (86_399_999_999, "23 h 59 min"),
        (u64::MAX, "213503982 d 8 h"),
    ] {
        assert_eq!(span(us), text);
    }
}

proptest! {
    #[test]
    fn whatever_a_reason_says_the_page_fits(
        reason in "\\PC{0,300}", name in "[a-z]{1,120}", control in "[\x00-\x7f]{0,200}",
    ) {
        let mut report = broken();
        report.groups[0].reason = Some(reason);
        report.groups[1].group = name;
        report.peers[0].cause = Some(control);
        let page = render(&report);
        assert_fits(&page);
        prop_assert!(page.contains("WARNING: only one link to b is up"));
    }
}
