//! Resources: the services of a group that are started after its addresses are up.
//!
//! A resource is started, stopped and watched by its [`Agent`], a program: a script of the operator's, an
//! agent of the Open Cluster Framework, an init script or a script of Heartbeat. How each kind is called
//! and what its exit codes mean is the agent's affair; the [`Sequence`] has resources of all kinds. What an
//! agent has to promise, so that a group can be moved by machines at night:
//!
//! - `start` succeeds when the service serves, and is harmless when it already does;
//! - `stop` succeeds when the service is gone, and is harmless when it already is;
//! - `status` changes nothing and tells whether the service runs, does not, or is broken;
//! - each ends within its timeout, or is ended: `SIGTERM` to its process group, `SIGKILL` one
//!   second later.
//!
//! What it may count on: it runs in a process group of its own, in `/`, at ordinary priority, with
//! no signal blocked, limits as the daemon's, standard input at its end, output captured into the log, and these variables,
//! those of OCF where it is such an agent, and no other: `PATH`, `HB_CLUSTER`, `HB_NODE`, `HB_GROUP`, `HB_EPOCH` (decimal),
//! `HB_GENERATION` (its upper half: how often a voter lost its record), `HB_REASON`, `HB_CAUSE` (its code),
//! `HB_RESOURCE` and `HB_ACTION` (the verb). The epoch grows at each change of holder, so a service
//! that keeps state elsewhere can use it as a fencing token.

mod agent;
mod call;
mod check;
pub(crate) mod confine;
mod error;
pub mod metadata;
mod ocf;
pub(crate) mod output;
mod process;
pub(crate) mod running;
mod sequence;

pub use agent::{Agent, Look, Roots};
pub use call::{Order, Place, State, Verb};
pub use check::Probe;
pub use confine::{keep_descriptors, raise_limit};
pub use error::{Failures, ResourceError, StartError};
pub use process::Process;
pub use sequence::Sequence;

#[cfg(test)]
pub(crate) mod tests;
