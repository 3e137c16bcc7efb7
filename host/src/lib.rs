//! A server runtime whose event procedures are sandboxed WebAssembly components.
pub mod admission;
pub mod event;
pub mod net;
pub mod plugin;
pub mod sched;
pub mod session;
pub mod telemetry;
