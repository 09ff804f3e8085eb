//! The lease of a group as an application sees it: does this node hold the group, in which epoch, until
//! when.
//!
//! The kernel half of `hb` keeps one record of 32 bytes per group in an array map, pinned at
//! `/sys/fs/bpf/hb/<cluster>/<node>/LEASES`, which no process can write. [`LeaseView`] maps it into
//! memory. A look costs some nanoseconds and no system call.
//!
//! ```
//! use std::io::ErrorKind;
//!
//! use hb_lease::{LeaseView, now_ns};
//!
//! match LeaseView::open(&LeaseView::path("pair", "a")) {
//!     Ok(leases) => match leases.read(0)?.held_at(now_ns()?) {
//!         Some(epoch) => println!("node a holds the group in epoch {epoch}"),
//!         None => println!("node a does not hold the group"),
//!     },
//!     Err(error) if error.kind() == ErrorKind::NotFound => println!("no hb runs as a of pair"),
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **A look is a hint.** Between it and what is done upon it, the lease may end: the process may be
//! preempted, the machine stopped. It saves work that would be in vain. What protects data is the
//! storage that refuses a lower epoch than it has seen. Give it [`Lease::epoch`] with each write.
//!
//! # What is where
//!
//! | room | what |
//! |---|---|
//! | `view` | [`LeaseView`]: opens the map by its pin or by a descriptor, reads a record, finds a group, notices a pin made anew |
//! | `lease` | [`Lease`] and [`State`]: what a record says, and what follows from it at an instant |
//! | `record` | the 32 bytes of a record, and how one instant of it is read while the kernel writes |
//! | `clock` | [`now_ns`], and whether this process has the kernel's clock |
//! | `system` | the five functions of the C library that are called; all else is the standard library |
//!
//! It depends on no other crate, also not on one of `hb`. A test compares its layout with that of the
//! kernel half. The same for C is `packaging/hb_lease.h`; the layout, who may read it and what may
//! change are in `docs/application-lease.md`. An example is `examples/lease.rs`.
//!
//! It needs Linux 5.19 to read without `CAP_BPF`, on x86-64, AArch64 or 64-bit RISC-V.

mod clock;
mod lease;
mod record;
mod system;
mod view;

pub use clock::now_ns;
pub use lease::{ENDLESS, Lease, State};
pub use view::{GROUPS, LeaseView, ReadError};
