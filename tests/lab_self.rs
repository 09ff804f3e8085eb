//! The lab itself: cuts, the judge, and that nothing of it outlives it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use lab::{
    Lab, Options,
    addresses::{Link, Machine, VIP4, VIP6},
    capture::ClaimKind,
    client::{self, Pace},
    clock,
    disk::Disk,
    guard, netns,
    peers::{File, Peer, cage},
    socket::Socket,
    stalls::Recorder,
    switch::Direction,
};

/// Long enough for the slowest machine; no test waits that long when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

fn options() -> Options {
    let mut options = Options::new().unwrap();
    options.agent = PathBuf::from(env!("CARGO_BIN_EXE_lab-agent"));
    options
}

fn pace() -> Pace {
    Pace { interval: Duration::from_micros(500), limit: PATIENCE * 3, ..Pace::default() }
}

/// Stands in for other failover software: says its name, leaves marks and goes on.
struct Marker;

impl Peer for Marker {
    fn name(&self) -> &'static str {
        "marker"
    }

    fn config(&self) -> &'static str {
        ""
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn services(&self) -> &'static [&'static str] {
        &[]
    }

    fn programs(&self) -> &'static [&'static str] {
        &[]
    }

    fn files(&self, _node: Machine) -> Vec<File> {
        vec![File { path: "etc/word", mode: 0o644, text: "private".into() }]
    }

    fn shown(&self) -> &'static [(&'static str, &'static str)] {
        &[("etc", "/etc/opt")]
    }

    fn commands(&self, _node: Machine) -> String {
        let home = cage::HOME;
        format!(
            "touch /run/hb-marker /dev/shm/hb-marker\n\
             sleep 600 &\n\
             echo \"$(uname -n) $(cat /etc/opt/word) $$\" > {home}/writing\n\
             mv {home}/writing {home}/said\n\
             wait"
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["sleep"]
    }

    fn period(&self) -> Duration {
        Duration::ZERO
    }

    fn settle(&self) -> Duration {
        Duration::ZERO
    }

    fn move_limit(&self) -> Duration {
        PATIENCE
    }
}

#[test]
fn a_disk_is_slow_hangs_and_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let write = || {
        let mut command = Command::new("dd");
        let file = directory.path().join("file");
        command.args(["if=/dev/zero", "count=1", "conv=fsync"]);
        command.arg(format!("of={}", file.display())).stderr(Stdio::null());
        let plug = disk.plug(&mut command).unwrap();
        let began = clock::now();
        let child = command.spawn().unwrap();
        plug.serve().unwrap();
        (child, began)
    };
    let takes = |(mut child, began): (Child, _)| {
        assert!(child.wait().unwrap().success());
        clock::now().since(began)
    };
    takes(write());
    assert_eq!((disk.asked(), disk.waiting()), (1, 0));
    disk.take(Duration::from_millis(300));
    assert!(takes(write()) >= Duration::from_millis(300));
    disk.hang();
    let (mut child, began) = write();
    while disk.waiting() == 0 {
        assert!(clock::now().since(began) < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(400));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    disk.mend();
    takes((child, began));
    // Nobody waits for a disk who is killed.
    disk.hang();
    let (mut child, _) = write();
    while disk.waiting() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    disk.mend();
    assert_eq!(disk.asked(), 4);
}

#[test]
fn a_cage_is_apart_from_the_machine_and_ends_whole() {
    let lab = Lab::up(options()).unwrap();
    let node = lab.netns(Machine::B);
    let before = node.processes().unwrap().len();
    let directory = &lab.files().directory;
    let mut cage = cage::start(&Marker, Machine::B, node, directory).unwrap();
    let said = cage::home(directory, Machine::B).join("said");
    let end = clock::now().after(PATIENCE);
    while !said.exists() {
        cage.check().unwrap();
        assert!(clock::now() < end, "the cage did not start");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read_to_string(said).unwrap(), "b private 1\n");
    assert!(!PathBuf::from("/run/hb-marker").exists());
    assert!(!PathBuf::from("/dev/shm/hb-marker").exists());
    assert!(!PathBuf::from("/etc/opt/word").exists());
    // Itself, its init and what that started, all in the namespace of the node.
    assert_eq!(node.processes().unwrap().len(), before + 3);

    drop(cage);

    let end = clock::now().after(PATIENCE);
    while node.processes().unwrap().len() > before {
        assert!(clock::now() < end, "the cage left {:?}", node.processes().unwrap());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_core_is_watched_for_stalls() {
    let recorder = Recorder::start().unwrap();
    thread::sleep(Duration::from_millis(300));
    let record = recorder.finish().unwrap();
    let cores = thread::available_parallelism().unwrap().get() as u64;
    // At most 3000 looks a core; a machine that gave a tenth of them would be no machine.
    assert!(record.looks > 300 * cores, "{} looks on {cores} cores", record.looks);
    assert!(record.looks <= 3500 * cores, "{} looks on {cores} cores", record.looks);
}

#[test]
fn a_cut_silences_and_heals_in_an_instant() {
    let lab = Lab::up(options()).unwrap();
    lab.add_vip(Machine::A).unwrap();
    let client = lab.client(pace()).unwrap();
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));

    let cut = lab.cut(Machine::A);
    thread::sleep(Duration::from_millis(50));
    let healed = lab.heal(Machine::A);

    assert!(client.wait_for_answer(Machine::A, healed, PATIENCE));
    let seen = client.finish().unwrap();
    // What had passed the switch when it was cut may arrive a little later.
    let in_flight = cut.after(Duration::from_millis(5));
    let between =
        seen.answers.iter().filter(|a| a.received > in_flight && a.received < healed).count();
    assert_eq!(between, 0);
    assert!(seen.longest_gap().unwrap() >= Duration::from_millis(45));
    let carrier = lab
        .netns(Machine::A)
        .enter(|| Command::new("ip").args(["link", "show", "eth0"]).output().unwrap())
        .unwrap();
    assert!(String::from_utf8_lossy(&carrier.stdout).contains("LOWER_UP"));
}

