//! The listening socket of a running server, which the server watches and repairs.
//!
//! A socket breaks when another holder shuts it down, or when its descriptor is lost. The system
//! reports a shutdown at once. An error of `accept` shows a lost descriptor, or the next check.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::shared::Service;
use super::state::Occurrence;
use crate::locks::lock;
use crate::net::{Listener, Repaired};
use crate::telemetry::{AcceptRepaired, AcceptStopped, NotListening};

/// Interval of checks of the socket, beside the system's own reports.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// Pause before the second attempt. The pause doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause. The server makes attempts for as long as it runs.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time after which a repaired socket counts as sound. The next repair then happens without a
/// pause.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// Repairs in a row after which the server counts as failed while it waits for the next attempt.
const REPAIRS_MAX: u32 = 3;

/// Gives a new socket to the other holders of the old one.
pub(crate) type Renewed = Box<dyn Fn(&Listener) + Send + Sync>;

/// The listening socket, owned by the task that accepts.
pub(crate) struct Listening {
    service: Arc<Service>,
    listener: Arc<Listener>,
    renewed: Renewed,
    look: Interval,
    attempts: Attempts,
    /// Number of operators' requests for an attempt that are done.
    asked: u64,
}

/// Schedule of attempts to listen again.
#[derive(Debug, Default)]
struct Attempts {
    /// Attempts since the socket was sound.
    made: u32,
    last: Option<Instant>,
    /// Time of the next attempt, if the socket does not listen.
    next: Option<Instant>,
}

impl Attempts {
    /// Notes that the socket broke, and says whether to repair it now. If not, the attempt waits.
    fn begin(&mut self, now: Instant) -> bool {
        if self.last.is_none_or(|last| now.duration_since(last) >= SOUND_AFTER) {
            self.made = 0;
        }
        let at_once = self.made == 0;
        if !at_once {
            self.wait(now);
        }
        at_once
    }

    fn make(&mut self, now: Instant) {
        self.made = self.made.saturating_add(1);
        (self.last, self.next) = (Some(now), None);
    }

    fn wait(&mut self, now: Instant) {
        let doubled = PAUSE_MIN.saturating_mul(1 << self.made.saturating_sub(1).min(16));
        self.next = Some(now + doubled.min(PAUSE_MAX));
    }
}

impl Listening {
    /// Makes the watch over a socket. Must run inside a tokio runtime. Calls `renewed` with each
    /// new socket.
    pub(crate) fn new(service: Arc<Service>, listener: Arc<Listener>, renewed: Renewed) -> Self {
        let mut look = interval_at(Instant::now() + LOOKED_AT_EVERY, LOOKED_AT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { service, listener, renewed, look, attempts: Attempts::default(), asked: 0 }
    }

    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Time of the next attempt, if the socket does not listen.
    pub(crate) fn next_attempt(&self) -> Option<Instant> {
        self.attempts.next
    }

    /// Waits until the socket no longer listens. Cancel-safe.
    pub(crate) async fn broken(&mut self) -> io::Error {
        loop {
            tokio::select! {
                () = self.listener.hung_up() => return io::Error::other("another holder has shut \
                    it down"),
                _ = self.look.tick() => {
                    self.listener.keep_nonblocking();
                    if !self.listener.listens() {
                        return io::Error::other("it does not listen any more");
                    }
                }
            }
        }
    }

    /// Repairs a broken socket now, or after a pause if it breaks again and again.
    pub(crate) fn repair(&mut self, error: &io::Error) {
        let Self { service, .. } = self;
        AcceptStopped { server: &service.name, error }
            .emit(&service.counters, &service.pause_lines);
        if self.attempts.begin(Instant::now()) {
            self.attempt();
        } else if self.attempts.made >= REPAIRS_MAX {
            self.service.fail(&format!("the listening socket breaks again and again: {error}"));
        }
    }

    /// Follows requests for an attempt. A socket that does not listen is tried at once.
    pub(crate) fn obey(&mut self, asked: u64) {
        if std::mem::replace(&mut self.asked, asked) != asked
            && (self.attempts.next.is_some() || !self.listener.listens())
        {
            self.attempt();
        }
    }

    /// Tries to listen again.
    pub(crate) fn attempt(&mut self) {
        let now = Instant::now();
        self.attempts.make(now);
        match self.listener.listen_again() {
            Ok(how) => {
                if how == Repaired::NewSocket {
                    (self.renewed)(&self.listener);
                }
                self.service.listens_again(how);
            }
            Err(error) => {
                self.attempts.wait(now);
                self.service.fail(&error.to_string());
            }
        }
    }
}

impl Service {
    /// Why the server cannot listen, or `None` if it can. `None` also if the server is ending.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed = {
            let state = self.state.borrow();
            state.failed && !state.status.is_final()
        };
        failed.then(|| lock(&self.failure).clone())
    }

    fn fail(&self, why: &str) {
        why.clone_into(&mut lock(&self.failure));
        if self.set_failed(true) {
            NotListening { server: &self.name, why }.emit();
            self.tell(Occurrence::Failed);
        }
    }

    fn listens_again(&self, how: Repaired) {
        let socket = match how {
            Repaired::SameSocket => "same",
            Repaired::NewSocket => "new",
        };
        AcceptRepaired { server: &self.name, socket }.emit(&self.counters, &self.pause_lines);
        if self.set_failed(false) {
            self.tell(Occurrence::ListensAgain);
        }
    }

    /// Sets the flag, and returns true if that changed it.
    fn set_failed(&self, failed: bool) -> bool {
        self.steer(|state| std::mem::replace(&mut state.failed, failed) != failed).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_in_a_row_wait_longer() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        assert!(attempts.begin(now), "the first is made at once");
        let mut before = Duration::ZERO;
        for _ in 0..100 {
            attempts.make(now);
            now += Duration::from_micros(1);
            assert!(!attempts.begin(now));
            let pause = attempts.next.expect("it waits") - now;
            assert!(
                pause >= before.max(PAUSE_MIN) && pause <= PAUSE_MAX,
                "{pause:?} after {before:?}"
            );
            (before, now) = (pause, now + pause);
        }
        assert_eq!(before, PAUSE_MAX);
        assert!(attempts.begin(now + SOUND_AFTER), "a sound socket is repaired at once");
    }
}
