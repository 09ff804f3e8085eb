//! Every way a heartbeat can travel, alone.

use std::time::Duration;

use lab::{
    addresses::{Link, NODES},
    config::Settings,
};

use super::{
    crash::crash_and_take_over,
    support::{Cluster, brisk, link},
};

fn alone(at: Link, transport: &'static str) {
    let settings = Settings { links: vec![(at, transport)], ..brisk() };
    let mut cluster = Cluster::up(settings);
    for node in NODES {
        let status = cluster.wait_for(node, "answers come and go", |status| {
            let link = link(status, at.name());
            link["up"] == true
                && link["answers_heard_by_peer"] == true
                && link["rtt_us"]["p50"].as_f64().is_some()
        });
        assert_eq!(status["peers"][0]["links"].as_array().unwrap().len(), 1);
        let link = link(&status, at.name());
        assert_eq!(link["transport"], transport);
        assert_eq!(link["send_errors"], 0);
        assert_eq!(link["refused"], serde_json::json!({}), "{status:#}");
    }
    crash_and_take_over(&mut cluster, Duration::from_millis(30));
}

#[test]
fn udp_over_ipv4() {
    alone(Link::Client, "udp4");
}

#[test]
fn udp_over_ipv6() {
    alone(Link::Client, "udp6");
}

#[test]
fn ethernet() {
    alone(Link::Direct, "ethernet");
}

#[test]
fn udp_over_the_cable() {
    alone(Link::Direct, "udp4");
}

#[test]
fn two_links_of_two_kinds_are_both_used() {
    let mut cluster = Cluster::up(brisk());
    for node in NODES {
        let status = cluster.wait_for(node, "answers on both links", |status| {
            ["client", "direct"].iter().all(|name| {
                let link = link(status, name);
                link["up"] == true && link["answers_heard_by_peer"] == true
            })
        });
        assert_eq!(link(&status, "client")["transport"], "udp4");
        assert_eq!(link(&status, "direct")["transport"], "ethernet");
    }
}
