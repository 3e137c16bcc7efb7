//! Feed events to a plugin and check its writes, natively, under plain `cargo test`.
//!
//! ```
//! # use wharf_plugin::{Action, EventProc, Session};
//! # #[derive(Default)] struct Echo;
//! # impl EventProc for Echo {
//! #     fn on_read(&mut self, session: &Session, data: Vec<u8>) -> Action { session.write_or_close(&data) }
//! # }
//! use wharf_plugin::testing::Script;
//!
//! Script::<Echo>::new().connect().read(b"hello").expect_write(b"hello").end().expect_closed();
//! ```
//!
//! If the plugin implements `Handoff`, [`Script::hand_over`] moves the session to another value of
//! it, as a swap or a sleep does. [`Script::restore`] starts with the state that an earlier version
//! saved.
//!
//! The script is not the host: it imitates neither budgets, nor memory limits, nor time. A method
//! panics when the plugin does not do what the script expects, and names the expected and the
//! actual.

mod handoff;
pub(crate) mod stage;

use std::time::Duration;

use crate::export::Slot;
use crate::{Action, ClientInfo, DisconnectReason, EventProc, Priority};

/// A script for one session of the plugin `T`, played on this thread.
#[derive(Debug)]
pub struct Script<T> {
    plugin: Slot<T>,
    last: Action,
}

impl<T: EventProc> Default for Script<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: EventProc> Script<T> {
    /// Creates a client from 192.0.2.1 that has not connected yet. Replaces the script that ran on
    /// this thread before.
    #[must_use]
    pub fn new() -> Self {
        stage::reset();
        Self { plugin: Slot::default(), last: Action::Proceed }
    }

    /// Sets the value that `wharf_plugin::settings` returns for `key`.
    #[must_use]
    pub fn setting(self, key: &str, value: &str) -> Self {
        stage::with(|stage| stage.settings.insert(key.into(), value.into()));
        self
    }

    /// Changes what the plugin can read about the client.
    #[must_use]
    pub fn client(self, change: impl FnOnce(&mut ClientInfo)) -> Self {
        stage::with(|stage| change(&mut stage.client));
        self
    }

    /// Leaves `bytes` of room in the send buffer. Larger writes are refused as too large.
    #[must_use]
    pub fn capacity(self, bytes: u32) -> Self {
        stage::with(|stage| stage.capacity = bytes);
        self
    }

    /// Calls `on_connect`.
    #[must_use]
    pub fn connect(self) -> Self {
        let client = stage::with(|stage| stage.client.clone());
        self.step(|plugin| plugin.connect(client))
    }

    /// Calls `on_read` with all of `data` at once.
    #[must_use]
    pub fn read(self, data: &[u8]) -> Self {
        self.step(|plugin| plugin.read(data.to_vec()))
    }

    /// Calls `on_read` once for each byte of `data`, as a slow or hostile client may do.
    #[must_use]
    pub fn read_bytewise(mut self, data: &[u8]) -> Self {
        for byte in data {
            if self.last != Action::Proceed {
                break;
            }
            self = self.read(&[*byte]);
        }
        self
    }

    /// Calls `on_write`: the send buffer drained.
    #[must_use]
    pub fn drained(self) -> Self {
        self.step(Slot::drained)
    }

    /// Calls `on_timeout` after `idle`.
    #[must_use]
    pub fn timeout(self, idle: Duration) -> Self {
        self.step(|plugin| plugin.timeout(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Calls `on_timer` for a timer that the plugin must have set.
    #[must_use]
    pub fn timer(self, id: u32) -> Self {
        let set = stage::with(|stage| stage.timers.remove(&id).is_some());
        assert!(set, "the plugin has set no timer {id}");
        self.step(|plugin| plugin.timer(id))
    }

    /// Fires every timer that the plugin has set or sets meanwhile, the shortest first. Panics
    /// after 10,000 timers.
    #[must_use]
    pub fn drive(mut self) -> Self {
        const TIMERS_MAX: usize = 10_000;
        for _ in 0..TIMERS_MAX {
            let next =
                stage::with(|stage| stage.timers.iter().map(|(id, delay)| (*delay, *id)).min());
            match next {
                Some((_, id)) if self.last == Action::Proceed => self = self.timer(id),
                _ => return self,
            }
        }
        panic!("the plugin has set timers {TIMERS_MAX} times");
    }

    /// Calls `on_end`: the peer finished sending.
    #[must_use]
    pub fn end(self) -> Self {
        self.step(Slot::end)
    }

    /// Calls `on_disconnect`, and ends the script.
    pub fn disconnect(self, reason: DisconnectReason) {
        stage::with(|stage| stage.open = false);
        self.plugin.disconnect(reason);
    }

    /// Expects that the writes since the last check are exactly `data`.
    #[must_use]
    pub fn expect_write(self, data: &[u8]) -> Self {
        let written = self.written();
        assert!(
            written == data,
            "expected the plugin to write {:?}, it wrote {:?}",
            String::from_utf8_lossy(data),
            String::from_utf8_lossy(&written),
        );
        self
    }

    /// Expects no write since the last check.
    #[must_use]
    pub fn expect_silence(self) -> Self {
        self.expect_write(b"")
    }

    /// Expects that timer `id` is set to fire after `delay`.
    #[must_use]
    pub fn expect_timer(self, id: u32, delay: Duration) -> Self {
        let set = stage::with(|stage| stage.timers.get(&id).copied());
        assert_eq!(set, Some(delay), "timer {id}");
        self
    }

    /// Expects that the last handler returned `proceed`.
    #[must_use]
    pub fn expect_open(self) -> Self {
        assert_eq!(self.last, Action::Proceed, "expected the session to stay open");
        self
    }

    /// Expects that the last handler returned `close`.
    pub fn expect_closed(self) {
        assert_eq!(self.last, Action::Close, "expected the plugin to close the session");
    }

    /// Expects that the last handler returned `abort`.
    pub fn expect_aborted(self) {
        assert_eq!(self.last, Action::Abort, "expected the plugin to abort the session");
    }

    /// The session's scheduling class now.
    #[must_use]
    pub fn priority(&self) -> Priority {
        stage::with(|stage| stage.client.priority)
    }

    /// Takes the bytes that were written since the last check.
    #[must_use]
    pub fn written(&self) -> Vec<u8> {
        stage::with(|stage| std::mem::take(&mut stage.written))
    }

    fn step(mut self, event: impl FnOnce(&Slot<T>) -> Action) -> Self {
        assert_eq!(
            self.last,
            Action::Proceed,
            "the plugin has ended the session: no more events come"
        );
        self.last = event(&self.plugin);
        self
    }
}
