//! Behind [`export!`](crate::export!): one plugin value per instance, and the calls that reach it.

use std::cell::RefCell;
use std::time::Duration;

use crate::{Action, ClientInfo, DisconnectReason, EventProc, Handoff, Session};

/// The plugin value of this instance. Wasm has one thread, so the cell is never contended. The host
/// sends one event at a time, so the value is never borrowed twice.
#[derive(Debug, Default)]
pub struct Slot<T>(RefCell<T>);

impl<T: EventProc> Slot<T> {
    /// `on-connect`.
    pub fn connect(&self, client: ClientInfo) -> Action {
        self.0.borrow_mut().on_connect(&Session::current(), client)
    }
    /// `on-read`.
    pub fn read(&self, data: Vec<u8>) -> Action {
        self.0.borrow_mut().on_read(&Session::current(), data)
    }
    /// `on-write`.
    pub fn drained(&self) -> Action {
        self.0.borrow_mut().on_write(&Session::current())
    }
    /// `on-timeout`.
    pub fn timeout(&self, idle_ms: u64) -> Action {
        self.0.borrow_mut().on_timeout(&Session::current(), Duration::from_millis(idle_ms))
    }
    /// `on-timer`.
    pub fn timer(&self, id: u32) -> Action {
        self.0.borrow_mut().on_timer(&Session::current(), id)
    }
    /// `on-end`.
    pub fn end(&self) -> Action {
        self.0.borrow_mut().on_end(&Session::current())
    }
    /// `on-disconnect`.
    pub fn disconnect(&self, reason: DisconnectReason) {
        self.0.borrow_mut().on_disconnect(reason);
    }
}

impl<T: Handoff> Slot<T> {
    /// `save`.
    pub fn save(&self) -> Vec<u8> {
        self.0.borrow().save(&Session::current())
    }
    /// `restore`.
    ///
    /// # Errors
    /// The plugin's own refusal.
    pub fn restore(&self, version: &str, state: &[u8]) -> Result<(), String> {
        *self.0.borrow_mut() = T::restore(&Session::current(), version, state)?;
        Ok(())
    }
}

/// Makes a type that implements [`EventProc`](crate::EventProc) the event procedure of this
/// component. Use it once per crate.
///
/// With `handoff` as the second argument, the type also implements [`Handoff`](crate::Handoff), and
/// its live sessions move to the next version. Outside Wasm the macro exports nothing, so that
/// `cargo test` links natively.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        $crate::export!($plugin,);
    };
    ($plugin:ty, $($handoff:ident)?) => {
        #[cfg(not(target_family = "wasm"))]
        const _: fn() -> $plugin = ::std::default::Default::default;

        #[cfg(target_family = "wasm")]
        const _: () = {
            ::std::thread_local! {
                static SLOT: $crate::export::Slot<$plugin> = ::std::default::Default::default();
            }

            struct Component;

            impl $crate::bindings::exports::wharf::server::inet_event_proc::Guest for Component {
                fn on_connect(client: $crate::ClientInfo) -> $crate::Action {
                    SLOT.with(|slot| slot.connect(client))
                }
                fn on_read(data: ::std::vec::Vec<u8>) -> $crate::Action {
                    SLOT.with(|slot| slot.read(data))
                }
                fn on_write() -> $crate::Action {
                    SLOT.with(|slot| slot.drained())
                }
                fn on_timeout(idle_ms: u64) -> $crate::Action {
                    SLOT.with(|slot| slot.timeout(idle_ms))
                }
                fn on_timer(id: u32) -> $crate::Action {
                    SLOT.with(|slot| slot.timer(id))
                }
                fn on_end() -> $crate::Action {
                    SLOT.with(|slot| slot.end())
                }
                fn on_disconnect(reason: $crate::DisconnectReason) {
                    SLOT.with(|slot| slot.disconnect(reason))
                }
            }

            $crate::bindings::export!(Component with_types_in $crate::bindings);

            $($crate::export!(@$handoff);)?
        };
    };
    (@handoff) => {
        impl $crate::handoff_bindings::exports::wharf::server::handoff::Guest for Component {
            fn save() -> ::std::vec::Vec<u8> {
                SLOT.with(|slot| slot.save())
            }
            fn restore(
                version: ::std::string::String,
                state: ::std::vec::Vec<u8>,
            ) -> ::std::result::Result<(), ::std::string::String> {
                SLOT.with(|slot| slot.restore(&version, &state))
            }
        }

        $crate::handoff_bindings::export!(Component with_types_in $crate::handoff_bindings);
    };
}