#[test]
fn a_cut_may_be_one_way() {
    let lab = Lab::up(options()).unwrap();
    lab.add_vip(Machine::A).unwrap();
    let client = lab.client(pace()).unwrap();
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));

    let cut = lab.switch().cut_link(Machine::A, Link::Client, Direction::FromMachine);
    thread::sleep(Duration::from_millis(50));
    let port = lab.switch().port(Machine::A, Link::Client).unwrap();
    let healed = lab.switch().heal_link(Machine::A, Link::Client, Direction::FromMachine);

    assert!(port.dropped_in > 0, "{port:?}");
    assert_eq!(port.dropped_out, 0);
    assert!(client.wait_for_answer(Machine::A, healed, PATIENCE));
    let seen = client.finish().unwrap();
    assert!(seen.longest_gap().unwrap() >= Duration::from_millis(45));
    assert!(seen.sent.iter().any(|&sent| sent > cut && sent < healed));
}

#[test]
fn packets_to_a_machine_may_be_lost_by_chance() {
    let lab = Lab::up(options()).unwrap();
    lab.add_vip(Machine::A).unwrap();
    let client = lab.client(pace()).unwrap();
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));

    let before = lab.switch().port(Machine::A, Link::Client).unwrap();
    lab.switch().lose(Machine::A, 50);
    thread::sleep(Duration::from_millis(500));
    lab.switch().lose(Machine::A, 0);
    let during = lab.switch().port(Machine::A, Link::Client).unwrap();
    let mended = clock::now();
    assert!(client.wait_for_answer(Machine::A, mended.after(Duration::from_millis(50)), PATIENCE));
    let after = lab.switch().port(Machine::A, Link::Client).unwrap();

    let passed = during.passed_out - before.passed_out;
    let lost = during.dropped_out - before.dropped_out;
    // A hundred at a chance of one half: a quarter away from it is five deviations.
    assert!(passed + lost > 100, "{passed} passed, {lost} lost");
    let share = lost as f64 / (passed + lost) as f64;
    assert!((0.25..0.75).contains(&share), "{passed} passed, {lost} lost");
    assert_eq!(after.dropped_out, during.dropped_out);
    assert_eq!(before.dropped_out, 0);
    client.finish().unwrap();
}

#[test]
fn both_networks_and_both_families_reach_the_responders() {
    let lab = Lab::up(options()).unwrap();
    lab.add_vip(Machine::B).unwrap();
    for vip in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        assert_eq!(lab.who_serves(vip, PATIENCE).unwrap(), Some(Machine::B), "at {vip}");
    }
    let direct = Machine::B.v4(Link::Direct).into();
    let answered = client::who_serves(lab.netns(Machine::A), direct, PATIENCE).unwrap();
    assert_eq!(answered, Some(Machine::B));

    lab.switch().cut_link(Machine::B, Link::Direct, Direction::Both);
    let limit = Duration::from_millis(200);
    assert_eq!(client::who_serves(lab.netns(Machine::A), direct, limit).unwrap(), None);
    // The fence of that absence: the other link of the same node works.
    assert_eq!(lab.who_serves(VIP4.into(), PATIENCE).unwrap(), Some(Machine::B));
}

