//! keepalived: VRRPv3 (RFC 9568) at the smallest interval its configuration takes, 10 ms.

use std::time::Duration;

use super::{File, Peer, cage::HOME};
use crate::addresses::{Link, Machine, PREFIX4, VIP4};

/// keepalived with adverts every 10 ms; the backup is due after three of them and a skew.
#[derive(Clone, Copy, Debug)]
pub struct Keepalived {
    /// Whether its VRRP process runs under `SCHED_RR`.
    pub real_time: bool,
}

/// Named pipe in the cage's home on which keepalived says each change of state.
pub const NOTIFY: &str = "notify";

impl Peer for Keepalived {
    fn name(&self) -> &'static str {
        if self.real_time { "keepalived-rt" } else { "keepalived" }
    }

    fn config(&self) -> &'static str {
        if self.real_time {
            "VRRPv3, advert_int 10 ms, vrrp_rt_priority 50"
        } else {
            "VRRPv3, advert_int 10 ms"
        }
    }

    fn packages(&self) -> &'static [&'static str] {
        &["keepalived"]
    }

    fn services(&self) -> &'static [&'static str] {
        &["keepalived.service"]
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/sbin/keepalived"]
    }

    fn files(&self, node: Machine) -> Vec<File> {
        let real_time =
            if self.real_time { "    vrrp_rt_priority 50\n    vrrp_no_swap\n" } else { "" };
        // The higher the priority, the smaller the skew: 0.04 ms for the backup.
        let priority = if node == Machine::A { 254 } else { 253 };
        let text = format!(
            "global_defs {{\n    vrrp_version 3\n    vrrp_notify_fifo {HOME}/{NOTIFY}\n{real_time}}}\n\
             vrrp_instance web {{\n    state BACKUP\n    interface {interface}\n    \
             virtual_router_id 51\n    priority {priority}\n    advert_int 0.01\n    \
             virtual_ipaddress {{\n        {VIP4}/{PREFIX4}\n    }}\n}}\n",
            interface = Link::Client.interface()
        );
        vec![File::plain("keepalived.conf", text)]
    }

    fn commands(&self, _node: Machine) -> String {
        format!(
            "mkfifo -m 600 {HOME}/{NOTIFY}\n\
             exec keepalived --dont-fork --log-console --log-detail --no-syslog --vrrp \
             --use-file={HOME}/keepalived.conf"
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["keepalived"]
    }

    fn period(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn settle(&self) -> Duration {
        Duration::from_millis(1000)
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(3)
    }
}
