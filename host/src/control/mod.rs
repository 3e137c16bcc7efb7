//! The control API: HTTP and JSON on a Unix socket, and on a loopback address with a token where
//! the operator wants it.
//!
//! It runs on a thread of its own, behind the threads of sessions, and reaches servers through
//! their handles only. Requests are bounded in number, size and time. `axum`, `hyper` and
//! `prometheus_client` live here only.

mod answer;
mod api;
mod auth;
mod client;
mod connections;
mod handlers;
mod limits;
mod listener;
mod metrics;
mod page;
mod peer;
mod requests;
mod server;
mod stream;
mod upgrade;
mod versions;
mod views;
mod waiting;
mod write_timeout;

pub use client::{Client, ClientError};
pub use listener::{ListenerError, default_socket};
pub use server::{Control, ControlConfig, ControlError, Opening, Reload, Token};
pub use upgrade::{Upgrade, UpgradeOptions, Upgraded};
