//! The controller of `hb`.

pub mod address;
pub mod announce;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod detect;
pub mod engine;
pub mod fast;
pub mod fence;
pub mod id;
pub mod kernel;
pub mod key;
pub mod link;
pub mod logging;
pub mod own_path;
pub mod realtime;
pub mod resource;
pub mod sockets;
pub mod state_dir;
pub mod status;
pub mod trust;
pub mod witness;

mod background;
pub mod beginning;
mod durable;
#[cfg(test)]
mod fuzz;
mod nonce;
pub mod notify;
mod parting;
mod ping;
mod selftest;
mod socket;
