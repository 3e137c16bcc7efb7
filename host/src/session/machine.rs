//! Decides what comes next in a session, as a state machine without socket, clock or plugin.
//!
//! The driver reports what happened and does what the machine says. The machine keeps the order
//! that the contract promises:
//!
//! - connect comes first;
//! - one event runs at a time;
//! - there is exactly one disconnect, and nothing after it;
//! - a dead instance gets no event.

use crate::event::{Action, DisconnectReason, EndReason, FaultKind};

/// How the connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Send the queue, then close.
    Flush,
    /// Discard the queue and reset.
    Reset,
}

/// The ending that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The true reason.
    pub reason: EndReason,
    /// How the connection is given up.
    pub how: How,
}

/// An occurrence that is worth an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Bytes arrived.
    Read,
    /// The send buffer drained.
    Write,
    /// The idle period passed.
    Timeout,
    /// A timer is due.
    Timer,
    /// The peer finished sending.
    End,
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Dispatch `on-connect`.
    Connect,
    /// Wait for an occurrence and offer it.
    Listen,
    /// Wait for the event in flight.
    Await,
    /// Send the queue and shut the connection down, then call [`Machine::flushed`].
    Flush,
    /// Dispatch `on-disconnect` with this reason.
    Disconnect(DisconnectReason),
    /// Stop: the session is over.
    Over(Ending),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `on-connect` was not dispatched yet.
    Fresh,
    /// Between events.
    Open,
    /// In an event.
    Busy(Option<Occasion>),
    /// The connection is given up; `on-disconnect` was not dispatched yet.
    Closing,
    /// In `on-disconnect`.
    Farewell,
    /// The session is over.
    Over,
}

/// The order of one session's events.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    phase: Phase,
    half_closed: bool,
    ending: Option<Ending>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { phase: Phase::Fresh, half_closed: false, ending: None }
    }
}

impl Machine {
    /// The machine of a session from another process, between two events.
    #[must_use]
    pub fn resumed(half_closed: bool) -> Self {
        Self { phase: Phase::Open, half_closed, ending: None }
    }

    /// Says what the driver does next. Changes nothing.
    #[must_use]
    pub fn step(&self) -> Step {
        match (self.phase, self.ending) {
            (Phase::Fresh, None) => Step::Connect,
            (Phase::Open, None) => Step::Listen,
            (Phase::Fresh | Phase::Over, Some(ending)) => Step::Over(ending),
            (Phase::Busy(_) | Phase::Farewell, _) => Step::Await,
            (Phase::Open, Some(Ending { how: How::Flush, .. })) => Step::Flush,
            (
                Phase::Open | Phase::Closing,
                Some(Ending { reason: EndReason::Disconnect(reason), .. }),
            ) => Step::Disconnect(reason),
            (_, Some(ending)) => Step::Over(ending),
            (Phase::Closing | Phase::Over, None) => {
                unreachable!("a session closes only when an ending was decided")
            }
        }
    }

