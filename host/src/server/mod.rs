//! Servers: starting one, its handle, and the sessions it knows.
//!
//! `Server::builder()` takes what a server is made of, `start` returns a [`ServerHandle`] as soon as it listens, and
//! all interaction with clients happens in the plugin.

mod builder;
mod handle;
mod host;
mod registry;
mod service;

pub use builder::{Bound, Procedures, Server, ServerBuilder, StartError};
pub use handle::ServerHandle;
pub use host::{Host, HostConfig, HostError};
pub(crate) use service::{Phase, Service};
