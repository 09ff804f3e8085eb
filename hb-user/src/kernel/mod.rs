//! The kernel half as the daemon sees it.
//!
//! `program` loads, pins, attaches and runs programs and is the only file that names aya;
//! `shared` reads and writes the maps that both halves see.

mod detach;
mod error;
mod program;
mod shared;

pub use error::KernelError;
pub use program::{
    Attachment, Counters, Events, Judge, Kernel, KernelLog, Mode, OBJECT, remove_pins,
};
pub use shared::{Identity, Shared};
