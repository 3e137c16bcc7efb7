//! Who may enter, and how many. Nothing here touches a socket: it counts, and says yes or no.
//!
//! A [`Permit`] is proof of a yes. It travels with the session and gives its place back when it is dropped, whatever
//! way the session ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Why a newcomer was turned away. Each is a counter and costs the newcomer's connection only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The server has its maximum of clients.
    MaxClients,
    /// The process has no instance slot left, whatever the server allows.
    Overload,
}

impl Refusal {
    /// Stable name for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxClients => "limit-clients",
            Self::Overload => "overload",
        }
    }
}

/// A counter with a ceiling. 0 is no ceiling.
#[derive(Debug)]
pub struct Count {
    taken: AtomicUsize,
    max: usize,
}

impl Count {
    /// A counter at zero.
    #[must_use]
    pub fn up_to(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    /// Places taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let room = |taken| (self.max == 0 || taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, room).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

#[derive(Debug)]
struct Place(Arc<Count>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One client's place on its server and in the process. Dropping it frees both.
#[derive(Debug)]
pub struct Permit {
    _server: Place,
    _process: Place,
}

/// A client that was let in. There is no other way to make one, and only a client in this state can be handed to the
/// handshake.
#[derive(Debug)]
pub struct Admitted<C> {
    client: C,
    permit: Permit,
}

impl<C> Admitted<C> {
    /// Takes the client and its permit apart, for the step that turns it into something further along.
    #[must_use]
    pub fn into_parts(self) -> (C, Permit) {
        (self.client, self.permit)
    }
}

impl<C> std::ops::Deref for Admitted<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

/// Decides over the newcomers of one server.
#[derive(Debug, Clone)]
pub struct Gate {
    clients: Arc<Count>,
    process: Arc<Count>,
}

impl Gate {
    /// A gate for a server with at most `max_clients` (0: no limit) in a process with so many instance slots.
    #[must_use]
    pub fn new(max_clients: usize, process: Arc<Count>) -> Self {
        Self { clients: Count::up_to(max_clients), process }
    }

    /// Lets the client in or refuses it. Costs two atomic operations; nothing is allocated for a refusal.
    ///
    /// # Errors
    /// The [`Refusal`]; the client is dropped, which closes it.
    pub fn admit<C>(&self, client: C) -> Result<Admitted<C>, Refusal> {
        let server = self.clients.take().ok_or(Refusal::MaxClients)?;
        let process = self.process.take().ok_or(Refusal::Overload)?;
        Ok(Admitted { client, permit: Permit { _server: server, _process: process } })
    }

    /// Clients inside now, those in the handshake and those on their way out included.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.taken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_over_the_maximum_is_refused_and_a_freed_place_is_given_again() {
        let gate = Gate::new(2, Count::up_to(0));
        let first = gate.admit(()).expect("below the maximum");
        let second = gate.admit(()).expect("at the maximum");
        assert_eq!(gate.admit(()).err(), Some(Refusal::MaxClients));
        drop(first);
        assert_eq!(gate.clients(), 1);
        let third = gate.admit(()).expect("a place was freed");
        drop((second, third));
        assert_eq!(gate.clients(), 0);
    }

    #[test]
    fn a_full_process_refuses_and_gives_the_servers_place_back() {
        let process = Count::up_to(1);
        let (one, other) = (Gate::new(0, process.clone()), Gate::new(5, process));
        let held = one.admit(()).expect("room");
        assert_eq!(other.admit(()).err(), Some(Refusal::Overload));
        assert_eq!(other.clients(), 0);
        drop(held);
        assert!(other.admit(()).is_ok());
    }
}
