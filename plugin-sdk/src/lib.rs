//! Write a Wharf event procedure in Rust.
//!
//! Implement [`EventProc`], of which every event has a default, and [`export!`] it:
//!
//! ```
//! use wharf_plugin::{Action, EventProc, Session};
//!
//! #[derive(Default)]
//! struct Echo;
//!
//! impl EventProc for Echo {
//!     fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
//!         session.write_or_close(&data)
//!     }
//! }
//!
//! wharf_plugin::export!(Echo);
//! # fn main() {}
//! ```
//!
//! The value lives as long as the session: it is made for `on-connect` and dropped after
//! `on-disconnect`, one per client. It needs no locks and cannot see another client. Build with
//! `cargo build --target wasm32-wasip2` and test without Wasm with [`testing::Script`].
//!
//! This crate depends on the contract in `wit/` and on nothing else of Wharf.

#[allow(missing_docs, unused_qualifications, unreachable_pub, unsafe_code, clippy::all)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "wharf:server/plugin-with-settings",
        pub_export_macro: true,
        default_bindings_module: "wharf_plugin::bindings",
        additional_derives: [PartialEq, Eq],
        generate_all,
    });
}

#[allow(missing_docs, unused_qualifications, unreachable_pub, unsafe_code, clippy::all)]
#[doc(hidden)]
pub mod handoff_bindings {
    wit_bindgen::generate!({
        inline: "package wharf:handoff-of-a-plugin; world handoff { export \
            wharf:server/handoff@0.1.0; }",
        path: "../wit",
        world: "wharf:handoff-of-a-plugin/handoff",
        pub_export_macro: true,
        default_bindings_module: "wharf_plugin::handoff_bindings",
        generate_all,
    });
}

#[doc(hidden)]
pub mod export;
mod imports;
mod session;
pub mod settings;
pub mod slices;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use bindings::wharf::server::server::{NameError, SendError};
pub use bindings::wharf::server::types::{
    Action, ClientInfo, DisconnectReason, Priority, TlsInfo, WriteError,
};
pub use session::{Server, Session};

use std::time::Duration;

/// What a plugin does with one client. Every event has a default, so implement those that matter.
///
/// Events of one session come one at a time and in order: `on_connect` first, `on_disconnect` last.
/// A panic ends this session and nothing else; no further event comes, not even `on_disconnect`.
pub trait EventProc: Default + 'static {
    /// The client passed the limits and the TLS handshake. Default: proceed.
    fn on_connect(&mut self, session: &Session, client: ClientInfo) -> Action {
        let _ = (session, client);
        Action::Proceed
    }

    /// Bytes arrived, 1 to 65,536 of them. Keep partial messages in `self`. Default: ignore them.
    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        let _ = (session, data);
        Action::Proceed
    }

    /// The send buffer had filled and has drained below its low-water mark. Default: proceed.
    fn on_write(&mut self, session: &Session) -> Action {
        let _ = session;
        Action::Proceed
    }

    /// Nothing was exchanged for the server's timeout; comes again each time it passes. Default:
    /// proceed, which keeps the client connected.
    fn on_timeout(&mut self, session: &Session, idle: Duration) -> Action {
        let _ = (session, idle);
        Action::Proceed
    }

    /// A timer set with [`Session::set_timer`] fired. Default: proceed.
    fn on_timer(&mut self, session: &Session, id: u32) -> Action {
        let _ = (session, id);
        Action::Proceed
    }

    /// The peer has finished sending and may still read. Default: close, which sends what is queued
    /// first.
    fn on_end(&mut self, session: &Session) -> Action {
        let _ = session;
        Action::Close
    }

    /// The session is over: nothing can be sent or received. Default: nothing.
    fn on_disconnect(&mut self, reason: DisconnectReason) {
        let _ = reason;
    }
}

/// A plugin whose live sessions move to its next version without their clients noticing. Export it
/// with `export!(Type, handoff)`.
///
/// Neither of the two can write, set timers or reach other sessions; asking is fine.
pub trait Handoff: EventProc {
    /// What another version needs to carry on with this session: at most 256 KiB unless the server
    /// says otherwise. A form that later versions can read. This value may have to carry on itself.
    fn save(&self, session: &Session) -> Vec<u8>;

    /// Takes a session over from what `version`, another or the same, saved. There is no other
    /// `on_connect`: settings are to be read here.
    ///
    /// # Errors
    /// A sentence for the operator; the session stays on the version that it has.
    fn restore(session: &Session, version: &str, state: &[u8]) -> Result<Self, String>;
}
