//! The control API: HTTP and JSON on a Unix socket and, if configured, on a loopback address with a
//! token.
//!
//! The API runs on a thread of its own, with a lower priority than the threads of sessions. The API
//! reaches servers only through their handles. Requests are bounded in number, size and time.
//! `axum`, `hyper` and `prometheus_client` are used in this module only.

mod answer;
mod auth;
mod client;
mod connections;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handlers;
mod limits;
mod listener;
mod metrics;
mod page;
mod peer;
mod reload;
mod requests;
mod router;
mod server;
mod state;
mod stream;
mod upgrade;
mod versions;
mod views;
mod waiting;
mod write_timeout;

pub use client::{Client, ClientError};
pub use listener::{ListenerError, default_socket};
pub use reload::Reload;
pub use server::{Control, ControlConfig, ControlError, Opening, Token};
pub use upgrade::{Upgrade, UpgradeError, UpgradeOptions, Upgraded};
