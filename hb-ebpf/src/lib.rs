//! What the two halves of `hb` agree on.
//!
//! The wire format, the layout of the shared maps and every decision that the kernel half makes,
//! as plain functions: no helper calls, no map access, no clock. The program binary (`main.rs`)
//! binds them to hooks; the controller reads the same layouts; tests run them on the host.
//!
#![no_std]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod arrival;
pub mod deadline;
pub mod epoch;
pub mod gate;
pub mod gather;
pub mod histogram;
pub mod homes;
pub mod lease;
pub mod maps;
pub mod packet;
pub mod pause;
pub mod ports;
pub mod refusal;
pub mod siphash;
pub mod time;
pub mod window;
pub mod wire;
pub mod words;
