//! What a cluster does, judged from outside: two daemons in the lab, real heartbeats through the
//! real kernel path, and a client. Needs root.
//!
//! Judges are the client's wire, the addresses of the nodes, `hb status --json` and the logs.
//! Where something must not happen, something else happens afterwards that shows that the looking
//! went on for long enough. Timers are slow, where the time is not the point: the machine that
//! runs this has other things to do as well.

#[cfg(test)]
mod cluster {
    mod support;
    mod turn;

    mod addresses;
    mod agents;
    mod announcements;
    mod attach;
    mod bad_configuration;
    mod boot;
    mod burst;
    mod chain;
    mod chaos;
    mod checks;
    mod controller;
    mod crash;
    mod crowds;
    mod engine;
    mod failback;
    mod fencing;
    mod files;
    mod gate;
    mod held_lock;
    mod holders;
    mod keys;
    mod leaving;
    mod links;
    mod moves;
    mod notify;
    mod paths;
    mod pins;
    mod regroup;
    mod relink;
    mod reload;
    mod removal;
    mod resources;
    mod second_daemon;
    mod security;
    mod slow_disk;
    mod standby;
    mod start;
    mod startup_interrupted;
    mod stops;
    mod strays;
    mod transports;
    mod unread;
    mod upkeep;
    mod warm;
    mod witness;
}
