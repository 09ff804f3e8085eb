//! The controller of `hb`.

pub mod config;
mod durable;
pub mod id;
pub mod key;
pub mod state_dir;
