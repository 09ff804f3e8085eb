//! Checks of a service beside its agent: what fails here moves the group, or keeps a standby from it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use lab::{addresses::Machine, config::Settings};
use tempfile::TempDir;

use super::support::{Cluster, slow, wait_for};

/// A pair whose service is a web server of each node that answers as a file of it says.
struct Checked {
    cluster: Cluster,
    directory: TempDir,
}

const SERVER: &str = "\
import http.server, os, sys, time
place, node = sys.argv[1:]
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(f'{place}/says-{node}') as file:
            code = int(file.read())
        if code == 0:
            time.sleep(60)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b'ready')
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Answer)
with open(f'{place}/pid-{node}.new', 'w') as file:
    file.write(str(os.getpid()))
os.rename(f'{place}/pid-{node}.new', f'{place}/pid-{node}')
server.serve_forever()
";

impl Checked {
    /// `keys` are more keys of the resource; in them `$D` is the directory of the service.
    fn new(keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display().to_string();
        fs::write(directory.path().join("server.py"), SERVER).unwrap();
        let program = directory.path().join("svc.sh");
        let text = format!(
            "#!/bin/sh\nD={place}\nP=$D/pid-$HB_NODE\n\
             case $1 in\n\
             start) [ -e $P ] && kill -0 $(cat $P) 2>/dev/null && exit 0\n\
             rm -f $P\n\
             setsid python3 $D/server.py $D $HB_NODE >/dev/null 2>&1 </dev/null &\n\
             while [ ! -e $P ]; do sleep 0.01; done; cp $P $D/pid;;\n\
             stop) [ -e $P ] || exit 0; kill -9 $(cat $P) 2>/dev/null\n\
             while kill -0 $(cat $P) 2>/dev/null; do sleep 0.01; done; rm -f $P;;\n\
             status) [ -e $P ] && kill -0 $(cat $P) 2>/dev/null || exit 3;;\n\
             esac\nexit 0\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let extra = format!(
            "[[group.resource]]\nname = \"svc\"\ntype = \"script\"\nprogram = \"{}\"\n{}",
            program.display(),
            keys.replace("$D", &place)
        );
        let checked = Self {
            cluster: Cluster::new(Settings { resource: false, extra, ..slow() }),
            directory,
        };
        for node in [Machine::A, Machine::B] {
            checked.say(node, 200);
        }
        checked
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Has the server of a node answer with that status; 0 to have it hang.
    fn say(&self, node: Machine, status: u16) {
        let (new, file) = (self.file("says.new"), self.file(&format!("says-{node}")));
        fs::write(&new, status.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn signal(&self, node: Machine, signal: i32) {
        let pid = fs::read_to_string(self.file(&format!("pid-{node}"))).unwrap();
        // SAFETY: sends a signal to the server that this test began, and touches no memory.
        assert_eq!(unsafe { libc::kill(pid.trim().parse().unwrap(), signal) }, 0);
    }

    /// Waits until `b` serves because of `error` on `a`.
    fn moved(&mut self, error: &str) {
        self.cluster.wait_until_alone(Machine::B);
        let status = self.cluster.wait_for(Machine::A, "it failed here", |status| {
            let group = &status["groups"][0];
            group["health"] == "failed" && group["state"] != "holding"
        });
        let reason = status["groups"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("resource svc") && reason.contains(error), "{reason}");
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        for node in [Machine::A, Machine::B] {
            if self.file(&format!("pid-{node}")).exists() {
                let pid = fs::read_to_string(self.file(&format!("pid-{node}"))).unwrap_or_default();
                if let Ok(pid) = pid.trim().parse() {
                    // SAFETY: as above; one that is gone is no matter.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
        }
    }
}

const HTTP: &str = "[[group.resource.check]]\ntype = \"http\"\nurl = \"http://127.0.0.1:8080/\"\n\
                    body = \"ready\"\ninterval = \"20ms\"\ntimeout = \"1s\"\n";

#[test]
fn a_wrong_answer_moves_the_group_and_what_is_watched_is_said() {
    let mut checked = Checked::new(HTTP);
    checked.cluster.start_both();
    let status = checked.cluster.status(Machine::A);
    let watched = &status["groups"][0]["resources"][0]["watched"];
    assert_eq!(watched[0], "http http://127.0.0.1:8080/ every 20ms");
    checked.say(Machine::A, 500);
    checked.moved("status 500 in the place of 200");
}

#[test]
fn a_service_that_stands_still_moves_the_group() {
    let mut checked = Checked::new(&HTTP.replace("\"1s\"", "\"300ms\""));
    checked.cluster.start_both();
    checked.signal(Machine::A, libc::SIGSTOP);
    checked.moved("no answer within 300ms");
}

#[test]
fn a_closed_port_moves_the_group() {
    let mut checked = Checked::new(
        "[[group.resource.check]]\ntype = \"tcp\"\naddress = \"127.0.0.1:8080\"\ninterval = \"5ms\"\n",
    );
    checked.cluster.start_both();
    checked.signal(Machine::A, libc::SIGKILL);
    checked.moved("check tcp 127.0.0.1:8080 failed: Connection refused");
}

#[test]
fn a_process_that_is_killed_moves_the_group_though_nobody_asks_for_it() {
    // Both nodes have one file here: it names the process that was started last.
    let mut checked = Checked::new("pid_file = \"$D/pid\"\n");
    checked.cluster.start_both();
    let status = checked.cluster.status(Machine::A);
    let watched = status["groups"][0]["resources"][0]["watched"][0].as_str().unwrap();
    assert!(watched.starts_with("the process of /"), "{watched}");
    checked.signal(Machine::A, libc::SIGKILL);
    checked.moved("its process");
    // A stop is no death: it goes back, and nothing failed on b.
    assert!(checked.cluster.ask(Machine::A, &["clear", "web"]).status.success());
    checked.cluster.wait_until_serving(Machine::B);
    let moved = checked.cluster.ask(Machine::B, &["move", "web", "a"]);
    assert!(moved.status.success(), "{moved:?}");
    checked.cluster.wait_until_serving(Machine::A);
    assert!(checked.cluster.logged(Machine::B, "failed").is_empty());
}

#[test]
fn a_standby_whose_check_fails_takes_nothing_until_it_passes() {
    let mut checked = Checked::new(
        "[[group.resource.check]]\ntype = \"exec\"\ncommand = [\"$D/ready.sh\", \"ready\"]\n\
         interval = \"20ms\"\nstandby = true\n",
    );
    let program = checked.file("ready.sh");
    let text = format!("#!/bin/sh\n[ -e {}/$1-$HB_NODE ]\n", checked.directory.path().display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for node in ["a", "b"] {
        fs::write(checked.file(&format!("ready-{node}")), "").unwrap();
    }
    checked.cluster.start_both();
    fs::remove_file(checked.file("ready-b")).unwrap();
    let status = checked
        .cluster
        .wait_for(Machine::B, "it is not able", |status| status["groups"][0]["health"] == "failed");
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    let said = "not able to serve: resource svc: check exec";
    assert!(reason.starts_with(said) && reason.contains("exit code 1"), "{reason}");
    let message = "a check fails: this node is not able to take the group";
    checked.cluster.wait_for_log(Machine::B, message, |line| line["group"] == "web");
    wait_for("a refusal of a move", || {
        let moved = checked.cluster.ask(Machine::A, &["move", "web", "b"]);
        let text = String::from_utf8_lossy(&moved.stderr).into_owned();
        (!moved.status.success() && text.contains("b cannot take web")).then_some(())
    });

    // Its cause goes, and nobody has to clear anything.
    fs::write(checked.file("ready-b"), "").unwrap();
    checked.cluster.wait_until_serving(Machine::A);
    fs::remove_file(checked.file("ready-a")).unwrap();
    checked.moved("check exec");
}
