//! The controller of `hb`.

pub mod address;
pub mod announce;
pub mod clock;
pub mod control;
pub mod fast;
pub mod id;
pub mod kernel;
pub mod link;
pub mod logging;
pub mod realtime;
pub mod resource;
pub mod status;

mod socket;
