//! FRR's bfdd: bidirectional forwarding detection (RFC 5880) at the smallest timers it takes. It
//! detects; nothing is served.

use std::time::Duration;

use super::{File, Judged, Peer, cage::HOME};
use crate::addresses::{Link, Machine};

/// bfdd with zebra, one session between the nodes on the client network.
#[derive(Clone, Copy, Debug)]
pub struct Frr;

impl Peer for Frr {
    fn name(&self) -> &'static str {
        "frr-bfdd"
    }

    fn config(&self) -> &'static str {
        "BFD 10 ms x 3, detection only"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["frr"]
    }

    fn services(&self) -> &'static [&'static str] {
        &["frr.service"]
    }

    fn programs(&self) -> &'static [&'static str] {
        &["/usr/lib/frr/bfdd", "/usr/lib/frr/zebra"]
    }

    fn files(&self, node: Machine) -> Vec<File> {
        let text = format!(
            "log file {HOME}/logs/bfdd.log\nbfd\n peer {peer} local-address {own} interface {interface}\n  \
             detect-multiplier 3\n  receive-interval 10\n  transmit-interval 10\n  no shutdown\n \
             exit\nexit\n",
            peer = node.peer().v4(Link::Client),
            own = node.v4(Link::Client),
            interface = Link::Client.interface()
        );
        vec![
            File::plain("frr/bfdd.conf", text),
            File::plain("frr/zebra.conf", format!("log file {HOME}/logs/zebra.log\n")),
        ]
    }

    fn shown(&self) -> &'static [(&'static str, &'static str)] {
        &[("frr", "/etc/frr")]
    }

    fn commands(&self, _node: Machine) -> String {
        format!(
            "mkdir -p {HOME}/logs /run/frr\n\
             chown frr:frr {HOME}/logs /run/frr {HOME}/frr {HOME}/frr/*\n\
             /usr/lib/frr/zebra --daemon --vty_port 0\n\
             exec /usr/lib/frr/bfdd --vty_port 0"
        )
    }

    fn processes(&self) -> &'static [&'static str] {
        &["bfdd"]
    }

    fn judged(&self) -> Judged {
        Judged::BySession
    }

    fn period(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn settle(&self) -> Duration {
        Duration::from_millis(1000)
    }

    fn move_limit(&self) -> Duration {
        Duration::from_secs(5)
    }
}
