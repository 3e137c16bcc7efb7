//! Servers: starting one, its handle, and the sessions it knows.
//!
//! `Server::builder()` takes what a server is made of, `start` returns a [`ServerHandle`] as soon as it listens, and
//! all interaction with clients happens in the plugin.

mod builder;
mod handle;
mod host;
mod registry;
mod service;
mod shards;

pub use builder::{
    Bound, COPY_RANGE, HANDLES_RANGE, HIGH_WATER_RANGE, MEMORY_RANGE, Server, ServerBuilder, StartError,
    TIMEOUT_DEFAULT, TIMEOUT_RANGE, WATERMARKS_DEFAULT,
};
pub use handle::ServerHandle;
pub use host::{Host, HostConfig, HostError};
pub(crate) use service::{Phase, Service};
