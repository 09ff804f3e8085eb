//! The kernel half as the daemon sees it.
//!
//! `program` loads and runs programs and is the only module that names aya; `attach` and `gate` decide
//! on which interfaces they sit and how, with `chain` and `owner` for the programs of traffic control
//! beside and before the gate; `pins` removes what outlives a daemon,
//! and `kept` pins it anew if somebody else removed the pins; `shared` reads and writes the
//! maps that both halves see; `btf` finds fields of the kernel's own types; `gate_view` is for whoever only looks at the gate. `witness` is the kernel half of a machine that only votes, and `pinned`
//! how its maps are reached.

mod attach;
mod btf;
mod chain;
mod error;
mod gate;
mod gate_view;
mod kept;
mod owner;
mod pinned;
mod pins;
mod program;
mod shared;
mod undisturbed;
mod witness;

pub use attach::{Attachment, Generic, Mode, NotReplaced};
pub use error::KernelError;
pub use gate::{Displaced, Gates, Guarded};
pub use gate_view::{GateView, GatedInterface, GatedVip, PinsLock, gated_addresses, pinned_terms};
pub use kept::{Pinnings, Unpinned};
pub use owner::{addresses_of_others, stranger};
pub use pins::{remove_gate, remove_pins};
pub use program::{
    Counters, Events, GateCounters, Judge, Kernel, KernelLog, Leases, OBJECT, WITNESS_OBJECT, Way,
};
pub use shared::{Identity, Shared};
pub use witness::{Place, Seat, Witness, WitnessMaps};
