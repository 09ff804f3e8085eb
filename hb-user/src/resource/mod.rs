//! Resources: the services of a group that are started after its addresses are up.
//!
//! A resource is a program that is called as `program VERB args...`, as LSB and OCF agents are.
//! What it has to promise, so that a group can be moved by machines at night:
//!
//! - `start` returns 0 when the service serves, and is harmless when it already does;
//! - `stop` returns 0 when the service is gone, and is harmless when it already is;
//! - `status` changes nothing and returns 0 if the service runs, 3 (LSB) or 7 (OCF) if it does not;
//!   anything else means that it failed;
//! - each ends within its timeout, or is ended: `SIGTERM` to its process group, `SIGKILL` one
//!   second later.
//!
//! What it may count on: it runs in a process group of its own, in `/`, at ordinary priority, with
//! no signal blocked, limits as the daemon's, standard input at its end, output captured into the log, and these variables
//! and no other: `PATH`, `HB_CLUSTER`, `HB_NODE`, `HB_GROUP`, `HB_EPOCH` (decimal),
//! `HB_GENERATION` (its upper half: how often a voter lost its record), `HB_REASON`,
//! `HB_RESOURCE` and `HB_ACTION` (the verb). The epoch grows at each change of holder, so a service
//! that keeps state elsewhere can use it as a fencing token.

pub(crate) mod confine;
mod error;
pub(crate) mod output;
pub(crate) mod running;
mod script;
mod sequence;

pub use confine::{keep_descriptors, raise_limit};
pub use error::{Failures, ResourceError, StartError};
pub use script::{Order, Place, Script, State, Verb};
pub use sequence::Sequence;

#[cfg(test)]
pub(crate) mod tests;
