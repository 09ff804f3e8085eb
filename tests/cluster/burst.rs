//! A peer that missed a heartbeat is asked more often for a moment.

use std::{thread, time::Duration};

use lab::{
    addresses::{LINKS, Link, Machine},
    config::Settings,
    switch::Direction,
};

use super::support::Cluster;

/// Packets of node a that came out of its cable of the direct link.
fn sent(cluster: &Cluster) -> u64 {
    cluster.lab.switch().port(Machine::A, Link::Direct).unwrap().passed_in
}

#[test]
fn a_peer_that_missed_is_probed_more_often_for_a_moment_and_not_for_long() {
    for engine in ["auto", "user"] {
        let settings = Settings {
            interval: "100ms".into(),
            misses: 50,
            initdead: "10s".into(),
            controller_deadtime: "2s".into(),
            engine: engine.into(),
            ..Settings::default()
        };
        let cluster = Cluster::up(settings);
        // Node a hears nothing, so it answers nothing: what it sends are its own probes.
        for link in LINKS {
            cluster.lab.switch().cut_link(Machine::A, link, Direction::ToMachine);
        }
        let at_first = sent(&cluster);
        thread::sleep(Duration::from_millis(600));
        let within = sent(&cluster) - at_first;
        // Six are due. The burst is of eight more.
        assert!((11..=16).contains(&within), "{engine}: {within} probes in 600 ms");

        thread::sleep(Duration::from_millis(200));
        let before = sent(&cluster);
        thread::sleep(Duration::from_secs(1));
        let later = sent(&cluster) - before;
        // Ten are due.
        assert!((8..=12).contains(&later), "{engine}: {later} probes in the second after that");
    }
}
