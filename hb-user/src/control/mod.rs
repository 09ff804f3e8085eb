//! The control socket: how `hb status` and its sisters talk to the daemon of their node.
//!
//! A Unix socket; each request and each reply is one line of JSON ([`Request`], [`Reply`]), as many
//! on a connection as one likes. Whoever may open the socket may read; only root and the user the
//! daemon runs as may change something. Nothing that arrives here can do more to the daemon than
//! get an error reply and a closed connection.

mod client;
mod message;
mod server;

pub use client::{Client, ClientError};
pub use message::{Groups, LINE_BYTES, Reply, Request};
pub use server::{Command, ControlError, MAX_CONNECTIONS, Server};

#[cfg(test)]
mod tests;
