//! Another failover software in a lab: started on both nodes, looked at, asked to leave, killed.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use hb_ebpf::time::BootTime;

use super::{Judged, Peer, cage};
use crate::{
    Lab, Options,
    addresses::{Machine, NODES, VIP4},
    bfd::{Sessions, State},
    client::Pace,
    clock, netns,
    node::Process,
};

/// A lab whose nodes run a peer.
pub struct Rig {
    /// Before the lab: ended first.
    cages: Vec<Process>,
    peer: Box<dyn Peer>,
    lab: Lab,
}

impl Rig {
    /// Sets up a lab for `peer`, which is not started yet.
    ///
    /// # Errors
    ///
    /// As [`Lab::up`].
    pub fn up(peer: Box<dyn Peer>, mut options: Options) -> Result<Self> {
        options.hb = None;
        Ok(Self { cages: Vec::new(), peer, lab: Lab::up(options)? })
    }

    /// Returns the lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Returns the lab, to change it.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// Returns what runs in it.
    #[must_use]
    pub fn peer(&self) -> &dyn Peer {
        self.peer.as_ref()
    }

    /// Ends whatever runs on the nodes, as by loss of power, and leaves them off.
    ///
    /// # Errors
    ///
    /// If a process outlives the kill.
    pub fn rest(&mut self) -> Result<()> {
        for node in NODES {
            self.lab.netns(node).kill_processes()?;
        }
        self.cages.clear();
        Ok(())
    }

    /// Boots both nodes and starts the peer on them; returns the node that serves once that is
    /// settled.
    ///
    /// # Errors
    ///
    /// If it does not settle within its time, with the last lines it said.
    pub fn boot(&mut self) -> Result<Machine> {
        self.rest()?;
        self.lab.forget_logs()?;
        for node in NODES {
            self.lab.regain_carrier(node)?;
            self.lab.reboot(node)?;
        }
        let directory = self.lab.files().directory.clone();
        for node in NODES {
            let cage = cage::start(self.peer(), node, self.lab.netns(node), &directory)?;
            self.cages.push(cage);
        }
        let end = clock::now().after(self.peer.start_limit());
        loop {
            for cage in &mut self.cages {
                cage.check()?;
            }
            let settled = match self.peer.judged() {
                Judged::ByService => self.settled_service()?,
                Judged::BySession => self.settled_session()?,
            };
            if let Some(node) = settled {
                return Ok(node);
            }
            ensure!(
                clock::now() < end,
                "{} did not settle within {:?}",
                self.peer.name(),
                self.peer.start_limit()
            );
        }
    }

    /// Returns the node that alone answers for the whole time that counts as settled.
    fn settled_service(&self) -> Result<Option<Machine>> {
        let Some(holder) = self.lab.who_serves(VIP4.into(), Duration::from_secs(5))? else {
            return Ok(None);
        };
        let settle = self.peer.settle();
        let pace = Pace { interval: Duration::from_millis(1), limit: settle, ..Pace::default() };
        let client = self.lab.client(pace)?;
        thread::sleep(settle);
        let seen = client.finish()?;
        let others = seen.answers.iter().any(|answer| answer.node != holder);
        let half = seen.sent.len() / 2;
        let homes = NODES.map(|node| cage::home(&self.lab.files().directory, node));
        let settled = !others
            && seen.answers.len() > half
            && self.peer.is_joined(&homes)?
            && !self.has_address(holder.peer())?;
        Ok(settled.then_some(holder))
    }

    /// Returns whether the service address is configured on a node: one that the client does not
    /// ask may have it as well.
    fn has_address(&self, node: Machine) -> Result<bool> {
        let to = format!("{VIP4}/32");
        let shown = self.lab.netns(node).ip_json(&["address", "show", "to", &to])?;
        Ok(shown.to_string().contains(&VIP4.to_string()))
    }

    /// Returns `a` once both ends of the session say for the whole time that it is up.
    fn settled_session(&self) -> Result<Option<Machine>> {
        let sessions = Sessions::watch(self.lab.switch())?;
        thread::sleep(self.peer.settle());
        let said = sessions.finish()?;
        let up = |node: Machine| {
            let mut own = said.iter().filter(|said| said.node == node).peekable();
            own.peek().is_some() && own.all(|said| said.state == State::Up)
        };
        Ok(NODES.into_iter().all(up).then_some(Machine::A))
    }

    /// Asks the peer on a node to leave, as the system's service manager does; returns the time
    /// just before.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn ask_to_leave(&self, node: Machine) -> Result<BootTime> {
        let first = self.peer.processes()[0];
        let processes = self.named(node, &[first])?;
        let leader = processes.iter().min().with_context(|| format!("no {first} on {node}"))?;
        let at = clock::now();
        netns::signal(*leader, libc::SIGTERM)?;
        Ok(at)
    }

    /// Sends a signal to all the peer's processes on a node, and to nothing else; returns the time
    /// just before.
    ///
    /// # Errors
    ///
    /// If none runs.
    pub fn signal(&self, node: Machine, signal: i32) -> Result<BootTime> {
        let processes = self.named(node, self.peer.processes())?;
        if processes.is_empty() {
            bail!("nothing of {} runs on {node}", self.peer.name());
        }
        let at = clock::now();
        for pid in processes {
            netns::signal(pid, signal)?;
        }
        Ok(at)
    }

    /// Returns the pids of the node's processes whose name begins with one of `names`.
    fn named(&self, node: Machine, names: &[&str]) -> Result<Vec<i32>> {
        let matches = |pid: &i32| {
            // One that has ended meanwhile has no name, and is not wanted.
            let comm = Path::new("/proc").join(pid.to_string()).join("comm");
            fs::read_to_string(comm)
                .is_ok_and(|name| names.iter().any(|wanted| name.starts_with(wanted)))
        };
        Ok(self.lab.netns(node).processes()?.into_iter().filter(matches).collect())
    }
}
