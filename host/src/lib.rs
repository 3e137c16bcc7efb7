//! A server runtime whose event procedures are sandboxed WebAssembly components.
//!
//! One native host owns the sockets, the TLS, the limits and the clock. A component that implements
//! the WIT interface `inet-event-proc` decides what to do with a client. The host calls it once per
//! session event, with a budget.
//!
//! ```no_run
//! use wharf::server::Server;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().plugin("plugins/echo").start()?;
//! println!("echo listens on {}", server.address());
//! server.stop_blocking(std::time::Duration::from_secs(5));
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! | module | contents |
//! |---|---|
//! | `serve` | the spine of a connection: accept, admit, handshake, session |
//! | [`net`] | sockets and TLS |
//! | [`admission`] | the gate: who may enter, how many, how fast |
//! | [`session`] | one client, from its first event to its last |
//! | [`event`] | the vocabulary that session and plugin share |
//! | [`plugin`] | the engine, loading, instances, imports |
//! | [`oci`] | plugins from and to registries |
//! | [`sched`] | lanes, run permits, budgets and quotas |
//! | `rollout` | the spine of a swap: stage, publish, migrate, watch, record |
//! | [`server`] | starting one server, its handle |
//! | `service` | the state of a running server, which its tasks share |
//! | [`servers`] | all servers of a process, and reloads of their configuration |
//! | [`upgrade`] | a new process takes the place of this one |
//! | `handover` | what one process leaves to the next: listeners, control endpoints, sessions |
//! | [`telemetry`] | log lines and counters |
//! | [`config`] | `wharf.toml` |
//! | [`control`] | the control API |
//! | [`authoring`] | projects and components for authors of plugins |
//! | [`work`] | threads for blocking work, shared fairly by tenant |
//! | [`cli`] | the `wharf` command |

pub mod admission;
pub mod authoring;
pub mod cli;
pub mod config;
pub mod control;
pub mod event;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod locks;
pub mod net;
pub mod oci;
pub mod plugin;
#[cfg(test)]
mod rng;
mod rollout;
pub mod sched;
mod serve;
pub mod server;
pub mod servers;
mod service;
pub mod session;
#[cfg(test)]
mod simulation;
mod span;
pub mod telemetry;
pub mod upgrade;
pub mod work;
