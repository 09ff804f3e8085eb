//! Who may serve a group: promises, leases and the gate, as pure transitions of one record.
//!
//! Every voter keeps one [`Record`] per group. Each function here is one atomic transition of it:
//! the caller holds the record's lock around the call, in the kernel and on the host alike. None
//! reads a clock; `now` is the caller's `CLOCK_BOOTTIME` in nanoseconds, read before the lock was
//! taken, however long before, but after what the call is about arrived. A record never travels, so
//! times of two machines meet only as `t0`, which comes back to its own clock.
//!
//! A node that seeks takes an epoch above all that it knows, and lets no packet pass before it holds:
//!
//! ```
//! use hb_ebpf::{
//!     lease::{Policy, Terms, Timing, gate, holder, start, terms::RHO_DEFAULT},
//!     wire::State,
//! };
//!
//! let timing = Timing {
//!     lease_ns: 20_000_000,
//!     margin_ns: 1_000_000,
//!     drain_ns: 2_000_000,
//!     seek_ns: 10_000_000,
//!     rho: RHO_DEFAULT,
//!     interval_ns: 1_000_000,
//!     deadtime_ns: 5_000_000,
//!     controller_deadtime_ns: 20_000_000,
//! };
//! let (own, generation, now) = (1, 1, 5_000_000_000);
//! let terms = Terms::new(Policy::Witness, &timing, &[1, 2, 3], own, Some(3))?;
//! let mut record = start::start(&terms, generation, now);
//! assert!(holder::seek(&mut record, &terms, now).is_err(), "an earlier life may have promised");
//! let now = record.blocked_until_ns;
//! let epoch = holder::seek(&mut record, &terms, now).expect("nothing binds this node");
//! assert_eq!(epoch.node(), own);
//! assert_eq!((record.state(), gate::open(&record, now)), (State::Seeking, None));
//! # Ok::<(), hb_ebpf::lease::TermsError>(())
//! ```
//!
//! A record that is [closing](Record::closing) after a call wants one more: the caller publishes what
//! the gate goes by, reads the clock, and tells the record ([`Record::closed`]).
//!
//! | file | what happens |
//! |---|---|
//! | [`terms`] | lengths and voters, checked against each other |
//! | [`record`] | what a voter remembers of a group |
//! | [`voter`] | a request or a release is heard |
//! | [`holder`] | the node seeks, gathers promises, gives up, releases |
//! | [`fence`] | the other node is made sure to be off; a node leaves for longer (`safe`) |
//! | [`gate`] | may this packet pass? |
//! | [`identity`] | which group a record and a word are of |
//! | [`word`] | the record in a frame, and a frame taken |
//! | [`start`] | a kernel half starts without its record; a clock jumped |
//!
//! A frame is handed to [`word::hear`] only if it is authentic and fresh, which is decided before;
//! `docs/safety.md` says why leases stay safe even if an old frame slips through.

pub mod available;
pub mod fence;
pub mod gate;
pub mod holder;
pub mod identity;
pub mod op;
pub mod record;
pub mod start;
pub mod terms;
pub mod voter;
pub mod word;

pub use record::{CLOSING, ENDLESS, Record};
pub use terms::{Policy, Terms, TermsError, Timing};
