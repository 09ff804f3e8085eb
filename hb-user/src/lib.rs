//! The controller of `hb`.

pub mod clock;
pub mod id;
pub mod logging;
pub mod resource;
pub mod status;
