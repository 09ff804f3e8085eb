//! What is compared: hb and the others behind one trait, each in a lab of its own.

use std::{path::Path, time::Duration};

use ::lab::{
    Lab, Options,
    addresses::{Machine, NODES, VIP4},
    config::Settings,
    peers::{Judged, Peer, Rig},
};
use anyhow::{Context, Result, bail};
use hb_ebpf::time::BootTime;

use crate::{demo::inject, fault::Fault};

/// Failover software in a lab.
pub(crate) trait System {
    /// Its name in tables and files.
    fn name(&self) -> &str;
    /// Its timers and whatever else a figure may not be quoted without.
    fn config(&self) -> &str;
    /// Boots both nodes; returns the holder once all is settled.
    fn boot(&mut self) -> Result<Machine>;
    /// Ends what runs on both nodes.
    fn rest(&mut self) -> Result<()>;
    /// Its lab.
    fn lab(&self) -> &Lab;
    /// Its lab, to change it.
    fn lab_mut(&mut self) -> &mut Lab;
    /// Breaks a node; returns when.
    fn inject(&mut self, fault: Fault, node: Machine) -> Result<BootTime>;
    /// Stops its processes on a node, or has them go on.
    fn freeze(&mut self, node: Machine, stop: bool) -> Result<()>;
    /// Whether it counts misses and doubts, and tells.
    fn counts_misses(&self) -> bool {
        false
    }
    /// A fault happens anywhere within this.
    fn period(&self) -> Duration;
    /// A takeover takes no longer.
    fn move_limit(&self) -> Duration;
    /// How it is seen from outside.
    fn judged(&self) -> Judged {
        Judged::ByService
    }
}

/// hb, with one set of timers and one policy.
pub(crate) struct Hb {
    name: &'static str,
    config: String,
    interval: Duration,
    lab: Lab,
}

/// Timers and policy of one [`Hb`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Time between probes, in microseconds.
    pub(crate) interval_us: u64,
    /// Misses that mean dead.
    pub(crate) misses: u32,
    /// Who may serve.
    pub(crate) policy: &'static str,
    /// Length of the lease and its margin, where the policy has one.
    pub(crate) lease: Option<(&'static str, &'static str)>,
}

/// Two daemons come up and agree within this, a voter without its record included.
const START: Duration = Duration::from_secs(20);

impl Hb {
    /// Sets up its lab.
    pub(crate) fn up(variant: Variant, hb: &Path, mut options: Options) -> Result<Self> {
        let Variant { name, interval_us, misses, policy, lease } = variant;
        options.hb = Some(hb.into());
        options.settings = Settings {
            interval: format!("{interval_us}us"),
            misses,
            // What hb takes when nothing is said; the lab's own is for tests that may not wait.
            controller_deadtime: "100ms".into(),
            policy: policy.into(),
            lease: lease.map(|(length, _)| length.into()),
            margin: lease.map(|(_, margin)| margin.into()),
            ..Settings::default()
        };
        let lease = lease.map_or_else(String::new, |(l, m)| format!(", lease {l}, margin {m}"));
        let config = format!("policy {policy}, {misses} x {interval_us} us{lease}");
        let interval = Duration::from_micros(interval_us);
        Ok(Self { name, config, interval, lab: Lab::up(options)? })
    }
}

impl System for Hb {
    fn name(&self) -> &str {
        self.name
    }

    fn config(&self) -> &str {
        &self.config
    }

    fn boot(&mut self) -> Result<Machine> {
        self.lab.forget_logs()?;
        for node in NODES {
            self.lab.regain_carrier(node)?;
            self.lab.reboot(node)?;
        }
        for node in NODES {
            self.lab.start_daemon(node)?;
        }
        for node in NODES {
            self.lab.wait_for_controller(node, true, START)?;
        }
        let served = self.lab.who_serves(VIP4.into(), START)?;
        let holder = served.context("no node serves after both started")?;
        // One that was killed in the last run takes no part until its promises are over, and the other,
        // if that one left in order, does not wait for it.
        self.lab.wait_for_standby(holder.peer(), START)?;
        Ok(holder)
    }

    fn rest(&mut self) -> Result<()> {
        for node in NODES {
            self.lab.netns(node).kill_processes()?;
        }
        Ok(())
    }

    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    fn inject(&mut self, fault: Fault, node: Machine) -> Result<BootTime> {
        inject(&mut self.lab, fault, node)
    }

    fn freeze(&mut self, node: Machine, stop: bool) -> Result<()> {
        let signal = if stop { libc::SIGSTOP } else { libc::SIGCONT };
        self.lab.signal(node, signal).map(drop)
    }

    fn counts_misses(&self) -> bool {
        true
    }

    fn period(&self) -> Duration {
        self.interval
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// Any of the others.
pub(crate) struct Other(Rig);

impl Other {
    /// Sets up its lab.
    pub(crate) fn up(peer: Box<dyn Peer>, options: Options) -> Result<Self> {
        Rig::up(peer, options).map(Self)
    }
}

impl System for Other {
    fn name(&self) -> &str {
        self.0.peer().name()
    }

    fn config(&self) -> &str {
        self.0.peer().config()
    }

    fn boot(&mut self) -> Result<Machine> {
        self.0.boot()
    }

    fn rest(&mut self) -> Result<()> {
        self.0.rest()
    }

    fn lab(&self) -> &Lab {
        self.0.lab()
    }

    fn lab_mut(&mut self) -> &mut Lab {
        self.0.lab_mut()
    }

    fn inject(&mut self, fault: Fault, node: Machine) -> Result<BootTime> {
        match fault {
            Fault::Crash => self.0.lab_mut().crash(node),
            Fault::Cut => Ok(self.0.lab().cut(node)),
            Fault::Carrier => self.0.lab().lose_carrier(node),
            Fault::SilentPort => Ok(self.0.lab().silence_port(node)),
            Fault::Stop if self.judged() == Judged::BySession => {
                bail!("{} serves nothing that could be handed over", self.name())
            }
            Fault::Move | Fault::MoveRestarted => {
                bail!("{} is not told to move a single group", self.name())
            }
            Fault::ServiceKill => bail!("{} has no such service here", self.name()),
            Fault::Stop => self.0.ask_to_leave(node),
            Fault::Kill => self.0.signal(node, libc::SIGKILL),
            Fault::Freeze => self.0.signal(node, libc::SIGSTOP),
        }
    }

    fn freeze(&mut self, node: Machine, stop: bool) -> Result<()> {
        let signal = if stop { libc::SIGSTOP } else { libc::SIGCONT };
        self.0.signal(node, signal).map(drop)
    }

    fn period(&self) -> Duration {
        self.0.peer().period()
    }

    fn move_limit(&self) -> Duration {
        self.0.peer().move_limit()
    }

    fn judged(&self) -> Judged {
        self.0.peer().judged()
    }
}
