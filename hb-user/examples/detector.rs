//! Watches one peer, which runs this program too, and prints each verdict with how long it took to come here.
//!
//! `cargo run -p hb-user --example detector -- ID PEER INTERFACE ADDRESS PEER-ADDRESS KEY-FILE`, as root at
//! both ends; `hb key generate KEY-FILE` makes the file, which both have. IDs are 1 to 64, addresses IPv4 or
//! IPv6.

use std::{
    env,
    error::Error,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hb_user::{
    clock,
    config::{LinkAddress, TimerValues, Timers},
    detect::{Link, Member, attach},
    id::{LinkId, NodeId},
    key::ClusterKeys,
};

const CLUSTER: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [id, peer, interface, own, peer_address, key_file] = &arguments[..] else {
        return Err("usage: detector ID PEER INTERFACE ADDRESS PEER-ADDRESS KEY-FILE".into());
    };
    let keys = ClusterKeys::load(Path::new(key_file))?;
    let pins = PathBuf::from(format!("/sys/fs/bpf/hb-detector-{id}"));
    let me = Member { cluster: CLUSTER, id: NodeId(id.parse()?), keys: &keys, pins };
    let end = |text: &str| text.parse::<IpAddr>().map(LinkAddress::Ip);
    let ends = end(own)?.ends(end(peer_address)?).ok_or("the addresses are of two families")?;
    let (link, peer) = (LinkId(0), NodeId(peer.parse()?));
    let to_peer = Link { id: link, peer, interface: interface.clone(), ends };
    let values = TimerValues {
        interval: Duration::from_millis(1),
        deadtime: Duration::from_millis(3),
        warntime: None,
        initdead: None,
        controller_deadtime: None,
        doubt_max: None,
    };
    let timers = Timers::new(&values).map_err(|errors| format!("{errors:?}"))?;

    let (detector, verdicts) = attach(&me, &[to_peer], &timers)?;
    println!("probing as {}", detector.running().scheduling);
    for verdict in verdicts {
        let after = clock::now().since(verdict.at);
        println!("{} is {:?}, known here after {after:?}", verdict.peer, verdict.life);
        if let Some(view) = detector.link(peer, link) {
            println!("  round trip {:?}, {} probes sent", view.round_trip, view.sent);
        }
    }
    Ok(())
}
