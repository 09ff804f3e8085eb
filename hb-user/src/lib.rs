//! The controller of `hb`.

pub mod id;
pub mod kernel;
