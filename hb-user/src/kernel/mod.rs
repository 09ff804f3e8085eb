//! The kernel half as the daemon sees it.
//!
//! `program` loads and runs programs and is the only file that names aya; `attach` decides on which
//! interfaces they sit and how; `pins` removes what outlives a daemon; `shared` reads and writes the
//! maps that both halves see.

mod attach;
mod error;
mod pins;
mod program;
mod shared;

pub use attach::{Attachment, Mode};
pub use error::KernelError;
pub use pins::remove_pins;
pub use program::{Counters, Events, Judge, Kernel, KernelLog, Leases, OBJECT};
pub use shared::{Identity, Shared};
