//! The order of steps between what is decided and what is done, without a system.
//!
//! The core decides, and so do the records; the shell has threads, descriptors and the kernel. What
//! stands between them is in which order the one is told and the other is asked, and that is what keeps
//! their decisions true: a record hears of a generation once that is on the disk, a stamp follows an
//! answer of the fast path. An engine holds such orders. It reaches the machine by a trait, which the
//! shell implements with what it has, and the simulation with virtual machines that stop, fail and are
//! late at every call.

pub mod controller;
pub mod takeover;
