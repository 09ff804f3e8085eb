//! The controller of `hb`.

pub mod id;
