//! A session leaves for another process, or comes from one. Its socket is open in both meanwhile,
//! and only one of them touches it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Session;
use crate::event::{Fault, FaultKind, Instance, Peers, Port, Procedure};
use crate::net::Stream;
use crate::session::baggage::{Baggage, Departure, Traveller};
use crate::session::clock::Clock;
use crate::session::line::Line;
use crate::session::machine::{Machine, Step};
use crate::session::mailbox::Sealed;
use crate::session::pulse::Doing;
use crate::session::successor::Successor;
use crate::session::{Ended, run};

/// However long the other process takes, a session does not wait for longer.
const VERDICT_MAX: Duration = Duration::from_secs(30);

impl<P: Procedure, M> Session<P, M> {
    /// Packs, and leaves where the other process takes it. Otherwise it goes on where it was.
    pub(super) async fn depart(&mut self, departure: Departure) {
        if let Some(fault) = run::enter(&self.line, Doing::HANDOVER).await {
            return self.end_by("hand-over", fault);
        }
        let packed = self.pack().await;
        run::leave(&self.line);
        let (traveller, sealed) = match packed {
            Ok(packed) => packed,
            Err(why) => return drop(departure.0.send(Err(why))),
        };
        let (verdict, mut given) = oneshot::channel();
        let asked = departure.0.send(Ok((traveller, verdict))).is_ok();
        let taken = asked
            && match tokio::time::timeout(VERDICT_MAX, &mut given).await {
                Ok(taken) => taken == Ok(true),
                Err(_) => {
                    // It may have been given just now; it is not given after this.
                    given.close();
                    given.try_recv() == Ok(true)
                }
            };
        if !taken {
            return self.line.mailbox.unseal(sealed);
        }
        self.line.state().let_go();
        // What was used here is this process's to tell.
        self.spent_before = self.usage().fuel;
        (self.instance, self.asleep) = (None, None);
        self.machine.departed();
    }

    /// Everything that another process needs. Nobody can send it anything until it is unsealed.
    async fn pack(&mut self) -> Result<(Traveller, Sealed), String> {
        if !matches!(self.line.state().stream, Some(Stream::Plain(_))) {
            return Err("tls".into());
        }
        let shared = self.instance.as_ref().is_some_and(Instance::is_shared);
        if shared || !self.procedure.can_sleep() {
            return Err("no-handoff".into());
        }
        let (state, version) = match &self.asleep {
            Some(asleep) => asleep.kept(),
            None => match self.save().await {
                Ok(state) => (state, self.procedure.version().to_owned()),
                Err(fault) if fault.kind == FaultKind::StateLimit => {
                    return Err("state-limit".into());
                }
                Err(fault) => {
                    // As in any other hand-over: there is nothing that could carry on.
                    self.end_by("hand-over", fault);
                    return Err("fault".into());
                }
            },
        };
        if self.machine.step() != Step::Listen {
            return Err("ending".into());
        }
        let (now, fuel) = (Instant::now(), self.usage().fuel);
        let sealed = self.line.mailbox.seal();
        let line = self.line.state();
        let socket = line.stream.as_ref().map(Stream::duplicate);
        let socket = match socket {
            Some(Ok(socket)) => socket,
            _ => {
                drop(line);
                self.line.mailbox.unseal(sealed);
                return Err("no-descriptor".into());
            }
        };
        let mut queued = line.outbox.front().to_vec();
        sealed.pieces().for_each(|piece| queued.extend_from_slice(piece));
        let (info, times) = (self.line.info(), self.clock.times(now));
        let baggage = Baggage {
            id: info.id,
            peer: info.peer,
            local: info.local,
            parameter: info.parameter,
            version,
            priority: self.line.priority() as u8,
            timers: line.timers.left(now),
            half_closed: self.machine.half_closed(),
            filled: line.filled,
            times,
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
            events: self.line.pulse.events(),
            fuel,
            cpu_ns: u64::try_from(self.line.pulse.cpu().as_nanos()).unwrap_or(u64::MAX),
        };
        drop(line);
        Ok((Traveller { baggage, state, queued, socket }, sealed))
    }

    /// Makes an instance that carries on from there, says so, and runs the session once `go` says
    /// that it is this process's. `None`: it is not, and nothing was done to its connection.
    pub async fn resume(
        line: Arc<Line>,
        successor: Arc<Successor<P>>,
        peers: Arc<dyn Peers>,
        membership: M,
        (baggage, state, queued): (Baggage, Vec<u8>, Vec<u8>),
        restored: impl FnOnce(Result<(), Fault>),
        go: oneshot::Receiver<()>,
    ) -> Option<(Ended, Arc<P>)> {
        let mut session = Self::new(line, successor, peers, membership);
        session.machine = Machine::resumed(baggage.half_closed);
        session.clock =
            Clock::resumed(Instant::now(), &baggage.times, (baggage.bytes_in, baggage.bytes_out));
        session.spent_before = baggage.fuel;
        let taken = match run::enter(&session.line, Doing::HANDOVER).await {
            Some(fault) => Err(fault),
            None => {
                let own = Arc::clone(&session.procedure);
                let taken = session.take_over(&own, &baggage.version, state).await;
                run::leave(&session.line);
                taken
            }
        };
        match taken {
            Ok(instance) => session.instance = Some(instance),
            Err(fault) => {
                restored(Err(fault));
                return session.never_was();
            }
        }
        restored(Ok(()));
        if !matches!(tokio::time::timeout(VERDICT_MAX, go).await, Ok(Ok(()))) {
            return session.never_was();
        }
        session.line.load(&queued);
        session.line.pulse.born(session.usage());
        let ending = session.play().await;
        let procedure = Arc::clone(&session.procedure);
        Some((session.finish(ending).await, procedure))
    }

    fn never_was<T>(self) -> Option<T> {
        self.line.mailbox.shut();
        self.line.state().let_go();
        None
    }
}
