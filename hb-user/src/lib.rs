//! The controller of `hb`.

pub mod clock;
pub mod control;
pub mod id;
pub mod kernel;
pub mod logging;
pub mod resource;
pub mod status;
