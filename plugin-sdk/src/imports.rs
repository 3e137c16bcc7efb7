//! The host's functions: the real ones inside Wasm, the test script's ones outside.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::{
    wasi::config::store::{get, get_all},
    wharf::server::server::{broadcast, client_count, disconnect, find, send_to, set_name},
    wharf::server::session::{info, set_priority, set_timer, write, write_capacity},
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::stage::{
    broadcast, client_count, disconnect, find, get, get_all, info, send_to, set_name, set_priority,
    set_timer, write, write_capacity,
};
