//! End-to-end suites: real sockets, real TLS, real clients, and guests that misbehave.

mod bounds;
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
mod races;
mod released;
mod reload;
mod rooms;
mod sessions;
mod shared;
mod sleep;
mod starting;
mod stories;
mod swap;
mod tenants;
mod tls;
mod versions;
mod waits;
mod wasi;
