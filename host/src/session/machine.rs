//! What comes next in a session, as a state machine without socket, clock or plugin.
//!
//! The driver tells it what happened and does what it says. It keeps the order that the contract
//! promises: connect first, one event at a time, exactly one disconnect, nothing after it, and
//! nothing at all to a dead instance.

use crate::event::{Action, DisconnectReason, EndReason, FaultKind};

/// How the connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Send what is queued, then close.
    Flush,
    /// Drop what is queued and reset.
    Reset,
}

/// An ending that was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The true reason.
    pub reason: EndReason,
    /// How the connection goes.
    pub how: How,
}

/// Something that is worth an event.
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

/// What the driver does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Dispatch `on-connect`.
    Connect,
    /// Wait for something to happen and offer it.
    Listen,
    /// An event is in flight: wait for it.
    Await,
    /// Send what is queued and shut the connection down, then say [`Machine::flushed`].
    Flush,
    /// Dispatch `on-disconnect` with this reason.
    Disconnect(DisconnectReason),
    /// It is over.
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
    /// The connection is done with; `on-disconnect` was not dispatched yet.
    Closing,
    /// In `on-disconnect`.
    Farewell,
    /// Nothing follows.
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
    /// A session that came from another process, between two events.
    #[must_use]
    pub fn resumed(half_closed: bool) -> Self {
        Self { phase: Phase::Open, half_closed, ending: None }
    }

    /// What to do now. Does not change anything.
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
                unreachable!("a session parts only when an ending was decided")
            }
        }
    }

    /// Whether more may be read from the peer: the session is open and the peer has not finished.
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

    /// `on-connect` was dispatched.
    pub fn connecting(&mut self) {
        debug_assert_eq!(self.step(), Step::Connect);
        self.phase = Phase::Busy(None);
    }

    /// Something is worth an event: true, and the event is to be dispatched; or false, and the
    /// moment has passed.
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

    /// `on-disconnect` was dispatched.
    pub fn closing(&mut self) {
        debug_assert!(matches!(self.step(), Step::Disconnect(_)));
        self.phase = Phase::Farewell;
    }

    /// The event in flight is done. A fault of `on-disconnect` changes no reason: the session was
    /// over already.
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
        // The peer ended the session where closing is the plugin's answer to the peer's own end.
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

    /// Decides the ending. The first decision wins, but a broken connection takes the flush back,
    /// for there is nowhere to flush to.
    pub fn end(&mut self, reason: DisconnectReason, how: How) {
        let ending =
            self.ending.get_or_insert(Ending { reason: EndReason::Disconnect(reason), how });
        if how == How::Reset {
            ending.how = How::Reset;
        }
    }

    /// The host cannot go on with the session, between events.
    pub fn lost(&mut self, kind: FaultKind) {
        self.phase = Phase::Over;
        self.ending = Some(Ending { reason: EndReason::Fault(kind), how: How::Reset });
    }

    /// The session goes on in another process, which has its connection; here nothing more is done
    /// to it.
    pub fn departed(&mut self) {
        debug_assert_eq!(self.step(), Step::Listen);
        self.phase = Phase::Over;
        self.ending = Some(Ending { reason: EndReason::Moved, how: How::Reset });
    }

    /// No instance could be made, so there will be no event at all.
    pub fn stillborn(&mut self, kind: FaultKind) {
        debug_assert_eq!(self.phase, Phase::Fresh);
        self.ending = Some(Ending { reason: EndReason::Fault(kind), how: How::Reset });
    }

    /// What was queued is sent, or could not be sent for this reason, which then is the true one.
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
    fn a_plugin_that_closes_is_flushed_then_told_once() {
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
    fn closing_at_the_peers_end_is_the_peers_doing() {
        let mut machine = open();
        assert!(machine.offer(Occasion::End));
        machine.returned(Ok(Action::Close));
        machine.flushed(Ok(()));
        assert_eq!(machine.step(), Step::Disconnect(R::PeerClosed));
    }

    #[test]
    fn after_the_peers_end_there_are_timers_but_no_reads() {
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
    fn a_reset_during_an_event_waits_for_the_event_and_flushes_nothing() {
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
    fn a_fault_in_the_farewell_keeps_the_true_reason() {
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
