//! Resources of every type, in a pair: Debian's own OCF agents, init scripts, scripts of Heartbeat.
//!
//! Agents keep their files in directories of the machine, which two nodes of a lab share. So each
//! daemon has mounts of its own, with a directory of its node in the place of each of those.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use lab::{
    addresses::{Machine, NODES},
    config::Settings,
};
use tempfile::TempDir;

use super::support::{Cluster, PATIENCE, options, slow, wait_for};

/// What is each node's own, and how its directory is called here.
const OWN: [(&str, &str); 4] = [
    ("/run/resource-agents", "run"),
    ("/etc/ha.d", "ha.d"),
    ("/etc/init.d", "init.d"),
    ("/usr/local/bin", "bin"),
];

/// A pair whose nodes have those directories of their own.
struct Pair {
    cluster: Cluster,
    apart: TempDir,
}

impl Pair {
    /// A pair whose group `web` has `resources` beside its addresses.
    fn new(resources: &str) -> Self {
        let agent = Path::new("/usr/lib/ocf/resource.d/heartbeat/Dummy");
        assert!(
            agent.exists(),
            "there is no {}: `cargo xtask test` installs Debian's package resource-agents, or run \
             `apt-get install resource-agents`",
            agent.display()
        );
        let apart = tempfile::tempdir().unwrap();
        for node in NODES {
            for (_, name) in OWN {
                fs::create_dir_all(apart.path().join(node.name()).join(name)).unwrap();
            }
            fs::create_dir(apart.path().join(node.name()).join("ha.d/resource.d")).unwrap();
        }
        let settings = Settings { resource: false, extra: resources.to_owned(), ..slow() };
        let mut options = options(settings);
        let hb = options.hb.take().unwrap();
        options.hb = Some(wrapper(apart.path(), &hb));
        Self { cluster: Cluster::of(options), apart }
    }

    /// A file of a node in one of its directories.
    fn file(&self, node: Machine, path: &str) -> PathBuf {
        self.apart.path().join(node.name()).join(path)
    }

