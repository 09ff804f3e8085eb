//! A model of promises and leases that is explored exhaustively, on the transitions that kernel
//! and controller run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`system`] | machines, their clocks and what changes them: one state |
//! | [`moves`] | the adversary's moves: the successors of a state |
//! | [`network`] | every frame ever sent, to be delivered at any time, any number of times, or never |
//! | [`judge`] | packets on their way to the wire, and the invariant over them |
//! | [`safe`] | the moves of policy `safe`: fences, and nodes that leave in order |
//! | [`recovery`] | the good schedule that has to lead to a holder from every state |
//! | [`steadiness`] | what is held stays held, whichever machine is lost, once all have settled |
//! | [`rules`] | the transitions as a trait: production's by default |
//! | [`mutants`] | other implementations, each wrong in one place |
//! | [`setup`] | how many machines, which lengths, how much the adversary may do |
//! | [`time`] | how what is remembered grows older, and is forgotten |
//! | [`search`] | runs a search and says how far it went |
//!
//! `docs/safety.md` says what is and what is not covered.

pub mod judge;
pub mod moves;
pub mod mutants;
pub mod network;
pub mod recovery;
pub mod rules;
pub mod safe;
pub mod search;
pub mod setup;
pub mod steadiness;
pub mod system;
pub mod time;
