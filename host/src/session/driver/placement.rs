//! The thread of a session: the lane of its class, the reactor of its socket, and the permit under
//! which its instance is dropped.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::session::Session;
use crate::event::{Fault, FaultKind, Port, Procedure};
use crate::net::{Stream, is_refused_by_system};
use crate::sched::here;
use crate::session::alarm::Alarm;

impl<P: Procedure, M> Session<P, M> {
    /// Moves the session, between two events, to the lane of its class. Then binds its socket to
    /// the reactor of the current thread. Meanwhile bytes from the peer wait in the socket.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        let astray = self.handle.astray();
        if astray.is_none() && self.home == here() {
            return Ok(());
        }
        let handle = Arc::clone(&self.handle);
        let with_wire = |act: fn(&mut Stream) -> io::Result<()>| {
            handle.state().stream.as_mut().map_or(Ok(()), act)
        };
        with_wire(Stream::loosen)?;
        if let Some(lane) = astray {
            handle.placement().change(lane).await;
        }
        with_wire(Stream::bind)?;
        // The move took time.
        self.event_ended = None;
        (self.alarm, self.home) = (Alarm::new(Instant::now()), here());
        Ok(())
    }

    /// Drops an instance under a run permit. The drop clears the instance's memories, which takes
    /// time that other sessions want.
    pub(super) async fn drop_instance(&mut self, instance: Option<P::Instance>) {
        if let Some(instance) = instance {
            let class = self.handle.priority();
            self.run_permit.perform(class, async move { drop(instance) }).await;
        }
    }
}

/// Returns the fault of a session that could not change its thread: a refusal by the system, or
/// else a bug of the host.
pub(super) fn not_settled(error: &io::Error) -> Fault {
    let kind = if is_refused_by_system(error) { FaultKind::Capacity } else { FaultKind::Host };
    Fault::new(kind, format!("the session could not change its thread: {error}"))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn refused_reactor_is_no_bug_of_the_host() {
        for (errno, kind) in [
            (Errno::NOMEM, FaultKind::Capacity),
            (Errno::NOSPC, FaultKind::Capacity),
            (Errno::BADF, FaultKind::Host),
            (Errno::EXIST, FaultKind::Host),
        ] {
            assert_eq!(not_settled(&errno.into()).kind, kind, "{errno}");
        }
    }
}