#[test]
fn the_client_sees_a_crash_a_claim_and_the_new_node() {
    let mut lab = Lab::up(options()).unwrap();
    lab.add_vip(Machine::A).unwrap();
    let client = lab.client(pace()).unwrap();
    assert!(client.wait_for_answer(Machine::A, clock::now(), PATIENCE));

    let crash = lab.crash(Machine::A).unwrap();
    assert!(lab.netns(Machine::A).processes().unwrap().is_empty());
    lab.add_vip(Machine::B).unwrap();
    let announced = clock::now();
    announce(&lab, Machine::B);

    assert!(client.wait_for_answer(Machine::B, crash, PATIENCE));
    let seen = client.finish().unwrap();
    let claim = seen.claims.iter().find(|claim| claim.at >= announced).unwrap();
    assert_eq!(claim.mac, Machine::B.mac(Link::Client));
    assert_eq!(claim.address, IpAddr::from(VIP4));
    assert_eq!(claim.kind, ClaimKind::ArpRequest);
    let last = seen.last_answer(Machine::A).unwrap();
    let first = seen.first_answer(Machine::B, crash).unwrap();
    assert!(last.received < first.received);

    lab.reboot(Machine::A).unwrap();
    let direct = Machine::A.v4(Link::Direct).into();
    let answered = client::who_serves(lab.netns(Machine::B), direct, PATIENCE).unwrap();
    assert_eq!(answered, Some(Machine::A));
    assert_eq!(lab.who_serves(VIP4.into(), PATIENCE).unwrap(), Some(Machine::B));
}

/// Sends what a node that takes over sends: an ARP request for its own address (RFC 5227).
fn announce(lab: &Lab, node: Machine) {
    let mac = node.mac(Link::Client).0;
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(VIP4.octets());
    frame.extend([0; 6]);
    frame.extend(VIP4.octets());
    lab.netns(node)
        .enter(|| {
            let socket = Socket::packet(0).unwrap();
            socket.send_frame(Link::Client.interface(), &frame).unwrap();
        })
        .unwrap();
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (name, directory) = thread::spawn(|| {
        let lab = Lab::up(options()).unwrap();
        let facts = (lab.name().to_owned(), lab.files().directory.clone());
        assert_eq!(namespaces(lab.name()).len(), 4);
        std::panic::panic_any(facts);
    })
    .join()
    .unwrap_err()
    .downcast::<(String, PathBuf)>()
    .map(|facts| *facts)
    .unwrap();
    assert_eq!(namespaces(&name), Vec::<String>::new());
    // The logs of a test that failed are what one wants to see.
    assert!(directory.join("hb.toml").exists());
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn nothing_is_left_after_a_signal() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut keeper = keeper(&format!("signal-{signal}-{}", std::process::id()));
        let prefix = format!("hb{}-", keeper.id());
        assert_eq!(namespaces(&prefix).len(), 4);
        let directory = PathBuf::from(guard::DIRECTORY).join(format!("{prefix}0"));
        assert!(directory.exists());

        netns::signal(keeper.id() as i32, signal).unwrap();
        keeper.wait().unwrap();

        let end = clock::now().after(PATIENCE);
        while !namespaces(&prefix).is_empty() || directory.exists() {
            assert!(clock::now() < end, "{:?} is left after {signal}", namespaces(&prefix));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn keeper(name: &str) -> Child {
    // A shell has its background jobs ignore SIGINT, and so all that they start.
    let mut keeper = Command::new("env")
        .args(["--default-signal=INT,TERM", env!("CARGO_BIN_EXE_lab-agent")])
        .args(["lab-keeper", name, "-", "-", "available", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    keeper
}

#[test]
fn a_standing_lab_obeys() {
    use lab::keeper::{Command, Reply, tell};
    let name = format!("stands-{}", std::process::id());
    let mut keeper = keeper(&name);
    let Reply::At(cut) = tell(&name, &Command::Cut("b".into())).unwrap() else { panic!() };
    assert!(cut > 0);
    let Reply::Lab(lab) = tell(&name, &Command::Status).unwrap() else { panic!() };
    assert_eq!(lab.machines[1].cut, ["client", "direct"]);
    assert_eq!(lab.machines[0].cut, Vec::<String>::new());
    tell(&name, &Command::Heal("b".into())).unwrap();
    let error = tell(&name, &Command::Cut("d".into())).unwrap_err();
    assert!(error.to_string().contains("\"d\""), "{error}");
    tell(&name, &Command::Down).unwrap();
    assert!(keeper.wait().unwrap().success());
    assert_eq!(namespaces(&format!("hb{}-", keeper.id())), Vec::<String>::new());
}

#[test]
fn what_a_dead_process_left_is_swept() {
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let name = format!("hb{}-0-a", dead.id());
    let left = std::mem::ManuallyDrop::new(netns::Netns::create(&name).unwrap());
    let mut sleeper = left.command("sleep").unwrap().arg("60").spawn().unwrap();

    // Another lab that starts now may be the one to sweep it.
    guard::sweep().unwrap();

    sleeper.wait().unwrap();
    assert_eq!(namespaces(&name), Vec::<String>::new());
}

fn namespaces(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(netns::NAMES) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix))
        .collect()
}
