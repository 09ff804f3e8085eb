//! A daemon that is told to end while it starts.

use std::{thread, time::Duration};

use lab::addresses::Machine;

use super::support::{Cluster, PATIENCE, slow};

/// Sends `signal` to a daemon ever later in its start, and asserts that nothing is left each time.
fn interrupt(signal: i32) {
    let mut cluster = Cluster::new(slow());
    let delays_ms =
        [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 50, 60, 80, 120];
    for delay_ms in delays_ms {
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
    interrupt(libc::SIGINT);
}

#[test]
fn sigterm_during_the_start_leaves_nothing() {
    interrupt(libc::SIGTERM);
}
