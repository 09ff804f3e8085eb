//! The controller of `hb`.

pub mod address;
pub mod announce;
pub mod id;
pub mod link;
pub mod realtime;
mod socket;
