//! Linux-HA Heartbeat 3, with the smallest timers that it keeps: 10 ms and 30 ms. It takes smaller
//! ones too and then declares a living peer dead again and again.

use std::time::Duration;

use super::{File, Peer, cage::HOME};
use crate::addresses::{LINKS, Link, Machine, NODES, PREFIX4, VIP4};

/// Heartbeat with both links of the lab and its agent `IPaddr2`.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat;

impl Peer for Heartbeat {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn config(&self) -> &'static str {
        "keepalive 10 ms, deadtime 30 ms, IPaddr2"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["heartbeat", "resource-agents", "cluster-glue"]
    }

    fn services(&self) -> &'static [&'static str] {
        &["heartbeat.service", "logd.service"]
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/libexec/heartbeat/heartbeat", "/usr/lib/ocf/resource.d/heartbeat/IPaddr2"]
    }

    fn files(&self, _node: Machine) -> Vec<File> {
        let mut config = format!(
            "logfile {HOME}/ha-log\nkeepalive 10ms\nwarntime 20ms\ndeadtime 30ms\n\
             initdead 2000ms\n"
        );
        // Lines about a node itself are not heeded, so the file is the same on both.
        for link in LINKS {
            for node in NODES {
                config += &format!("ucast {} {}\n", link.interface(), node.v4(link));
            }
        }
        config += "auto_failback off\n";
        for node in NODES {
            config += &format!("node {node}\n");
        }
        let resources =
            format!("{} IPaddr2::{VIP4}/{PREFIX4}/{}\n", Machine::A, Link::Client.interface());
        vec![
            File::plain("ha.d/ha.cf", config),
            File::plain("ha.d/haresources", resources),
            File::secret("ha.d/authkeys", "auth 1\n1 sha1 of-the-lab\n"),
        ]
    }

    fn empty(&self) -> &'static [&'static str] {
        &["/var/lib/heartbeat"]
    }

    fn shown(&self) -> &'static [(&'static str, &'static str)] {
        &[("ha.d", "/etc/ha.d")]
    }

    fn commands(&self, _node: Machine) -> String {
        // Its own scripts lie beside its configuration. It goes into the background at once.
        format!(
            "umount /etc/ha.d\n\
             for part in harc rc.d resource.d shellfuncs; do cp -a /etc/ha.d/$part {HOME}/ha.d/; done\n\
             mount --bind {HOME}/ha.d /etc/ha.d\n\
             mkdir -p /run/heartbeat/ccm /run/heartbeat/dopd /run/heartbeat/rsctmp \
             /run/resource-agents /run/lock /var/lib/heartbeat/cores/root \
             /var/lib/heartbeat/cores/nobody /var/lib/heartbeat/cores/hacluster\n\
             chown -R hacluster:haclient /run/heartbeat /var/lib/heartbeat/cores/hacluster\n\
             /usr/libexec/heartbeat/heartbeat\n\
             while sleep 3600; do :; done"
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["heartbeat"]
    }

    fn period(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}
