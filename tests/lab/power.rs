//! What the nodes of a lab go through as machines: loss of power, boots, signals.

use std::{os::unix::process::ExitStatusExt, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use hb_ebpf::time::BootTime;

use crate::{
    Lab,
    addresses::{Link, Machine, PREFIX4, PREFIX6, VIP4, VIP6},
    clock,
    config::GROUP,
    guard, netns,
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
        netns.ip(&["-4", "address", "flush", "to", &format!("{VIP4}/32")])?;
        netns.ip(&["-6", "address", "flush", "to", &format!("{VIP6}/128")])?;
        self.switch.heal(node);
        self.start_responder(node)
    }

    /// Removes what a killed daemon left on its node, with `hb detach`.
    ///
    /// # Errors
    ///
    /// If there is no `hb` binary, or with what it said.
    pub fn detach(&self, node: Machine) -> Result<()> {
        let mut command = self.hb(node)?;
        command.arg("detach").arg("--config").arg(&self.files.config);
        let output = command.args(["--node", node.name()]).output().context("cannot run hb")?;
        // The other node may fence it meanwhile, and then nothing of it is left either.
        if output.status.signal() == Some(libc::SIGKILL) && self.power_switch().is_some() {
            return Ok(());
        }
        ensure!(
            output.status.success(),
            "hb detach on {node} failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
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
