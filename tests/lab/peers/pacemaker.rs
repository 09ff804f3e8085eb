//! Pacemaker on corosync, with the smallest token that corosync takes: 31 ms, which has to be above
//! the retransmission after 30 ms. Over `udpu`: with so short a token, knet takes its links down.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use super::{File, Peer, cage::HOME};
use crate::addresses::{Link, Machine, NODES, PREFIX4, VIP4};

/// Pacemaker with one `IPaddr2`. Two safety switches are off, as a pair without fencing needs.
#[derive(Clone, Copy, Debug)]
pub struct Pacemaker;

impl Peer for Pacemaker {
    fn name(&self) -> &'static str {
        "pacemaker"
    }

    fn config(&self) -> &'static str {
        "corosync token 31 ms, consensus 31 ms, IPaddr2"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["pacemaker", "corosync", "resource-agents"]
    }

    fn services(&self) -> &'static [&'static str] {
        &["corosync.service", "corosync-notifyd.service", "pacemaker.service"]
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/sbin/corosync", "/usr/sbin/pacemakerd", "/usr/lib/ocf/resource.d/heartbeat/IPaddr2"]
    }

    fn files(&self, _node: Machine) -> Vec<File> {
        let mut config = format!(
            "totem {{\n  version: 2\n  cluster_name: lab\n  transport: udpu\n  \
             token: 31\n  token_retransmit: 30\n  hold: 14\n  join: 30\n  \
             consensus: 31\n}}\n\
             quorum {{\n  provider: corosync_votequorum\n  two_node: 1\n  wait_for_all: 0\n}}\n\
             logging {{\n  to_logfile: yes\n  logfile: {HOME}/corosync.log\n  to_syslog: no\n  \
             timestamp: hires\n}}\nnodelist {{\n"
        );
        for node in NODES {
            config += &format!("  node {{\n    name: {node}\n    nodeid: {}\n", node.id());
            config += &format!("    ring0_addr: {}\n", node.v4(Link::Client));
            config += "  }\n";
        }
        config += "}\n";
        vec![File::plain("corosync/corosync.conf", config), File::plain("cib.xml", cib())]
    }

    fn empty(&self) -> &'static [&'static str] {
        &["/var/lib/corosync", "/var/lib/pacemaker", "/var/log"]
    }

    fn shown(&self) -> &'static [(&'static str, &'static str)] {
        &[("corosync", "/etc/corosync")]
    }

    fn commands(&self, _node: Machine) -> String {
        format!(
            "mkdir -p /var/lib/pacemaker/blackbox /var/lib/pacemaker/cib \
             /var/lib/pacemaker/cores /var/lib/pacemaker/pengine /var/log/pacemaker \
             /var/log/corosync /run/crm /run/resource-agents /run/lock\n\
             cp {HOME}/cib.xml /var/lib/pacemaker/cib/cib.xml\n\
             chmod 600 /var/lib/pacemaker/cib/cib.xml\n\
             chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker /run/crm\n\
             export PCMK_logfile={HOME}/pacemaker.log PCMK_logfacility=none\n\
             corosync\n\
             exec pacemakerd -f"
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["pacemaker", "corosync"]
    }

    fn period(&self) -> Duration {
        Duration::from_millis(31)
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn is_joined(&self, homes: &[PathBuf; 2]) -> Result<bool> {
        for home in homes {
            let log = home.join("corosync.log");
            let text = fs::read_to_string(&log)
                .with_context(|| format!("cannot read {}", log.display()))?;
            let newest = text.lines().rfind(|line| line.contains("] Members["));
            if !newest.is_some_and(|line| line.contains("Members[2]")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// Returns the cluster's information base, as `crm` would have filled it in.
fn cib() -> String {
    let property = |name: &str, value: &str| {
        format!("<nvpair id=\"p-{name}\" name=\"{name}\" value=\"{value}\"/>")
    };
    let parameter = |name: &str, value: &str| {
        format!("<nvpair id=\"vip-{name}\" name=\"{name}\" value=\"{value}\"/>")
    };
    let nodes: String =
        NODES.iter().map(|node| format!("<node id=\"{}\" uname=\"{node}\"/>", node.id())).collect();
    format!(
        "<cib validate-with=\"pacemaker-3.0\" epoch=\"1\" num_updates=\"0\" admin_epoch=\"1\">\
         <configuration><crm_config><cluster_property_set id=\"p\">{stonith}{quorum}{delay}\
         </cluster_property_set></crm_config><nodes>{nodes}</nodes><resources>\
         <primitive id=\"vip\" class=\"ocf\" provider=\"heartbeat\" type=\"IPaddr2\">\
         <instance_attributes id=\"vip-a\">{address}{prefix}{interface}</instance_attributes>\
         </primitive></resources><constraints>\
         <rsc_location id=\"prefer\" rsc=\"vip\" node=\"a\" score=\"50\"/></constraints>\
         </configuration><status/></cib>\n",
        stonith = property("stonith-enabled", "false"),
        quorum = property("no-quorum-policy", "ignore"),
        delay = property("dc-deadtime", "2s"),
        address = parameter("ip", &VIP4.to_string()),
        prefix = parameter("cidr_netmask", &PREFIX4.to_string()),
        interface = parameter("nic", Link::Client.interface()),
    )
}
