//! End-to-end suites: real sockets, real TLS, real clients, and guests that misbehave.

mod cli;
mod control;
mod events;
mod faults;
mod lanes;
mod lifecycle;
mod limits;
mod loading;
mod page;
mod peers;
mod reload;
mod sessions;
mod starting;
mod stories;
mod tls;
mod wasi;
