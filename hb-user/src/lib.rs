//! The controller of `hb`.

pub mod core;
pub mod id;