    /// Gives both nodes a program; `$D` in it is the directory of its node.
    fn program(&self, path: &str, body: &str) {
        for node in NODES {
            let file = self.file(node, path);
            let own = self.apart.path().join(node.name());
            fs::write(&file, format!("#!/bin/sh\nD={}\n{body}\n", own.display())).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn told(&self, node: Machine) -> Vec<String> {
        let text = fs::read_to_string(self.file(node, "told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The state file of the agent Dummy.
    fn dummy(&self, node: Machine) -> PathBuf {
        let name = format!("run/Dummy-dummy@web.{}.state", self.cluster_name());
        self.file(node, &name)
    }

    fn cluster_name(&self) -> String {
        let text = fs::read_to_string(&self.cluster.lab.files().config).unwrap();
        let (_, rest) = text.split_once("name = \"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// Whether something is mounted at `place` for the daemon of a node.
    fn mounted(&self, node: Machine, place: &str) -> bool {
        let pid = self.cluster.lab.daemon(node).unwrap().pid();
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(place))
    }

    /// Starts both daemons, and has `a` serve: the first to do so is who first stopped what an earlier
    /// start may have left, and agents take their time.
    fn start(&mut self) {
        for node in NODES {
            self.cluster.lab.start_daemon(node).unwrap();
        }
        let holder = self.cluster.holder();
        self.cluster.wait_until_serving(holder);
        if holder != Machine::A {
            self.move_to(Machine::A);
        }
    }

    /// Has the group moved to `node` by an operator.
    fn move_to(&mut self, node: Machine) {
        let output = self.cluster.ask(node.peer(), &["move", "web", node.name()]);
        assert!(output.status.success(), "{output:?}");
        self.cluster.wait_until_serving(node);
    }

    /// What `hb check` says on a node, and whether it is content.
    fn check(&self, node: Machine) -> (bool, String) {
        let config = self.cluster.lab.files().of(node);
        let config = config.to_str().unwrap();
        let output = self.cluster.hb(node, &["check", config, "--node", node.name()]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

/// Writes a program that runs `hb`, with the mounts of the node that its arguments name.
fn wrapper(apart: &Path, hb: &Path) -> PathBuf {
    let program = apart.join("hb");
    let mounts: String = OWN
        .iter()
        .map(|(place, name)| format!("mount --bind \"{}/$node/{name}\" {place}\n", apart.display()))
        .collect();
    let inner =
        format!("#!/bin/sh\nset -e\nnode=$1\nshift\n{mounts}exec {} \"$@\"\n", hb.display());
    let inner_path = apart.join("mounted");
    let outer = format!(
        "#!/bin/sh\nnode=\nbefore=\nfor word; do\n\
         [ \"$before\" = --node ] && node=$word\nbefore=$word\ndone\n\
         [ -z \"$node\" ] && exec {} \"$@\"\n\
         exec unshare --mount -- {} \"$node\" \"$@\"\n",
        hb.display(),
        inner_path.display()
    );
    for (path, text) in [(&program, outer), (&inner_path, inner)] {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

const DUMMY: &str = "[[group.resource]]\nname = \"dummy\"\ntype = \"ocf\"\n\
                     agent = \"heartbeat:Dummy\"\nstatus_interval = \"100ms\"\n";

#[test]
fn an_ocf_agent_is_started_watched_and_moved() {
    let mut pair = Pair::new(DUMMY);
    pair.start();
    assert!(pair.dummy(Machine::A).exists() && !pair.dummy(Machine::B).exists());
    let status = pair.cluster.status(Machine::A);
    let resource = &status["groups"][0]["resources"][0];
    assert_eq!(resource["kind"], "ocf:heartbeat:Dummy");
    assert_eq!(resource["state"], "running");

    // Its service dies.
    fs::remove_file(pair.dummy(Machine::A)).unwrap();
    pair.cluster.wait_until_alone(Machine::B);
    assert!(pair.dummy(Machine::B).exists());
    let status = pair
        .cluster
        .wait_for(Machine::A, "it failed here", |status| status["groups"][0]["health"] == "failed");
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("resource dummy does not run any more"), "{reason}");
    assert!(pair.cluster.ask(Machine::A, &["clear", "web"]).status.success());
    pair.cluster.wait_until_serving(Machine::B);

    // Its node dies.
    pair.cluster.lab.crash(Machine::B).unwrap();
    pair.cluster.wait_until_alone(Machine::A);
    assert!(pair.dummy(Machine::A).exists());
    pair.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    pair.cluster.wait_for_end(Machine::A);
    assert!(!pair.dummy(Machine::A).exists());
}

#[test]
fn what_runs_already_is_left_alone_by_a_daemon_that_starts_in_place() {
    let mut pair = Pair::new(DUMMY);
    pair.start();
    pair.cluster.kill(Machine::A);
    pair.cluster.lab.start_daemon(Machine::A).unwrap();
    // In place or, if that took too long, on the other node: served once either way.
    let holder = pair.cluster.holder();
    pair.cluster.wait_until_serving(holder);
    if holder == Machine::A {
        pair.cluster.wait_for_log(Machine::A, "runs already: not started", |line| {
            line["resource"] == "dummy"
        });
    }
    assert!(pair.dummy(holder).exists());
}

#[test]
fn what_does_not_fit_its_agent_is_refused_by_name() {
    for (resource, say) in [
        (
            format!("{DUMMY}params = {{ sate = \"/run/x\" }}\n"),
            "resource dummy: agent ocf:heartbeat:Dummy has no parameter \"sate\"; did you mean \
             \"state\"?",
        ),
        (
            DUMMY.replace("heartbeat:Dummy", "heartbeat:IPaddr2"),
            "resource dummy: agent ocf:heartbeat:IPaddr2 needs parameter \"ip\"; add it to params",
        ),
    ] {
        let mut pair = Pair::new(&resource);
        let (content, text) = pair.check(Machine::A);
        assert!(!content && text.contains(say), "{text}\nnot: {say}");
        // What could not start ends by itself.
        pair.cluster.lab.start_daemon(Machine::A).unwrap();
        let daemon = pair.cluster.lab.daemon_mut(Machine::A).unwrap();
        let status = daemon.wait(PATIENCE).unwrap();
        let log = fs::read_to_string(daemon.log()).unwrap();
        assert!(!status.success() && log.contains(say), "{log}");
    }
}

#[test]
fn what_is_not_there_is_told_of_by_a_check() {
    let pair = Pair::new(
        "[[group.resource]]\nname = \"one\"\ntype = \"ocf\"\nagent = \"heartbeat:Dumy\"\n\
         [[group.resource]]\nname = \"two\"\ntype = \"lsb\"\nprogram = \"/etc/init.d/svc\"\n\
         [[group.resource]]\nname = \"three\"\ntype = \"heartbeat\"\nagent = \"svd::x\"\n",
    );
    pair.program("init.d/svc", "exit 0");
    let file = pair.file(Machine::A, "init.d/svc");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (content, text) = pair.check(Machine::A);
    assert!(content, "{text}");
    for say in [
        "resource one of group web: program /usr/lib/ocf/resource.d/heartbeat/Dumy does not exist",
        "resource two of group web: program /etc/init.d/svc cannot be run: `chmod +x",
        "resource three of group web: no script of heartbeat:svd is in /etc/ha.d/resource.d or \
         /etc/init.d",
    ] {
        assert!(text.contains(say), "{text}\nnot: {say}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap();
    let (content, text) = pair.check(Machine::A);
    assert!(!content && text.contains("/etc/init.d/svc has mode 0777"), "{text}");
}

/// An init script whose service is a file; its stop fails where nothing runs.
const SERVICE: &str = "echo \"$*\" >> $D/told\n\
                       case $1 in\n\
                       start) : > $D/runs;;\n\
                       stop) rm $D/runs;;\n\
                       status) [ -e $D/runs ] || exit 3;;\n\
                       esac";

/// A script of Heartbeat likewise, which says by its words how it is.
const CLASSIC: &str = "echo \"$*\" >> $D/told\n\
                       case $2 in\n\
                       start) : > $D/serves;;\n\
                       stop) rm $D/serves;;\n\
                       status) [ -e $D/serves ] && echo running || echo stopped; exit 1;;\n\
                       esac";

#[test]
fn init_scripts_and_scripts_of_heartbeat_start_in_order_and_move() {
    let interval = "status_interval = \"100ms\"\n";
    let mut pair = Pair::new(&format!(
        "[[group.resource]]\nname = \"init\"\ntype = \"lsb\"\nprogram = \"/etc/init.d/svc\"\n{interval}\
         [[group.resource]]\nname = \"classic\"\ntype = \"heartbeat\"\nagent = \"classic::/etc/c.conf\"\n"
    ));
    pair.program("init.d/svc", SERVICE);
    pair.program("ha.d/resource.d/classic", CLASSIC);
    pair.start();
    let runs = |pair: &Pair, node| pair.file(node, "runs").exists();
    let serves = |pair: &Pair, node| pair.file(node, "serves").exists();
    for (node, here) in [(Machine::A, true), (Machine::B, false)] {
        assert_eq!((runs(&pair, node), serves(&pair, node)), (here, here), "{node}");
    }
    let starts: Vec<_> =
        pair.told(Machine::A).into_iter().filter(|line| line.ends_with("start")).collect();
    assert_eq!(starts, ["start", "/etc/c.conf start"]);
    let status = pair.cluster.status(Machine::A);
    for (index, kind) in ["lsb", "heartbeat:classic"].into_iter().enumerate() {
        assert_eq!(status["groups"][0]["resources"][index]["kind"], kind);
    }

    // A service that dies is moved, and stopping what is not there any more is no failure.
    fs::remove_file(pair.file(Machine::A, "serves")).unwrap();
    pair.cluster.wait_until_alone(Machine::B);
    let status = pair.cluster.wait_for(Machine::A, "all stopped", |status| {
        status["groups"][0]["health"] == "failed"
            && status["groups"][0]["resources"][0]["state"] == "stopped"
    });
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("resource classic does not run any more"), "{reason}");
    assert!(!runs(&pair, Machine::A) && serves(&pair, Machine::B));
    assert!(pair.cluster.logged(Machine::A, "not stopped: going on").is_empty());
    pair.cluster
        .wait_for_log(Machine::A, "it does not run: stopped", |line| line["resource"] == "classic");

    assert!(pair.cluster.ask(Machine::A, &["clear", "web"]).status.success());
    pair.cluster.wait_until_serving(Machine::B);
    pair.cluster.lab.crash(Machine::B).unwrap();
    pair.cluster.wait_until_alone(Machine::A);
    wait_for("both services on a", || {
        (runs(&pair, Machine::A) && serves(&pair, Machine::A)).then_some(())
    });
}

#[test]
fn a_file_system_and_the_web_server_that_writes_to_it_move_together() {
    let nginx = Path::new("/usr/sbin/nginx");
    assert!(
        nginx.exists(),
        "there is no {}: `cargo xtask test` installs Debian's package nginx-light, or run `apt-get \
         install nginx-light`",
        nginx.display()
    );
    let place = tempfile::tempdir().unwrap();
    let site = place.path().join("site");
    let config = place.path().join("nginx.conf");
    fs::create_dir(&site).unwrap();
    let (site, path) = (site.display().to_string(), config.display());
    let mut pair = Pair::new(&format!(
        "[[group.resource]]\nname = \"files\"\ntype = \"ocf\"\nagent = \"heartbeat:Filesystem\"\n\
         params = {{ device = \"tmpfs\", directory = \"{site}\", fstype = \"tmpfs\" }}\n\
         status_interval = \"200ms\"\n\
         [[group.resource]]\nname = \"web\"\ntype = \"ocf\"\nagent = \"heartbeat:nginx\"\n\
         params = {{ configfile = \"{path}\", port = 8080 }}\n"
    ));
    fs::write(
        &config,
        format!(
            "user root;\npid /run/resource-agents/nginx.pid;\nerror_log {site}/error.log;\n\
             events {{}}\nhttp {{ access_log off; server {{ listen 8080; location / {{ return 200 \
             ok; }} }} }}\n"
        ),
    )
    .unwrap();
    pair.start();
    let serves = |pair: &Pair, node| {
        let pid = fs::read_to_string(pair.file(node, "run/nginx.pid"));
        pid.is_ok_and(|pid| Path::new(&format!("/proc/{}", pid.trim())).exists())
    };
    for node in [Machine::B, Machine::A] {
        let from = node.peer();
        assert!(pair.mounted(from, &site) && serves(&pair, from), "{from}");
        assert!(!pair.mounted(node, &site) && !serves(&pair, node), "{node}");
        pair.move_to(node);
        assert!(!pair.mounted(from, &site), "left on {from}");
    }
    pair.cluster.lab.signal(Machine::A, libc::SIGTERM).unwrap();
    pair.cluster.wait_for_end(Machine::A);
    pair.cluster.wait_until_alone(Machine::B);
    assert!(pair.mounted(Machine::B, &site) && !serves(&pair, Machine::A));
}

/// The examples of resources in the manual, each by its type.
fn examples() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    blocks.filter(|block| block.starts_with("[[group.resource]]")).map(str::to_owned).collect()
}

#[test]
fn the_examples_of_the_manual_start_and_move() {
    let examples = examples();
    let kinds = ["script", "ocf:heartbeat:Dummy", "lsb", "heartbeat:svc"];
    assert_eq!(examples.len(), kinds.len(), "{examples:?}");
    for (example, kind) in examples.iter().zip(kinds) {
        let mut pair = Pair::new(example);
        pair.program("init.d/svc", SERVICE);
        // A program of one's own has to bear a second stop.
        pair.program("bin/svc", &SERVICE.replace("rm ", "rm -f "));
        pair.program("ha.d/resource.d/svc", CLASSIC);
        let (content, text) = pair.check(Machine::A);
        assert!(content && !text.contains("resource "), "{text}");
        pair.start();
        let status = pair.cluster.status(Machine::A);
        assert_eq!(status["groups"][0]["resources"][0]["kind"], kind);
        pair.move_to(Machine::B);
        let status = pair.cluster.status(Machine::B);
        assert_eq!(status["groups"][0]["resources"][0]["state"], "running");
    }
}
