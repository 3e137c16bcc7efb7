//! Write a Wharf event procedure in Rust.
//!
//! Implement [`EventProc`], where every event has a default, and [`export!`] the type:
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
//! The value lives as long as the session. One value is made per client for `on-connect`, and
//! dropped after `on-disconnect`. It needs no locks and cannot see another client.
//!
//! Build with `cargo build --target wasm32-wasip2`, and test without Wasm with [`testing::Script`].
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

/// A plugin's handlers for one client. Every event has a default, so implement only those you need.
///
/// Events of one session come one at a time and in order: `on_connect` first, `on_disconnect` last.
/// A panic ends this session and nothing else. No further event comes, not even `on_disconnect`.
pub trait EventProc: Default + 'static {
    /// Called when the client has passed the limits and the TLS handshake. Default: proceed.
    fn on_connect(&mut self, session: &Session, client: ClientInfo) -> Action {
        let _ = (session, client);
        Action::Proceed
    }

    /// Called when 1 to 65,536 bytes arrived. Keep partial messages in `self`. Default: ignore the
    /// bytes.
    fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action {
        let _ = (session, data);
        Action::Proceed
    }

    /// Called when the send buffer was full and has drained below its low-water mark. Default:
    /// proceed.
    fn on_write(&mut self, session: &Session) -> Action {
        let _ = session;
        Action::Proceed
    }

    /// Called when nothing was exchanged for the server's timeout, and again each time that it
    /// passes. Default: proceed, which keeps the client connected.
    fn on_timeout(&mut self, session: &Session, idle: Duration) -> Action {
        let _ = (session, idle);
        Action::Proceed
    }

    /// Called when a timer that was set with [`Session::set_timer`] fires. Default: proceed.
    fn on_timer(&mut self, session: &Session, id: u32) -> Action {
        let _ = (session, id);
        Action::Proceed
    }

    /// Called when the peer has finished sending. It may still read. Default: close, which first
    /// sends the queued bytes.
    fn on_end(&mut self, session: &Session) -> Action {
        let _ = session;
        Action::Close
    }

    /// Called when the session is over. Nothing can be sent or received any more. Default: nothing.
    fn on_disconnect(&mut self, reason: DisconnectReason) {
        let _ = reason;
    }
}

/// A plugin whose live sessions move to its next version without their clients noticing. Export the
/// type with `export!(Type, handoff)`.
///
/// Neither function can write, set timers or reach other sessions. Reading about the session is
/// allowed.
pub trait Handoff: EventProc {
    /// Returns the state that another version needs to continue this session. The limit is 256 KiB
    /// unless the server sets another one.
    ///
    /// Use a form that later versions can read. If the move fails, this value continues the session
    /// itself.
    fn save(&self, session: &Session) -> Vec<u8>;

    /// Makes the value for a session that `version`, another one or the same, has saved. There is
    /// no second `on_connect`, so read settings here.
    ///
    /// # Errors
    /// A sentence for the operator. The session then stays on the version that it has.
    fn restore(session: &Session, version: &str, state: &[u8]) -> Result<Self, String>;
}