    /// Whether the driver may read from the peer: the session is open and the peer has not
    /// finished.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.ending.is_none() && !self.half_closed
    }

    /// Whether the peer has finished sending.
    #[must_use]
    pub fn half_closed(&self) -> bool {
        self.half_closed
    }

    /// The ending, once one was decided.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Records that `on-connect` was dispatched.
    pub fn connecting(&mut self) {
        debug_assert_eq!(self.step(), Step::Connect);
        self.phase = Phase::Busy(None);
    }

    /// Offers an occurrence. If this returns true, the driver has to dispatch its event; if false,
    /// the occurrence has no event any more.
    #[must_use]
    pub fn offer(&mut self, occasion: Occasion) -> bool {
        if self.step() != Step::Listen
            || (self.half_closed && matches!(occasion, Occasion::Read | Occasion::End))
        {
            return false;
        }
        self.half_closed |= occasion == Occasion::End;
        self.phase = Phase::Busy(Some(occasion));
        true
    }

    /// Records that `on-disconnect` was dispatched.
    pub fn closing(&mut self) {
        debug_assert!(matches!(self.step(), Step::Disconnect(_)));
        self.phase = Phase::Farewell;
    }

    /// Records the outcome of the event in flight. A fault of `on-disconnect` does not change the
    /// reason, because the session was over already.
    pub fn returned(&mut self, outcome: Result<Action, FaultKind>) {
        match (self.phase, outcome) {
            (Phase::Farewell, _) => self.phase = Phase::Over,
            (Phase::Busy(occasion), Ok(action)) => {
                self.phase = Phase::Open;
                self.act(occasion, action);
            }
            (Phase::Busy(_), Err(kind)) => {
                // The instance is dead, so this reason wins over one that was decided meanwhile.
                self.phase = Phase::Over;
                self.ending = Some(Ending { reason: EndReason::Fault(kind), how: How::Reset });
            }
            (phase, _) => debug_assert!(false, "an event returned in {phase:?}"),
        }
    }

    fn act(&mut self, occasion: Option<Occasion>, action: Action) {
        // If the plugin closes in answer to the peer's own end, the peer ended the session.
        let ended_by_peer = occasion == Some(Occasion::End) && action == Action::Close;
        let reason = if ended_by_peer {
            DisconnectReason::PeerClosed
        } else {
            DisconnectReason::ClosedByPlugin
        };
        match action {
            Action::Proceed => {}
            Action::Close => self.end(reason, How::Flush),
            Action::Abort => self.end(reason, How::Reset),
        }
    }

    /// Decides the ending. The first reason wins. A later reset replaces a flush, because a broken
    /// connection cannot be flushed.
    pub fn end(&mut self, reason: DisconnectReason, how: How) {
        let ending =
            self.ending.get_or_insert(Ending { reason: EndReason::Disconnect(reason), how });
        if how == How::Reset {
            ending.how = How::Reset;
        }
    }

    /// Ends a session that the host cannot continue between two events.
    pub fn lost(&mut self, kind: FaultKind) {
        self.phase = Phase::Over;
        self.ending = Some(Ending { reason: EndReason::Fault(kind), how: How::Reset });
    }

    /// Ends the session here because another process took it over with its connection.
    pub fn transferred(&mut self) {
        debug_assert_eq!(self.step(), Step::Listen);
        self.phase = Phase::Over;
        self.ending = Some(Ending { reason: EndReason::Moved, how: How::Reset });
    }

    /// Ends a session whose instance could not be made. No event follows.
    pub fn stillborn(&mut self, kind: FaultKind) {
        debug_assert_eq!(self.phase, Phase::Fresh);
        self.ending = Some(Ending { reason: EndReason::Fault(kind), how: How::Reset });
    }

    /// Records that the queue was sent, or the reason that stopped the flush. That reason then
    /// becomes the true one.
    pub fn flushed(&mut self, outcome: Result<(), DisconnectReason>) {
        debug_assert_eq!(self.step(), Step::Flush);
        self.phase = Phase::Closing;
        if let Err(reason) = outcome {
            self.ending = Some(Ending { reason: EndReason::Disconnect(reason), how: How::Reset });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DisconnectReason as R;

    fn open() -> Machine {
        let mut machine = Machine::default();
        assert_eq!(machine.step(), Step::Connect);
        machine.connecting();
        assert_eq!(machine.step(), Step::Await);
        machine.returned(Ok(Action::Proceed));
        assert_eq!(machine.step(), Step::Listen);
        machine
    }

    fn over(machine: &Machine) -> EndReason {
        match machine.step() {
            Step::Over(ending) => ending.reason,
            step => panic!("expected the session to be over, it is at {step:?}"),
        }
    }

    #[test]
    fn closing_plugin_is_flushed_then_told_once() {
        let mut machine = open();
        assert!(machine.offer(Occasion::Read));
        machine.returned(Ok(Action::Close));
        assert_eq!(machine.step(), Step::Flush);
        machine.flushed(Ok(()));
        assert_eq!(machine.step(), Step::Disconnect(R::ClosedByPlugin));
        machine.closing();
        machine.returned(Ok(Action::Proceed));
        assert_eq!(over(&machine), EndReason::Disconnect(R::ClosedByPlugin));
    }

    #[test]
    fn close_at_peers_end_is_the_peers() {
        let mut machine = open();
        assert!(machine.offer(Occasion::End));
        machine.returned(Ok(Action::Close));
        machine.flushed(Ok(()));
        assert_eq!(machine.step(), Step::Disconnect(R::PeerClosed));
    }

    #[test]
    fn peer_end_allows_timers_but_no_reads() {
        let mut machine = open();
        assert!(machine.offer(Occasion::End));
        machine.returned(Ok(Action::Proceed));
        assert!(
            !machine.may_read() && !machine.offer(Occasion::Read) && !machine.offer(Occasion::End)
        );
        assert!(machine.offer(Occasion::Timer));
    }

    #[test]
    fn a_flush_that_fails_names_what_stopped_it() {
        let mut machine = open();
        machine.end(R::Evicted, How::Flush);
        machine.flushed(Err(R::WriteTimeout));
        assert_eq!(machine.step(), Step::Disconnect(R::WriteTimeout));
    }

    #[test]
    fn reset_during_event_waits_and_flushes_nothing() {
        let mut machine = open();
        assert!(machine.offer(Occasion::Read));
        machine.end(R::PeerReset, How::Reset);
        assert_eq!(machine.step(), Step::Await);
        machine.returned(Ok(Action::Close));
        assert_eq!(machine.step(), Step::Disconnect(R::PeerReset));
    }

    #[test]
    fn a_fault_tells_the_dead_instance_nothing() {
        let mut machine = open();
        assert!(machine.offer(Occasion::Read));
        machine.end(R::ServerStopped, How::Flush);
        machine.returned(Err(FaultKind::Fuel));
        assert_eq!(over(&machine), EndReason::Fault(FaultKind::Fuel));
    }

    #[test]
    fn farewell_fault_keeps_the_true_reason() {
        let mut machine = open();
        machine.end(R::PeerReset, How::Reset);
        machine.closing();
        machine.returned(Err(FaultKind::Fuel));
        assert_eq!(over(&machine), EndReason::Disconnect(R::PeerReset));
    }

    #[test]
    fn a_stillborn_session_has_no_events() {
        let mut machine = Machine::default();
        machine.stillborn(FaultKind::Capacity);
        assert_eq!(over(&machine), EndReason::Fault(FaultKind::Capacity));
    }

    #[test]
    fn stopping_before_connect_has_no_events() {
        let mut machine = Machine::default();
        machine.end(R::ServerStopped, How::Flush);
        assert_eq!(over(&machine), EndReason::Disconnect(R::ServerStopped));
    }
}
