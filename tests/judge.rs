//! The judge, the witness machine and the power switch, in a lab without `hb`: a judge that never
//! finds anything would prove nothing.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::{
    io::Write,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use lab::{
    Lab, Options,
    addresses::{Link, MACHINES, Machine, NODES, VIP4, VIP6},
    client,
    config::Settings,
    connections::Connections,
    faults::{self, Fault, Kind, Planned},
    judge::{
        Judge,
        verdict::{self, Packet, Rule, Violation},
    },
    lease::{self, HOLDING, Lease},
    responder::Order,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for many questions of the judge.
const WHILE: Duration = Duration::from_millis(30);
const SHORT: Duration = Duration::from_millis(200);

fn lab(policy: &str) -> Lab {
    let mut options = Options::new().unwrap();
    options.agent = PathBuf::from(env!("CARGO_BIN_EXE_lab-agent"));
    options.settings = Settings { policy: policy.into(), ..Settings::default() };
    Lab::up(options).unwrap()
}

/// Has a node hold at an epoch, as its kernel half would publish it.
fn hold(lab: &Lab, node: Machine, epoch: u64) {
    let held = Lease { state: HOLDING, holder: node.id(), epoch, ..Lease::default() };
    lease::write(&lab.leases(node), held).unwrap();
}

fn remove_vip(lab: &Lab, node: Machine) {
    lab.netns(node)
        .ip_batch("address del 192.0.2.100/24 dev eth0\naddress del 2001:db8::100/64 dev eth0\n")
        .unwrap();
}

/// Waits until a node has answered the judge under an epoch.
fn wait_for(judge: &Judge, node: Machine, epoch: u64) {
    let end = lab::clock::now().after(PATIENCE);
    while judge.newest(node).is_none_or(|answer| answer.epoch != epoch) {
        assert!(lab::clock::now() < end, "{node} does not answer under epoch {epoch:#x}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn rules(found: &[Violation]) -> Vec<Rule> {
    let mut rules: Vec<_> = found.iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

#[test]
fn two_servers_are_found_although_the_client_sees_one() {
    let lab = lab("available");
    for (node, epoch) in [(Machine::A, 0x101), (Machine::B, 0x202)] {
        hold(&lab, node, epoch);
        lab.add_vip(node).unwrap();
    }
    let judge = lab.judge().unwrap();
    wait_for(&judge, Machine::A, 0x101);
    wait_for(&judge, Machine::B, 0x202);
    thread::sleep(WHILE);
    let seen = judge.finish().unwrap();
    let found = verdict::violations(&seen);
    let answers = found.iter().filter(|v| v.rule == Rule::Order).count();
    assert!(answers > 10, "{answers} answers are violations");
    // Node a may have to ask for the client's MAC address, or be asked for its own, after b answered:
    // that is a claim or, as a Neighbor Solicitation, another packet, and as wrong.
    let right = |v: &Violation| matches!(v.rule, Rule::Order | Rule::Claim | Rule::Data);
    assert!(found.iter().all(|v| right(v) && v.node == Machine::A), "{found:?}");
    assert!(found.iter().all(|v| v.after.node == Machine::B), "{found:?}");
    assert_eq!(lab.who_serves(VIP4.into(), PATIENCE).unwrap().iter().count(), 1);
}

#[test]
fn one_server_after_the_other_is_right() {
    let lab = lab("available");
    hold(&lab, Machine::A, 0x101);
    lab.add_vip(Machine::A).unwrap();
    let judge = lab.judge().unwrap();
    wait_for(&judge, Machine::A, 0x101);
    remove_vip(&lab, Machine::A);
    thread::sleep(WHILE);
    hold(&lab, Machine::B, 0x202);
    lab.add_vip(Machine::B).unwrap();
    wait_for(&judge, Machine::B, 0x202);
    thread::sleep(WHILE);
    let seen = judge.finish().unwrap();
    assert_eq!(verdict::violations(&seen), []);
    assert_eq!(verdict::stretches(&seen.answers, VIP4.into()).len(), 2);
    // Both families were asked, and the judge knows when.
    assert!(seen.answers.iter().all(|answer| answer.asked < answer.at));
}

#[test]
fn a_question_left_unread_over_a_takeover_and_a_failback_is_found() {
    let mut lab = lab("available");
    hold(&lab, Machine::A, 0x101);
    lab.add_vip(Machine::A).unwrap();
    let judge = lab.judge().unwrap();
    wait_for(&judge, Machine::A, 0x101);
    lab.responder_mut(Machine::A).unwrap().order(Order::Hold).unwrap();
    thread::sleep(WHILE);
    remove_vip(&lab, Machine::A);
    hold(&lab, Machine::B, 0x202);
    lab.add_vip(Machine::B).unwrap();
    wait_for(&judge, Machine::B, 0x202);
    remove_vip(&lab, Machine::B);
    thread::sleep(WHILE);
    // Nobody destroyed the sockets of a.
    hold(&lab, Machine::A, 0x301);
    lab.add_vip(Machine::A).unwrap();
    lab.responder_mut(Machine::A).unwrap().order(Order::Read).unwrap();
    wait_for(&judge, Machine::A, 0x301);
    thread::sleep(WHILE);
    let found = verdict::violations(&judge.finish().unwrap());
    assert_eq!(rules(&found), [Rule::Stale], "{found:?}");
}

#[test]
fn a_connection_that_sends_on_from_an_address_that_left_is_found() {
    let lab = lab("available");
    hold(&lab, Machine::A, 0x101);
    lab.add_vip(Machine::A).unwrap();
    let judge = lab.judge().unwrap();
    wait_for(&judge, Machine::A, 0x101);
    let connections =
        Connections::start(lab.netns(Machine::Client), &lab.settings().addresses()).unwrap();
    let sends = |from| {
        let end = lab::clock::now().after(PATIENCE);
        while judge.newest_data(from).is_none() {
            assert!(lab::clock::now() < end, "nothing is sent from {from}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    sends(VIP4.into());
    sends(VIP6.into());
    // Nobody ends the connections of a: those of IPv6 go on.
    remove_vip(&lab, Machine::A);
    thread::sleep(WHILE);
    hold(&lab, Machine::B, 0x202);
    lab.add_vip(Machine::B).unwrap();
    wait_for(&judge, Machine::B, 0x202);
    let served = lab::clock::now();
    // What the client no longer acknowledges is sent again, after longer and longer waits.
    let end = served.after(PATIENCE);
    let late = |packet: Packet| packet.node == Machine::A && packet.at > served;
    while !judge.newest_data(VIP6.into()).is_some_and(late) {
        assert!(lab::clock::now() < end, "node a sends nothing more from {VIP6}");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(connections.finish().unwrap() > 0);
    let found = verdict::violations(&judge.finish().unwrap());
    assert_eq!(rules(&found), [Rule::Data], "{found:?}");
    assert!(found.iter().all(|v| v.node == Machine::A && v.address == IpAddr::from(VIP6)));
}

#[test]
fn parted_nodes_do_not_hear_each_other_and_all_others_hear_both() {
    let lab = lab("witness");
    assert!(lab.has_witness());
    assert!(lab.switch().connects_nodes());
    let ask_for = |lab: &Lab, from: Machine, to: Machine, link: Link, limit: Duration| {
        client::who_serves(lab.netns(from), to.v4(link).into(), limit).unwrap() == Some(to)
    };
    let ask = |lab: &Lab, from, to, link| ask_for(lab, from, to, link, PATIENCE);
    lab.switch().part(Machine::A, &[Machine::B]);
    assert!(!lab.switch().connects_nodes());
    for node in NODES {
        for link in [Link::Client, Link::Direct] {
            assert!(!ask_for(&lab, node, node.peer(), link, SHORT), "{node} over {link:?}");
        }
        assert!(ask(&lab, Machine::Client, node, Link::Client));
        assert!(ask(&lab, Machine::Witness, node, Link::Client));
    }
    // From the witness too, and only one of the nodes.
    lab.switch().part(Machine::A, &[Machine::B, Machine::Witness]);
    assert!(!ask_for(&lab, Machine::Witness, Machine::A, Link::Client, SHORT));
    assert!(!ask_for(&lab, Machine::A, Machine::Witness, Link::Client, SHORT));
    assert!(ask(&lab, Machine::Witness, Machine::B, Link::Client));
    assert!(ask(&lab, Machine::Client, Machine::A, Link::Client));
    lab.switch().part(Machine::A, &[]);
    assert!(lab.switch().connects_nodes());
    for node in NODES {
        for link in [Link::Client, Link::Direct] {
            assert!(ask(&lab, node, node.peer(), link), "{node} over {link:?}");
        }
    }
    // The witness's own wire can be cut, and nobody else's is.
    lab.cut(Machine::Witness);
    assert!(!ask_for(&lab, Machine::Witness, Machine::A, Link::Client, SHORT));
    assert!(ask(&lab, Machine::B, Machine::A, Link::Client));
    assert_eq!(lab.settings().machines(), MACHINES);
}

#[test]
fn the_power_switch_cuts_and_kills_or_says_that_it_did_not() {
    let mut lab = lab("safe");
    let fence = lab.files().directory.join("fence.sh");
    let ask = |options: &str| {
        let mut agent =
            Command::new(&fence).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        agent.stdin.take().unwrap().write_all(options.as_bytes()).unwrap();
        agent.wait().unwrap().success()
    };
    assert!(ask("action=status\nplug=b\n"));
    assert!(!ask("action=off\nplug=client\n"));
    let switch = lab.power_switch().unwrap();
    switch.set_broken(&[Machine::B]);
    assert!(!ask("action=off\nnodename=b\nplug=b\n"));
    assert!(!lab.netns(Machine::B).processes().unwrap().is_empty());
    assert!(lab.switch().connects_nodes());
    switch.set_broken(&[]);
    assert!(ask("action=off\nnodename=b\nplug=b\n"));
    let requests = switch.take_requests();
    assert_eq!(requests.iter().map(|r| r.done).collect::<Vec<_>>(), [false, true]);
    assert!(lab.netns(Machine::B).processes().unwrap().is_empty());
    assert!(!lab.switch().connects_nodes());
    assert!(!ask("action=status\nplug=b\n"));
    // It comes back as a machine that boots.
    lab.reboot(Machine::B).unwrap();
    assert!(ask("action=status\nplug=b\n"));
    assert!(lab.switch().connects_nodes());
}

#[test]
fn faults_happen_and_are_mended_and_none_is_passed_over() {
    let mut lab = lab("available");
    let ms = Duration::from_millis;
    let plan = [
        Planned { fault: Fault::of(Kind::Partition, Machine::A), from: ms(20), until: ms(60) },
        Planned { fault: Fault::of(Kind::Unread, Machine::A), from: ms(1), until: ms(40) },
        // Mending the partition does not heal the cut of the same wire.
        Planned { fault: Fault::of(Kind::Cut, Machine::B), from: ms(50), until: ms(80) },
    ];
    // No daemons here: mending all would start some.
    let mut deeds = Vec::new();
    for (planned, happens) in [(1, true), (0, true), (1, false), (2, true), (0, false), (2, false)]
    {
        let fault = plan[planned].fault;
        if happens { fault.inject(&mut lab) } else { fault.mend(&mut lab) }.unwrap();
        deeds.push(lab.switch().connects_nodes());
    }
    assert_eq!(deeds, [true, false, false, false, false, true]);
    let error = faults::carry_out(&mut lab, &plan).unwrap_err();
    assert!(format!("{error:#}").contains("no hb binary"), "{error:#}");
}
