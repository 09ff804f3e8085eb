//! A daemon that is told to end while it starts.

use std::{thread, time::Duration};

use lab::addresses::Machine;

use super::support::{Cluster, PATIENCE, slow};

/// Sends `signal` to a daemon ever later in its start, and asserts that nothing is left each time.
fn interrupt(signal: i32, delays_ms: &[u64]) {
    let mut cluster = Cluster::new(slow());
    for &delay_ms in delays_ms {
        cluster.lab.start_daemon(Machine::A).unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        cluster.lab.signal(Machine::A, signal).unwrap();
        // How it ends is its own affair, as long as it does.
        cluster.lab.daemon_mut(Machine::A).unwrap().wait(PATIENCE).unwrap();
        eprintln!("after {delay_ms} ms");
        cluster.assert_nothing_left(Machine::A);
    }
    // None of them did harm to what comes next.
    cluster.start_both();
}

#[test]
fn ctrl_c_during_the_start_leaves_nothing() {
    interrupt(libc::SIGINT, &[0, 2, 4, 6, 8, 10, 13, 20, 40, 150, 200]);
}

#[test]
fn sigterm_during_the_start_leaves_nothing() {
    interrupt(libc::SIGTERM, &[3, 12, 90, 180]);
}
