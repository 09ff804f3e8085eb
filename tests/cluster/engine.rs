//! The daemon counts the misses itself.

use std::time::Duration;

use lab::{addresses::Machine, config::Settings};

use super::{
    crash::crash_and_take_over,
    support::{Cluster, brisk},
};

#[test]
fn the_kernel_counts_where_it_can() {
    let mut cluster = Cluster::up(brisk());
    let status = cluster.status(Machine::A);
    assert_eq!(status["engine"]["kind"], "kernel-timer");
    assert_eq!(status["engine"]["reason"], "the kernel has BPF timers");
}

#[test]
fn the_daemons_own_engine_takes_over_as_well() {
    let mut cluster = Cluster::up(Settings { engine: "user".into(), ..brisk() });
    let status = cluster.status(Machine::B);
    assert_eq!(status["engine"]["kind"], "user", "{status:#}");
    assert_eq!(status["engine"]["reason"], "configured: engine = \"user\"");
    crash_and_take_over(&mut cluster, Duration::from_millis(30));
}
