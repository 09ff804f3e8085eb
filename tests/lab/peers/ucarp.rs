//! ucarp: the Common Address Redundancy Protocol in user space, adverts every second at its fastest.

use std::time::Duration;

use super::{File, Peer, cage::HOME};
use crate::addresses::{Link, Machine, PREFIX4, VIP4};

/// ucarp with the smallest `advbase` and `deadratio` it takes.
#[derive(Clone, Copy, Debug)]
pub struct Ucarp;

impl Peer for Ucarp {
    fn name(&self) -> &'static str {
        "ucarp"
    }

    fn config(&self) -> &'static str {
        "advbase 1 s, deadratio 1"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["ucarp"]
    }

    fn services(&self) -> &'static [&'static str] {
        &[]
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/sbin/ucarp"]
    }

    fn files(&self, _node: Machine) -> Vec<File> {
        // It calls them with the interface and the address, and announces the address itself.
        vec![
            File::script(
                "up",
                format!("#!/bin/sh\nexec ip address add \"$2/{PREFIX4}\" dev \"$1\"\n"),
            ),
            File::script(
                "down",
                format!("#!/bin/sh\nip address del \"$2/{PREFIX4}\" dev \"$1\" 2>&1 || true\n"),
            ),
        ]
    }

    fn commands(&self, node: Machine) -> String {
        let skew = if node == Machine::A { 0 } else { 1 };
        format!(
            "exec ucarp --interface={interface} --srcip={source} --vhid=51 --pass=of-the-lab \
             --addr={VIP4} --advbase=1 --advskew={skew} --deadratio=1 --shutdown \
             --upscript={HOME}/up --downscript={HOME}/down",
            interface = Link::Client.interface(),
            source = node.v4(Link::Client)
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["ucarp"]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn settle(&self) -> Duration {
        Duration::from_secs(4)
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(10)
    }
}
