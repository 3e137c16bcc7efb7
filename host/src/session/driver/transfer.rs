//! Transfers a session to another process, or resumes one from there.
//!
//! Both processes have its socket open during the transfer, and only one of them uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::session::Session;
use crate::event::{Fault, FaultKind, Instance, Peers, Port, Procedure};
use crate::net::Stream;
use crate::session::deadlines::DeadlineClock;
use crate::session::handle::SessionHandle;
use crate::session::live_stats::Doing;
use crate::session::machine::{Machine, Step};
use crate::session::mailbox::Sealed;
use crate::session::procedure_slot::ProcedureSlot;
use crate::session::snapshot::{PackError, SessionMeta, SessionSnapshot, TransferRequest};
use crate::session::{Ended, run};

/// How long a session waits at most for the other process.
const VERDICT_MAX: Duration = Duration::from_secs(30);

impl<P: Procedure, M> Session<P, M> {
    /// Makes a snapshot, and leaves if the other process takes it. Otherwise the session goes on
    /// here.
    pub(super) async fn transfer(&mut self, transfer: TransferRequest) {
        if let Some(fault) = run::enter(&self.handle, Doing::MIGRATE).await {
            return self.end_by("hand-over", fault);
        }
        let packed = self.pack().await;
        run::leave(&self.handle);
        let (snapshot, sealed) = match packed {
            Ok(packed) => packed,
            Err(why) => return drop(transfer.0.send(Err(why))),
        };
        let (verdict, mut given) = oneshot::channel();
        let asked = transfer.0.send(Ok((snapshot, verdict))).is_ok();
        let taken = asked
            && match tokio::time::timeout(VERDICT_MAX, &mut given).await {
                Ok(taken) => taken == Ok(true),
                Err(_) => {
                    // The verdict may have been sent just now. The closed channel takes none after
                    // this.
                    given.close();
                    given.try_recv() == Ok(true)
                }
            };
        if !taken {
            return self.handle.mailbox.unseal(sealed);
        }
        self.handle.state().let_go();
        // This process reports the fuel that was used here.
        self.spent_before = self.usage().fuel;
        (self.instance, self.asleep) = (None, None);
        self.machine.transferred();
    }

    /// Collects everything that another process needs. The mailbox stays sealed, so other sessions
    /// cannot send to this one until it is unsealed.
    ///
    /// # Errors
    /// [`PackError`]; the session stays.
    async fn pack(&mut self) -> Result<(SessionSnapshot, Sealed), PackError> {
        if !matches!(self.handle.state().stream, Some(Stream::Plain(_))) {
            return Err(PackError::Encrypted);
        }
        let shared = self.instance.as_ref().is_some_and(Instance::is_shared);
        if shared || !self.procedure.can_sleep() {
            return Err(PackError::NoHandoff);
        }
        let (state, version) = match &self.asleep {
            Some(asleep) => asleep.kept(),
            None => match self.save().await {
                Ok(state) => (state, self.procedure.version().to_owned()),
                Err(fault) if fault.kind == FaultKind::StateLimit => {
                    return Err(PackError::StateLimit);
                }
                Err(fault) => {
                    // As in a migration, no instance is left that could carry on.
                    self.end_by("hand-over", fault);
                    return Err(PackError::Fault);
                }
            },
        };
        if self.machine.step() != Step::Listen {
            return Err(PackError::Ending);
        }
        let (now, fuel) = (Instant::now(), self.usage().fuel);
        let sealed = self.handle.mailbox.seal();
        let handle = self.handle.state();
        let socket = handle.stream.as_ref().map(Stream::duplicate);
        let socket = match socket {
            Some(Ok(socket)) => socket,
            _ => {
                drop(handle);
                self.handle.mailbox.unseal(sealed);
                return Err(PackError::NoDescriptor);
            }
        };
        let mut queued = handle.send_buffer.front().to_vec();
        sealed.pieces().for_each(|piece| queued.extend_from_slice(piece));
        let (info, times) = (self.handle.info(), self.deadline_clock.times(now));
        let meta = SessionMeta {
            id: info.id,
            peer: info.peer,
            local: info.local,
            parameter: info.parameter,
            version,
            priority: self.handle.priority() as u8,
            timers: handle.timers.left(now),
            half_closed: self.machine.half_closed(),
            filled: handle.filled,
            times,
            bytes_in: handle.bytes_in,
            bytes_out: handle.bytes_out,
            events: self.handle.live_stats.events(),
            fuel,
            cpu_ns: u64::try_from(self.handle.live_stats.cpu().as_nanos()).unwrap_or(u64::MAX),
        };
        drop(handle);
        Ok((SessionSnapshot { meta, state, queued, socket }, sealed))
    }

    /// Makes an instance from a snapshot and reports the result through `restored`. Then waits for
    /// `go`, for 30 s at most, and runs the session.
    ///
    /// Returns `None` if the restore fails or `go` does not come. The connection is untouched then.
    pub async fn resume(
        handle: Arc<SessionHandle>,
        slot: Arc<ProcedureSlot<P>>,
        peers: Arc<dyn Peers>,
        membership: M,
        (meta, state, queued): (SessionMeta, Vec<u8>, Vec<u8>),
        restored: impl FnOnce(Result<(), Fault>),
        go: oneshot::Receiver<()>,
    ) -> Option<(Ended, Arc<P>)> {
        let mut session = Self::new(handle, slot, peers, membership);
        session.machine = Machine::resumed(meta.half_closed);
        session.deadline_clock =
            DeadlineClock::resumed(Instant::now(), &meta.times, (meta.bytes_in, meta.bytes_out));
        session.spent_before = meta.fuel;
        let taken = match run::enter(&session.handle, Doing::MIGRATE).await {
            Some(fault) => Err(fault),
            None => {
                let own = Arc::clone(&session.procedure);
                let taken = session.take_over(&own, &meta.version, state).await;
                run::leave(&session.handle);
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
        session.handle.load(&queued);
        session.handle.live_stats.born(session.usage());
        let ending = session.play().await;
        let procedure = Arc::clone(&session.procedure);
        Some((session.finish(ending).await, procedure))
    }

    fn never_was<T>(self) -> Option<T> {
        self.handle.mailbox.shut();
        self.handle.state().let_go();
        None
    }
}
