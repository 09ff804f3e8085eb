//! What the nodes of a lab go through as machines: loss of power, boots, signals, other files.

use std::{fs, os::unix::process::ExitStatusExt, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;

use crate::{
    Lab,
    addresses::{Link, Machine, PREFIX4, PREFIX6, VIP_COUNT, VIP4, VIP6},
    clock,
    config::{self, GROUP, Settings},
    guard, netns,
    switch::{Direction, port_name},
    tcx::{Foreign, Place, Verdict, Way},
};

/// From a crash to the end of the node's processes, which are stopped meanwhile.
const UNTIL_KILLED: Duration = Duration::from_millis(50);

impl Lab {
    /// Ends a node as a loss of power would: every link falls silent in one instant, which is
    /// returned, every process of the node is stopped at once, and killed a while later. Killing
    /// takes its time, and that of a takeover beside it: the machines of a lab share their cores.
    ///
    /// # Errors
    ///
    /// If a process outlives the kill.
    pub fn crash(&mut self, node: Machine) -> Result<BootTime> {
        // Listed before, so that it follows the cut closely.
        let processes = self.machines[&node].processes()?;
        let at = self.switch.cut(node);
        for pid in processes {
            netns::signal(pid, libc::SIGSTOP)?;
        }
        thread::sleep(UNTIL_KILLED);
        self.machines[&node].lose_power(&self.pins(node))?;
        self.daemons.remove(&node);
        self.responders.remove(&node);
        Ok(at)
    }

    /// Sets the port of a node in the service network down, so that the node loses its carrier;
    /// returns the time just before. The time it takes to start `ip` is part of what follows.
    ///
    /// # Errors
    ///
    /// With what `ip` said.
    pub fn lose_carrier(&self, node: Machine) -> Result<BootTime> {
        let at = clock::now();
        self.set_service_port(node, "down")?;
        Ok(at)
    }

    /// Sets that port up again.
    ///
    /// # Errors
    ///
    /// With what `ip` said.
    pub fn regain_carrier(&self, node: Machine) -> Result<()> {
        self.set_service_port(node, "up")
    }

    /// Has the port of a node in the service network forward nothing either way, while its carrier
    /// stays; returns the time just before.
    #[must_use]
    pub fn silence_port(&self, node: Machine) -> BootTime {
        self.switch.cut_link(node, Link::Client, Direction::Both)
    }

    fn set_service_port(&self, node: Machine, state: &str) -> Result<()> {
        self.switch.netns().ip(&["link", "set", &port_name(node, Link::Client), state])
    }

    /// Sends a signal to the daemon of a node; returns the time just before.
    ///
    /// # Errors
    ///
    /// If there is no daemon or the kernel refuses.
    pub fn signal(&self, node: Machine, signal: i32) -> Result<BootTime> {
        let daemon = self.daemons.get(&node).with_context(|| format!("{node} has no daemon"))?;
        let at = clock::now();
        daemon.signal(signal)?;
        Ok(at)
    }

    /// Tells the daemon that holds the lab's group to hand it to `node`, and waits until that one
    /// serves; returns the time just before. The time it takes to start the command is part of what
    /// follows.
    ///
    /// # Errors
    ///
    /// With what the command said, if it failed.
    pub fn move_group(&self, node: Machine) -> Result<BootTime> {
        let holder = node.peer();
        let mut command = self.hb(holder)?;
        command.args(["move", GROUP, node.name(), "--wait", "10s", "--socket"]);
        command.arg(self.socket(holder));
        let at = clock::now();
        let output = command.output().context("cannot run hb move")?;
        ensure!(
            output.status.success(),
            "hb move {GROUP} {node} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(at)
    }

    /// Puts a node into the state a machine boots into: nothing runs but the responder, nothing
    /// is pinned, no service address is configured, every link works. What is on its disk stays.
    ///
    /// # Errors
    ///
    /// If a step fails.
    pub fn reboot(&mut self, node: Machine) -> Result<()> {
        let netns = &self.machines[&node];
        netns.lose_power(&self.pins(node))?;
        netns.wait_until_detached()?;
        self.daemons.remove(&node);
        self.responders.remove(&node);
        guard::remove_path(&self.socket(node))?;
        // Whatever prefix length the address has: the daemon chooses it.
        let bits = VIP_COUNT.ilog2();
        netns.ip(&["-4", "address", "flush", "to", &format!("{VIP4}/{}", 32 - bits)])?;
        netns.ip(&["-6", "address", "flush", "to", &format!("{VIP6}/{}", 128 - bits)])?;
        self.switch.heal(node);
        self.start_responder(node)
    }

    /// Removes what a killed daemon left on its node, with `hb detach`.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary, or with what it said.
    pub fn detach(&self, node: Machine) -> Result<()> {
        self.run_over(node, &["detach"])
    }

    /// Takes the gate of a killed daemon off its node, with `hb gate --remove`; one that was killed
    /// before it attached has none.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary, or with what it said.
    pub fn remove_gate(&self, node: Machine) -> Result<()> {
        match self.run_over(node, &["gate", "--remove"]) {
            Err(error) if error.to_string().contains("there is no gate") => Ok(()),
            done => done,
        }
    }

    /// Runs `hb` on a node whose daemon is gone.
    fn run_over(&self, node: Machine, arguments: &[&str]) -> Result<()> {
        let mut command = self.hb(node)?;
        command.args(arguments).arg("--config").arg(self.files.of(node));
        let output = command.args(["--node", node.name()]).output().context("cannot run hb")?;
        // The other node may fence it meanwhile, and then nothing of it is left either.
        if output.status.signal() == Some(libc::SIGKILL) && self.power_switch().is_some() {
            return Ok(());
        }
        ensure!(
            output.status.success(),
            "hb {} on {node} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Has the resources of both nodes take long to stop, or no longer.
    ///
    /// # Errors
    ///
    /// If the file that says so cannot be written or removed.
    pub fn slow_resource(&self, slow: bool) -> Result<()> {
        let path = config::slow_file(&self.files.resource_log);
        if slow {
            fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
        } else {
            guard::remove_path(&path)
        }
    }

    /// Gives a machine a configuration of its own, or with `None` that of the whole cluster. A daemon
    /// reads it when it starts.
    ///
    /// # Errors
    ///
    /// If the file cannot be written or removed.
    pub fn edit(&mut self, machine: Machine, settings: Option<&Settings>) -> Result<()> {
        self.edits.push((clock::now(), machine));
        self.files.rewrite(&self.cluster, machine, settings)
    }

    /// Returns whether a machine has a configuration of its own.
    #[must_use]
    pub fn has_own_file(&self, machine: Machine) -> bool {
        self.files.of(machine) != self.files.config
    }

    /// Returns when which machine got another configuration, since the last call.
    pub fn take_edits(&mut self) -> Vec<(BootTime, Machine)> {
        std::mem::take(&mut self.edits)
    }

    /// Puts a program of somebody else into a chain at a node's interface of the client network, in the
    /// stead of one that was put there before.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn put_foreign(
        &mut self,
        node: Machine,
        way: Way,
        place: Place,
        verdict: Verdict,
    ) -> Result<()> {
        let (netns, interface) = (&self.machines[&node], Link::Client.interface());
        let program = Foreign::put(netns, interface, way, place, verdict, "somebody")?;
        self.foreign.insert(node, program);
        Ok(())
    }

    /// Takes it off again.
    pub fn take_foreign(&mut self, node: Machine) {
        self.foreign.remove(&node);
    }

    /// Adds the service addresses to a node by hand, as a stand-in for the daemon.
    ///
    /// # Errors
    ///
    /// If `ip` refuses.
    pub fn add_vip(&self, node: Machine) -> Result<()> {
        let interface = Link::Client.interface();
        self.machines[&node].ip_batch(&format!(
            "address add {VIP4}/{PREFIX4} dev {interface}\n\
             address add {VIP6}/{PREFIX6} dev {interface} nodad preferred_lft 0\n"
        ))
    }

    /// Returns whether the daemon of a node runs; one that is frozen does.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to tell.
    pub fn daemon_runs(&mut self, node: Machine) -> Result<bool> {
        match self.daemons.get_mut(&node) {
            Some(daemon) => Ok(daemon.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Returns whether the responder of a node runs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to tell.
    pub fn responder_runs(&mut self, node: Machine) -> Result<bool> {
        match self.responders.get_mut(&node) {
            Some(responder) => Ok(responder.ended()?.is_none()),
            None => Ok(false),
        }
    }
}
